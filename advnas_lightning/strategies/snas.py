"""SNAS, the strategy that mixes all candidates by a concrete sample."""

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
    """SNAS (Xie et al. 2019): a concrete (Gumbel-softmax) sample mixes all candidates and hardens over the search.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        tau_max: The temperature before the first architecture step. It falls to 0 along a cosine.
        tau_min: The lowest temperature, which prevents a division by zero.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = SNAS(edge, architecture_optimizer=Adam)
        >>> search.temperature, round(search.sample().gates.sum().item(), 4)
        (1.0, 1.0)
    """

    def __init__(self, model: nn.Module, *, tau_max: float = 1.0, tau_min: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.tau_max, self.tau_min = check_temperatures(tau_max, tau_min)

    @property
    def temperature(self) -> float:
        """The temperature τ of the next architecture step."""
        return max(functional.cosine(self.tau_max, 0.0, self.progress), self.tau_min)

    def sample(self) -> Architecture:
        """The mixture of all candidates with the gates softmax((log p + g)/τ)."""
        log_p = self.log_probs
        return self.mixture(((log_p + functional.gumbel(log_p, self.generator)) / self.temperature).softmax(-1))

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """The gradient ∂L/∂a, pulled back through the sample."""
        return self.pull_back(trials[0])
