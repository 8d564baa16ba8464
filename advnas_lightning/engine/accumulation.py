"""Several small batches in the place of a large one, where memory is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from advnas_lightning.functional import widened


class MicroBatches(list[Any]):
    """The batches of one architecture step: its losses and gradients are their means, weighted by size.

    Example:
        >>> MicroBatches(["first", "second"])
        ['first', 'second']
    """


class WaitingBatches:
    """Batches of architecture steps, until there are as many as count as one.

    Args:
        accumulate: How many batches count as one.

    Example:
        >>> waiting = WaitingBatches(2)
        >>> [waiting.add(batch, last=batch == "c") for batch in "abc"]
        [None, ['a', 'b'], ['c']]
    """

    def __init__(self, accumulate: int) -> None:
        self.accumulate = accumulate
        self._batches = MicroBatches()

    def __bool__(self) -> bool:
        return bool(self._batches)

    def drop(self) -> None:
        """Forget the batches that wait for others of their step."""
        self._batches = MicroBatches()

    def add(self, batch: Any, *, last: bool) -> Any:
        """What a step can be taken on, with this batch; ``None`` where more of them are to come.

        Args:
            batch: A batch of an architecture step, or ``None``.
            last: Whether the epoch ends with it.
        """
        if batch is not None:
            self._batches.append(batch)
        if len(self._batches) < self.accumulate and not (last and self._batches):
            return None
        batches, self._batches = self._batches, MicroBatches()
        return batches if self.accumulate > 1 else batches[0]


def weighted_mean(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Σ size · value / Σ size, in single precision at least.

    Example:
        >>> import torch
        >>> weighted_mean([torch.tensor(1.0), torch.tensor(5.0)], [3, 1])
        tensor(2.)
    """
    if len(values) == 1:
        return widened(values[0])
    total = sum(size * widened(value) for value, size in zip(values, sizes, strict=True))
    assert isinstance(total, Tensor)
    return total / sum(sizes)
