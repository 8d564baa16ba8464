"""How far the losses of a supernet order its architectures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trust", "spearman"]

# The mean of two halves that agree by r has the reliability 2r/(1 + r) (Spearman–Brown): with 1/2, a third is chance.
LEAST_HALVES = 0.5
CLEAR = 2.0  # standard deviations of the rank correlation of unrelated values
FEW = 10  # architectures, of which no agreement tells anything


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, in which equal values share a rank; ``None`` if all values of one are equal.

    Example:
        >>> spearman([1.0, 2.0, 3.0, 3.0], [1.0, 4.0, 9.0, 9.0])
        1.0
        >>> spearman([1.0, 1.0], [0.0, 2.0]) is None
        True
    """
    a, b = (_ranks(np.array(values, dtype=np.float64)) for values in (first, second))
    if len(a) < 2 or np.isnan(a).any() or np.isnan(b).any() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1))


@dataclass(frozen=True)
class Trust:
    """What is known of how well losses order architectures, without training any of them.

    Attributes:
        count: The number of architectures.
        halves: The rank correlation of their losses on two halves of the batches, or ``None`` if it is not known.
        probability: The rank correlation of −loss and log p, or ``None``.

    Example:
        >>> trust = Trust.of([-1.0, -2.0, -3.0], [0.1, 0.2, 0.3], [(0.1, 0.1), (0.2, 0.2), (0.3, 0.3)])
        >>> trust.halves, trust.probability
        (1.0, 1.0)
    """

    count: int
    halves: float | None
    probability: float | None

    @classmethod
    def of(cls, log_probs: Sequence[float], losses: Sequence[float], halves: Sequence[tuple[float, float]]) -> Trust:
        """Compare the losses of architectures with each other and with the probabilities.

        Args:
            log_probs: The logarithms of the probabilities.
            losses: The losses; those that are not finite are left out.
            halves: The losses on two halves of the batches.
        """
        rows = [row for row in zip(log_probs, losses, halves, strict=True) if math.isfinite(row[1])]
        return cls(
            len(rows),
            spearman([half[0] for _, _, half in rows], [half[1] for _, _, half in rows]),
            spearman([log_p for log_p, _, _ in rows], [-loss for _, loss, _ in rows]),
        )

    @property
    def chance(self) -> float:
        """What unrelated values stay below as a rule, which is two standard deviations of their rank correlation."""
        return CLEAR / math.sqrt(max(self.count - 1, 1))  # the variance is 1/(n − 1)

    def lines(self) -> list[str]:
        """Each agreement in a line that says what it means."""
        if self.halves is None:
            found = ["Whether the losses on two halves of the batches agree is not known."]
        else:
            agreement = f"The losses on two halves of the batches agree by {self.halves:.2f}"
            found = [f"{agreement} (1: the same order, 0: none)."]
        if self.probability is None:
            return [*found, "Whether the losses agree with the search's probabilities is not known."]
        chance = f"; unrelated values of {self.count} architectures stay below {self.chance:.2f} as a rule"
        agreement = f"The losses agree with the search's probabilities by {self.probability:.2f}"
        return [*found, f"{agreement}{chance if self.count >= FEW else ''}."]

    def warnings(self) -> list[str]:
        """Why the losses should not be trusted, each reason in a line; empty if there is none."""
        if self.count < FEW:
            return [f"{self.count} architectures are too few to tell how far their losses can be trusted"]
        found = []
        if self.halves is None or self.halves < LEAST_HALVES:
            found.append(
                "on other batches the order would be another one, since more than a third of the differences between"
                " the losses is chance: raise batches="
            )
        if self.probability is None or self.probability < self.chance:
            found.append(
                "these losses order the architectures little, as far as the search knows them: refine the best ones by"
                " short trainings (advnas refine), or train the supernet further (supernet_epochs=)"
            )
        return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.isnan(values).any():
        return values
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse.reshape(-1)]
    return ranks
