"""The weight step of a search (Algorithm 1), in which one architecture runs, or several for one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from advnas_lightning import rng
from advnas_lightning.engine.closures import Closure, refuse_scaling
from advnas_lightning.engine.distillation import Lesson
from advnas_lightning.engine.evaluation import Evaluator, SkippedStep, no_graph
from advnas_lightning.engine.optimization import Optimization
from advnas_lightning.engine.steps import Policy, Trainee
from advnas_lightning.engine.tracking import FiniteGuard
from advnas_lightning.functional import widened
from advnas_lightning.objectives import Outcome
from advnas_lightning.space.gates import without_autocast
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.space.offload import WaitingCopies
from advnas_lightning.space.search_space import Architecture


@dataclass
class _Accumulated:
    """The batches of one weight step so far.

    Attributes:
        architectures: Those that run on each of them.
        batches: How many there were.
        size: How many terms their losses are the means of, together.
        total: The sum of these terms.
        is_lost: Whether the step cannot be taken any more, because a loss was not finite or had no graph.
    """

    architectures: Sequence[Architecture]
    batches: int = 0
    size: int = 0
    total: Tensor | float = 0.0
    is_lost: bool = False


class WeightStep:
    """The weight step of Algorithm 1: descend ∇w L(a, w) for a draw a, or the mean of this over several a.

    Of several architectures the first one's pass is the step's own, and the others leave nothing but their gradients:
    logs, metrics, attributes and running statistics are those of one step. All of them draw the same random numbers, so
    that a ``training_step`` that augments its batch gives all of them the same one.

    Args:
        policy: Is told of the steps.
        trainee: The network, and how its weights are trained.
        evaluator: Binds the architecture and gives the loss.
        optimization: Steps the weights.
        guard: Leaves out what is not finite.
        accumulate: How many batches count as one.
        offloaded: Whether candidates' gradients are in host memory.
        sample: Gives the architectures of a step.
        no_trace: A context for the passes of an architecture, after which the network is as before but for gradients.
        lesson: Lets the networks learn from a teacher, if there is one.

    Example:
        >>> from functools import partial
        >>> from torch import nn
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
        offloaded: bool,
        *,
        sample: Callable[[], Sequence[Architecture]],
        no_trace: Callable[[Architecture], AbstractContextManager[None]],
        lesson: Lesson | None,
    ) -> None:
        self.policy, self.trainee, self.evaluator, self.optimization = policy, trainee, evaluator, optimization
        self.guard, self.accumulate, self.offloaded = guard, accumulate, offloaded
        self.sample, self.no_trace, self.lesson = sample, no_trace, lesson
        self._open: _Accumulated | None = None

    @property
    def is_half_done(self) -> bool:
        """Whether the step that has begun waits for more batches."""
        return self._open is not None

    def take(self, batch: Any) -> None:
        """Take one step on a batch; with ``accumulate``, at the last of its batches."""
        if self._open is None:
            with torch.no_grad(), without_autocast(self.policy.device):
                self._open = _Accumulated(self.sample())
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
        optimizer = self.optimization.optimizer  # None where no weights are trained
        losses: list[Tensor] = []
        lessons: list[Tensor] = []
        size, idle, count = 0, 0, len(step.architectures)
        for place, running in self._passes(step):
            with running:
                try:
                    outcome = self.evaluator.run(batch)
                except SkippedStep:
                    if self.evaluator.precision.scaler is not None:  # which wants gradients
                        raise
                    if step.size == 0:
                        self.trainee.zero_gradients(optimizer)
                    if place == 0:
                        return None
                    continue
                loss = self._loss(outcome, place)
                if not self.guard.passes("weight", loss, is_last=place == count - 1):
                    raise SkippedStep
                if place == 0:
                    self.trainee.note(outcome)
                if optimizer is None or not loss.requires_grad:
                    if optimizer is not None and self._has_weights_outside_edges():
                        raise no_graph(self.evaluator.source)
                    idle += 1  # only candidates without parameters were drawn
                    continue
                if step.size == 0:
                    self.trainee.zero_gradients(optimizer)
                if not losses:
                    size = outcome.size
                    step.size += size
                if self.lesson is not None and self.lesson.last is not None:
                    lessons.append(self.lesson.last.detach())
                loss = loss / count if count > 1 else loss
                if self.accumulate > 1:
                    loss = size * widened(loss)
                    step.total += loss.detach()
                self._backward(loss)
                losses.append(loss.detach())
        if idle and not losses:
            self.policy.skipped_weight_steps += 1
            raise SkippedStep
        if lessons:
            self.policy.note_loss("train/distillation", torch.stack(lessons).mean(), size)
        return self.evaluator.ranks.mean(sum(losses[1:], losses[0])) if losses else None

    def _forward_and_backward_again(self, step: _Accumulated, batch: Any) -> Tensor | None:
        """What an optimizer gets that calls its closure again. Its step has begun, so the loss is taken as it is."""
        if self.accumulate > 1:
            raise MisconfigurationException(
                f"{type(self.optimization.made).__name__} calls its closure again within a step, and with"
                f" accumulate={self.accumulate} the earlier batches are gone: use accumulate=1 and larger batches"
            )
        losses: list[Tensor] = []
        for place, running in self._passes(step):
            with running:
                loss = None
                with suppress(SkippedStep):
                    loss = self._loss(self.evaluator.run(batch), place)
                if place == 0:
                    self.trainee.zero_gradients(self.optimization.optimizer)
                if loss is not None:
                    loss = loss / len(step.architectures) if len(step.architectures) > 1 else loss
                    self._backward(loss)
                    losses.append(loss.detach())
                elif place == 0:
                    return None
        return self.evaluator.ranks.mean(sum(losses[1:], losses[0])) if losses else None

    def _passes(self, step: _Accumulated) -> Iterator[tuple[int, AbstractContextManager[None]]]:
        """The place of each architecture of a step, and the context of its passes."""
        start = rng.collect() if len(step.architectures) > 1 else None
        for place, architecture in enumerate(step.architectures):
            yield place, self._running(architecture, start if place > 0 else None)
        if self.lesson is not None:
            self.lesson.forget()

    @contextmanager
    def _running(self, architecture: Architecture, start: dict[str, Any] | None) -> Iterator[None]:
        """A context for the passes of an architecture.

        Args:
            architecture: What runs.
            start: The state of the random number generators to start from; ``None`` for the first pass of a step.
        """
        with ExitStack() as stack:
            if start is not None:
                stack.enter_context(self.no_trace(architecture))
                rng.restore(start)
            stack.enter_context(self.evaluator.space.bind(architecture))
            if start is None:
                stack.enter_context(self.evaluator.watched(architecture))
            if self.lesson is not None:
                stack.enter_context(self.lesson.watched())
            yield

    def _loss(self, outcome: Outcome, place: int) -> Tensor:
        """What a pass descends."""
        return outcome.loss if self.lesson is None else self.lesson.loss(outcome.loss, first=place == 0)

    def _backward(self, loss: Tensor) -> None:
        """Take a backward pass outside of autocast, as automatic optimization takes it."""
        with without_autocast(self.policy.device):
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
