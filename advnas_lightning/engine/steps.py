"""The two steps of a search (Algorithm 1): one descends the weights, the other the architecture parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from advnas_lightning.engine.closures import Closure, ComputedClosure, refuse_scaling
from advnas_lightning.engine.evaluation import Evaluator, SkippedStep, Trial, no_graph
from advnas_lightning.engine.optimization import Optimization
from advnas_lightning.engine.tracking import FiniteGuard, ProcessBest, finite_parts
from advnas_lightning.functional import widened
from advnas_lightning.objectives import Outcome
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.space.offload import WaitingCopies
from advnas_lightning.space.search_space import Architecture


class ArchitectureStep:
    """The architecture step of Algorithm 1: descend the strategy's estimate of ∇θ E[L].

    Args:
        policy: Draws architectures, and turns their trials into gradients.
        evaluator: Runs them.
        optimization: Steps the architecture parameters.
        guard: Leaves out what is not finite.
        best: Remembers the best trial.
        terms: What is added to the loss.

    Example:
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> class Search(AdvantageNAS):
        ...     def loss(self, batch):
        ...         return self.model(batch).sum()
        ...
        ...     def note_loss(self, name, loss, size):
        ...         print(name, float(loss))
        >>> edge = MixedOp("edge", {"same": nn.Identity(), "nine": nn.Threshold(9.0, 9.0)})
        >>> search = Search(edge, architecture_optimizer=partial(torch.optim.SGD, lr=0.5))
        >>> optimization = search.optimizations["architecture"]
        >>> optimization.make([search.theta])
        >>> optimization.attach(lambda: optimization.made, 0)
        >>> search.architecture_step(torch.ones(1))  # takes an ArchitectureStep
        architecture/loss 9.0
        >>> search.theta.detach()  # was ones; 9 (a − p) is its gradient
        tensor([[ 3.2500, -1.2500]])
    """

    def __init__(
        self,
        policy: Policy,
        evaluator: Evaluator,
        optimization: Optimization,
        guard: FiniteGuard,
        best: ProcessBest,
        terms: Sequence[Term],
    ) -> None:
        self.policy, self.evaluator, self.optimization = policy, evaluator, optimization
        self.guard, self.best, self.terms = guard, best, terms

    def take(self, batch: Any) -> None:
        """Take one step on a batch, or on the mean of :class:`MicroBatches`."""
        trials = self.policy.evaluate_draws(batch)
        self.policy.release_theta()
        self.evaluator.warn_of_idle_edges()
        if not self.guard.passes("architecture", *finite_parts(trials)):
            return
        self.best.see(trials, [term.allows for term in self.terms])
        with self.evaluator.precision.full(self.policy.device):
            gradients = self.policy.architecture_gradients(trials)
        self.policy.architecture_steps += 1
        if gradients is not None:
            parameters = self.policy.architecture_parameters()
            before = [parameter.detach().clone() for parameter in parameters]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = self.evaluator.precision.scaled(gradient.to(parameter.dtype))
            closure = ComputedClosure(trials[0].loss, self.optimization.optimizer, self._refuse)
            self.policy.step_architecture(self.optimization.optimizer, closure)
            self.optimization.optimizer.zero_grad()
            with torch.no_grad():
                self.policy.after_theta_step(trials, before)
            for term in self.terms:
                term.after_step(self.policy.expected_gates)
        loss = torch.stack([trial.loss for trial in trials[: self.policy.draws]]).mean()
        self.policy.note_loss("architecture/loss", loss, trials[0].size)

    def _refuse(self) -> None:
        raise MisconfigurationException(
            f"architecture_optimizer={type(self.optimization.made).__name__} calls its closure at other θ, and an"
            " architecture step has one estimate of its gradient: use an optimizer such as Adam"
        )


@dataclass
class _Accumulated:
    """The batches of one weight step so far.

    Attributes:
        architecture: The one draw for all of them.
        batches: How many there were.
        size: How many terms their losses are the means of, together.
        total: The sum of these terms.
        is_lost: Whether the step cannot be taken any more, because a loss was not finite or had no graph.
    """

    architecture: Architecture
    batches: int = 0
    size: int = 0
    total: Tensor | float = 0.0
    is_lost: bool = False


class WeightStep:
    """The weight step of Algorithm 1: descend ∇w L(a, w) for a draw a.

    Args:
        policy: Draws the architecture.
        trainee: The network, and how its weights are trained.
        evaluator: Binds the architecture and gives the loss.
        optimization: Steps the weights.
        guard: Leaves out what is not finite.
        accumulate: How many batches count as one.
        offloaded: Whether candidates' gradients are in host memory.

    Example:
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> from advnas_lightning.objectives import Regression
        >>> class Search(AdvantageNAS):
        ...     def manual_backward(self, loss):  # without a Trainer
        ...         loss.backward()
        ...
        ...     def note_loss(self, name, loss, size):
        ...         print(name, float(loss))
        >>> edge = MixedOp("edge", {"scale": nn.Linear(1, 1, bias=False), "skip": nn.Identity()})
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), edge)
        >>> for weight in model.parameters():
        ...     nn.init.ones_(weight).numel()
        1
        1
        >>> sgd = partial(torch.optim.SGD, lr=0.5)
        >>> search = Search(model, weight_optimizer=sgd, architecture_optimizer=sgd, objective=Regression())
        >>> optimization = search.optimizations["weights"]
        >>> optimization.make(list(model.parameters()))
        >>> optimization.attach(lambda: optimization.made, 0)
        >>> search.weight_step((torch.ones(1, 1), torch.zeros(1, 1)))  # takes a WeightStep
        train/loss 1.0
        >>> model[0].weight.item()  # was 1; its gradient is 2
        0.0
    """

    def __init__(
        self,
        policy: Policy,
        trainee: Trainee,
        evaluator: Evaluator,
        optimization: Optimization,
        guard: FiniteGuard,
        accumulate: int,
        offloaded: bool = False,
    ) -> None:
        self.policy, self.trainee, self.evaluator, self.optimization = policy, trainee, evaluator, optimization
        self.guard, self.accumulate, self.offloaded = guard, accumulate, offloaded
        self._open: _Accumulated | None = None

    @property
    def is_half_done(self) -> bool:
        """Whether the step that has begun waits for more batches."""
        return self._open is not None

    def take(self, batch: Any) -> None:
        """Take one step on a batch; with ``accumulate``, at the last of its batches."""
        if self._open is None:
            with torch.no_grad(), self.evaluator.precision.full(self.policy.device):
                self._open = _Accumulated(self.policy.sample_for_weights())
        step = self._open
        step.batches += 1
        passes = partial(self._forward_and_backward, step, batch)
        if step.batches == self.accumulate:
            self._finish(step, passes, partial(self._forward_and_backward_again, step, batch))
        elif not step.is_lost:
            try:
                passes()
            except SkippedStep:
                step.is_lost = True

    def flush(self) -> None:
        """Take the step on the batches that there were: no more of them will come in this epoch."""
        if self._open is not None:
            self._finish(self._open, lambda: None, partial(self._forward_and_backward_again, self._open, None))

    def drop(self) -> None:
        """Forget the batches of a step that is not complete."""
        self._open = None

    def _forward_and_backward(self, step: _Accumulated, batch: Any) -> Tensor | None:
        optimizer = self.optimization.optimizer  # the network may have none
        with self.evaluator.space.bind(step.architecture), self.evaluator.watched(step.architecture):
            try:
                outcome = self.evaluator.run(batch)
            except SkippedStep:
                if self.evaluator.precision.scaler is not None:  # which wants gradients
                    raise
                if step.size == 0:
                    self.trainee.zero_gradients(optimizer)
                return None
            loss = outcome.loss
            if not self.guard.passes("weight", loss):
                raise SkippedStep
            self.trainee.note(outcome)
            if optimizer is None or not loss.requires_grad:
                if optimizer is not None and self._has_weights_outside_edges():
                    raise no_graph(self.evaluator.source)
                self.policy.skipped_weight_steps += 1  # only candidates without parameters were drawn
                raise SkippedStep
            if step.size == 0:
                self.trainee.zero_gradients(optimizer)
            step.size += outcome.size
            if self.accumulate > 1:
                loss = outcome.size * widened(loss)
                step.total += loss.detach()
            self._backward(loss)
        return self.evaluator.ranks.mean(loss.detach())

    def _forward_and_backward_again(self, step: _Accumulated, batch: Any) -> Tensor | None:
        """What an optimizer gets that calls its closure again. Its step has begun, so the loss is taken as it is."""
        if self.accumulate > 1:
            raise MisconfigurationException(
                f"{type(self.optimization.made).__name__} calls its closure again within a step, and with"
                f" accumulate={self.accumulate} the earlier batches are gone: use accumulate=1 and larger batches"
            )
        loss = None
        with self.evaluator.space.bind(step.architecture):
            with suppress(SkippedStep):
                loss = self.evaluator.run(batch).loss
            self.trainee.zero_gradients(self.optimization.optimizer)
            if loss is not None:
                self._backward(loss)
        return None if loss is None else self.evaluator.ranks.mean(loss.detach())

    def _backward(self, loss: Tensor) -> None:
        """Take a backward pass outside of autocast, as automatic optimization takes it."""
        with self.evaluator.precision.full(self.policy.device):
            self.policy.manual_backward(loss)

    def _finish(
        self, step: _Accumulated, passes: Callable[[], Tensor | None], again: Callable[[], Tensor | None]
    ) -> None:
        self._open = None
        if step.is_lost:
            return
        scaler = self.evaluator.precision.scaler
        if scaler is not None:
            refuse_scaling(self.optimization.made)

        def first() -> Tensor | None:
            loss = passes()
            return loss if self.accumulate == 1 or step.size == 0 else self._mean(step)

        closure = Closure(first, again)
        unscaling = WaitingCopies() if self.offloaded and scaler is not None else nullcontext()
        name = type(self.optimization.made).__name__
        with suppress(SkippedStep), unscaling:
            self.trainee.step(self.optimization.optimizer, closure)
            if not closure.was_called:
                raise MisconfigurationException(
                    f"a weight step has not called its closure, which computes the gradients: let {name}.step"
                    " call it, or the module's own optimizer_step"
                )
            self.policy.weight_steps += step.size > 0

    def _mean(self, step: _Accumulated) -> Tensor:
        """Turn gradients of sums over terms into gradients of the mean; over ranks, of the mean number of terms."""
        terms = self.evaluator.ranks.mean(torch.tensor(float(step.size), device=self.policy.device))
        for parameter in self.trainee.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= terms.to(parameter.grad.device)
        return self.evaluator.ranks.mean(torch.as_tensor(step.total)) / terms

    def _has_weights_outside_edges(self) -> bool:
        inside = {id(parameter) for op in mixed_ops(self.trainee.model) for parameter in op.parameters()}
        return any(
            parameter.requires_grad and id(parameter) not in inside for parameter in self.trainee.model.parameters()
        )


@runtime_checkable
class Policy(Protocol):
    """What the steps need of a search strategy: which architectures to draw, and what became of them.

    Example:
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> isinstance(AdvantageNAS(edge, architecture_optimizer=torch.optim.Adam), Policy)
        True
    """

    architecture_steps: int
    weight_steps: int
    skipped_weight_steps: int
    draws: int

    @property
    def device(self) -> torch.device:
        """Where the architecture parameters are."""

    @property
    def expected_gates(self) -> Tensor:
        """The share of each candidate in an architecture's expected cost, ``[E, J]``."""

    def sample_for_weights(self) -> Architecture:
        """Draw the architecture of a weight step."""

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        """Draw and run the architectures of an architecture step."""

    def release_theta(self) -> None:
        """Hear that the architecture parameters are about to move."""

    def architecture_parameters(self) -> list[nn.Parameter]:
        """What an architecture step moves."""

    def architecture_gradients(self, trials: Sequence[Trial]) -> list[Tensor] | None:
        """The gradients of :meth:`architecture_parameters`, or ``None`` to leave them for now."""

    def after_theta_step(self, trials: Sequence[Trial], before: Sequence[Tensor]) -> None:
        """What follows the optimizer's step."""

    def note_loss(self, name: str, loss: Tensor, size: int) -> None:
        """Count a step's loss in the epoch's mean."""

    def manual_backward(self, loss: Tensor) -> None:
        """Take a backward pass, as Lightning does it."""

    def step_architecture(self, optimizer: Any, closure: Callable[[], Tensor | None]) -> None:
        """Take the optimizer's step of an architecture step."""


