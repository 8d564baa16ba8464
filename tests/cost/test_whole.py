"""Budgets are met by the networks themselves where sizes multiply, against the enumeration of small spaces."""

from __future__ import annotations

import itertools
import math
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import Depth, MixedOp, RandomSearch, elastic
from advnas_lightning.cost import CostPlan, CostTable, count_macs, count_parameters, measure_costs, whole
from advnas_lightning.cost.whole import WholeCost, whole_costs
from advnas_lightning.objectives import Classification
from advnas_lightning.ranking import Evolution
from advnas_lightning.ranking.enumeration import most_probable
from advnas_lightning.refine import finalists_of
from tests.support.elastic_net import ElasticNet
from tests.support.small_search import CLASSES, FEATURES

Choice = tuple[int, ...]
BATCH = torch.ones(6, FEATURES), torch.zeros(6, dtype=torch.long)
pytestmark = pytest.mark.filterwarnings("ignore:cost=.*multiply each other")


def both_sides(reads: list[int], gives: list[int], first: str, second: str) -> nn.Module:
    return elastic(
        nn.Linear(max(reads), max(gives)),
        in_features=reads,
        out_features=gives,
        name={"in_features": first, "out_features": second},
    )


class Stack(nn.Module):
    """A stream of elastic width through an elastic number of layers; another choice hides a layer that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = elastic(nn.Linear(FEATURES, 6), out_features=[6, 2], name="width")
        layers = [
            nn.Sequential(both_sides([6, 2], [7, 3], "width", name), both_sides([7, 3], [6, 2], name, "width"))
            for name in ("first", "second")
        ]
        self.layers = Depth(layers, [1, 2], name="depth")
        wide = elastic(nn.Linear(6, CLASSES, bias=False), in_features=[6, 2], name="width")
        self.head = MixedOp("head", {"wide": wide, "bottleneck": nn.Sequential(Cut(), nn.Linear(1, CLASSES))})

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)))


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., :1]


def counted(net: nn.Module) -> tuple[RandomSearch, dict[str, CostTable], dict[Choice, dict[str, float]]]:
    """A search, its costs, and what each derived network costs, by its parameters and a run of it."""
    search = RandomSearch(net, objective=Classification(CLASSES))
    tables = measure_costs(["params", "macs"], net, search.evaluator, BATCH)
    costs = {}
    for choice in itertools.product(*(range(len(row)) for row in search.space.candidates)):
        found = search.space.genotype(choice).apply(net)
        costs[choice] = {"params": count_parameters(found), "macs": count_macs(found, BATCH[0]) / len(BATCH[0])}
    return search, tables, costs


@pytest.mark.parametrize("net", [ElasticNet, Stack])
def test_what_is_within_a_budget_is_what_the_derived_networks_say(net: Callable[[], nn.Module]) -> None:
    search, tables, costs = counted(net())
    every = whole_costs(tables, search.model, search.evaluator, lambda: BATCH)
    assert any(CostPlan(tables).of(choice) != costs[choice] for choice in costs)
    rows = [
        [-random.Random(f"{e}{j}").random() for j in range(len(row))] for e, row in enumerate(search.space.candidates)
    ]
    for kind in tables:
        for budget in {each[kind] for each in costs.values()}:
            plan = CostPlan(tables, {kind: budget}, every)
            allowed = [choice for choice in costs if costs[choice][kind] <= budget]
            assert list(plan.allowed()) == allowed
            assert plan.fit().choice in allowed
            ranked = [choice for _, choice in most_probable(rows, plan)]
            assert sorted(ranked) == allowed
            assert ranked == sorted(ranked, key=lambda choice: -math.fsum(rows[e][j] for e, j in enumerate(choice)))
    plan = CostPlan(tables, whole=every)
    for choice in costs:
        assert plan.of(choice) == pytest.approx(costs[choice], rel=1e-12)
        for edges in range(len(choice)):
            below = [own for other, own in costs.items() if other[:edges] == choice[:edges]]
            least = {kind: min(each[kind] for each in below) for kind in tables}
            assert plan.least(choice[:edges]) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("most", [256, 4, 1])  # ways: all that are needed, too few, none
def test_the_order_is_exact_with_any_number_of_hubs(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "MOST", most)
    for seed in range(10):
        draws = random.Random(seed)
        sizes = [sorted(draws.sample(range(1, 9), 3)) for _ in range(4)]

        def chain(choice: Choice, sizes: list[list[int]] = sizes) -> float:
            chosen = [own[index] for own, index in zip(sizes, choice, strict=True)]
            return float(sum(a * b for a, b in itertools.pairwise(chosen)))

        every = {choice: chain(choice) for choice in itertools.product(range(3), repeat=4)}
        names = {f"e{edge}": {str(size): float(size) for size in own} for edge, own in enumerate(sizes)}
        table = CostTable("params", names, 0.0)  # it tells the cheapest candidates
        rows = [[draws.choice([-0.5, -1.0, draws.uniform(-2, 0)]) for _ in range(3)] for _ in range(4)]
        budget = draws.choice(sorted(every.values())[:40])
        cost = WholeCost(chain, table, [(0, 1), (1, 2), (2, 3)])
        assert len(cost.ways) <= most
        plan = CostPlan({"params": table}, {"params": budget}, {"params": cost})
        order = [sorted(range(3), key=row.__getitem__, reverse=True) for row in rows]
        expected = sorted(
            (choice for choice in every if every[choice] <= budget),
            key=lambda c: (
                -math.fsum(rows[e][j] for e, j in enumerate(c)),
                [order[e].index(j) for e, j in enumerate(c)],
            ),
        )
        assert [choice for _, choice in most_probable(rows, plan)] == expected


def test_several_budgets_of_which_one_is_counted_are_met_together_or_not() -> None:
    table = CostTable("params", {"a": {"1": 1.0, "5": 5.0}, "b": {"1": 1.0, "5": 5.0}}, 0.0)
    latency = CostTable("latency", {"a": {"1": 4.0, "5": 1.0}, "b": {"1": 4.0, "5": 1.0}}, 0.0)
    cost = WholeCost(lambda choice: float((1, 5)[choice[0]] * (1, 5)[choice[1]]), table, [(0, 1)])
    for budget, found in ((5, {(0, 1), (1, 0)}), (4, set())):
        plan = CostPlan({"params": table, "latency": latency}, {"params": budget, "latency": 5}, {"params": cost})
        assert set(plan.allowed()) == found
        assert (plan.fit().choice in found, plan.fit().is_certain) == (bool(found), True)


def test_a_ranking_takes_and_shows_what_the_networks_cost() -> None:
    search, tables, costs = counted(ElasticNet(norm=False))
    budget = sorted(each["params"] for each in costs.values())[len(costs) // 2]
    both = {"params": budget, "macs": budget}
    ranking: Any = search.rank([BATCH, BATCH], top=None, sample=3, tables=tables, budgets=[{"params": budget}, both])
    assert {row.choice for row in ranking} == {c for c in costs if costs[c]["params"] <= budget}
    assert {row.choice for row in ranking.within(both)} == {c for c in costs if max(costs[c].values()) <= budget}
    assert all(row.costs == pytest.approx(costs[row.choice]) for row in ranking)
    made = search.rank(
        [BATCH, BATCH], top=1, sample=5, tables=tables, budgets=both, evolution=Evolution(2, population=4)
    )
    assert len(made) > 4
    assert all(max(costs[row.choice].values()) <= budget for row in made)
    again = pickle.loads(pickle.dumps(ranking))  # without the network that was counted
    assert [row.choice for row in again.within(both)] == [row.choice for row in ranking.within(both)]
    with pytest.raises(ValueError, match="not counted before its costs were saved"):
        again.whole["params"].of((-1,))
    for genotype in finalists_of(search, draws=20, plan=ranking.plan(both)):
        assert max(costs[tuple(search.space.choice(genotype))].values()) <= budget


def test_costs_of_other_inputs_stay_sums_and_a_warning_says_so() -> None:
    search = RandomSearch(ElasticNet(), objective=Classification(CLASSES))
    tables = measure_costs(["params", "macs"], search.model, search.evaluator, BATCH)
    other = CostTable("macs", tables["macs"].edges, tables["macs"].fixed * 4)
    with pytest.warns(UserWarning, match=r"cost=macs: the cheapest network costs .* measure macs anew"):
        found = whole_costs({**tables, "macs": other}, search.model, search.evaluator, lambda: BATCH)
    assert list(found) == ["params"]


def test_nothing_is_counted_where_sums_are_exact() -> None:
    net = nn.Sequential(
        elastic(nn.Linear(FEATURES, 8), out_features=[2, 8], name="a"),
        elastic(nn.Linear(8, CLASSES), in_features=[2, 8], name="a"),
    )
    search = RandomSearch(net, objective=Classification(CLASSES))
    tables = measure_costs(["params", "macs"], net, search.evaluator, BATCH)
    assert whole_costs(tables, net, search.evaluator, pytest.fail) == {}
