"""The expected cost of an architecture as a part of what a search minimises: as a penalty, or under a budget."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.cost.meters import UNITS, Meter
from advnas_lightning.cost.table import CostTable, count_candidates, meter_candidates, rows_of
from advnas_lightning.objectives import Outcome
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.validate import check_positive

TIGHT = 0.95  # a budget counts as used up from this share of it on


class Processes(Protocol):
    """The processes of a run, which measuring needs to share its results.

    Example:
        >>> from advnas_lightning.engine.environment import Ranks
        >>> alone: Processes = Ranks(lambda: None)
        >>> alone.broadcast(torch.tensor(1.0))
        tensor(1.)
    """

    def broadcast(self, value: Tensor) -> Tensor:
        """Give all processes the value of the first one."""


class NetworkRunner(Protocol):
    """The part of a search's evaluator that measuring needs.

    Example:
        >>> from advnas_lightning import Fixed, MixedOp
        >>> edge = MixedOp("edge", {"relu": nn.ReLU(), "tanh": nn.Tanh()})
        >>> runner: NetworkRunner = Fixed(edge, genotype={"edge": "relu"}).evaluator
        >>> runner.space.edges
        ('edge',)
    """

    space: SearchSpace

    @property
    def ranks(self) -> Processes:
        """The processes that share the measurements."""

    def run(self, batch: Any) -> Outcome:
        """Compute the loss of the bound network on a batch."""

    def no_trace(self) -> AbstractContextManager[None]:
        """A context after which the network is as it was before."""


def check_cost(cost: Any, space: SearchSpace, without_choice: str | None) -> tuple[ArchitectureCost, ...]:
    """Check a cost, attach it to the space, and return the terms that a search adds to its loss.

    Args:
        cost: The value that a user gave as a cost, or ``None``.
        space: The edges and their candidates.
        without_choice: The name of a strategy that has no choice to make, or ``None``.

    Raises:
        ValueError: The value is no cost, or the cost could change nothing.

    Example:
        >>> from advnas_lightning import MixedOp
        >>> space = SearchSpace(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}))
        >>> check_cost(None, space, without_choice=None)
        ()
    """
    if cost is None:
        return ()
    if not isinstance(cost, ArchitectureCost):
        raise ValueError(f'cost={cost!r} must be an ArchitectureCost, such as ArchitectureCost("macs", penalty=0.1)')
    if without_choice is not None:
        raise ValueError(f"{without_choice} has no choice that a cost could change: leave cost out")
    cost.attach(space)
    return (cost,)


class ArchitectureCost(nn.Module):
    """The expected cost C(p) = c_0 + Σ_i ⟨p_i, c_i⟩ as a penalty or a budget of a search.

    A penalty adds λ C(p)/C_max to the loss. C_max is the cost of the most expensive architecture, so that λ is in the
    loss's units for any unit of the cost. The gradient in θ is exact where edges are drawn independently, which is the
    case for all strategies but ENAS.

    A budget C(p) ≤ B adapts λ by dual ascent on the augmented Lagrangian (Nocedal and Wright, Numerical Optimization,
    ch. 17), after each architecture step. With the excess x = (C(p) − B)/B, and with μ that starts from 0,

        μ ← max(0, μ + rate x),  λ = max(0, μ + damping x).

    Without the damping, θ reacts to λ more slowly than λ reacts to C(p), and the two oscillate. As p may still be far
    from one-hot in the end, the network that is found is the most probable one that costs at most B
    (:meth:`best_choice`), and process-best is the best one of those that cost at most B.

    All c_ij are measured once, at the first architecture step, in the user's network and mode, on that step's batch and
    device. The costs of edges that share a name add up. c_0 is the cost of the network beside its edges.

    Args:
        kind: The kind of the cost. ``"params"`` counts parameters exactly. ``"macs"`` counts the multiply-accumulates
            of convolutions and matrix products by torch's counter. ``"latency"`` is the median of repeated timings of
            each candidate in its place, after a warm-up. ``"memory"`` is that of activations. A function of a candidate
            and its inputs that returns a number gives a cost of one's own; c_0 is then 0. The path of a run's
            ``costs.json`` gives the costs that the run measured.
        penalty: The factor λ of a penalty.
        budget: The bound B of a budget, in the cost's own unit.
        rate: The rate of the dual ascent, in the loss's units.
        damping: The factor by which the excess counts in λ at once, in the loss's units; 0 is plain dual ascent.

    Raises:
        ValueError: An argument is invalid, or not exactly one of ``penalty`` and ``budget`` is given.

    Example:
        >>> cost = ArchitectureCost("macs", budget=1e6)
        >>> cost.unit, float(cost.penalty)
        ('multiply-accumulates per term of the loss', 0.0)
    """

    def __init__(
        self,
        kind: str | Path | Meter,
        *,
        penalty: float | None = None,
        budget: float | None = None,
        rate: float = 0.003,
        damping: float = 10.0,
    ) -> None:
        super().__init__()
        if (penalty is None) == (budget is None):
            raise ValueError(f"penalty={penalty!r}, budget={budget!r}: give a cost one of them")
        for name, value in {"penalty": penalty, "budget": budget, "rate": rate, "damping": damping}.items():
            if value is not None:
                check_positive(f"cost: {name}", value, zero=name in ("penalty", "damping"))
        self.kind, self.budget, self.rate, self.damping = kind, budget, rate, damping
        self.name = kind if isinstance(kind, str) and kind in UNITS else "own"  # a file may hold another one
        if not callable(kind) and kind not in UNITS and not Path(kind).is_file():
            raise ValueError(
                f"cost={str(kind)!r} is unknown: use {', '.join(UNITS)}, a function, or the path of a file"
            )
        self.penalty: Tensor  # λ
        self.register_buffer("penalty", torch.tensor(0.0 if penalty is None else float(penalty)))
        self.multiplier: Tensor  # μ
        self.register_buffer("multiplier", torch.tensor(0.0))
        self.is_measured = False

    @property
    def unit(self) -> str:
        """The unit of the cost, in words."""
        return UNITS.get(self.name, "")

    def attach(self, space: SearchSpace) -> None:
        """Allocate the costs of a space's candidates, and read them if ``kind`` is a file."""
        self._edges, self._candidates = space.edges, space.candidates
        self.table: Tensor  # [E, J], c
        self.register_buffer("table", torch.zeros(space.mask.shape))
        self.fixed: Tensor  # c_0
        self.register_buffer("fixed", torch.tensor(0.0))
        if not callable(self.kind) and self.kind not in UNITS:
            found = CostTable.load(Path(self.kind), space)
            self.name = found.kind
            self.fixed.fill_(found.fixed)
            for edge, row in enumerate(found.edges.values()):
                self.table[edge, : len(row)] = torch.tensor(list(row.values()))
            self._end_measuring()

    # -- what a search needs of a term of its objective ----------------------------------------------------------------

    @property
    def slope(self) -> Tensor:
        """λ c/C_max, ``[E, J]``: the gradient of the penalty in the expected gates."""
        return self.penalty * self.table / (self.fixed + self.table.amax(-1).sum())

    def gradient(self, probs: Tensor) -> Tensor:
        """The gradient of the penalty in θ, for p = softmax(θ), ``[E, J]``.

        Args:
            probs: The probabilities p, ``[E, J]``.
        """
        return functional.softmax_vjp(probs, self.slope)

    @torch.no_grad()
    def after_step(self, expected_gates: Tensor) -> None:
        """Take a step of the dual ascent, if there is a budget.

        Args:
            expected_gates: The probabilities p, or the gates that a strategy has in their place, ``[E, J]``.
        """
        if self.budget is not None:
            excess = (self.expected(expected_gates) - self.budget) / self.budget
            self.multiplier.add_(self.rate * excess).clamp_(min=0)
            self.penalty.copy_((self.multiplier + self.damping * excess).clamp(min=0))

    def allows(self, gates: Tensor) -> Tensor:
        """Whether an architecture is within the budget, scalar bool; true without a budget.

        Args:
            gates: The architecture's one-hot gates, ``[E, J]``.
        """
        return self.expected(gates) <= (float("inf") if self.budget is None else self.budget)

    def best_choice(self, choice: list[int], log_probs: Tensor) -> list[int]:
        """The most probable architecture within the budget.

        If the expected cost uses 95 % of the budget, only architectures that use 95 % of it too are considered. If
        there are none, those that use the most are considered.

        Args:
            choice: The most probable architecture of all. It is returned if there is no budget, and before the costs
            are
                known.
            log_probs: The logarithm of p, ``[E, J]``.
        """
        if self.budget is None or not self.is_measured:
            return choice
        rows, fixed = rows_of(self.table, self._candidates), float(self.fixed)
        spent = fixed + sum(row[index] for row, index in zip(rows, choice, strict=True))
        binds = float(self.expected(log_probs.exp())) >= TIGHT * self.budget
        least = TIGHT * self.budget if binds else 0.0
        if least <= spent <= self.budget:
            return choice
        found = functional.knapsack_argmax(log_probs.tolist(), rows, least - fixed, self.budget - fixed)
        # Rounding may have excluded even the cheapest one.
        return [row.index(min(row)) for row in rows] if found is None else found

    # -- costs ---------------------------------------------------------------------------------------------------------

    def expected(self, expected_gates: Tensor) -> Tensor:
        """The expected cost C(p), scalar.

        Args:
            expected_gates: The probabilities p, or the gates of one architecture, ``[E, J]``.
        """
        return self.fixed + (expected_gates * self.table).sum()

    def measure(self, model: nn.Module, evaluator: NetworkRunner, batch: Any) -> None:
        """Measure the cost of every candidate. A search does this once.

        Args:
            model: The network.
            evaluator: The evaluator that runs the network.
            batch: A batch of an architecture step, on the network's device.

        Raises:
            ValueError: The result of a user's function is no number, or the budget is below the cost of the cheapest
                architecture.
        """
        space = evaluator.space
        if self.kind == "params":
            self.fixed.fill_(count_candidates(model, space, self.table))
        else:
            meter = self.kind if callable(self.kind) else str(self.kind)
            with torch.random.fork_rng(), evaluator.no_trace(), torch.no_grad():
                self.fixed.fill_(meter_candidates(meter, model, space, partial(evaluator.run, batch), self.table))
        for buffer in (self.table, self.fixed):
            buffer.copy_(evaluator.ranks.broadcast(buffer))  # each process has timings of its own
        self._end_measuring()

    def result(self) -> CostTable:
        """The table of all costs by edge and candidate."""
        rows = zip(self._edges, self._candidates, rows_of(self.table, self._candidates), strict=True)
        edges = {edge: dict(zip(names, row, strict=True)) for edge, names, row in rows}
        return CostTable(self.name, edges, float(self.fixed))

    def _end_measuring(self) -> None:
        """Take the costs for known, and refuse a budget that no architecture can keep."""
        self.is_measured = True
        cheapest = self.fixed + sum(min(row) for row in rows_of(self.table, self._candidates))
        if self.budget is not None and self.budget < float(cheapest):
            raise ValueError(
                f"cost_budget={self.budget:g} is below what the cheapest architecture costs,"
                f" {float(cheapest):g} {self.unit}".rstrip()
            )

    # -- torch ---------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """The state that tells whether the costs are known."""
        return {"is_measured": self.is_measured}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`get_extra_state` returned."""
        self.is_measured = state["is_measured"]
