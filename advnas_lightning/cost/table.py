"""The costs of a network's candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advnas_lightning.cost.interaction import Interaction, ways
from advnas_lightning.cost.meters import UNITS
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.texts import rounded_up, shortened
from advnas_lightning.validate import as_number

LARGEST = 1e30  # a sum of costs up to this leaves room in single precision, in which it is logged
MOST = 1e9  # a penalty, and a share of the budget, up to this has products that single precision holds
ROUNDING = 1e-12  # of sums in double precision; less than one parameter of a network with a trillion
Rows = list[list[float]]


@dataclass(frozen=True)
class CostTable:
    """The costs by edge and candidate, and the cost of the network beside its edges.

    An architecture costs the sum over its candidates. Where sizes multiply, there are interactions, and it costs what
    its candidates cost together as well.

    Attributes:
        kind: The kind of the cost, a key of ``UNITS``, or ``"own"``.
        edges: The costs c_ij by edge and candidate.
        fixed: The cost c_0 of the network beside its edges.
        interactions: What edges cost together.

    Raises:
        ValueError: A cost is no finite number of at least 0, or all costs together are too large.

    Example:
        >>> table = CostTable("params", {"edge": {"linear": 72.0, "skip": 0.0}}, 10.0)
        >>> table.of([0]), table.cheapest, table.largest, table.content()["unit"]
        (82.0, 10.0, 82.0, 'parameters')
        >>> CostTable("own", {"edge": {"linear": 72.0, "skip": -1.0}}, 0.0)
        Traceback (most recent call last):
            ...
        ValueError: the cost of candidate 'skip' of edge 'edge' is -1.0: it must be a finite number of at least 0

        A layer of 1 or 2 inputs and 1 or 3 outputs:

        >>> product = Interaction((0, 1), np.array([[0.0, 0.0], [0.0, 2.0]]))
        >>> table = CostTable("macs", {"in": {"1": 0.0, "2": 1.0}, "out": {"1": 0.0, "3": 2.0}}, 1.0, (product,))
        >>> table.of((1, 1)), table.of((0, 1)), table.least((1,)), table.largest
        (6.0, 3.0, 2.0, 6.0)
    """

    kind: str
    edges: dict[str, dict[str, float]]
    fixed: float
    interactions: tuple[Interaction, ...] = ()

    def __post_init__(self) -> None:
        for edge, row in self.edges.items():
            for name, cost in row.items():
                check_cost_of(edge, name, cost)
        check_cost_of(None, "fixed", self.fixed)
        bound = math.fsum([self.fixed, *map(max, self.rows), *(each.costs.max() for each in self.interactions)])
        if bound > LARGEST:
            raise ValueError(
                f"cost={self.kind} adds up to {bound:g}, which is above {LARGEST:g}: count in a larger unit"
            )

    @property
    def unit(self) -> str:
        """The unit of the costs in words; empty for a cost of one's own."""
        return UNITS.get(self.kind, "")

    @cached_property
    def rows(self) -> Rows:
        """The costs of each edge's candidates."""
        return [list(row.values()) for row in self.edges.values()]

    def has_edges_of(self, other: CostTable) -> bool:
        """Whether two tables are of the same edges and candidates, in the same order.

        Example:
            >>> ours = CostTable("macs", {"edge": {"a": 1.0, "b": 0.0}}, 0.0)
            >>> ours.has_edges_of(CostTable("params", {"edge": {"a": 7.0, "b": 1.0}}, 3.0))
            True
        """
        ours, theirs = ([(edge, list(row)) for edge, row in each.edges.items()] for each in (self, other))
        return ours == theirs

    @property
    def cheapest(self) -> float:
        """The cost of the cheapest architecture."""
        return self.least(())

    @cached_property
    def largest(self) -> float:
        """The cost C_max of the most expensive architecture."""
        if self.interactions:
            return max(self.given(way).bounded(np.max).largest for way, _ in self.parts)
        return math.fsum([self.fixed, *map(max, self.rows)])

    @cached_property
    def minima(self) -> list[float]:
        """The cost of each edge's cheapest candidate."""
        return [min(row) for row in self.rows]

    @property
    def makes_a_difference(self) -> bool:
        """Whether two architectures differ in their cost."""
        return bool(self.interactions) or any(min(row) < max(row) for row in self.rows)

    def of(self, choice: Sequence[int]) -> float:
        """The cost of an architecture, given the candidate of each edge."""
        own = (row[index] for row, index in zip(self.rows, choice, strict=True))
        return math.fsum([self.fixed, *own, *(each.of(choice) for each in self.interactions)])

    def least(self, prefix: Sequence[int]) -> float:
        """The lowest cost of the architectures with a given beginning, or a bound that is not above it.

        It is the lowest cost itself without interactions, and where those of :attr:`parts` are gone.

        Args:
            prefix: The candidates of the first edges, as many as are decided.
        """
        if self.interactions:
            decided = dict(enumerate(prefix))
            return min(
                part.least(prefix)
                for way, part in self.parts
                if all(decided.get(edge, index) == index for edge, index in way.items())
            )
        chosen = (row[index] for row, index in zip(self.rows, prefix, strict=False))
        return math.fsum([self.fixed, *chosen, *self.minima[len(prefix) :]])

    # -- where edges cost something together ---------------------------------------------------------------------------

    @cached_property
    def parts(self) -> list[tuple[Mapping[int, int], CostTable]]:
        """Tables without interactions, and the candidates of edges for which each holds.

        They are exact, unless there are too many of them: see :func:`~advnas_lightning.cost.interaction.ways`. Then
        they are not above what architectures cost.
        """
        groups = [each.edges for each in self.interactions]
        return [(way, self.given(way).bounded(np.min)) for way in ways(groups, [*map(len, self.rows)])]

    def given(self, candidates: Mapping[int, int]) -> CostTable:
        """The table in which the candidates of some edges are given, whose costs are then in what is fixed.

        Args:
            candidates: The index of each given candidate by the number of its edge.

        Example:
            >>> table = CostTable("params", {"a": {"x": 5.0, "y": 1.0}, "b": {"x": 2.0, "y": 4.0}}, 10.0)
            >>> table.given({0: 1})
            CostTable(kind='params', edges={'a': {'x': 0.0, 'y': 0.0}, 'b': {'x': 2.0, 'y': 4.0}}, fixed=11.0, \
interactions=())
        """
        rows = [np.array(row) for row in self.rows]
        fixed = [self.fixed, *(self.rows[edge][index] for edge, index in candidates.items())]
        for edge in candidates:
            rows[edge] = np.zeros_like(rows[edge])
        kept = []
        for each in self.interactions:
            left, costs = each.given(candidates)
            if len(left) > 1:
                kept.append(Interaction(left, costs))
            elif left:
                rows[left[0]] = rows[left[0]] + costs
            else:
                fixed.append(float(costs))
        return self._of_rows(rows, fixed, tuple(kept))

    def bounded(self, extreme: Callable[..., NDArray[np.float64]]) -> CostTable:
        """A table without interactions that is nowhere above what architectures cost, or nowhere below.

        Args:
            extreme: ``numpy.min`` or ``numpy.max``.
        """
        rows = [np.array(row) for row in self.rows]
        for each in self.interactions:
            rows[each.edges[0]] = rows[each.edges[0]] + each.bound(extreme)
        return self._of_rows(rows, [self.fixed], ()) if self.interactions else self

    def _of_rows(
        self, rows: Sequence[NDArray[np.float64]], fixed: Sequence[float], kept: tuple[Interaction, ...]
    ) -> CostTable:
        """A table of the same edges whose candidates cost at least 0, as the cheapest ones are in what is fixed."""
        below = [min(float(row.min()), 0.0) for row in rows]
        edges = {
            name: dict(zip(own, (row - least).tolist(), strict=True))
            for (name, own), row, least in zip(self.edges.items(), rows, below, strict=True)
        }
        return replace(self, edges=edges, fixed=max(math.fsum([*fixed, *below]), 0.0), interactions=kept)

    # -- what a search and its files need ------------------------------------------------------------------------------

    def refuse(self, *, penalty: float, budget: float | None) -> None:
        """Refuse costs that change nothing, or leave no architecture within the budget.

        Args:
            penalty: The factor λ of a penalty.
            budget: The budget, or ``None``.

        Raises:
            ValueError: They do.
        """
        if not self.makes_a_difference and (penalty > 0 or budget is not None):
            others = " or ".join(kind for kind in UNITS if kind != self.kind)
            raise ValueError(
                f"cost={self.kind} is the same for all candidates of each edge, so it could change nothing: leave it"
                f" out, or use {others}"
            )
        if budget is not None and within(budget) < self.cheapest:
            raise ValueError(
                f"cost_budget={budget:.12g} is below what the cheapest architecture costs,"
                f" {rounded_up(self.cheapest)} {self.unit}".rstrip()
            )
        if budget is not None and self.largest > MOST * budget:
            raise ValueError(
                f"cost_budget={budget:g} is too small beside the most expensive architecture, which costs"
                f" {self.largest:g}: give at least {self.largest / MOST:g}"
            )

    def of_first(self, broadcast: Callable[[Tensor], Tensor]) -> CostTable:
        """The table that the first of several processes has.

        Args:
            broadcast: A function that gives all processes the tensor of the first one.
        """
        edges = [number for each in self.interactions for number in (len(each.edges), *each.edges)]
        together = chain.from_iterable(each.costs.flat for each in self.interactions)
        count = len(self.interactions)  # which is sent, too, since another process may have found other ones
        own = torch.tensor([self.fixed, *chain(*self.rows), count, *edges, *together], dtype=torch.double)
        values = iter(broadcast(own).tolist())
        fixed = next(values)
        costs = {edge: {name: next(values) for name in row} for edge, row in self.edges.items()}
        found = [tuple(int(next(values)) for _ in range(int(next(values)))) for _ in range(int(next(values)))]
        shapes = [[len(self.rows[edge]) for edge in group] for group in found]
        interactions = tuple(
            Interaction(group, np.array([next(values) for _ in range(math.prod(shape))]).reshape(shape))
            for group, shape in zip(found, shapes, strict=True)
        )
        return CostTable(self.kind, costs, fixed, interactions)

    def content(self) -> dict[str, Any]:
        """The content of a file of costs, as values for JSON."""
        content = {"cost": self.kind, "unit": self.unit, "fixed": self.fixed, "edges": self.edges}
        together = [each.content([*self.edges]) for each in self.interactions]
        return {**content, "interactions": together} if together else content

    @classmethod
    def read(cls, content: Any, space: SearchSpace | None = None) -> CostTable:
        """The table in the content of a file.

        Args:
            content: What :meth:`content` has given.
            space: The edges and candidates to take; by default all that there are in the content.

        Raises:
            ValueError: The content lacks an edge or a candidate, or has a cost that is none.

        Example:
            >>> from torch.nn import Identity, Linear
            >>> from advnas_lightning import MixedOp
            >>> space = SearchSpace(MixedOp("edge", {"linear": Linear(8, 8), "skip": Identity()}))
            >>> table = CostTable("params", {"edge": {"linear": 72.0, "skip": 0.0}}, 10.0)
            >>> CostTable.read(table.content(), space) == table == CostTable.read(table.content())
            True
        """
        kind, rows = _entry(content, "cost"), _entry(content, "edges")
        if kind not in (*UNITS, "own"):
            raise ValueError(f"its kind of cost is {shortened(repr(kind), 40)}")
        wanted: Iterable[tuple[str, Iterable[str]]]
        if space is not None:
            wanted = zip(space.edges, space.candidates, strict=True)
        elif isinstance(rows, dict) and rows and all(isinstance(row, dict) and row for row in rows.values()):
            wanted = rows.items()
        else:
            raise ValueError("its edges have no candidates")
        edges = {
            edge: {name: check_cost_of(edge, name, _entry(_entry(rows, edge), name)) for name in names}
            for edge, names in wanted
        }
        there, here = ({edge: [*row] for edge, row in each.items() if isinstance(row, dict)} for each in (rows, edges))
        together = content.get("interactions", [])
        if not isinstance(together, list):
            raise ValueError(f"its interactions are {shortened(repr(together), 40)}")
        interactions = tuple(Interaction.read(each, there, here) for each in together)
        return cls(kind, edges, check_cost_of(None, "fixed", _entry(content, "fixed")), interactions)


