"""Running a drawn architecture on a batch, and taking ∂L/∂a of it and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from advnas_lightning import rng
from advnas_lightning.engine.accumulation import MicroBatches, weighted_mean
from advnas_lightning.engine.environment import Precision, Ranks
from advnas_lightning.engine.trace import Trace
from advnas_lightning.objectives import Outcome
from advnas_lightning.space.search_space import Architecture, SearchSpace

Run = Callable[[Any], Outcome]


class SkippedStep(Exception):
    """Raised when the loss skips a batch, as when ``training_step`` returns None: no step is taken on it.

    Example:
        >>> raise SkippedStep
        Traceback (most recent call last):
            ...
        advnas_lightning.engine.evaluation.SkippedStep
    """


@dataclass(frozen=True)
class Trial:
    """One evaluated draw: what a strategy learns from.

    Attributes:
        architecture: The draw.
        loss: Scalar, detached; the mean over ``size`` terms.
        gate_grad: ``[E, J]``, G = ∂L/∂a; ``None`` for strategies that need no gradient.
        size: How many terms the loss is the mean of.

    Example:
        >>> drawn = Architecture(torch.tensor([[0.0, 1.0]]), paths=((1,),), choice=(1,))
        >>> Trial(drawn, torch.tensor(0.5), gate_grad=torch.tensor([[0.0, 2.0]]), size=64).size
        64
    """

    architecture: Architecture
    loss: Tensor
    gate_grad: Tensor | None
    size: int


class Evaluator:
    """Runs architectures on batches. An evaluation leaves no trace in the network.

    Args:
        space: The edges, which an architecture is bound to.
        run: Gives the loss of the bound network on a batch.
        ranks: The processes, over which losses and gradients are averaged.
        precision: How losses are differentiated.
        trace: What :meth:`no_trace` removes.
        source: What computes the loss, in the words of its author.
        seed: Gives the seed of the random numbers that evaluations draw now.

    Attributes:
        is_evaluating: Whether :meth:`no_trace` is open.
        bare: The edges that return what their only candidate returns, without a copy, as in a found network.
        observed: The edges whose outputs are observed, and kept up to the end of a pass for that.
        changed_in_place: Those of them whose output has been changed in place by what follows.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"one": nn.Identity(), "two": nn.Threshold(9.0, 2.0)})
        >>> space = SearchSpace(edge)
        >>> evaluator = Evaluator(space, lambda x: Outcome(edge(x).sum(), 1), Ranks(), Precision(), Trace(edge))
        >>> trial = evaluator.evaluate(space.one_hot([1]), torch.tensor([1.0]), gates=True)
        >>> trial.loss, trial.gate_grad
        (tensor(2.), tensor([[0., 2.]]))
    """

    def __init__(
        self,
        space: SearchSpace,
        run: Run,
        ranks: Ranks,
        precision: Precision,
        trace: Trace,
        *,
        source: str = "the network's loss",
        seed: Callable[[], int] = lambda: 0,
    ) -> None:
        self.space, self.run, self.ranks, self.precision, self.trace = space, run, ranks, precision, trace
        self.source, self.seed = source, seed
        self.is_evaluating = False
        self.bare: Collection[str] = ()
        self.observed: Collection[str] = ()
        self.changed_in_place: set[str] = set()
        self._has_graph = False  # whether passes keep a graph also where no gradient is asked for
        self._copies_outputs = False  # whether an edge copies its output, since what follows changes it in place
        self._idle: set[str] | None = None  # the edges that no evaluation so far has run

    @contextmanager
    def no_trace(self, architecture: Architecture | None = None, trace: Trace | None = None) -> Iterator[None]:
        """A context after which the network, and all that it keeps, is as it was before: see :class:`Trace`.

        Random numbers are drawn from a seed of its own, so that the steps around it draw as if it were not there.

        Args:
            architecture: What runs; without it, any candidate may run.
            trace: Another one than that of evaluations: it learns from what other passes change.
        """
        before, self.is_evaluating = self.is_evaluating, True
        running = None if architecture is None else self.space.running(architecture)
        try:
            with rng.seeded(self.seed()), (trace or self.trace).removed(running):
                yield
        finally:
            self.is_evaluating = before

    @contextmanager
    def changed(self, **attributes: Any) -> Iterator[None]:
        """A context in which some attributes are others. A copy would not tell the search that it is evaluating."""
        before = {name: getattr(self, name) for name in attributes}
        vars(self).update(attributes)
        try:
            yield
        finally:
            vars(self).update(before)

    def watched(self, architecture: Architecture) -> AbstractContextManager[None]:
        """A context for the passes of a weight step, from which the trace learns whether they change what does not run.

        Args:
            architecture: What runs.
        """
        return self.trace.reach.watched(partial(self.space.running, architecture))

    def evaluate(self, architecture: Architecture, batch: Any, *, gates: bool) -> Trial:
        """Run an architecture on a batch.

        Args:
            architecture: What to run.
            batch: One batch, or :class:`MicroBatches`, whose mean counts.
            gates: Whether to take ∂L/∂a; without it the pass keeps no graph, unless the loss takes a gradient itself.

        Raises:
            ValueError: ∂L/∂a is asked for, and the loss has no graph to the gates.
        """
        parts = batch if isinstance(batch, MicroBatches) else [batch]
        results = None
        try:
            results = self._evaluate_parts(architecture, parts, gates)
        except RuntimeError as error:
            if not self._adapts_to(str(error), gates):
                raise
        if results is None:  # the first try has left no trace; PyTorch 2.6's checkpoints go on until its error is freed
            results = self._evaluate_parts(architecture, parts, gates)
        losses, grads, sizes = results
        loss = self.ranks.mean(weighted_mean(losses, sizes))
        gate_grad = self.ranks.mean(weighted_mean(grads, sizes)) if gates else None
        return Trial(architecture, loss, gate_grad, sum(sizes) * self.ranks.count)

    def _adapts_to(self, error: str, gates: bool) -> bool:
        """Whether another evaluation may succeed, now that an error has told something of the network."""
        if gates and not self._copies_outputs and re.search("in-?place", error):
            self._copies_outputs = True
            return True
        if not gates and not self._has_graph and re.search("requires?[ _]grad", error):
            self._has_graph = True  # the loss takes a gradient itself
            return True
        return False

    def _evaluate_parts(self, architecture: Architecture, parts: Sequence[Any], gates: bool) -> Any:
        with self.no_trace(architecture):
            return zip(*[self._evaluate_part(architecture, part, gates) for part in parts], strict=True)

    def _evaluate_part(self, architecture: Architecture, batch: Any, gates: bool) -> tuple[Tensor, Tensor | None, int]:
        leaf = architecture.gates.detach().requires_grad_() if gates else None
        gate_grad = None
        bound = self.space.bind(
            architecture,
            leaf,
            only_gates=gates,
            copies_outputs=self._copies_outputs,
            bare=self.bare,
            observed=self.observed,
        )
        with torch.set_grad_enabled(gates or self._has_graph), bound:
            outcome = self.run(batch)
            if self._idle is None or self._idle:
                self._idle = self.space.idle if self._idle is None else self._idle & self.space.idle
            self.changed_in_place |= self.space.changed_in_place
            if leaf is not None:
                (gate_grad,) = self.precision.gradients(outcome.loss, [leaf]) if outcome.loss.requires_grad else [None]
                if gate_grad is None:
                    raise no_graph(self.source)
        return outcome.loss.detach(), gate_grad, outcome.size

    def warn_of_idle_edges(self) -> None:
        """Warn once of edges that no evaluation so far has run, since nothing is learnt of them."""
        if self._idle:
            first = ", ".join(map(repr, sorted(self._idle)[:3])) + (", …" if len(self._idle) > 3 else "")
            rank_zero_warn(
                f"{len(self._idle)} of {len(self.space)} edges did not run in an architecture step, and nothing is"
                f" learnt of them: let the network call {first}"
            )
            self._idle = set()

    def weight_gradients(self, architecture: Architecture, batch: Any, weights: Sequence[Tensor]) -> list[Tensor]:
        """∂L/∂w of an architecture's loss, averaged over ranks; zeros for weights that it does not use."""
        with self.no_trace(architecture), torch.enable_grad(), self.space.bind(architecture):
            gradients = self.precision.gradients(self.run(batch).loss, weights)
        return [
            torch.zeros_like(weight) if gradient is None else self.ranks.mean(gradient)
            for weight, gradient in zip(weights, gradients, strict=True)
        ]


