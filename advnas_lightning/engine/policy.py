"""A distribution over architectures, and what a strategy overrides: which to draw, and what their trials teach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from advnas_lightning import functional, rng
from advnas_lightning.engine.clock import SearchClock
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.hyperparameters import SharedHyperparameters
from advnas_lightning.engine.steps import Term
from advnas_lightning.engine.tracking import ProcessBest, widen_buffers
from advnas_lightning.space.genotype import SELECTIONS, Genotype, Probabilities
from advnas_lightning.space.search_space import Architecture, SearchSpace
from advnas_lightning.validate import check_one_of, check_seed

Selection = Literal["argmax", "process_best"]
T = TypeVar("T")


class ArchitecturePolicy(SharedHyperparameters):
    """Draws architectures from p_i = softmax(θ_i), and learns θ. It needs no Trainer.

    Draws come from a CPU generator of its own, so that all ranks draw alike, and nothing else can change a search.

    Args:
        space: The edges and their candidates.
        terms: What is added to the loss, such as an expected cost.
        select: The genotype that is selected, ``"argmax"`` or ``"process_best"``; by default the strategy's own.
        seed: The seed of the random draws.

    Attributes:
        searches: Whether θ ever moves.
        has_independent_edges: Whether p(a) is the product of the edges' own probabilities.
        default_select: The genotype that a search selects by default.
        needs_gate_grad: Whether an architecture step takes ∂L/∂a; without it, its passes keep no graph.
        draws: How many architectures an architecture step evaluates, all on one minibatch.
        clock: Where the search is; the engine sets it before each step.
        is_annealed: Whether a step has asked for :attr:`progress`, and so depends on how long the search is to be.

    Example:
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> print(ArchitecturePolicy(SearchSpace(edge), seed=0).probabilities())
        edge  linear 0.500  skip 0.500
    """

    searches: ClassVar[bool] = True
    has_independent_edges: ClassVar[bool] = True
    default_select: ClassVar[Selection] = "argmax"
    needs_gate_grad: bool = True
    draws: int = 1

    def __init__(
        self, space: SearchSpace, *, terms: Sequence[Term] = (), select: Selection | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.space, self.terms = space, tuple(terms)
        self.seed = check_seed("seed", seed)
        self.select: Selection = check_one_of("select", select or self.default_select, SELECTIONS)
        self.clock = SearchClock()
        self.generator = torch.Generator().manual_seed(seed)
        self.mask: Tensor  # [E, J]
        self.register_buffer("mask", space.mask, persistent=False)
        # Equal θ say nothing about order: ties of the reported arg max are broken by the seed, not by index.
        tie_breaker = torch.rand(self.mask.shape, generator=torch.Generator().manual_seed(seed))
        self.tie_breaker: Tensor  # [E, J]
        self.register_buffer("tie_breaker", tie_breaker, persistent=False)
        self.best = ProcessBest(len(space))
        self.architecture_steps = 0
        self.is_annealed = False
        self._held: dict[str, Any] | None = None  # what follows from θ, while it stays
        self.configure_architecture()

    # -- what a strategy overrides -------------------------------------------------------------------------------------

    def configure_architecture(self) -> None:
        """Create the architecture parameters: θ, one padded row per edge, at ones."""
        self.theta = nn.Parameter(torch.ones(self.mask.shape))  # [E, J]

    def sample(self) -> Architecture:
        """Draw the architecture of an architecture step."""
        raise NotImplementedError

    def sample_for_weights(self) -> Architecture:
        """Draw the architecture of a weight step; by default as in an architecture step."""
        return self.sample()

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor | None:
        """The gradient of the loss in θ, ``[E, J]``, to be descended; ``None`` to leave θ for now."""
        raise NotImplementedError

    def after_theta_step(self, trials: Sequence[Trial], before: Sequence[Tensor]) -> None:
        """Called after the step of the architecture optimizer, without a graph.

        Args:
            trials: What the step was made of.
            before: The values that :meth:`architecture_parameters` had before it, in their order.
        """

    def architecture_parameters(self) -> list[nn.Parameter]:
        """What the architecture optimizer moves: θ."""
        return [self.theta]

    def architecture_gradients(self, trials: Sequence[Trial]) -> list[Tensor] | None:
        """The gradients of :meth:`architecture_parameters`, all terms included, or ``None`` to leave them for now."""
        gradient = self.theta_gradient(trials)
        if gradient is None:
            return None
        for term in self.terms:
            gradient = gradient + self.term_gradient(term)
        return [gradient]

    def term_gradient(self, term: Term) -> Tensor:
        """The gradient in θ of a term beside the loss, ``[E, J]``."""
        return term.gradient(self.probs)

    @property
    def expected_gates(self) -> Tensor:
        """The share of each candidate in an architecture's expected cost, ``[E, J]``: p."""
        return self.probs

    def most_probable_choice(self) -> list[int]:
        """The arg max_j θ_ij per edge; ties are broken by ``seed``."""
        return list(self.held("argmax", lambda: functional.argmax(self.theta.detach(), self.mask, self.tie_breaker)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        widen_buffers(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # -- what most strategies need -------------------------------------------------------------------------------------

    @property
    def log_probs(self) -> Tensor:
        """The logarithm of p, ``[E, J]``, with a graph to θ; −∞ where an edge has no such candidate."""
        return functional.log_probs(self.theta, self.mask)

    @property
    def probs(self) -> Tensor:
        """p_i = softmax(θ_i), ``[E, J]``, without a graph."""
        return self.log_probs.detach().exp()

    @property
    def logits(self) -> Tensor:
        """A θ whose softmax is p, ``[E, J]``, without a graph."""
        return self.theta.detach()

    @property
    def entropy(self) -> Tensor:
        """(1/E) Σ_i H(p_i) in nats, scalar (Appendix H)."""
        return functional.entropy(self.log_probs.detach())

    @property
    def progress(self) -> float:
        """The share of the planned architecture steps that is done, from 0 to exactly 1.

        Raises:
            MisconfigurationException: The Trainer does not say how many there will be.
        """
        if self.clock.progress is None:
            raise MisconfigurationException(
                f"{type(self).__name__} anneals an option over the search: set Trainer(max_epochs=…), and"
                " limit_train_batches for loaders without a length"
            )
        self.is_annealed |= self.clock.progress > 0
        return self.clock.progress

    @contextmanager
    def theta_held(self) -> Iterator[None]:
        """A context in which θ stays, at least until :meth:`release_theta`."""
        self._held = {}
        try:
            yield
        finally:
            self._held = None

    def release_theta(self) -> None:
        """Forget what :meth:`held` has computed, since θ is about to move."""
        self._held = None

    def held(self, name: str, compute: Callable[[], T]) -> T:
        """Numbers on the host that follow from θ. They are computed once while θ stays, since the host waits for them.

        Which candidates run is decided on the host, so a search waits at least once after each step of θ.

        Args:
            name: What it is.
            compute: Computes it.

        Example:
            >>> from advnas_lightning import MixedOp
            >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
            >>> policy = ArchitecturePolicy(SearchSpace(edge))
            >>> with policy.theta_held():
            ...     policy.host_log_probs() is policy.host_log_probs()
            True
        """
        if self._held is None:
            return compute()
        if name not in self._held:
            self._held[name] = compute()
        found: T = self._held[name]
        return found

    def host_log_probs(self) -> Tensor:
        """The logarithm of p in host memory, ``[E, J]``, without a graph."""
        return self.held("log_probs", lambda: self.log_probs.detach().cpu())

    def step_seed(self) -> int:
        """The seed of what this batch's architecture step draws beside architectures, such as dropout."""
        return rng.mixed(self.seed, self.clock.batches, 0)

    def draw(self) -> list[int]:
        """Draw a ~ p: one candidate index per edge.

        Raises:
            ValueError: θ is not finite.
        """
        probs = self.held("probs", lambda: self.probs.cpu())
        if probs.isnan().any():  # no step is taken on a loss that is not finite
            edge = self.space.edges[int(probs.isnan().any(-1).nonzero()[0])]
            raise ValueError(
                f"θ of edge {edge!r} is not finite any more after a step on a finite loss: lower the learning rate of"
                " architecture_optimizer, clip with architecture_clip, or lower the cost's penalty if there is one"
            )
        return torch.multinomial(probs, 1, generator=self.generator).squeeze(1).tolist()

    def draw_choices(self, count: int, seed: int) -> list[tuple[int, ...]]:
        """Draw a ~ p so many times, by a seed that is no part of the search: its own next draws stay the same."""
        own, self.generator = self.generator, torch.Generator().manual_seed(seed)
        try:
            return [tuple(self.draw()) for _ in range(count)]
        finally:
            self.generator = own

    def log_prob(self, choices: Sequence[Sequence[int]]) -> list[float]:
        """The logarithm of the probability p(a) of each choice."""
        rows = self.log_probs.detach().tolist()
        return [math.fsum(row[index] for row, index in zip(rows, choice, strict=True)) for choice in choices]

    def one_hot(self, choice: Sequence[int]) -> Architecture:
        """The architecture that runs ``choice`` alone."""
        return self.space.one_hot(choice, like=self.tie_breaker)

    def mixture(self, gates: Tensor) -> Architecture:
        """The dense architecture with ``gates`` ``[E, J]``, through which a gradient may flow back to θ."""
        return Architecture(gates.detach(), self.space.all_paths, relaxed=gates)

    def pull_back(self, trial: Trial) -> Tensor:
        """∂L/∂θ through a draw that has a graph to θ, ``[E, J]``."""
        assert trial.architecture.relaxed is not None
        (gradient,) = torch.autograd.grad(trial.architecture.relaxed, self.theta, trial.gate_grad)
        return gradient

    def probabilities(self) -> Probabilities:
        """The p_ij of every edge's candidates: a table when printed."""
        rows = self.probs.cpu().tolist()
        return Probabilities(
            (edge, dict(zip(names, row, strict=False)))  # a row is padded
            for edge, names, row in zip(self.space.edges, self.space.candidates, rows, strict=True)
        )

    def __getstate__(self) -> dict[str, Any]:
        """The state with the generator as bytes, which every process can read."""
        return {**super().__getstate__(), "generator": self.generator.get_state().numpy().tobytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`__getstate__` has kept, with a generator of the same state."""
        generator = torch.Generator()
        generator.set_state(torch.frombuffer(bytearray(state["generator"]), dtype=torch.uint8))
        super().__setstate__({**state, "generator": generator})

    # -- what was found ------------------------------------------------------------------------------------------------

    def argmax_choice(self) -> list[int]:
        """The most probable architecture, of those that all terms allow: within the budget of a cost that has one."""
        choice = self.most_probable_choice()
        for term in self.terms:
            choice = term.best_choice(choice, self.log_probs.detach())
        return choice

    @property
    def process_best(self) -> Genotype | None:
        """The process-best genotype, or ``None`` where no architecture step evaluated a one-hot architecture."""
        return None if self.best.found is None else self.space.genotype(self.best.found)

    @property
    def selected(self) -> Selection:
        """The kind of genotype that this search ends with, which is ``select``, or argmax without a process-best."""
        return "argmax" if self.best.found is None else self.select

    def selected_choice(self) -> Sequence[int]:
        """The selected architecture's candidate per edge."""
        return self.space.choice(self.genotype(self.selected))

    def evaluated_architecture(self, *, fitting: bool) -> Architecture:
        """What evaluations evaluate: within a fit the arg max, otherwise the selected architecture."""
        return self.one_hot(self.argmax_choice() if fitting else self.selected_choice())

    def genotype(self, select: Selection = "argmax") -> Genotype:
        """What the search has found so far: the candidate of each edge by name.

        Args:
            select: ``"argmax"``: arg max θ_i per edge; ``"process_best"``: the one-hot architecture with the lowest
                single minibatch loss of an architecture step so far; both within the budget of a cost that has one.

        Raises:
            ValueError: Another ``select``, or ``"process_best"`` of a search that has evaluated no one-hot
                architecture.
        """
        if check_one_of("select", select, SELECTIONS) == "argmax":
            return self.space.genotype(self.argmax_choice())
        if self.process_best is None:
            raise ValueError(
                "there is no process_best: no architecture step has evaluated a one-hot; use select='argmax'"
            )
        return self.process_best
