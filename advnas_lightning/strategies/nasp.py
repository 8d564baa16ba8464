"""NASP."""

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
    """NASP (Yao et al. 2020): a proximal step to one-hot gates, dense in the architecture step only.

    Ties of the arg max are broken at random. In the warm-up the weight step draws uniformly.

    Args:
        model: a network with MixedOp edges; further arguments as in :class:`SearchStrategy`.
        projection: how θ is kept in [0, 1]^J: ``"affine"`` (the authors' code, keeps the order, from θ = 1) or
            ``"clip"`` (the Euclidean projection, from θ = 0.5: from ones every good candidate
            would stick at the bound and tie).

    Raises:
        ValueError: a bad argument.
    """

    def __init__(self, model: nn.Module, *, projection: Literal["affine", "clip"] = "affine", **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.projection = check_one_of("projection", projection, ("affine", "clip"))
        if projection == "clip":
            torch.nn.init.constant_(self.theta, 0.5)

    def sample(self) -> Architecture:
        """One-hot arg max θ, with all candidates evaluated."""
        return replace(self.sample_for_weights(), paths=self.space.all_paths)

    def sample_for_weights(self) -> Architecture:
        """One-hot arg max θ; uniform while θ says nothing."""
        if not self.clock.searching:
            return self.one_hot(
                torch.multinomial(self.mask.cpu().float(), 1, generator=self.generator).flatten().tolist()
            )
        noise = torch.rand(self.mask.shape, generator=self.generator).to(self.mask.device)  # [E, J]
        return self.one_hot(functional.argmax(self.theta.detach(), self.mask, noise))

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor | None:
        """G itself."""
        return trials[0].gate_grad

    @property
    def expected_gates(self) -> Tensor:
        """One-hot arg max θ, ``[E, J]``."""
        return self.one_hot(self.most_probable_choice()).gates

    def term_gradient(self, term: Term) -> Tensor:
        """The gradient of a term in the gates, as that of the loss."""
        return term.slope

    def after_theta_step(self, trials: Sequence[Trial], before: Sequence[Tensor]) -> None:
        """Project θ on the box."""
        affine = self.projection == "affine"
        self.theta.copy_(functional.project_affine(self.theta, self.mask) if affine else self.theta.clamp(0, 1))
