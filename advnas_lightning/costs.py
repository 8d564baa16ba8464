"""What architectures cost, and cost as a part of what a search minimises."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from advnas_lightning import functional
from advnas_lightning.space import MixedOp
from advnas_lightning.tasks import Outcome

if TYPE_CHECKING:
    from advnas_lightning.strategies.base import SearchStrategy

Meter = Callable[..., float]
UNITS = {
    "params": "parameters",
    "macs": "multiply-accumulates per term of the loss",
    "latency": "milliseconds of a forward pass of the batch",
    "memory": "MiB that a batch's forward pass keeps for the backward pass",
}
WARM_UP, REPEATS = 3, 10  # timings of a candidate in each place
TIGHT = 0.95  # the share of a budget from which on it counts as used up


class ArchitectureCost(nn.Module):
    """The expected cost C(p) = c_0 + Σ_i ⟨p_i, c_i⟩ as a penalty or a constraint of a search.

    A penalty adds λ C(p)/C_max to the loss, C_max the cost of the most expensive architecture, so that λ is in the
    loss's units whatever the cost's are. The gradient in θ is exact where edges are drawn independently: by all
    strategies but ENAS.

    A constraint C(p) ≤ B adapts λ by dual ascent on the augmented Lagrangian (Nocedal and Wright, Numerical
    Optimization, ch. 17), after each architecture step. With the excess x = (C(p) − B)/B, and μ from 0,

        μ ← max(0, μ + rate x),  λ = max(0, μ + damping x).

    Without the damping, θ answers to λ later than λ to C(p), and the two swing around each other. As p may still be far
    from one-hot in the end, the network that is found is the most probable one that costs at most B (:meth:`within`),
    and process-best is the best one of those.

    All c_ij are measured once, at the first architecture step, in the user's network, on its batch and device, in the
    network's own mode; edges that share a name add up. c_0 is what the network costs beside its edges.

    Args:
        kind: ``"params"``, exactly; ``"macs"``, of convolutions and matrix products, by torch's counter;
            ``"latency"``, the median of repeated timings of each candidate in its place, after a warm-up;
            ``"memory"``, of activations; a function of a candidate and of what it is called with that returns a number
            (c_0 is then 0); or the path of a file with the :meth:`content` of another one, a run's ``costs.json``.
        weight: λ of a penalty.
        budget: B of a constraint, in the cost's own unit.
        rate: of the dual ascent, in the loss's units.
        damping: how much of λ the excess is worth at once, in the loss's units; 0 is plain dual ascent.

    Raises:
        ValueError: a bad argument; not exactly one of ``weight`` and ``budget``.
    """

    def __init__(
        self,
        kind: str | Path | Meter,
        *,
        weight: float | None = None,
        budget: float | None = None,
        rate: float = 0.003,
        damping: float = 10.0,
    ) -> None:
        super().__init__()
        if (weight is None) == (budget is None):
            raise ValueError(f"weight={weight!r}, budget={budget!r}: give a cost one of them")
        for name, value in {"weight": weight, "budget": budget, "rate": rate, "damping": damping}.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
            may_be_zero = name in ("weight", "damping")
            if value is not None and (not number or (value == 0 and not may_be_zero)):
                bound = "of at least" if may_be_zero else "above"
                raise ValueError(f"{name}={value!r} of a cost must be a finite number {bound} 0")
        self.kind, self.budget, self.rate, self.damping = kind, budget, rate, damping
        self.name = kind if isinstance(kind, str) and kind in UNITS else "own"  # until a file has another one
        if not callable(kind) and kind not in UNITS and not Path(kind).is_file():
            raise ValueError(
                f"cost={str(kind)!r} is unknown: use {', '.join(UNITS)}, a function, or the path of a file"
            )
        self.weight: Tensor  # λ
        self.register_buffer("weight", torch.tensor(0.0 if weight is None else float(weight)))
        self.multiplier: Tensor  # μ
        self.register_buffer("multiplier", torch.tensor(0.0))
        self.is_measured = False

    @property
    def unit(self) -> str:
        """Of the cost."""
        return UNITS.get(self.name, "")

    def attach(self, search: SearchStrategy) -> None:
        """Make room for the costs of a search's candidates."""
        self._edges, self._candidates = search.space.edges, search.space.candidates
        self.table: Tensor  # [E, J], c
        self.register_buffer("table", torch.zeros(search.space.mask.shape))
        self.fixed: Tensor  # c_0
        self.register_buffer("fixed", torch.tensor(0.0))
        if not callable(self.kind) and self.kind not in UNITS:
            self._load(Path(self.kind))

    # -- what a search needs -------------------------------------------------------------------------------------------

    def expected(self, probs: Tensor) -> Tensor:
        """C(p), scalar.

        Args:
            probs: ``[E, J]``.
        """
        return self.fixed + (probs * self.table).sum()

    @property
    def slope(self) -> Tensor:
        """λ c/C_max, ``[E, J]``: what the gates add to the loss."""
        return self.weight * self.table / (self.fixed + self.table.amax(-1).sum())

    @torch.no_grad()
    def ascend(self, probs: Tensor) -> None:
        """The dual ascent's step, if there is a budget."""
        if self.budget is not None:
            excess = (self.expected(probs) - self.budget) / self.budget
            self.multiplier.add_(self.rate * excess).clamp_(min=0)
            self.weight.copy_((self.multiplier + self.damping * excess).clamp(min=0))

    def allows(self, weights: Tensor) -> Tensor:
        """Whether an architecture is within the budget, scalar bool; without a budget it is.

        Args:
            weights: one-hot, ``[E, J]``.
        """
        return self.expected(weights) <= (float("inf") if self.budget is None else self.budget)

    def within(self, choice: list[int], log_probs: Tensor) -> list[int]:
        """The most probable architecture within the budget; where the expected cost uses 95 % of it, of those that do.

        If none does, it is of those that use the most.

        Args:
            choice: the most probable one of all, which it is without a budget, and before the costs are known.
            log_probs: ``[E, J]``.
        """
        if self.budget is None or not self.is_measured:
            return choice
        rows, fixed = self._rows(), float(self.fixed)
        spent = fixed + sum(row[index] for row, index in zip(rows, choice, strict=True))
        binds = float(self.expected(log_probs.exp())) >= TIGHT * self.budget
        least = TIGHT * self.budget if binds else 0.0
        if least <= spent <= self.budget:
            return choice
        found = functional.best_within(log_probs.tolist(), rows, least - fixed, self.budget - fixed)
        return [row.index(min(row)) for row in rows] if found is None else found  # which rounding may have excluded

    # -- measuring -----------------------------------------------------------------------------------------------------

    def measure(self, search: SearchStrategy, batch: Any) -> None:
        """Fill the table.

        Args:
            search: whose network it is.
            batch: of an architecture step, on the network's device.

        Raises:
            ValueError: a function's result is no number; the budget is below the cheapest architecture's cost.
        """
        model = search.model
        if self.kind == "params":
            own = {id(p): p.numel() for p in model.parameters()}
            for edge, name, candidate in self._every_candidate(model):
                self.table[edge, name] += sum(own.pop(id(p), 0) for p in candidate.parameters())
            self.fixed.fill_(sum(own.values()))
        else:
            self._run_everything(search, batch)
        if search._trainer is not None and search.trainer.world_size > 1:  # timings differ
            for buffer in (self.table, self.fixed):
                buffer.copy_(search.trainer.strategy.broadcast(buffer.cpu()))
        self._end_measuring()

    def _run_everything(self, search: SearchStrategy, batch: Any) -> None:
        meter = self.kind if callable(self.kind) else METERS[str(self.kind)]
        whole = _Whole(search, batch)
        with torch.random.fork_rng(), search._unchanged_buffers(), torch.no_grad():
            for index in range(self.table.shape[1]):
                choice = [min(index, len(row) - 1) for row in self._candidates]
                with search.space.bind(search.one_hot(choice)):
                    terms = whole().size if self.kind == "macs" else 1
                    spent = self._meter_candidates(whole, meter)
                    for edge, name, value in spent:
                        if name == index:  # not once more in the passes that an edge with fewer candidates has left
                            self.table[edge, name] += value / terms
                    if index == 0 and not callable(self.kind):
                        beside = meter(whole) - sum(value for _, _, value in spent)
                        self.fixed.fill_(max(beside, 0.0) / terms)  # timings may add up to more than the whole's

    def _meter_candidates(self, whole: _Whole, meter: Meter) -> list[tuple[int, int, float]]:
        """Measure each candidate that runs, with what it is called with: (edge, candidate, value)."""
        spent: list[tuple[int, int, float]] = []
        is_metering = False

        def hook(edge: int, name: int, candidate: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal is_metering
            if is_metering:
                return
            is_metering = True
            value = meter(candidate, *inputs, **kwargs)
            is_metering = False
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(
                    f"the cost of candidate {self._candidates[edge][name]!r} is {value!r}: return a number"
                )
            spent.append((edge, name, value))

        handles = [
            candidate.register_forward_pre_hook(partial(hook, edge, name), with_kwargs=True)
            for edge, name, candidate in self._every_candidate(whole.model)
        ]
        try:
            whole()
        finally:
            for handle in handles:
                handle.remove()
        return spent

    def _every_candidate(self, model: nn.Module) -> Iterator[tuple[int, int, nn.Module]]:
        for module in model.modules():
            if isinstance(module, MixedOp):
                for name, candidate in enumerate(module.candidates.values()):
                    yield self._edges.index(module.name), name, candidate

    def _end_measuring(self) -> None:
        self.is_measured = True
        cheapest = self.fixed + sum(min(row) for row in self._rows())
        if self.budget is not None and self.budget < float(cheapest):
            raise ValueError(
                f"cost_budget={self.budget:g} is below what the cheapest architecture costs,"
                f" {float(cheapest):g} {self.unit}".rstrip()
            )

    # -- files ---------------------------------------------------------------------------------------------------------

    def _rows(self) -> list[list[float]]:
        return [row[: len(names)] for row, names in zip(self.table.tolist(), self._candidates, strict=True)]

    def costs(self) -> dict[str, dict[str, float]]:
        """c_ij by edge and candidate."""
        rows = zip(self._edges, self._candidates, self._rows(), strict=True)
        return {edge: dict(zip(names, row, strict=True)) for edge, names, row in rows}

    def content(self) -> dict[str, Any]:
        """What a file of costs holds."""
        return {"cost": self.name, "unit": self.unit, "fixed": float(self.fixed), "edges": self.costs()}

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text())
            pairs = zip(self._edges, self._candidates, strict=True)
            rows = [[float(content["edges"][edge][name]) for name in names] for edge, names in pairs]
            self.fixed.fill_(float(content["fixed"]))
            self.name = str(content["cost"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} has no costs for this network ({error!r}): measure them anew, cost=macs"
            ) from None
        for edge, row in enumerate(rows):
            self.table[edge, : len(row)] = torch.tensor(row)
        self._end_measuring()

    # -- torch ---------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """Whether the costs are known."""
        return {"is_measured": self.is_measured}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.is_measured = state["is_measured"]


