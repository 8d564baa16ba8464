"""What a module's own methods see of the training data of a search: the loader that they would have without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_is_own: ContextVar[bool] = ContextVar("_is_own", default=False)


@contextmanager
def own_data(on: bool = True) -> Iterator[None]:
    """A context in which a search's training data are those of the weight steps alone, as far as a Trainer shows them.

    Args:
        on: Whether they are. With false they are those of both kinds of step, also within another such context.

    Example:
        >>> with own_data():
        ...     seen({"weights": "ab", "architecture": "cd"})
        'ab'
    """
    token = _is_own.set(on)
    try:
        yield
    finally:
        _is_own.reset(token)


def seen(loaders: Mapping[str, Any]) -> Any:
    """The loaders of both kinds of step, or in :func:`own_data` the one of the weight steps, if there is one.

    Args:
        loaders: The loader of each kind of step.

    Example:
        >>> seen({"weights": "ab", "architecture": "cd"})
        {'weights': 'ab', 'architecture': 'cd'}
    """
    return loaders["weights"] if _is_own.get() and "weights" in loaders else loaders
