"""DARTS, the strategy that mixes all candidates of every edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from advnas_lightning.engine.evaluation import SkippedStep, Trial
from advnas_lightning.engine.steps import Term
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_bool, check_one_of


class DARTS(SearchStrategy):
    """DARTS (Liu, Simonyan, Yang 2019): every edge mixes all its candidates by softmax(θ).

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        second_order: Whether to differentiate also through one weight step on the last weight batch. This is done by
            finite differences (Eq. 7 and 8 there), with the weight optimizer's learning rate as ξ.
        geometry: The step of θ. With ``"softmax"`` the gradient goes through the Jacobian of the softmax. With
            ``"mirror"`` it does not, so that a step of gradient descent, θ ← θ − ηG, multiplies p by exp(−ηG): the
            exponentiated gradient of GAEA (Li, Khodak, Balcan, Talwalkar 2021).

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> DARTS(edge, architecture_optimizer=Adam).sample().gates
        tensor([[0.5000, 0.5000]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        second_order: bool = False,
        geometry: Literal["softmax", "mirror"] = "softmax",
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.geometry = check_one_of("geometry", geometry, ("softmax", "mirror"))
        check_bool("second_order", second_order)
        if second_order and self.accumulate > 1:
            raise ValueError(
                f"accumulate={self.accumulate}: second_order=true looks ahead on a single weight batch: use"
                " accumulate=1"
            )
        self.second_order = second_order
        self._weights_batch: Any = None  # the last one, on which a second-order step looks ahead

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Take the two steps as every strategy does, and keep the weight batch for a second-order step."""
        if self.second_order:
            self._weights_batch = batch.get("weights", self._weights_batch)
        return super().training_step(batch, batch_idx)

    @property
    def is_resumable(self) -> bool:
        """Whether a checkpoint can be resumed; with ``second_order`` not between the two batches of a pair."""
        pair = self.second_order and self.searching and self._alternates()
        return super().is_resumable and not (pair and (self.clock.batch_idx + 1) % 2)

    def sample(self) -> Architecture:
        """The mixture of all candidates with the gates p."""
        return self.mixture(self.log_probs.exp())

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor | None:
        """The gradient ∂L/∂a, pulled back through the softmax; or itself with ``geometry="mirror"``."""
        return trials[0].gate_grad if self.geometry == "mirror" else self.pull_back(trials[0])

    def term_gradient(self, term: Term) -> Tensor:
        """The gradient of a term in θ; with ``geometry="mirror"`` that in the expected gates, if it is one of them."""
        slope = term.slope(self.probs) if self.geometry == "mirror" else None
        return super().term_gradient(term) if slope is None else slope

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        """Evaluate the mixture; with ``second_order`` the gate gradient is that of L(w − ξ ∇w L_train)."""
        return self._evaluate_unrolled(batch) if self.second_order else super().evaluate_draws(batch)

    def _alternates(self) -> bool:
        """Whether the batches of one loader go to the two kinds of step in turn."""
        return self._loader is not None and self._loader.alternate

    def _evaluate_unrolled(self, batch: Any) -> list[Trial]:
        weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if self._weights_batch is None and self._alternates():
            raise SkippedStep  # the run was resumed between the two batches of a pair, where it is not resumable
        if not self.trains_weights or not weights or self._weights_batch is None:
            raise MisconfigurationException(
                "second_order=true looks one weight step ahead, and here no weights are trained: use second_order=false"
            )
        xi = self.optimizations["weights"].optimizer.param_groups[0]["lr"]
        architecture = self.sample()
        old = [weight.detach().clone() for weight in weights]
        step = self.evaluator.weight_gradients(architecture, self._weights_batch, weights)
        with _weights_at(weights, old, step, -xi):  # w' = w − ξ ∇w L_train(w, a)
            trial = self.evaluate(architecture, batch)
            direction = self.evaluator.weight_gradients(architecture, batch, weights)
        norm = torch.stack([part.norm().to(self.device) for part in direction]).norm()  # offloaded ones are on the host
        if xi == 0 or norm == 0:
            return [trial]
        epsilon = float(0.01 / norm)
        with _weights_at(weights, old, direction, epsilon):
            plus = self.evaluate(architecture, self._weights_batch).gate_grad
        with _weights_at(weights, old, direction, -epsilon):
            minus = self.evaluate(architecture, self._weights_batch).gate_grad
        assert trial.gate_grad is not None
        assert plus is not None
        assert minus is not None
        return [replace(trial, gate_grad=trial.gate_grad - xi * (plus - minus) / (2 * epsilon))]


@contextmanager
def _weights_at(
    weights: Sequence[Tensor], old: Sequence[Tensor], direction: Sequence[Tensor], by: float
) -> Iterator[None]:
    """A context with the weights w + by · direction; afterwards the weights are restored bit for bit."""
    try:
        with torch.no_grad():
            for weight, part in zip(weights, direction, strict=True):
                weight.add_(part, alpha=by)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, old, strict=True):
                weight.copy_(value)
