"""Architectures that are one network have one row: probabilities, budgets and scores against enumeration."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Adam

from advnas_lightning import ENAS, AdvantageNAS, RandomSearch, SearchSpace
from advnas_lightning.cost import CostPlan, CostTable, count_parameters, measure_costs
from advnas_lightning.objectives import Classification
from advnas_lightning.ranking import Evolution, most_probable
from tests.support.nested_nets import Choice, all_choices, deep, fingerprint, nested, shared
from tests.support.small_search import CLASSES, FEATURES


def batches() -> list[Any]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(8, FEATURES, generator=generator), torch.randint(CLASSES, (8,), generator=generator))
        for _ in range(2)
    ]


def made(kind: type = AdvantageNAS, make: Callable[[], nn.Module] = deep, **options: Any) -> Any:
    torch.manual_seed(0)
    if kind is not RandomSearch:
        options["architecture_optimizer"] = Adam
    search = kind(make(), objective=Classification(CLASSES), **options)
    if kind is AdvantageNAS:
        with torch.no_grad():
            search.theta.add_(torch.randn(search.theta.shape))
    return search


def networks_of(search: Any) -> dict[Any, list[Choice]]:
    """The architectures of each derived network."""
    found: dict[Any, list[Choice]] = {}
    for choice in all_choices(search.space):
        found.setdefault(fingerprint(search.space, choice, search.model), []).append(choice)
    return found


def test_each_network_has_one_row_with_its_probability_loss_and_cost() -> None:
    search = made()
    ranking, networks = search.rank(batches(), top=None, costs=["params"]), networks_of(search)
    assert (len(ranking), len(networks), search.space.size) == (14, 14, 24)
    assert math.fsum(math.exp(row.log_prob) for row in ranking) == pytest.approx(1)
    for row in ranking:
        alike = networks.pop(fingerprint(search.space, row.choice, search.model))
        log_probs = search.log_prob(alike)
        assert math.exp(row.log_prob) == pytest.approx(math.fsum(map(math.exp, log_probs)))
        assert search.log_prob([row.choice])[0] == max(log_probs)
        assert row.genotype == search.space.genotype(row.choice)
        network: Any = row.genotype.apply(search.model)
        losses = [nn.functional.cross_entropy(network(x), y) for x, y in batches()]
        assert row.loss == pytest.approx(float(sum(losses)) / 2, rel=1e-5)
        assert row.costs["params"] == count_parameters(network)


def table_of(space: SearchSpace, draws: random.Random) -> CostTable:
    rows = zip(space.edges, space.candidates, strict=True)
    return CostTable("own", {edge: {name: draws.random() for name in names} for edge, names in rows}, 1.0)


@pytest.mark.parametrize("make", [deep, shared, nested])
def test_the_most_probable_networks_within_budgets_are_those_of_enumeration(make: Callable[[], nn.Module]) -> None:
    space, draws = SearchSpace(make()), random.Random(0)
    groups: dict[Choice, list[Choice]] = {}
    for choice in all_choices(space):
        groups.setdefault(space.nesting.canonical(choice), []).append(choice)
    for share in (None, 0.3, 0.5, 0.7):
        rows = [[draws.gauss(0, 1) for _ in row] for row in space.candidates]
        plan = None
        if share is not None:
            tables = {kind: table_of(space, draws) for kind in ("one", "other")}
            limits = {kind: each.cheapest + share * (each.largest - each.cheapest) for kind, each in tables.items()}
            plan = CostPlan(tables, limits)
        expected = sorted(
            (-max(math.fsum(map(list.__getitem__, rows, choice)) for choice in alike), canonical)
            for canonical, alike in groups.items()
            if plan is None or plan.allows(canonical)
        )
        found = list(most_probable(rows, plan, nesting=space.nesting))
        assert [choice for _, choice in found] == [choice for _, choice in expected]
        assert [log_p for log_p, _ in found] == pytest.approx([-negative for negative, _ in expected])


def test_equal_chances_favour_no_depth() -> None:
    ranking = made(RandomSearch).rank(batches(), top=None)
    assert [row.loss for row in ranking] == sorted(row.loss for row in ranking)
    assert len({round(row.log_prob, 6) for row in ranking}) == 3


@pytest.mark.parametrize("kind", [AdvantageNAS, ENAS])
def test_evolution_and_draws_evaluate_no_network_twice(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    search, evaluated = made(kind), []
    one_hot = search.one_hot
    monkeypatch.setattr(search, "one_hot", lambda choice: (evaluated.append(tuple(choice)), one_hot(choice))[1])
    ranking = search.rank(batches(), top=2, sample=6, evolution=Evolution(3, population=4))
    prints = [fingerprint(search.space, choice, search.model) for choice in evaluated]
    assert len(set(prints)) == len(prints) == len(ranking) > 5
    assert {"evolution", "sample"} <= {row.source for row in ranking}
    assert set(ranking.named.values()) <= {row.choice for row in ranking}


def test_a_budget_leaves_out_no_network_that_costs_less() -> None:
    search = made()
    table = measure_costs(["params"], search.model, search.evaluator, None)
    found = [search.space.genotype(alike[0]).apply(search.model) for alike in networks_of(search).values()]
    costs = sorted(map(count_parameters, found))
    for budget in (costs[2], costs[6]):
        ranking = search.rank(batches(), top=None, tables=table, budgets={"params": budget})
        assert sorted(row.costs["params"] for row in ranking) == [cost for cost in costs if cost <= budget]
        assert len(ranking.within({"params": budget})) == len(ranking)
        assert len(ranking.within({"params": costs[0]})) == 1


def test_scores_of_any_architecture_are_those_of_its_network(tmp_path: Path) -> None:
    search, file = made(), tmp_path / "scores.jsonl"
    first = search.rank(batches(), top=None, scores=file)
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    for entry in entries:  # as written by a version that scored all of them
        if entry["architecture"][0] == "1":
            entry["architecture"][2:] = ["4", "2"]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    again = search.rank(batches(), top=None, scores=file)
    assert len(file.read_text().splitlines()) == len(entries) == 14
    assert [row.loss for row in again] == [row.loss for row in first]
