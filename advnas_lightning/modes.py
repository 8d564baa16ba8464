"""The modes of modules: training or evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["modes_kept"]


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """A context after which a module, and each module in it, is in the mode that it was in before.

    Args:
        module: The module.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with modes_kept(layer):
        ...     layer.eval().training
        False
        >>> layer.training
        True
    """
    modes = {each: each.training for each in module.modules()}
    try:
        yield
    finally:
        for each, training in modes.items():
            each.training = training
