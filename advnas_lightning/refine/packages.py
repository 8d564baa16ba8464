"""The packages that keep Optuna's studies: whether they are there, and their errors. Importing them would take long."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["missing_package", "storage_error"]


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


def storage_error(error: Exception) -> str | None:
    """What a storage of Optuna says of a file that it cannot use; ``None`` for an error of another kind.

    Example:
        >>> storage_error(ValueError("no study"))
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds.isdisjoint({"SQLAlchemyError", "StorageInternalError"}):
        return None
    return str(getattr(error, "orig", error)).partition("\n")[0]  # SQLAlchemy adds the whole statement


def _major(package: str) -> int:
    return int(version(package).partition(".")[0])