def no_graph(source: str) -> ValueError:
    """The error of a loss that must be differentiated and has no graph."""
    return ValueError(f"{source} gives a loss without a graph: do not detach what it is made of")


def check_loss(value: Any, source: str) -> Tensor:
    """A loss: one real number with or without a graph.

    Args:
        value: What was returned.
        source: What returned it, for the message.

    Raises:
        ValueError: It is not a real scalar.

    Example:
        >>> check_loss(torch.tensor(0.5), "Mine.loss")
        tensor(0.5000)
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{source} gives a {type(value).__name__}: let it return the loss, a scalar tensor")
    if value.numel() != 1 or not value.is_floating_point():
        raise ValueError(
            f"{source} gives a loss of shape {list(value.shape)} and type {value.dtype}: let it return the mean, one"
            " real number"
        )
    return value


def as_outcome(result: Any, batch: Any, source: str) -> Outcome:
    """What a loss returned, as an Outcome: a bare loss is the mean over the samples of its batch.

    Args:
        result: A loss, or an Outcome.
        batch: What it is the loss of; a batch without a tensor counts as one sample.
        source: What returned it, for the message.

    Raises:
        ValueError: The loss is not a real scalar, or the mean of no term.

    Example:
        >>> as_outcome(torch.tensor(0.5), torch.zeros(8, 3), "Mine.loss").size
        8
    """
    loss = check_loss(result.loss if isinstance(result, Outcome) else result, source)
    if isinstance(result, Outcome):
        outcome = result
    else:
        try:
            outcome = Outcome(loss, extract_batch_size(batch))
        except MisconfigurationException:
            outcome = Outcome(loss, 1)
    if outcome.size < 1:
        raise ValueError(f"an outcome has size={outcome.size}: a loss is the mean of at least one term")
    return outcome
