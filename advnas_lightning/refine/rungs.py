"""The rungs of a refinement: after how many epochs its trainings are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["check_rungs"]


def check_rungs(rungs: Any) -> tuple[int, ...]:
    """Check the numbers of epochs after which a training is scored. Each is η times the one before, as in the paper.

    Args:
        rungs: The numbers of epochs.

    Raises:
        ValueError: They are no sequence of whole numbers above 0 that grow by one whole factor of 2 or more.

    Example:
        >>> check_rungs((1, 2, 4)), check_rungs((12,))
        ((1, 2, 4), (12,))
        >>> check_rungs((1, 2, 3))
        Traceback (most recent call last):
            ...
        ValueError: rungs=1,2,3: give whole numbers of epochs, each the same factor times the one before, such as 1,2,4
    """
    if not isinstance(rungs, Sequence):
        raise ValueError(f"rungs={rungs!r} must be a list of numbers of epochs, such as [1, 2, 4]")
    whole = bool(rungs) and all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in rungs)
    factor = rungs[1] // rungs[0] if whole and len(rungs) > 1 else 2
    if not whole or factor < 2 or any(each != rungs[0] * factor**place for place, each in enumerate(rungs)):
        shown = ",".join(map(str, rungs))
        raise ValueError(
            f"rungs={shown}: give whole numbers of epochs, each the same factor times the one before, such as 1,2,4"
        )
    return tuple(rungs)
