"""Several small batches in the place of one large one, where memory is short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from advnas_lightning.space import Architecture


class MicroBatches(list[Any]):
    """The batches of one architecture step: its losses and gradients are their means, weighted by size."""


@dataclass
class WeightGroup:
    """The batches of one weight step so far.

    Attributes:
        architecture: the one draw for all of them.
        batches: how many there were.
        size: how many terms their losses are the means of, together.
        is_lost: whether the step cannot be taken any more, because a loss was not finite or had no graph.
    """

    architecture: Architecture
    batches: int = 0
    size: int = 0
    is_lost: bool = False

    def take_mean(self, parameters: Iterable[nn.Parameter], size: Tensor) -> None:
        """Turn gradients of sums over terms into that of the mean.

        Args:
            parameters: that have them.
            size: scalar, this group's; of several ranks' groups, whose gradients are one mean, the mean size.
        """
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= size.to(parameter.grad.device)


def weighted_mean(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Σ size · value / Σ size."""
    if len(values) == 1:
        return values[0]
    total = sum(size * value for value, size in zip(values, sizes, strict=True))
    assert isinstance(total, Tensor)
    return total / sum(sizes)
