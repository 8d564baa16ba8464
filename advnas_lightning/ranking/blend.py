"""How an architecture's probability and its loss become one score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from advnas_lightning.ranking.trust import spearman

__all__ = ["blend"]


def blend(log_probs: Sequence[float], losses: Sequence[float]) -> list[float]:
    """The score of each architecture, the highest of the best: z(log p) + w z(−loss), with 0 ≤ w ≤ 1.

    z standardises over the architectures. The probabilities are what all draws of the search have said, and a loss is a
    measurement of one architecture with weights that all share. Its weight w is how far the losses agree with the
    probabilities: their rank correlation, or 0 if that is negative. Losses that contradict the search do not count, and
    those that order the architectures as it does decide between architectures of nearly equal probability. Where all
    probabilities are equal, the losses alone decide.

    Args:
        log_probs: The logarithms of the probabilities.
        losses: The losses. One that is not finite makes the score −∞.

    Example:
        >>> [round(score, 3) for score in blend([-1.0, -1.0], [0.5, 0.25])]
        [-1.0, 1.0]
    """
    loss, log_p = np.array(losses, dtype=np.float64), np.array(log_probs, dtype=np.float64)
    finite = np.isfinite(loss)
    scores = np.full(len(loss), -np.inf)
    if finite.any():
        agreement = spearman(log_p[finite].tolist(), (-loss[finite]).tolist())
        weight = 1.0 if agreement is None else max(0.0, agreement)
        scores[finite] = _standardised(log_p[finite]) + weight * _standardised(-loss[finite])
    found: list[float] = scores.tolist()
    return found


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values))
    values = np.where(known, values, values[known].min())
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-12 * (1 + abs(values).max()) else np.zeros(len(values))
