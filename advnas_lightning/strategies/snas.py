"""SNAS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_temperatures


class SNAS(SearchStrategy):
    """SNAS (Xie et al. 2019): all candidates mixed by a concrete (Gumbel-softmax) sample that hardens over the search.

    Args:
        model: a network with MixedOp edges; further arguments as in :class:`SearchStrategy`.
        tau_max: the temperature before the first architecture step; it falls to 0 along a cosine.
        tau_min: its floor, so that nothing divides by zero.

    Raises:
        ValueError: a bad argument.
    """

    def __init__(self, model: nn.Module, *, tau_max: float = 1.0, tau_min: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.tau_max, self.tau_min = check_temperatures(tau_max, tau_min)

    @property
    def temperature(self) -> float:
        """τ for the next architecture step."""
        return max(functional.cosine(self.tau_max, 0.0, self.progress), self.tau_min)

    def sample(self) -> Architecture:
        """Gates softmax((log p + g)/τ)."""
        log_p = self.log_probs
        return self.mixture(((log_p + functional.gumbel(log_p, self.generator)) / self.temperature).softmax(-1))

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """∂L/∂a pulled back through the sample."""
        return self.pull_back(trials[0])
