"""DARTS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from advnas_lightning.space import Architecture
from advnas_lightning.strategies.base import SearchStrategy, SkippedStep, Trial


class DARTS(SearchStrategy):
    """DARTS (Liu, Simonyan, Yang 2019): all candidates mixed by softmax(θ).

    Args:
        model: a network with MixedOp edges; further arguments as in :class:`SearchStrategy`.
        second_order: differentiate through one weight step on the last weight batch too, by finite differences (Eq. 7
            and 8 there), with the weight optimizer's learning rate as ξ.
    """

    def __init__(self, model: nn.Module, *, second_order: bool = False, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        if not isinstance(second_order, bool):
            raise ValueError(f"second_order={second_order!r} must be true or false")
        if second_order and self.accumulate > 1:
            raise ValueError(
                f"accumulate={self.accumulate}: second_order=true looks ahead on a single weight batch: use"
                " accumulate=1"
            )
        self.second_order = second_order
        self._weights_batch: Any = None  # the last one, which a second-order step looks ahead on

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """As in every strategy; keeps the weight batch."""
        if self.second_order:
            self._weights_batch = batch.get("weights", self._weights_batch)
        super().training_step(batch, batch_idx)

    @property
    def is_resumable(self) -> bool:
        """Not between the two batches of a pair, of which the second step looks ahead on the first."""
        pair = self.second_order and self.searching and self._loader is not None and self._loader.alternate
        return super().is_resumable and not (pair and (self.trainer.fit_loop.epoch_loop.batch_idx + 1) % 2)

    def sample(self) -> Architecture:
        """Gates p."""
        return self.mixture(self.log_probs.exp())

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """∂L/∂a pulled back through the softmax."""
        return self.pull_back(trials[0])

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        """The mixture's gate gradient; with ``second_order`` that of L(w − ξ ∇w L_train)."""
        return self._evaluate_unrolled(batch) if self.second_order else super().evaluate_draws(batch)

    def _evaluate_unrolled(self, batch: Any) -> list[Trial]:
        weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        alternate = self._loader is not None and self._loader.alternate
        if self._weights_batch is None and alternate:
            raise SkippedStep  # resumed between the two batches of a pair, from a checkpoint that was not to be taken
        if not self.trains_weights or not weights or self._weights_batch is None:
            raise MisconfigurationException(
                "second_order=true looks one weight step ahead, and here no weights are trained: use second_order=false"
            )
        xi = self._optimizer("weights").param_groups[0]["lr"]
        architecture = self.sample()
        old = [weight.detach().clone() for weight in weights]
        step = self._weight_gradient(weights, architecture, self._weights_batch)
        with self._weights_at(weights, old, step, -xi):  # w' = w − ξ ∇w L_train(w, a)
            trial = self.evaluate(architecture, batch)
            direction = self._weight_gradient(weights, architecture, batch)
        norm = torch.stack([part.norm().to(self.device) for part in direction]).norm()  # offloaded ones are elsewhere
        if xi == 0 or norm == 0:
            return [trial]
        epsilon = float(0.01 / norm)
        with self._weights_at(weights, old, direction, epsilon):
            plus = self.evaluate(architecture, self._weights_batch).gate_grad
        with self._weights_at(weights, old, direction, -epsilon):
            minus = self.evaluate(architecture, self._weights_batch).gate_grad
        assert trial.gate_grad is not None
        assert plus is not None
        assert minus is not None
        return [replace(trial, gate_grad=trial.gate_grad - xi * (plus - minus) / (2 * epsilon))]

    def _weight_gradient(self, weights: Sequence[Tensor], architecture: Architecture, batch: Any) -> list[Tensor]:
        with torch.enable_grad(), self.space.bind(architecture):
            gradients = self.differentiate(self.outcome(batch).loss, weights)
        return [
            torch.zeros_like(weight) if gradient is None else self._mean_over_ranks(gradient)
            for weight, gradient in zip(weights, gradients, strict=True)
        ]

    @contextmanager
    def _weights_at(
        self, weights: Sequence[Tensor], old: list[Tensor], direction: list[Tensor], by: float
    ) -> Iterator[None]:
        """Run with w + by · direction, then give the weights back bit for bit."""
        try:
            with torch.no_grad():
                for weight, part in zip(weights, direction, strict=True):
                    weight.add_(part, alpha=by)
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(weights, old, strict=True):
                    weight.copy_(value)