class _Whole(nn.Module):
    """A forward pass of all of the network, loss included, measured like a candidate."""

    def __init__(self, search: SearchStrategy, batch: Any) -> None:
        super().__init__()
        self.model = search.model
        self._run = partial(search.outcome, batch)

    def forward(self) -> Outcome:
        return self._run()


def macs(candidate: nn.Module, *inputs: Any, **kwargs: Any) -> float:
    """Multiply-accumulates of one call."""
    with FlopCounterMode(display=False) as counter:
        candidate(*inputs, **kwargs)
    return float(counter.get_total_flops()) / 2


def latency(candidate: nn.Module, *inputs: Any, **kwargs: Any) -> float:
    """Milliseconds of one call: the median of several, after a warm-up."""
    devices = {value.device.type for value in (*inputs, *kwargs.values()) if isinstance(value, Tensor)}
    devices |= {parameter.device.type for parameter in candidate.parameters()}

    def now() -> float:
        for device in devices:
            getattr(torch, device).synchronize()
        return time.perf_counter()

    seconds = []
    for _ in range(WARM_UP + REPEATS):
        started = now()
        candidate(*inputs, **kwargs)
        seconds.append(now() - started)
    return 1000 * median(seconds[WARM_UP:])


def memory(candidate: nn.Module, *inputs: Any, **kwargs: Any) -> float:
    """MiB of the tensors that one call keeps for the backward pass, each storage once, parameters aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in candidate.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def with_graph(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().requires_grad_() if floating else value

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        output = candidate(*map(with_graph, inputs), **{name: with_graph(value) for name, value in kwargs.items()})
        del output
    return sum(kept.values()) / 2**20


METERS: dict[str, Meter] = {"macs": macs, "latency": latency, "memory": memory}
