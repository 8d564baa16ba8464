"""The statistics of gradient estimates, and the estimator that they recommend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Credit", "EstimatorStatistics", "Truth", "recommend"]


@dataclass(frozen=True)
class Truth:
    """The exact gradient ∇θ E_a[L(a)], averaged over the batches.

    Attributes:
        gradient: The gradient, ``[E, J]``.
        error: The standard error of its norm, which is 0 if every architecture was tried.
        by: How the gradient was computed, in words.
        raises: For each edge, the candidate whose θ a step of descent along the gradient raises most.

    Example:
        >>> from torch import tensor
        >>> truth = Truth(tensor([[0.3, -0.4]]), error=0.0, by="all 2 architectures", raises={"edge": "skip"})
        >>> float(truth.gradient.norm())
        0.5
    """

    gradient: Tensor
    error: float
    by: str
    raises: Mapping[str, str]


@dataclass(frozen=True)
class EstimatorStatistics:
    """How one estimator compares with the exact gradient g. Its estimate ĝ is that of one architecture step.

    Attributes:
        name: The name of the estimator.
        draws: The number of estimates behind these statistics.
        seconds: The median time of the estimate of one architecture step.
        bias: The bias ‖E ĝ − g‖ / ‖g‖.
        noise: The size that ‖mean ĝ − g‖ / ‖g‖ would have, with so many draws, if the estimator had no bias.
        variance: The variance tr Cov ĝ / ‖g‖².
        cosine: The cosine of the mean ĝ with g.
        draw_cosine: The mean cosine of a single ĝ with g.
        snr: The signal-to-noise ratio ⟨E ĝ, g/‖g‖⟩² / tr Cov ĝ of one step.
        edges: For each edge, its own bias, variance and cosine, and the candidate whose θ the mean ĝ raises most.

    Example:
        >>> statistics = EstimatorStatistics(
        ...     "darts", draws=10, seconds=0.5, bias=0.6, noise=0.1, variance=0.2, cosine=0.9, draw_cosine=0.8, snr=4.0,
        ...     edges={"edge": {"raises": "skip"}},
        ... )
        >>> statistics.snr_per_second
        8.0
    """

    name: str
    draws: int
    seconds: float
    bias: float
    noise: float
    variance: float
    cosine: float
    draw_cosine: float
    snr: float
    edges: Mapping[str, Mapping[str, Any]]

    @property
    def snr_per_second(self) -> float:
        """The signal-to-noise ratio of one step times the number of architecture steps in a second."""
        return self.snr / self.seconds

    @property
    def second_cosine(self) -> float:
        """The cosine of g with the sum of a second's architecture steps, which both noise and bias lower."""
        return self.cosine / math.sqrt(1 + self.cosine**2 / self.snr_per_second) if self.snr_per_second else 0.0

    def agreement(self, truth: Truth) -> int:
        """The number of edges on which the estimator raises the same candidate as the exact gradient."""
        return sum(self.edges[edge]["raises"] == candidate for edge, candidate in truth.raises.items())


@dataclass(frozen=True)
class Credit:
    """How well the credits of Eq. (7), from one backward pass, agree with Eq. (6), which takes a forward pass per edge.

    Attributes:
        rank_correlation: Spearman's rank correlation over all edges and draws.
        sign_agreement: The share of all edges and draws in which both credits have the same sign.
        draws: The number of draws.

    Example:
        >>> Credit(rank_correlation=0.955, sign_agreement=0.86, draws=20).sign_agreement
        0.86
    """

    rank_correlation: float
    sign_agreement: float
    draws: int


def recommend(statistics: Sequence[EstimatorStatistics]) -> str:
    """Name the best estimator, and say why it is the best."""
    best = max(statistics, key=lambda each: each.second_cosine)
    truest = max(statistics, key=lambda each: each.cosine)
    text = (
        f"{best.name}: the sum of a second's architecture steps has a cosine of {best.second_cosine:.2f} with the exact"
        f" gradient, the highest of all; without noise it would be {best.cosine:.2f}"
    )
    if truest is not best and best.cosine < 0.9 * truest.cosine:
        text += f". Where there is time for many steps, {truest.name}, which would then reach {truest.cosine:.2f}"
    return text
