"""Whether the costs of the candidates add up to that of the whole network: measured, for a few architectures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple


class Additivity(NamedTuple):
    """The costs of whole networks beside the sums over their candidates.

    Attributes:
        summed: The sum of the candidates' costs and of the cost beside the edges, for each architecture.
        whole: The cost of the same architecture as a plain network.

    Example:
        >>> found = Additivity([1.0, 2.0, 3.0], [1.0, 3.0, 5.0])
        >>> found.r_squared, round(found.error, 4)
        (1.0, 0.2444)
    """

    summed: Sequence[float]
    whole: Sequence[float]

    @property
    def r_squared(self) -> float | None:
        """The squared correlation of the two; ``None`` where all sums or all networks cost the same."""
        x, y = fmean(self.summed), fmean(self.whole)
        pairs = [(a - x, b - y) for a, b in zip(self.summed, self.whole, strict=True)]
        spread = math.fsum(a * a for a, _ in pairs) * math.fsum(b * b for _, b in pairs)
        return math.fsum(a * b for a, b in pairs) ** 2 / spread if spread > 0 else None

    @property
    def error(self) -> float:
        """The mean of |sum − whole| / whole; a network that costs nothing counts with its sum."""
        pairs = zip(self.summed, self.whole, strict=True)
        return fmean(abs(each - whole) / whole if whole else each for each, whole in pairs)

    def content(self) -> dict[str, Any]:
        """The values for a file."""
        return {
            "summed": list(self.summed),
            "whole": list(self.whole),
            "r_squared": self.r_squared,
            "error": self.error,
        }