def _entry(content: Any, key: str) -> Any:
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f"it has no {key!r}")
    return content[key]


def check_cost_of(edge: str | None, name: str, cost: Any) -> float:
    """The cost of a candidate, or of the network beside its edges, as a float.

    Args:
        edge: The edge of the candidate, for the message; ``None`` for the network beside its edges.
        name: The name of the candidate, for the message.
        cost: The value that should be its cost.

    Raises:
        ValueError: It is no number, or a number that is negative or not finite.

    Example:
        >>> check_cost_of("edge", "skip", None)
        Traceback (most recent call last):
            ...
        ValueError: the cost of candidate 'skip' of edge 'edge' is None: it must be a finite number of at least 0
    """
    value = as_number(cost)
    if value is None or not 0 <= value < math.inf:
        place = "the network beside its edges" if edge is None else f"candidate {name!r} of edge {edge!r}"
        raise ValueError(
            f"the cost of {place} is {shortened(repr(cost), 40)}: it must be a finite number of at least 0"
        )
    return value


def within(budget: float | None) -> float:
    """The largest cost that is within a budget, with room for the rounding of sums; infinite without a budget.

    Example:
        >>> 0.1 + 0.2 <= 0.3, 0.1 + 0.2 <= within(0.3)
        (False, True)
    """
    return math.inf if budget is None else budget * (1 + ROUNDING)
