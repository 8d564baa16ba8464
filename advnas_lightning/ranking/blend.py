"""How an architecture's probability and its loss become one score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from advnas_lightning.ranking.trust import reliability, spearman

__all__ = ["blend"]


def blend(
    log_probs: Sequence[float], losses: Sequence[float], first: Sequence[float], second: Sequence[float]
) -> list[float]:
    """The score of each architecture, the highest of the best: z(log p) + w z(−loss).

    z standardises over the architectures. The probabilities are what all draws of the search have said. The loss of one
    architecture on some batches is a measurement, whose weight w is its reliability, from 0 to 1. It is computed from
    the agreement of the losses on two halves of the batches.

    Args:
        log_probs: The logarithms of the probabilities.
        losses: The losses. One that is not finite makes the score −∞.
        first: The losses on one half of the batches.
        second: The losses on the other half.

    Example:
        >>> [round(score, 3) for score in blend([-1.0, -1.0], [0.5, 0.25], [0.5, 0.2], [0.5, 0.3])]
        [-1.0, 1.0]
    """
    loss = np.array(losses, dtype=np.float64)
    finite = np.isfinite(loss)
    if not finite.any():
        return [-np.inf] * len(loss)
    weight = reliability(spearman(list(np.array(first)[finite]), list(np.array(second)[finite])))
    scores = np.full(len(loss), -np.inf)
    scores[finite] = _standardised(np.array(log_probs, dtype=np.float64)[finite])
    scores[finite] += (1.0 if weight is None else weight) * _standardised(-loss[finite])
    found: list[float] = scores.tolist()
    return found


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values))
    values = np.where(known, values, values[known].min())
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-12 * (1 + abs(values).max()) else np.zeros(len(values))
