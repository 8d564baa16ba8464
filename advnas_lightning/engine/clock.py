"""Where a search is, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchClock:
    """Where a search is. The engine sets it before each step, so that a strategy needs no Trainer.

    Attributes:
        progress: The share of the planned architecture steps that is done, from 0 to exactly 1; ``None`` where the
            Trainer does not say how many there will be.
        searching: Whether θ moves in the current epoch.
        batches: How many training batches there have been, the current one included.
        batch_idx: The current batch's index in its epoch.

    Example:
        >>> SearchClock(progress=0.5).searching
        True
    """

    progress: float | None = 0.0
    searching: bool = True
    batches: int = 0
    batch_idx: int = 0
