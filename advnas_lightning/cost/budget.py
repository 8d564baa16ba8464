"""What architectures cost, as a part of what a search minimises: a penalty, or a budget that is kept."""

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

TIGHT = 0.95  # the share of a budget from which on the budget counts as used up


class Processes(Protocol):
    """The processes of a run."""

    def broadcast(self, value: Tensor) -> Tensor:
        """The first process's value."""


class NetworkRunner(Protocol):
    """What measuring needs of a search's evaluator."""

    space: SearchSpace

    @property
    def ranks(self) -> Processes:
        """The processes, over which measurements are shared."""

    def run(self, batch: Any) -> Outcome:
        """The loss of the bound network on a batch."""

    def no_trace(self) -> AbstractContextManager[None]:
        """A context that leaves the network as it was."""


def check_cost(cost: Any, space: SearchSpace, without_choice: str | None) -> tuple[ArchitectureCost, ...]:
    """The terms that a search adds to its loss: the cost, if there is one, with room for the costs of the space.

    Args:
        cost: what a user gave as a cost.
        space: the edges and their candidates.
        without_choice: the name of a strategy that has no choice to make, or ``None``.

    Raises:
        ValueError: it is no cost, or could change nothing.
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
    loss's units whatever the cost's units are. The gradient in θ is exact where edges are drawn independently: for all
    strategies but ENAS.

    A budget C(p) ≤ B adapts λ by dual ascent on the augmented Lagrangian (Nocedal and Wright, Numerical Optimization,
    ch. 17), after each architecture step. With the excess x = (C(p) − B)/B, and μ from 0,

        μ ← max(0, μ + rate x),  λ = max(0, μ + damping x).

    Without the damping, θ answers to λ later than λ to C(p), and the two swing around each other. As p may still be far
    from one-hot in the end, the network that is found is the most probable one that costs at most B
    (:meth:`best_choice`), and process-best is the best one of those.

    All c_ij are measured once, at the first architecture step, in the user's network, on its batch and device, in the
    network's own mode; edges that share a name add up. c_0 is what the network costs beside its edges.

    Args:
        kind: ``"params"``, counted exactly; ``"macs"``, of convolutions and matrix products, by torch's counter;
            ``"latency"``, the median of repeated timings of each candidate in its place, after a warm-up;
            ``"memory"``, of activations; a function of a candidate and of what it is called with that returns a number
            (c_0 is then 0); or the path of a run's ``costs.json``.
        penalty: λ of a penalty.
        budget: B of a budget, in the cost's own unit.
        rate: the rate of the dual ascent, in the loss's units.
        damping: how much of λ the excess is worth at once, in the loss's units; 0 is plain dual ascent.

    Raises:
        ValueError: a bad argument; not exactly one of ``penalty`` and ``budget``.

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
        self.name = kind if isinstance(kind, str) and kind in UNITS else "own"  # until a file has another one
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
        """Make room for the costs of a space's candidates, and read them where ``kind`` is a file."""
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

    # -- the four verbs of a term of the search's objective ------------------------------------------------------------

    @property
    def slope(self) -> Tensor:
        """λ c/C_max, ``[E, J]``: the gradient of the penalty in the expected gates."""
        return self.penalty * self.table / (self.fixed + self.table.amax(-1).sum())

    def gradient(self, probs: Tensor) -> Tensor:
        """∇θ of the penalty, for p = softmax(θ), ``[E, J]``.

        Args:
            probs: p, ``[E, J]``.
        """
        return functional.softmax_vjp(probs, self.slope)

    @torch.no_grad()
    def after_step(self, expected_gates: Tensor) -> None:
        """The dual ascent's step, where there is a budget.

        Args:
            expected_gates: ``[E, J]``, p or what stands for it.
        """
        if self.budget is not None:
            excess = (self.expected(expected_gates) - self.budget) / self.budget
            self.multiplier.add_(self.rate * excess).clamp_(min=0)
            self.penalty.copy_((self.multiplier + self.damping * excess).clamp(min=0))

    def allows(self, gates: Tensor) -> Tensor:
        """Whether an architecture is within the budget, scalar bool; true without a budget.

        Args:
            gates: one-hot, ``[E, J]``.
        """
        return self.expected(gates) <= (float("inf") if self.budget is None else self.budget)

    def best_choice(self, choice: list[int], log_probs: Tensor) -> list[int]:
        """The most probable architecture within the budget.

        Where the expected cost uses 95 % of the budget, only architectures count that use 95 % of it too; if there are
        none, those that use the most.

        Args:
            choice: the most probable one of all. It is returned without a budget, and before the costs are known.
            log_probs: ``[E, J]``.
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
        """C(p), scalar.

        Args:
            expected_gates: p, or one architecture's gates, ``[E, J]``.
        """
        return self.fixed + (expected_gates * self.table).sum()

    def measure(self, model: nn.Module, evaluator: NetworkRunner, batch: Any) -> None:
        """Measure what every candidate costs, once.

        Args:
            model: the network.
            evaluator: runs it.
            batch: a batch of an architecture step, on the network's device.

        Raises:
            ValueError: a function's result is no number; the budget is below the cheapest architecture's cost.
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
        """All costs by name."""
        rows = zip(self._edges, self._candidates, rows_of(self.table, self._candidates), strict=True)
        edges = {edge: dict(zip(names, row, strict=True)) for edge, names, row in rows}
        return CostTable(self.name, edges, float(self.fixed))

    def _end_measuring(self) -> None:
        self.is_measured = True
        cheapest = self.fixed + sum(min(row) for row in rows_of(self.table, self._candidates))
        if self.budget is not None and self.budget < float(cheapest):
            raise ValueError(
                f"cost_budget={self.budget:g} is below what the cheapest architecture costs,"
                f" {float(cheapest):g} {self.unit}".rstrip()
            )

    # -- torch ---------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """Whether the costs are known."""
        return {"is_measured": self.is_measured}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_extra_state`."""
        self.is_measured = state["is_measured"]
