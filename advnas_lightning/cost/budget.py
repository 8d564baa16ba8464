"""The expected cost of an architecture as a part of what a search minimises: as a penalty, or under a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from advnas_lightning import functional
from advnas_lightning.cost.expected import ExpectedCost
from advnas_lightning.cost.files import read_table
from advnas_lightning.cost.measuring import NetworkRunner, count_candidates, measure
from advnas_lightning.cost.meters import UNITS, Meter
from advnas_lightning.cost.probable import most_probable_within
from advnas_lightning.cost.table import MOST, CostTable, within
from advnas_lightning.runs import COSTS, in_run
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.texts import counted
from advnas_lightning.validate import check_positive

TIGHT = 0.95  # a budget counts as used up from this share of it on


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

    Where elastic sizes multiply each other, or a depth leaves layers out, C(p) is the expected cost of the network that
    runs, see :class:`~advnas_lightning.cost.expected.ExpectedCost`.

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
            ``costs.json`` gives the costs that the run measured, if the file has those of one kind.
        penalty: The factor λ of a penalty.
        budget: The bound B of a budget, in the cost's own unit.
        rate: The rate of the dual ascent, in the loss's units.
        damping: The factor by which the excess counts in λ at once, in the loss's units; 0 is plain dual ascent.
        file: The path of a file that has the costs of ``kind``, perhaps beside others. Nothing is measured then.

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
        file: str | Path | None = None,
    ) -> None:
        super().__init__()
        if (penalty is None) == (budget is None):
            raise ValueError(f"penalty={penalty!r}, budget={budget!r}: give a cost one of them")
        for name, value in {"penalty": penalty, "rate": rate, "damping": damping}.items():
            if value is not None:
                check_positive(f"cost: {name}", value, zero=name != "rate", most=MOST)
        self.budget = None if budget is None else float(check_positive("cost: budget", budget))
        self.kind, self.rate, self.damping = kind, float(rate), float(damping)
        self._file = file  # the one that has the costs
        if file is None and isinstance(kind, str | Path) and kind not in UNITS:
            self._file = kind
        has_file = self._file is not None and in_run(self._file, COSTS).is_file()
        if file is not None and not (isinstance(kind, str) and has_file):
            raise ValueError(f"cost={kind!r}, cost_file={str(file)!r}: give a cost's name, and a file that has it")
        if file is None and not (callable(kind) or has_file or (isinstance(kind, str) and kind in UNITS)):
            raise ValueError(
                f"cost={str(kind)!r} is unknown: use {', '.join(UNITS)}, a function, or the path of a file"
            )
        self.name = kind if isinstance(kind, str) and kind in UNITS else "own"  # a file may hold another one
        self.penalty: Tensor  # λ
        self.register_buffer("penalty", torch.tensor(0.0 if penalty is None else float(penalty)))
        self.multiplier: Tensor  # μ
        self.register_buffer("multiplier", torch.tensor(0.0))
        self._given = None if penalty is None else float(penalty)
        self._space: SearchSpace | None = None
        self._known: CostTable | None = None
        # These are where the penalty is. They follow from what is known, and so are no buffers.
        self.table = torch.zeros(0)  # [E, J]: c
        self._expected: ExpectedCost | None = None

    @property
    def unit(self) -> str:
        """The unit of the cost, in words."""
        return UNITS.get(self.name, "")

    @property
    def space(self) -> SearchSpace:
        """The edges and candidates whose costs these are.

        Raises:
            ValueError: There is no search with this cost yet.
        """
        if self._space is None:
            raise ValueError("this ArchitectureCost belongs to no search yet: give it to one, as cost=…")
        return self._space

    @property
    def fixed(self) -> float:
        """The cost c_0 of the network beside its edges."""
        return self.result().fixed

    @property
    def is_measured(self) -> bool:
        """Whether the costs are known."""
        return self._known is not None

    def attach(self, space: SearchSpace) -> None:
        """Take a space for the one whose candidates have these costs, and read the costs if ``kind`` is a file.

        Raises:
            ValueError: The cost is that of another search already, or the file has no costs for this space.
        """
        if self._space is not None:
            raise ValueError("this ArchitectureCost belongs to a search already: give each search one of its own")
        self._space = space
        if self._file is not None:
            name = None if self._file is self.kind else str(self.kind)
            self._know(read_table(in_run(self._file, COSTS), space, name))

    # -- what a search needs of a term of its objective ----------------------------------------------------------------

    def slope(self, expected_gates: Tensor) -> Tensor:
        """The gradient of the penalty in the expected gates, ``[E, J]``: λ c/C_max where costs are sums over edges.

        Args:
            expected_gates: Where it is taken, ``[E, J]``.
        """
        largest = self.result().largest or 1.0  # 0 where nothing costs anything
        return self.penalty * (self._placed().slope(expected_gates) / largest).to(self.table.dtype)

    def gradient(self, probs: Tensor) -> Tensor:
        """The gradient of the penalty in θ, for p = softmax(θ), ``[E, J]``.

        Args:
            probs: The probabilities p, ``[E, J]``.
        """
        return functional.softmax_vjp(probs, self.slope(probs))

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
        return self.expected(gates) <= within(self.budget)

    def best_choice(self, choice: list[int], log_probs: Tensor) -> list[int]:
        """The most probable architecture within the budget.

        If the expected cost uses 95 % of the budget, only architectures that use 95 % of it too are considered. If
        there are none, those that use the most are considered.

        Args:
            choice: The most probable architecture of all. It is returned if there is no budget, and before the costs
                are known.
            log_probs: The logarithm of p, ``[E, J]``.
        """
        if self.budget is None or self._known is None:
            return choice
        binds = float(self.expected(log_probs.exp())) >= TIGHT * self.budget
        least = TIGHT * self.budget if binds else 0.0
        if least <= self._known.of(choice) <= within(self.budget):
            return choice
        return most_probable_within(log_probs.tolist(), self._known, least, within(self.budget))

    # -- costs ---------------------------------------------------------------------------------------------------------

    def expected(self, expected_gates: Tensor) -> Tensor:
        """The expected cost C(p), scalar, in double precision where the device has it.

        Args:
            expected_gates: The probabilities p, or the gates of one architecture, ``[E, J]``.

        Raises:
            ValueError: The costs are not known yet.
        """
        return self._placed()(expected_gates)

    def foresee(self, model: nn.Module, warmup_epochs: int) -> None:
        """Say when the costs will be measured, if that is later, and check now what can be known of them.

        Args:
            model: The network.
            warmup_epochs: The number of epochs that are left before the first architecture step.

        Raises:
            ValueError: As :meth:`measure` would raise it after the warm-up.
        """
        if self.is_measured:
            return
        if self.kind == "params" and not any(map(is_lazy, model.parameters())):
            count_candidates(model, self.space).refuse(penalty=float(self.penalty), budget=self.budget)
        if warmup_epochs > 0:
            epochs = counted(warmup_epochs, "epoch")
            rank_zero_info(
                f"cost={self.name} will be measured at the first architecture step, after {epochs} of warm-up: until"
                " then the logs have no cost"
            )

    def measure(self, model: nn.Module, evaluator: NetworkRunner, batch: Any) -> None:
        """Measure the cost of every candidate. A search does this once.

        Args:
            model: The network.
            evaluator: The evaluator that runs the network.
            batch: A batch of an architecture step, on the network's device.

        Raises:
            ValueError: The result of a user's function is no cost; different edges share parameters that are counted;
                the costs make no difference; or the budget is below the cost of the cheapest architecture.
        """
        self._know(measure(self.kind if callable(self.kind) else str(self.kind), model, evaluator, batch))

    def result(self) -> CostTable:
        """The table of all costs by edge and candidate.

        Raises:
            ValueError: The costs are not known yet.
        """
        if self._known is None:
            raise ValueError(
                f"cost={self.name} is not known yet: a search measures it at its first architecture step, after the"
                " warm-up; cost.measure(…) does it at once"
            )
        return self._known

    def _know(self, found: CostTable) -> None:
        """Take the costs for known."""
        found.refuse(penalty=float(self.penalty), budget=self.budget)
        self.name, self._known = found.kind, found
        self._place()

    def _placed(self) -> ExpectedCost:
        self.result()  # refuses costs that are not known
        assert self._expected is not None
        return self._expected

    def _place(self) -> None:
        """Put the costs where the penalty is."""
        if self._known is not None:
            device = self.penalty.device
            self._expected = ExpectedCost(self._known, self.space.mask.shape[1], device)
            single = torch.promote_types(self.penalty.dtype, torch.float32)  # at least: the penalty may be in half
            self.table = self._expected.rows.to(single)

    # -- torch ---------------------------------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ArchitectureCost:
        """Move or convert the module; what is derived from the costs follows."""
        super()._apply(fn, recurse)
        self._place()
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """The costs, if they are known, and the penalty that was given."""
        return {"costs": None if self._known is None else self._known.content(), "penalty": self._given}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`get_extra_state` returned.

        Raises:
            ValueError: The state is of another cost, or of an older version of this package.
        """
        if "costs" not in state:
            raise ValueError("the checkpoint's costs are those of an older version: resume with the one that wrote it")
        if state["penalty"] != self._given:
            raise ValueError(
                f"the checkpoint's cost has penalty={state['penalty']}, and this search's has penalty={self._given}: go"
                " on with the one that it had, or start anew"
            )
        if state["costs"] is None:
            return
        saved = CostTable.read(state["costs"], self.space)
        other_file = self._file is not None and saved != self._known
        if saved.kind != self.name or other_file:
            ours = f"other ones, of {self._file}" if other_file else f"those of cost={self.name}"
            raise ValueError(
                f"the checkpoint has the costs of cost={saved.kind}, and this search has {ours}: go on with the ones"
                " that it had, or start anew"
            )
        self._know(saved)
