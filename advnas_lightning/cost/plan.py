"""Several costs of one space: which architectures are within all budgets, and whether there are any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from advnas_lightning.cost.feasibility import find_within
from advnas_lightning.cost.interaction import ways
from advnas_lightning.cost.table import CostTable, within
from advnas_lightning.texts import listed, rounded_up
from advnas_lightning.validate import check_positive

Choice = tuple[int, ...]


class Fit(NamedTuple):
    """Whether some architecture is within budgets.

    Attributes:
        choice: The candidate of each edge of such an architecture, or ``None`` if none was found.
        is_certain: Whether that is known for sure. It is not where none was found, and there were too many partial
            choices to continue all of them.

    Example:
        >>> Fit((0, 1), is_certain=True).word
        'yes'
    """

    choice: Choice | None
    is_certain: bool

    @property
    def word(self) -> str:
        """The answer in a word or two."""
        return "yes" if self.choice is not None else "no" if self.is_certain else "not known"


@dataclass(frozen=True)
class CostPlan:
    """Several costs of the architectures of one space, and a budget for some of them.

    Args:
        tables: The costs of every candidate by the name of the cost, as :func:`~advnas_lightning.cost.measure_costs`
            measures them.
        budgets: The largest cost that is allowed, by the name of the cost and in its own unit.

    Raises:
        ValueError: There is no table, two tables are of different spaces, a budget is of a cost that has no table, or a
            budget is not above 0.

    Example:
        >>> params = CostTable("params", {"a": {"linear": 72.0, "skip": 0.0}, "b": {"linear": 72.0, "skip": 0.0}}, 10.0)
        >>> latency = CostTable("latency", {"a": {"linear": 1.0, "skip": 0.5}, "b": {"linear": 3.0, "skip": 0.5}}, 1.0)
        >>> plan = CostPlan({"params": params, "latency": latency}, {"params": 100, "latency": 3})
        >>> list(plan.allowed())
        [(0, 1), (1, 1)]
        >>> plan.of((0, 1)), plan.fit().word
        ({'params': 82.0, 'latency': 2.5}, 'yes')
        >>> CostPlan({"params": params}, {"latency": 3})
        Traceback (most recent call last):
            ...
        ValueError: there is a budget of 'latency', and the costs are those of params: measure it too, or leave it out
    """

    tables: Mapping[str, CostTable]
    budgets: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tables:
            names = ", ".join(map(repr, self.budgets))
            raise ValueError(
                f"there is a budget of {names}, and no cost is known: measure it, as with costs=[{names}]"
                if names
                else "there are no costs to plan with: measure at least one"
            )
        first, *others = self.tables
        for other in others:
            if not self.tables[other].has_edges_of(self.tables[first]):
                raise ValueError(f"the costs {first} and {other} are of different networks: measure them in one")
        for kind, budget in self.budgets.items():
            check_budget(kind, budget, self.tables)

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of the edges, in the order of a choice."""
        return tuple(next(iter(self.tables.values())).edges)

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """The names of each edge's candidates."""
        return tuple(tuple(row) for row in next(iter(self.tables.values())).edges.values())

    def of(self, choice: Sequence[int]) -> dict[str, float]:
        """The costs of an architecture, by name.

        Args:
            choice: The candidate of each edge.
        """
        return {kind: costs.of(choice) for kind, costs in self.tables.items()}

    def cheapest(self, kind: str) -> Choice:
        """The architecture with the lowest cost of a kind; of equal candidates the first one of an edge."""
        given, table = min(self.tables[kind].parts, key=lambda part: part[1].cheapest)
        return tuple(given.get(edge, row.index(min(row))) for edge, row in enumerate(table.rows))

    def dearest(self, kind: str) -> Choice:
        """The architecture with the highest cost of a kind; of equal candidates the first one of an edge."""
        given, table = max(self.tables[kind].parts, key=lambda part: part[1].largest)
        return tuple(given.get(edge, row.index(max(row))) for edge, row in enumerate(table.rows))

    # -- budgets -------------------------------------------------------------------------------------------------------

    def allows(self, choice: Sequence[int]) -> bool:
        """Whether an architecture is within all budgets."""
        return self._allows(choice, self.budgets)

    def least(self, prefix: Sequence[int]) -> dict[str, float]:
        """The lowest cost of each kind that architectures with a given beginning can have.

        Each is exact, unless edges cost something together in more ways than are looked at one by one, see
        :attr:`CostTable.parts`. Together they are a lower bound, since what is cheap in one cost may be dear in
        another.

        Args:
            prefix: The candidates of the first edges, as many as are decided.

        Example:
            >>> table = CostTable("params", {"a": {"x": 5.0, "y": 1.0}, "b": {"x": 2.0, "y": 4.0}}, 10.0)
            >>> CostPlan({"params": table}).least((0,))
            {'params': 17.0}
        """
        return {kind: costs.least(prefix) for kind, costs in self.tables.items()}

    def may_fit(self, prefix: Sequence[int]) -> bool:
        """Whether the lower bounds of :meth:`least` are within all budgets.

        A search over partial choices drops those for which this is false: no completion of them is within the budgets.
        Of a complete choice it tells the same as :meth:`allows`, and with one budget it is true only if some completion
        is within it, wherever :meth:`least` is exact.

        Args:
            prefix: The candidates of the first edges, as many as are decided.
        """
        return all(self.tables[kind].least(prefix) <= within(budget) for kind, budget in self.budgets.items())

    def allowed(self) -> Iterator[Choice]:
        """Yield every architecture within all budgets, in the order of the candidates."""
        waiting: list[Choice] = [()]
        while waiting:
            prefix = waiting.pop()
            if not self.may_fit(prefix):
                continue
            if len(prefix) == len(self.candidates):
                if self.allows(prefix):
                    yield prefix
            else:
                waiting += [(*prefix, index) for index in reversed(range(len(self.candidates[len(prefix)])))]

    def fit(self, *kinds: str) -> Fit:
        """Whether some architecture is within the budgets of these costs; by default within all budgets.

        With one budget the answer is exact, since the cheapest architecture decides. With several ones see
        :func:`~advnas_lightning.cost.feasibility.find_within`, which says up to where it is.

        Args:
            kinds: The names of costs that have a budget.
        """
        asked = kinds or tuple(self.budgets)
        if any(self.tables[kind].interactions for kind in asked):
            return self._fit_in_parts(asked)
        over = any(self.tables[kind].cheapest > within(self.budgets[kind]) for kind in asked)
        if over or len(asked) < 2:
            choice = self.cheapest(asked[0]) if asked else (0,) * len(self.edges)
            return Fit(None if over else choice, is_certain=True)
        found, is_certain = find_within(
            [self.tables[kind].rows for kind in asked],
            [self.tables[kind].fixed for kind in asked],
            [within(self.budgets[kind]) for kind in asked],
        )
        return Fit(found, is_certain)

    def refuse(self) -> None:
        """Refuse budgets that no architecture can meet.

        Raises:
            ValueError: A budget is below the cheapest architecture, or no architecture is within all of them.
        """
        for kind, budget in self.budgets.items():
            cheapest = self.tables[kind].cheapest
            if cheapest > within(budget):
                raise ValueError(
                    f"the budget {kind}={budget:.12g} is below what the cheapest architecture costs,"
                    f" {rounded_up(cheapest)} {self.tables[kind].unit}".rstrip()
                )
        if self.fit() == (None, True):
            raise ValueError(
                f"no architecture is within the budgets of {' and '.join(self.budgets)} together, though each can be"
                " met alone: raise one of them"
            )

    # -- where edges cost something together ---------------------------------------------------------------------------

    @property
    def is_sum(self) -> bool:
        """Whether all costs that have a budget are sums over edges."""
        return not any(self.tables[kind].interactions for kind in self.budgets)

    @property
    def parts(self) -> Iterator[tuple[Mapping[int, int], CostPlan]]:
        """Plans whose costs are sums over edges, and the candidates of edges for which each of them holds.

        It is this plan alone where costs are such sums. Otherwise see :attr:`CostTable.parts`.
        """
        if self.is_sum:
            yield {}, self
            return
        groups = [each.edges for kind in self.budgets for each in self.tables[kind].interactions]
        for way in ways(groups, [*map(len, self.candidates)]):
            tables = {kind: table.given(way).bounded(np.min) for kind, table in self.tables.items()}
            yield way, CostPlan(tables, self.budgets)

    def _fit_in_parts(self, kinds: Sequence[str]) -> Fit:
        is_certain = True
        for given, part in self.parts:
            found = part.fit(*kinds)
            is_certain = is_certain and found == (None, True)
            if found.choice is not None:
                choice = tuple(given.get(edge, index) for edge, index in enumerate(found.choice))
                if self._allows(choice, kinds):
                    return Fit(choice, is_certain=True)
        return Fit(None, is_certain)

    def _allows(self, choice: Sequence[int], kinds: Iterable[str]) -> bool:
        return all(self.tables[kind].of(choice) <= within(self.budgets[kind]) for kind in kinds)


def check_budget(kind: str, budget: float, tables: Mapping[str, CostTable]) -> float:
    """A budget as a number, if there is such a cost.

    Args:
        kind: The name of the cost.
        budget: The largest cost that is allowed.
        tables: The costs that there are.

    Raises:
        ValueError: There is no such cost, or the budget is no finite number above 0.

    Example:
        >>> table = CostTable("latency", {"a": {"x": 5.0, "y": 1.0}}, 0.0)
        >>> check_budget("latency", -3, {"latency": table})
        Traceback (most recent call last):
            ...
        ValueError: budget: latency=-3 must be a finite number above 0, in milliseconds of a forward pass of the batch
    """
    if kind not in tables:
        near = get_close_matches(str(kind), tables, n=1)
        hint = f"did you mean {near[0]}?" if near else "measure it too, or leave it out"
        raise ValueError(f"there is a budget of {kind!r}, and the costs are those of {listed(tables)}: {hint}")
    try:
        return float(check_positive(f"budget: {kind}", budget))
    except ValueError as error:
        unit = tables[kind].unit
        raise ValueError(f"{error}, in {unit}" if unit else str(error)) from None
