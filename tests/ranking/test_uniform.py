"""Where all architectures are equally probable, those that are scored are drawn from the whole space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from advnas_lightning import AdvantageNAS, MixedOp, RandomSearch
from advnas_lightning.cost.plan import Choice, CostPlan
from advnas_lightning.cost.table import CostTable
from advnas_lightning.ranking.of_search import distribution_of
from advnas_lightning.ranking.procedure import Distribution, Settings, rank_architectures
from advnas_lightning.ranking.scoring import Score

EDGES, CANDIDATES = 12, 4
NAMES = [f"edge {number}" for number in range(EDGES)]
TABLE = CostTable("params", {name: {str(j): float(j) for j in range(CANDIDATES)} for name in NAMES}, 0.0)


@pytest.fixture
def distribution() -> Distribution:
    """Candidate j costs j on each edge, so that architectures cost 18 on average, and 36 at most."""
    edges = (MixedOp(name, {str(j): nn.Identity() for j in range(CANDIDATES)}) for name in NAMES)
    return distribution_of(RandomSearch(nn.Sequential(*edges)))


def plan(budget: float) -> CostPlan:
    return CostPlan({"params": TABLE}, {"params": budget})


def least_share(found: Sequence[Choice]) -> float:
    """The smallest share that a candidate has on an edge."""
    counts = [Counter(choice[edge] for choice in found) for edge in range(EDGES)]
    return min(own[j] / len(found) for own in counts for j in range(CANDIDATES))


def test_every_candidate_of_every_edge_is_drawn(distribution: Distribution) -> None:
    found = distribution.probable(200, None, seed=0)
    assert len(set(found)) == 200
    # Each share has the mean 1/4 and the deviation 0.03. Of 48 shares all are above 0.12, four deviations below.
    assert least_share(found) > 0.12
    assert distribution.probable(200, None, seed=0) == found != distribution.probable(200, None, seed=1)


def test_what_is_drawn_is_within_the_budget(distribution: Distribution) -> None:
    found = distribution.probable(50, plan(14), seed=0)
    costs = [sum(choice) for choice in found]
    assert len(set(found)) == 50
    assert max(costs) == 14
    assert least_share(found) > 0


def test_a_budget_that_few_are_within_leaves_all_of_them(distribution: Distribution) -> None:
    found = distribution.probable(50, plan(1), seed=0)  # which the cheapest one is, and one for each edge
    assert len(found) == len(set(found)) == 1 + EDGES
    assert all(sum(choice) <= 1 for choice in found)


def test_each_of_several_budgets_has_draws_of_its_own(distribution: Distribution) -> None:
    def score(choices: Sequence[Choice]) -> list[Score]:
        return [Score(-float(sum(choice)), (0.0, 0.0), {}) for choice in choices]

    budgets = [{"params": 10.0}, {"params": 25.0}]
    ranking = rank_architectures(distribution, score, Settings(30, 0), tables={"params": TABLE}, budgets=budgets)
    assert len(ranking.within(budgets[0])) >= 30
    assert {row.source for row in ranking} == {"drawn"}


def test_what_a_search_finds_probable_is_not_drawn() -> None:
    edges = (MixedOp(name, {str(j): nn.Identity() for j in range(CANDIDATES)}) for name in NAMES)
    search = AdvantageNAS(nn.Sequential(*edges), architecture_optimizer=torch.optim.Adam)
    with torch.no_grad():
        search.theta[:, 2] += 1
    found = distribution_of(search).probable(1 + EDGES * (CANDIDATES - 1), None, seed=0)
    assert found[0] == (2,) * EDGES
    assert all(sum(index != 2 for index in choice) == 1 for choice in found[1:])
