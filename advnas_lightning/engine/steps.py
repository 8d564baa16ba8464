"""The architecture step of a search (Algorithm 1), and what both kinds of steps need of the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from advnas_lightning.engine.closures import ComputedClosure
from advnas_lightning.engine.evaluation import Evaluator, Trial
from advnas_lightning.engine.optimization import Optimization
from advnas_lightning.engine.tracking import FiniteGuard, ProcessBest, finite_parts
from advnas_lightning.objectives import Outcome
from advnas_lightning.space.gates import without_autocast
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
        checks: Refuse networks of which a search would be wrong.

    Example:
        >>> from functools import partial
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
        checks: Sequence[Check],
    ) -> None:
        self.policy, self.evaluator, self.optimization = policy, evaluator, optimization
        self.guard, self.best, self.terms, self.checks = guard, best, terms, checks

    def take(self, batch: Any) -> None:
        """Take one step on a batch, or on the mean of :class:`MicroBatches`."""
        trials = self.policy.evaluate_draws(batch)
        for check in self.checks:
            check.see(trials[0].architecture, batch)
        self.policy.release_theta()
        self.evaluator.warn_of_idle_edges()
        if not self.guard.passes("architecture", *finite_parts(trials)):
            return
        self.best.see(trials, [term.allows for term in self.terms])
        with without_autocast(self.policy.device):
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

    def slope(self, expected_gates: Tensor) -> Tensor | None:
        """The term's gradient in the expected gates, ``[E, J]``, at some; ``None`` for a term of θ itself."""

    def gradient(self, probs: Tensor) -> Tensor:
        """The term's gradient in θ, for p = softmax(θ), ``[E, J]``."""

    def after_step(self, expected_gates: Tensor) -> None:
        """What follows a step of the architecture parameters."""

    def allows(self, gates: Tensor) -> Tensor:
        """Whether an architecture may be chosen, scalar bool."""

    def best_choice(self, choice: list[int], log_probs: Tensor) -> list[int]:
        """The most probable architecture that may be chosen, where ``choice`` is the most probable one of all."""


@runtime_checkable
class Check(Protocol):
    """What looks at the first architecture steps and ends a search that would be wrong without a word.

    Example:
        >>> from advnas_lightning.engine.padding import PaddingCheck
        >>> issubclass(PaddingCheck, Check)
        True
    """

    def see(self, architecture: Architecture, batch: Any) -> None:
        """Look at a step's first architecture and its batch."""
