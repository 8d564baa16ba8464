"""The most probable architectures come in the exact order, against full enumeration."""

from __future__ import annotations

import math
import random
from itertools import islice, product

import pytest

from advnas_lightning.cost.plan import CostPlan
from advnas_lightning.cost.table import CostTable
from advnas_lightning.ranking.enumeration import most_probable
from tests.support.speed import slow_but

Rows = list[list[float]]


def rows_of(draws: random.Random, *, coarse: bool) -> Rows:
    """The logarithms of the probabilities of 2 to 5 edges of 1 to 5 candidates; with many ties where it is coarse."""
    rows = []
    for _ in range(draws.randint(2, 5)):
        values = [draws.randint(0, 2) if coarse else draws.gauss(0, 2) for _ in range(draws.randint(1, 5))]
        total = math.log(sum(map(math.exp, values)))
        rows.append([value - total for value in values])
    return rows


def table_of(rows: Rows, draws: random.Random, *, coarse: bool) -> CostTable:
    def cost() -> float:
        return float(draws.randint(0, 3)) if coarse else 9 * draws.random()

    edges = {f"e{edge}": {f"c{index}": cost() for index in range(len(row))} for edge, row in enumerate(rows)}
    return CostTable("own", edges, cost())


def expected(rows: Rows, plan: CostPlan | None = None) -> list[tuple[float, tuple[int, ...]]]:
    """All architectures within the budgets: by log p, and then by the places of their candidates in sorted rows."""
    places = [sorted(range(len(row)), key=lambda index, row=row: (-row[index], index)) for row in rows]
    found = []
    for choice in product(*(range(len(row)) for row in rows)):
        if plan is None or plan.allows(choice):
            log_p = math.fsum(row[index] for row, index in zip(rows, choice, strict=True))
            order = [own.index(index) for own, index in zip(places, choice, strict=True)]
            found.append((-log_p, order, choice))
    return [(-negative, choice) for negative, _, choice in sorted(found)]


@pytest.mark.parametrize("coarse", [False, True])
def test_all_architectures_come_in_the_order_of_their_probability(coarse: bool) -> None:
    draws = random.Random(int(coarse))
    for _ in range(40):
        rows = rows_of(draws, coarse=coarse)
        assert list(most_probable(rows)) == expected(rows)


@pytest.mark.parametrize(
    ("kinds", "coarse"), slow_but(product((1, 2, 3), (False, True)), [(1, True), (2, False), (3, True)])
)
def test_budgets_leave_out_what_does_not_fit_and_change_no_order(kinds: int, coarse: bool) -> None:
    draws, tight, impossible = random.Random(10 * kinds + coarse), 0, 0
    for _ in range(20):
        rows = rows_of(draws, coarse=coarse)
        tables = {f"cost{kind}": table_of(rows, draws, coarse=coarse) for kind in range(kinds)}
        budgets = {
            kind: table.cheapest + draws.choice([0.0, 0.1, 0.4, 1.0]) * (table.largest - table.cheapest) + 1e-3
            for kind, table in tables.items()
        }
        plan = CostPlan(tables, budgets)
        allowed = expected(rows, plan)
        assert list(most_probable(rows, plan)) == allowed
        tight += 0 < len(allowed) < math.prod(map(len, rows)) / 4
        impossible += not allowed
    assert tight >= 3
    assert kinds == 1 or impossible >= 3


def test_a_candidate_without_probability_comes_last() -> None:
    rows = [[0.0, -math.inf], [math.log(0.7), math.log(0.3)]]
    found = list(most_probable(rows))
    assert [choice for _, choice in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [log_p for log_p, _ in found][2:] == [-math.inf, -math.inf]
    table = CostTable("own", {"a": {"x": 5.0, "y": 0.0}, "b": {"x": 1.0, "y": 0.0}}, 0.0)
    plan = CostPlan({"own": table}, {"own": 5.0})
    assert [choice for _, choice in most_probable(rows, plan)] == [(0, 1), (1, 0), (1, 1)]


def test_the_first_of_a_large_space_are_found_at_once_also_where_all_are_alike() -> None:
    uniform = [[math.log(0.1)] * 10 for _ in range(30)]  # 10^30 architectures
    assert [choice[-2:] for _, choice in islice(most_probable(uniform), 12)] == [
        *((0, index) for index in range(10)),
        *((1, index) for index in range(2)),
    ]


def test_a_tight_budget_deep_in_the_order_is_reached() -> None:
    # The probable candidate of each of 20 edges costs 1 and the other nothing: the only fitting one is 2^20 deep.
    rows = [[math.log(0.9), math.log(0.1)] for _ in range(20)]
    table = CostTable("own", {f"e{edge}": {"dear": 1.0, "free": 0.0} for edge in range(20)}, 1.0)
    ((log_p, choice),) = most_probable(rows, CostPlan({"own": table}, {"own": 1.0}))
    assert choice == (1,) * 20
    assert log_p == pytest.approx(20 * math.log(0.1))
    one_more = list(most_probable(rows, CostPlan({"own": table}, {"own": 2.0})))
    assert len(one_more) == 21


def test_a_search_within_budgets_that_takes_too_long_says_so() -> None:
    rows = [[math.log(0.5)] * 2 for _ in range(6)]
    table = CostTable("own", {f"e{edge}": {"a": 0.0, "b": 1.0} for edge in range(6)}, 0.0)
    with pytest.raises(ValueError, match="only 2 were found among 6 partial choices"):
        list(most_probable(rows, CostPlan({"own": table}, {"own": 9.0}), most=6))
    assert len(list(most_probable(rows, most=6))) == 64  # there is no budget to raise
