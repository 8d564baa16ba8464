"""NASP, the strategy of proximal steps to one-hot gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.steps import Term
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_one_of


class NASP(SearchStrategy):
    """NASP (Yao et al. 2020): the gates are one-hot arg max θ, and only an architecture step runs all candidates.

    Ties of the arg max are broken at random. During the warm-up the weight step draws uniformly.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        projection: The way in which θ is kept in [0, 1]^J. ``"affine"`` is that of the authors' code: it keeps the
            order and starts from θ = 1. ``"clip"`` is the Euclidean projection and starts from θ = 0.5, because from 1
            every good candidate would stay at the bound and tie.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = NASP(edge, architecture_optimizer=Adam)
        >>> search.theta.data = torch.tensor([[0.2, 0.9]])
        >>> search.sample().gates, search.sample().paths
        (tensor([[0., 1.]]), ((0, 1),))
    """

    def __init__(self, model: nn.Module, *, projection: Literal["affine", "clip"] = "affine", **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.projection = check_one_of("projection", projection, ("affine", "clip"))
        if projection == "clip":
            torch.nn.init.constant_(self.theta, 0.5)

    def sample(self) -> Architecture:
        """The one-hot arg max θ, with all candidates evaluated."""
        return replace(self.sample_for_weights(), paths=self.space.all_paths)

    def sample_for_weights(self) -> Architecture:
        """The one-hot arg max θ; a uniform draw during the warm-up, when all θ are still equal."""
        if not self.clock.searching:
            uniform = self.space.mask.float()
            return self.one_hot(torch.multinomial(uniform, 1, generator=self.generator).flatten().tolist())
        theta = self.held("theta", lambda: self.theta.detach().cpu())
        noise = torch.rand(theta.shape, generator=self.generator)  # [E, J]
        return self.one_hot(functional.argmax(theta, self.space.mask, noise))

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor | None:
        """The gate gradient G itself."""
        return trials[0].gate_grad

    @property
    def expected_gates(self) -> Tensor:
        """The one-hot arg max θ, ``[E, J]``."""
        return self.one_hot(self.most_probable_choice()).gates

    def term_gradient(self, term: Term) -> Tensor:
        """The gradient of a term in the gates, which moves θ as that of the loss does; or in θ itself."""
        slope = term.slope(self.expected_gates)
        return super().term_gradient(term) if slope is None else slope

    def after_theta_step(self, trials: Sequence[Trial], before: Sequence[Tensor]) -> None:
        """Project θ onto [0, 1]^J."""
        affine = self.projection == "affine"
        self.theta.copy_(functional.project_affine(self.theta, self.mask) if affine else self.theta.clamp(0, 1))
