"""Several costs at once: what is within the budgets, against the enumeration of small spaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch

from advnas_lightning import SearchStrategy
from advnas_lightning.cost import CostPlan, CostTable, count_parameters, feasibility, measure_costs
from advnas_lightning.cost.feasibility import find_within
from advnas_lightning.cost.table import within
from tests.support.measured import BATCH, own
from tests.support.speed import slow_but

NAMES = ("params", "macs", "latency", "memory")


def random_tables(seed: int, kinds: int) -> dict[str, CostTable]:
    """Costs of 4 to 6 edges of up to 4 candidates; of every other space whole numbers, of which many sums are equal."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> float:
        value = 9 * torch.rand((), generator=generator, dtype=torch.double).item()
        return float(round(value)) if seed % 2 else value

    sizes = torch.randint(1, 5, (4 + seed % 3,), generator=generator).tolist()
    return {
        kind: CostTable(kind, {f"e{e}": {f"c{j}": draw() for j in range(size)} for e, size in enumerate(sizes)}, draw())
        for kind in NAMES[:kinds]
    }


def enumerated(plan: CostPlan) -> list[tuple[int, ...]]:
    return list(product(*(range(len(row)) for row in plan.candidates)))


def budgets_near(plan: CostPlan, seed: int) -> dict[str, float]:
    """Budgets of which each can be met, and about half of the time all of them together."""
    generator = torch.Generator().manual_seed(1000 + seed)
    found = {}
    for kind in plan.tables:
        costs = sorted({plan.tables[kind].of(choice) for choice in enumerated(plan)})
        place = int(torch.randint(max(len(costs) // 4, 1), (), generator=generator))
        found[kind] = max(costs[place], 1e-3)
    return found


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_whether_budgets_can_be_met_is_what_enumeration_says(kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = set()
    for seed in range(60):
        tables = random_tables(seed, kinds)
        plan = CostPlan(tables, budgets_near(CostPlan(tables), seed))
        allowed = [
            choice
            for choice in enumerated(plan)
            if all(tables[kind].of(choice) <= within(plan.budgets[kind]) for kind in tables)
        ]
        assert list(plan.allowed()) == allowed
        assert [choice for choice in enumerated(plan) if plan.allows(choice)] == allowed
        for rounds in (feasibility.ROUNDS, 0):  # without weights, partial choices alone decide
            with monkeypatch.context() as patch:
                patch.setattr(feasibility, "ROUNDS", rounds)
                fit = plan.fit()
            assert fit.is_certain
            assert (fit.choice is not None) == bool(allowed)
            assert fit.choice is None or fit.choice in allowed
        answers.add(bool(allowed))
        for kind in tables:
            assert plan.fit(kind).choice is not None
    assert answers == ({True} if kinds == 1 else {True, False})


def test_partial_choices_decide_where_weights_do_not() -> None:
    # Half of each of two choices would be within both bounds, but an edge has one candidate.
    costs = [[[0.0, 2.0]], [[2.0, 0.0]]]
    assert find_within(costs, [0.0, 0.0], [1.5, 1.5]) == (None, True)
    assert find_within(costs, [0.0, 0.0], [2.0, 0.5]) == ((1,), True)


def test_a_search_that_drops_partial_choices_does_not_claim_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feasibility, "ROUNDS", 0)
    generator = torch.Generator().manual_seed(0)
    draw = lambda: [torch.rand(3, generator=generator).tolist() for _ in range(7)]  # noqa: E731
    costs = [draw(), draw()]
    every = list(product(range(3), repeat=7))
    sums = [[math.fsum(row[j] for row, j in zip(rows, choice, strict=True)) for choice in every] for rows in costs]
    least = min(max(first, second) for first, second in zip(*sums, strict=True))  # the lowest bound for both
    assert find_within(costs, [0.0, 0.0], [least * 1.001] * 2)[1]
    assert find_within(costs, [0.0, 0.0], [least * 0.999] * 2) == (None, True)
    outcomes = {find_within(costs, [0.0, 0.0], [least * 0.999] * 2, most_partial=most) for most in (1, 2, 3)}
    assert (None, False) in outcomes
    assert all(choice is None for choice, _ in outcomes)


def test_large_spaces_are_decided() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(3, 40, 8, generator=generator, dtype=torch.double).tolist()
    cheapest = [math.fsum(map(min, each)) for each in rows]
    for share in (1.05, 1.5, 2, 3, 6):
        choice, is_certain = find_within(rows, [0.0] * 3, [share * least for least in cheapest])
        assert is_certain
        # Of a choice within all bounds the mean of cost/bound is at most 1, and the least mean is found edge by edge.
        shares = torch.tensor(rows) / (share * torch.tensor(cheapest)).view(3, 1, 1)
        assert (choice is None) == (shares.mean(0).amin(-1).sum() > 1)
        for each, least in zip(rows, cheapest, strict=True):
            assert choice is None or math.fsum(r[j] for r, j in zip(each, choice, strict=True)) <= share * least


def test_lower_bounds_are_the_least_of_all_completions() -> None:
    for seed in range(8):
        plan = CostPlan(random_tables(seed, 2))
        every = enumerated(plan)
        for length in range(len(plan.edges) + 1):
            prefix = every[seed * 7 % len(every)][:length]
            completions = [choice for choice in every if choice[:length] == prefix]
            for kind, least in plan.least(prefix).items():
                assert least == min(plan.tables[kind].of(choice) for choice in completions)
        for kind, table in plan.tables.items():
            costs = [table.of(choice) for choice in every]
            assert plan.of(plan.cheapest(kind))[kind] == min(costs) == table.cheapest
            assert plan.of(plan.dearest(kind))[kind] == max(costs) == table.largest


@pytest.mark.parametrize("count", slow_but([6, 20], [6]))
def test_what_cannot_be_pruned_may_fit_and_what_is_pruned_does_not(count: int) -> None:
    for seed in range(count):
        tables = random_tables(seed, 2)
        plan = CostPlan(tables, budgets_near(CostPlan(tables), seed))
        every = enumerated(plan)
        for choice in every:
            for length in range(len(choice) + 1):
                if not plan.may_fit(choice[:length]):
                    assert not any(plan.allows(other) for other in every if other[:length] == choice[:length])
            assert plan.may_fit(choice) == plan.allows(choice)


def test_budgets_that_cannot_be_met_are_refused() -> None:
    tables = {
        "params": CostTable("params", {"a": {"x": 0.0, "y": 9.0}}, 1.0),
        "latency": CostTable("latency", {"a": {"x": 9.0, "y": 0.0}}, 1.0),
    }
    CostPlan(tables, {"params": 1, "latency": 10}).refuse()
    with pytest.raises(ValueError, match=r"params=0.5 is below what the cheapest architecture costs, 1 parameters$"):
        CostPlan(tables, {"params": 0.5}).refuse()
    with pytest.raises(ValueError, match="no architecture is within the budgets of params and latency together"):
        CostPlan(tables, {"params": 2, "latency": 2}).refuse()


def test_the_least_budget_is_named_in_a_few_digits_and_can_be_met() -> None:
    table = CostTable("latency", {"a": {"x": 24.6081664991, "y": 30.0}}, 0.0)
    for refuse in (
        CostPlan({"latency": table}, {"latency": 5}).refuse,
        partial(table.refuse, penalty=0.0, budget=5),
    ):
        with pytest.raises(ValueError, match=r"cheapest architecture costs, 24\.61 milliseconds of a forward pass"):
            refuse()
    CostPlan({"latency": table}, {"latency": 24.61}).refuse()


@pytest.mark.parametrize(
    ("budgets", "says"),
    [
        ({"lateny": 3}, r"budget of 'lateny', .* those of params, latency: did you mean latency\?"),
        ({"params": 0}, "budget: params=0 must be a finite number above 0, in parameters"),
        ({"params": "much"}, "budget: params='much' must be a finite number"),
        ({"latency": math.nan}, "latency=nan must be a finite number above 0, in milliseconds"),
    ],
)
def test_wrong_budgets_are_named(budgets: dict[str, Any], says: str) -> None:
    tables = {kind: CostTable(kind, {"a": {"x": 0.0, "y": 9.0}}, 1.0) for kind in ("params", "latency")}
    with pytest.raises(ValueError, match=says):
        CostPlan(tables, budgets)


def test_costs_of_different_networks_make_no_plan() -> None:
    tables = {"params": CostTable("params", {"a": {"x": 0.0}}, 1.0), "macs": CostTable("macs", {"b": {"x": 0.0}}, 1.0)}
    with pytest.raises(ValueError, match="params and macs are of different networks"):
        CostPlan(tables)
    with pytest.raises(ValueError, match="there are no costs to plan with"):
        CostPlan({})


def test_several_costs_are_measured_at_once(make_search: Callable[..., SearchStrategy]) -> None:
    search = make_search("advantage")
    tables = measure_costs(["params", "macs", "memory", own], search.model, search.evaluator, BATCH)
    assert list(tables) == ["params", "macs", "memory", "tests.support.measured.own"]
    plan = CostPlan(tables)
    assert plan.candidates == search.space.candidates
    choice = plan.cheapest("params")
    assert plan.of(choice)["params"] == count_parameters(search.space.genotype(choice).apply(search.model))
    for kinds, says in (
        (["flops"], "the cost 'flops' is unknown: use params"),
        (["macs", "macs"], "macs is given twice"),
    ):
        with pytest.raises(ValueError, match=says):
            measure_costs(kinds, search.model, search.evaluator, BATCH)
