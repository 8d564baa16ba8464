"""Whether the packages are there that keep the trainings of a refinement; importing them would take long."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["missing_package"]


def missing_package() -> str | None:
    """What to install before trainings can be kept, or ``None`` if all that is needed is there.

    Example:
        >>> isinstance(missing_package(), str | None)
        True
    """
    try:
        optuna = _major("optuna")
    except PackageNotFoundError:
        return 'refine needs an extra: pip install "advnas-lightning[refine]"'
    if optuna < 4 and _major("sqlalchemy") > 1:  # whose storage begins with an AssertionError
        return 'Optuna 2 cannot store trials with SQLAlchemy 2: pip install "sqlalchemy<2", or "optuna>=4"'
    return None


def _major(package: str) -> int:
    return int(version(package).partition(".")[0])
