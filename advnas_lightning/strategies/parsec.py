"""PARSEC, the strategy of importance-weighted draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_int, check_one_of, check_positive


class PARSEC(SearchStrategy):
    """PARSEC (Casale et al. 2019): importance-weighted maximum likelihood over several draws.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        samples: K, the number of draws per update of θ.
        scale: The factor of the mean loss in ω = softmax_k(−scale · L_k). It is a number, or ``"batch"`` for the number
            of terms of the minibatch: ω is then the importance weights of the minibatch's likelihood, as in PARSEC.
        weighting: The way in which draws are weighted. With ``"importance"`` all K draws are evaluated on one
            minibatch, and θ descends −Σ ω_k (a^k − p). With ``"authors_code"`` the K draws come from K successive
            architecture steps, with weight steps in between, and θ descends Σ ω_k (a^k − p) with ω = softmax_k(+L_k).

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = PARSEC(edge, architecture_optimizer=Adam, samples=2)
        >>> losses = torch.tensor([0.0, 100.0])
        >>> trials = [Trial(search.one_hot([k]), loss, gate_grad=None, size=1) for k, loss in enumerate(losses)]
        >>> search.theta_gradient(trials)  # the first draw has the whole weight
        tensor([[-0.5000,  0.5000]])
    """

    needs_gate_grad = False

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int = 8,
        scale: float | Literal["batch"] = "batch",
        weighting: Literal["importance", "authors_code"] = "importance",
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.samples = check_int("samples", samples, least=1)
        self.scale = scale if scale == "batch" else check_positive("scale", scale)
        self.weighting = check_one_of("weighting", weighting, ("importance", "authors_code"))
        self.draws = self.samples if weighting == "importance" else 1
        kept = self.samples if weighting == "authors_code" else 0
        self.kept_draws: Tensor  # [K, E, J]
        self.register_buffer("kept_draws", torch.zeros(kept, *self.mask.shape))
        self.kept_losses: Tensor  # [K]
        self.register_buffer("kept_losses", torch.zeros(kept))

    def sample(self) -> Architecture:
        """Draw one candidate per edge, one-hot a ~ p."""
        return self.one_hot(self.draw())

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor | None:
        """The gradient −Σ_k ω_k (a^k − p) of the negative logarithm of the mean likelihood."""
        draws = torch.stack([trial.architecture.gates for trial in trials])  # [K, E, J]
        losses = torch.stack([trial.loss for trial in trials])  # [K]
        if self.weighting == "importance":
            scale = trials[0].size if self.scale == "batch" else float(self.scale)
            return -self._weighted(functional.importance_weights(losses, scale), draws)
        place = self.architecture_steps % self.samples
        self.kept_losses = self.kept_losses.to(torch.promote_types(self.kept_losses.dtype, losses.dtype))
        self.kept_draws[place], self.kept_losses[place] = draws[0], losses[0]
        if place < self.samples - 1:
            return None
        return self._weighted(self.kept_losses.softmax(0), self.kept_draws)

    def _weighted(self, omega: Tensor, draws: Tensor) -> Tensor:
        """Σ_k ω_k (a^k − p), ``[E, J]``, for weights ω that sum to one."""
        return torch.einsum("k,kej->ej", omega.to(draws.dtype), draws) - self.probs
