"""DrNAS, the strategy that learns a Dirichlet distribution of the gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet, kl_divergence

from advnas_lightning import functional, rng
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.steps import Term
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.sending import sent
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_positive


class DrNAS(SearchStrategy):
    """DrNAS (Chen, Wang, Cheng, Tang, Hsieh 2021): every edge mixes all its candidates with gates a_i ~ Dir(β_i).

    The concentration is β = ELU(θ) + 1. θ starts at 0, so that the gates are uniform over the simplex at first, and it
    gets the pathwise gradient of the sample. The probabilities that are reported are the means p_i = β_i / Σ_j β_ij.
    The paper keeps β near 1. The Kullback-Leibler divergence of Dir(β_i) from Dir(1) does so here, and so does weight
    decay of the architecture optimizer.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        kl: The factor of the sum of these divergences over the edges in the loss, 0 for none.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = DrNAS(edge, architecture_optimizer=Adam)
        >>> search.probs, round(search.sample().gates.sum().item(), 4)
        (tensor([[0.5000, 0.5000]]), 1.0)
    """

    def __init__(self, model: nn.Module, *, kl: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.kl = check_positive("kl", kl, zero=True)
        nn.init.zeros_(self.theta)

    @property
    def log_probs(self) -> Tensor:
        """The logarithm of the mean β_i / Σ_j β_ij, ``[E, J]``, with a graph to θ."""
        return functional.log_probs(functional.concentration(self.theta).log(), self.mask)

    @property
    def logits(self) -> Tensor:
        """The logarithm of the mean, whose softmax is the mean, ``[E, J]``, without a graph."""
        return self.log_probs.detach().masked_fill(~self.mask, 0)

    def distributions(self) -> list[Dirichlet]:
        """The distribution of each edge's gates, on the CPU, with a graph to θ."""
        rows = zip(functional.concentration(self.theta).cpu(), self.space.candidates, strict=True)
        return [Dirichlet(row[: len(names)], validate_args=False) for row, names in rows]

    def sample(self) -> Architecture:
        """The mixture of all candidates with the gates a_i ~ Dir(β_i)."""
        with rng.seeded(int(torch.randint(2**32, (), generator=self.generator))):
            rows = [each.rsample() for each in self.distributions()]
        width = self.mask.shape[1]
        gates = torch.stack([nn.functional.pad(row, (0, width - len(row))) for row in rows])  # [E, J]
        return self.mixture(sent(gates, self.mask.device))

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """The gradient ∂L/∂a, pulled back through the sample, with that of the divergence."""
        gradient = self.pull_back(trials[0])
        if self.kl:
            terms = [kl_divergence(each, Dirichlet(torch.ones_like(each.mean))) for each in self.distributions()]
            gradient = gradient + self.kl * torch.autograd.grad(torch.stack(terms).sum(), self.theta)[0]
        return gradient

    def term_gradient(self, term: Term) -> Tensor:
        """The gradient of a term in θ, through the mean of the gates if it is one of them, ``[E, J]``."""
        means = self.log_probs.exp()
        slope = term.slope(means.detach())
        if slope is None:
            return term.gradient(functional.log_probs(self.theta, self.mask).detach().exp())
        (gradient,) = torch.autograd.grad(means, self.theta, slope)
        return gradient