@runtime_checkable
class Trainee(Protocol):
    """How a network's weights are trained: as by hand in PyTorch, or as somebody's LightningModule does it.

    Example:
        >>> from advnas_lightning.engine.plain import PlainModel
        >>> from advnas_lightning.objectives import Regression
        >>> isinstance(PlainModel(nn.Identity(), Regression(), lambda *_: None, "Search.loss"), Trainee)
        True
    """

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""

    def note(self, outcome: Outcome) -> None:
        """Count what a weight step's network did."""

    def zero_gradients(self, optimizer: Any) -> None:
        """Clear the gradients between a weight step's forward and backward pass."""

    def step(self, optimizer: Any, passes: Callable[[], Tensor | None]) -> None:
        """Take the optimizer's step, with the passes as its closure."""


@runtime_checkable
class Term(Protocol):
    """What is added to a search's objective beside the loss, such as an expected cost.

    Example:
        >>> from advnas_lightning import ArchitectureCost, MixedOp, SearchSpace
        >>> cost = ArchitectureCost("params", penalty=0.1)
        >>> cost.attach(SearchSpace(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})))
        >>> term: Term = cost
        >>> term.best_choice([0], torch.zeros(1, 2))  # there is no budget
        [0]
    """

    @property
    def slope(self) -> Tensor | None:
        """The term's gradient in the expected gates, ``[E, J]``; ``None`` for a term of θ itself."""

    def gradient(self, probs: Tensor) -> Tensor:
        """The term's gradient in θ, for p = softmax(θ), ``[E, J]``."""

    def after_step(self, expected_gates: Tensor) -> None:
        """What follows a step of the architecture parameters."""

    def allows(self, gates: Tensor) -> Tensor:
        """Whether an architecture may be chosen, scalar bool."""

    def best_choice(self, choice: list[int], log_probs: Tensor) -> list[int]:
        """The most probable architecture that may be chosen, where ``choice`` is the most probable one of all."""
