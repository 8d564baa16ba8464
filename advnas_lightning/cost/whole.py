"""What whole networks cost, where sizes multiply and a sum over edges is not exact: counted, and guided by sums."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from advnas_lightning.cost.elastic import ROUNDING, is_elastic, multiplied_edges
from advnas_lightning.cost.elastic import count as count_elastic
from advnas_lightning.cost.measuring import NetworkRunner, meter_choice
from advnas_lightning.cost.table import CostTable

COUNTED = ("params", "macs")  # what is exact and cheap to count
MOST = 256  # ways to choose the candidates of hubs


class WholeCost:
    """The cost of whole networks, where the sizes of edges multiply each other.

    Some of these edges are hubs. Once their candidates are given, the cost is a sum over the other edges, and there is
    a table of such sums for each way to choose the hubs' candidates. With too many ways, some edges that multiply each
    other are no hubs. A sum is then that of what each candidate adds to the cheapest network, which is not above what a
    network costs as long as no size makes another one cheaper.

    Args:
        count: What counts the cost of the network of a choice.
        summed: The sums over all edges, which tell the cheapest candidates.
        pairs: The edges that multiply each other, by their numbers.

    Attributes:
        ways: The ways to choose the hubs' candidates, each with the index of the candidate by the number of the edge.

    Example:
        >>> table = CostTable("params", {"a": {"1": 0.0, "2": 2.0}, "b": {"1": 0.0, "3": 4.0}}, 1.0)
        >>> whole = WholeCost(lambda choice: (1.0, 2.0)[choice[0]] * (1.0, 3.0)[choice[1]], table, [(0, 1)])
        >>> whole.of((1, 1)), table.of((1, 1)), whole.of((1, 0)), table.of((1, 0))
        (6.0, 7.0, 2.0, 3.0)
        >>> whole.ways, whole.least((1,)), whole.least(())
        ([{0: 0}, {0: 1}], 2.0, 1.0)
    """

    def __init__(
        self, count: Callable[[tuple[int, ...]], float], summed: CostTable, pairs: Collection[Collection[int]]
    ) -> None:
        self._summed, self._count = summed, count
        self._counted: dict[tuple[int, ...], float] = {}
        self._tables: dict[int, CostTable] = {}
        sizes = [len(row) for row in summed.rows]
        hubs = sorted(_hubs(pairs, sizes))
        indices = product(*(range(sizes[edge]) for edge in hubs))
        self.ways: list[Mapping[int, int]] = [dict(zip(hubs, each, strict=True)) for each in indices]

    def of(self, choice: Sequence[int]) -> float:
        """The cost of a network, which is counted once.

        Args:
            choice: The index of the candidate of each edge.
        """
        key = tuple(choice)
        if key not in self._counted:
            self._counted[key] = self._count(key)
        return self._counted[key]

    def least(self, prefix: Sequence[int]) -> float:
        """The least sum of the architectures with a given beginning.

        Args:
            prefix: The candidates of the first edges, as many as are decided.
        """
        decided = dict(enumerate(prefix))
        agreeing = (
            n for n, way in enumerate(self.ways) if all(decided.get(e, index) == index for e, index in way.items())
        )
        return min(self.table(n).least(prefix) for n in agreeing)

    def __getstate__(self) -> dict[str, Any]:
        """What is saved: the costs that were counted, and not the network."""
        return {**vars(self), "_count": _not_counted}

    def table(self, way: int) -> CostTable:
        """The sums with given candidates of the hubs, which are made once.

        Args:
            way: The number of one of ``ways``.
        """
        if way not in self._tables:
            self._tables[way] = self._table(way)
        return self._tables[way]

    def _table(self, way: int) -> CostTable:
        """The sums with given candidates of the hubs, whose own costs are in what is fixed.

        Args:
            way: The number of one of ``ways``.
        """
        given, rows = self.ways[way], self._summed.rows
        start = tuple(given.get(edge, row.index(min(row))) for edge, row in enumerate(rows))
        beside = self.of(start)
        added = [
            [
                0.0 if edge in given else self.of((*start[:edge], index, *start[edge + 1 :])) - beside
                for index in range(len(row))
            ]
            for edge, row in enumerate(rows)
        ]
        edges = {
            name: {candidate: value - min(values) for candidate, value in zip(row, values, strict=True)}
            for (name, row), values in zip(self._summed.edges.items(), added, strict=True)
        }
        return CostTable(self._summed.kind, edges, max(math.fsum([beside, *map(min, added)]), 0.0))


def _not_counted(choice: tuple[int, ...]) -> float:
    raise ValueError("this network was not counted before its costs were saved: rank again")


def whole_costs(
    tables: Mapping[str, CostTable], model: nn.Module, evaluator: NetworkRunner, batch: Callable[[], Any]
) -> dict[str, WholeCost]:
    """The parameters and multiply-accumulates of whole networks, by name; none where sums are exact.

    Args:
        tables: The costs by name.
        model: The network.
        evaluator: The evaluator that runs the network.
        batch: Gives a batch on the network's device. It is called if the network has to run.

    Example:
        >>> from advnas_lightning import RandomSearch, elastic
        >>> net = elastic(nn.Linear(4, 8), out_features=[2, 8], name="width")
        >>> table = CostTable("params", {"width": {"2": 0.0, "8": 30.0}}, 10.0)
        >>> whole_costs({"params": table}, net, RandomSearch(net).evaluator, lambda: None)
        {}
    """
    space = evaluator.space
    pairs = (
        {frozenset(map(space.edges.index, pair)) for pair in multiplied_edges(model)} if is_elastic(model) else set()
    )
    found: dict[str, WholeCost] = {}
    for kind in COUNTED:
        if kind in tables and pairs:
            count = _counting(kind, model, evaluator, batch)
            whole, summed = WholeCost(count, tables[kind], pairs), tables[kind].cheapest
            counted = whole.of([row.index(min(row)) for row in tables[kind].rows])
            if abs(counted - summed) <= ROUNDING * counted:
                found[kind] = whole
            else:
                rank_zero_warn(
                    f"cost={kind}: the cheapest network costs {summed:.12g} by what is known, and {counted:.12g} on"
                    " this batch, so networks are not counted, and a sum over edges may be other than what a network"
                    f" costs: measure {kind} anew on such a batch"
                )
    return found


def _counting(
    kind: str, model: nn.Module, evaluator: NetworkRunner, batch: Callable[[], Any]
) -> Callable[[tuple[int, ...]], float]:
    if kind == "params":
        return partial(count_elastic, model, evaluator.space)
    run = partial(evaluator.run, batch())

    def metered(choice: tuple[int, ...]) -> float:
        with evaluator.no_trace():
            return meter_choice(kind, model, evaluator.space, run, choice)

    return metered


def _hubs(pairs: Collection[Collection[int]], sizes: Sequence[int]) -> Iterator[int]:
    """Yield edges until one of each pair was there, those of most pairs first, or until there are too many ways."""
    left, ways = list(pairs), 1
    while left:
        edge = min(counted := Counter(edge for pair in left for edge in pair), key=lambda each: (-counted[each], each))
        ways *= sizes[edge]
        if ways > MOST:
            return
        yield edge
        left = [pair for pair in left if edge not in pair]
