"""Costs are those of the networks where sizes multiply or layers are left out, against enumerations of small spaces."""

from __future__ import annotations

import functools
import itertools
import math
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import (
    ENAS,
    NASP,
    ArchitectureCost,
    Depth,
    DrNAS,
    MixedOp,
    RandomSearch,
    SearchSpace,
    Trial,
    elastic,
)
from advnas_lightning.cost import CostPlan, CostTable, count_macs, count_parameters, interaction, measure_costs
from advnas_lightning.cost.files import Measurement, read_table, write_costs
from advnas_lightning.cost.interaction import Interaction
from advnas_lightning.cost.probable import most_probable_within
from advnas_lightning.objectives import Classification
from advnas_lightning.ranking import Evolution
from advnas_lightning.ranking.enumeration import most_probable
from advnas_lightning.refine import finalists_of
from tests.support.elastic_net import ElasticNet
from tests.support.small_search import CLASSES, FEATURES, STRATEGIES, few
from tests.support.speed import slow_but

Choice = tuple[int, ...]
BATCH = torch.ones(6, FEATURES), torch.zeros(6, dtype=torch.long)


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


@functools.cache
def counted_stack() -> tuple[RandomSearch, dict[str, CostTable], dict[Choice, dict[str, float]]]:
    """Those of a stack, which nobody changes."""
    return counted(Stack())


@pytest.mark.parametrize("net", [ElasticNet, Stack])
def test_what_is_within_a_budget_is_what_the_derived_networks_say(net: Callable[[], nn.Module]) -> None:
    search, tables, costs = counted(net())
    rows = [
        [-random.Random(f"{e}{j}").random() for j in range(len(row))] for e, row in enumerate(search.space.candidates)
    ]
    for kind in tables:
        assert tables[kind].interactions
        for budget in {each[kind] for each in costs.values()}:
            plan = CostPlan(tables, {kind: budget})
            allowed = [choice for choice in costs if costs[choice][kind] <= budget]
            assert list(plan.allowed()) == allowed
            assert plan.fit().choice in allowed
            ranked = [choice for _, choice in most_probable(rows, plan)]
            assert sorted(ranked) == allowed
            assert ranked == sorted(ranked, key=lambda choice: -math.fsum(rows[e][j] for e, j in enumerate(choice)))
        values = [each[kind] for each in costs.values()]
        assert tables[kind].cheapest == pytest.approx(min(values), rel=1e-12)
        assert tables[kind].largest == pytest.approx(max(values), rel=1e-12)
    plan = CostPlan(tables)
    for kind in tables:
        assert costs[plan.cheapest(kind)][kind] == min(each[kind] for each in costs.values())
        assert costs[plan.dearest(kind)][kind] == max(each[kind] for each in costs.values())
    for choice in costs:
        assert plan.of(choice) == pytest.approx(costs[choice], rel=1e-12)
        for edges in range(len(choice)):
            below = [own for other, own in costs.items() if other[:edges] == choice[:edges]]
            least = {kind: min(each[kind] for each in below) for kind in tables}
            assert plan.least(choice[:edges]) == pytest.approx(least, rel=1e-12)


def chain(sizes: list[list[int]]) -> tuple[CostTable, dict[Choice, float]]:
    """The costs of layers of which each has the sizes of two edges that follow each other; and those by choice."""
    names = {f"e{edge}": {str(size): 0.0 for size in own} for edge, own in enumerate(sizes)}
    pairs = [Interaction((e, e + 1), np.outer(*sizes[e : e + 2]).astype(float)) for e in range(len(sizes) - 1)]
    table = CostTable("params", names, 0.0, tuple(pairs))
    every = {}
    for choice in itertools.product(*map(range, map(len, sizes))):
        chosen = [own[index] for own, index in zip(sizes, choice, strict=True)]
        every[choice] = float(sum(a * b for a, b in itertools.pairwise(chosen)))
    return table, every


@pytest.mark.parametrize("most", [256, 4, 1])  # ways: all that are needed, too few, none
def test_the_order_is_exact_with_any_number_of_hubs(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interaction, "MOST_WAYS", most)
    for seed in range(10):
        draws = random.Random(seed)
        table, every = chain([sorted(draws.sample(range(1, 9), 3)) for _ in range(4)])
        assert len(table.parts) <= most
        rows = [[draws.choice([-0.5, -1.0, draws.uniform(-2, 0)]) for _ in range(3)] for _ in range(4)]
        budget = draws.choice(sorted(every.values())[:40])
        plan = CostPlan({"params": table}, {"params": budget})
        order = [sorted(range(3), key=row.__getitem__, reverse=True) for row in rows]
        expected = sorted(
            (choice for choice in every if every[choice] <= budget),
            key=lambda c: (
                -math.fsum(rows[e][j] for e, j in enumerate(c)),
                [order[e].index(j) for e, j in enumerate(c)],
            ),
        )
        assert [choice for _, choice in most_probable(rows, plan)] == expected


@pytest.mark.parametrize("most", [256, 4, 1])
def test_the_most_probable_choice_between_bounds(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interaction, "MOST_WAYS", most)
    exact = 0
    for seed in range(30):
        draws = random.Random(seed)
        table, every = chain([sorted(draws.sample(range(1, 9), 3)) for _ in range(4)])
        rows = [[draws.uniform(-3, 0) for _ in range(3)] for _ in range(4)]
        bound = draws.choice(sorted(every.values()))
        least = draws.choice([0, 0.95]) * bound
        found = tuple(most_probable_within([[*row, -math.inf] for row in rows], table, least, bound))
        allowed = [choice for choice in every if every[choice] <= bound]
        assert found in allowed
        enough = [choice for choice in allowed if every[choice] >= least]
        dearest = max(every[choice] for choice in allowed)
        close = enough or [choice for choice in allowed if every[choice] == dearest]
        exact += found == max(close, key=lambda choice: math.fsum(rows[e][j] for e, j in enumerate(choice)))
    assert exact == 30 or most < 256  # with too few ways sums are above what networks cost


def test_several_budgets_of_which_one_is_no_sum_are_met_together_or_not() -> None:
    zeros = {"a": {"1": 0.0, "5": 0.0}, "b": {"1": 0.0, "5": 0.0}}
    table = CostTable("params", zeros, 0.0, (Interaction((0, 1), np.outer([1, 5], [1, 5]).astype(float)),))
    latency = CostTable("latency", {"a": {"1": 4.0, "5": 1.0}, "b": {"1": 4.0, "5": 1.0}}, 0.0)
    for budget, found in ((5, {(0, 1), (1, 0)}), (4, set())):
        plan = CostPlan({"params": table, "latency": latency}, {"params": budget, "latency": 5})
        assert set(plan.allowed()) == found
        assert (plan.fit().choice in found, plan.fit().is_certain) == (bool(found), True)


# -- in a search -----------------------------------------------------------------------------------------------------


SEARCHING = [name for name, (kind, _) in STRATEGIES.items() if kind.searches]


@pytest.mark.parametrize("name", few(SEARCHING))
def test_the_gradient_is_that_of_the_expected_cost_of_the_networks(name: str, make_search: Callable[..., Any]) -> None:
    kind, _ = STRATEGIES[name]
    cost = ArchitectureCost("macs", penalty=0.7)
    search = make_search(name, Stack(), cost=cost).double()
    for parameter in search.architecture_parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(3))
    cost.measure(search.model, search.evaluator, (BATCH[0].double(), BATCH[1]))
    _, _, costs = counted_stack()
    values = {choice: each["macs"] / max(own["macs"] for own in costs.values()) for choice, each in costs.items()}
    if issubclass(kind, ENAS):
        of_draws_that_depend_on_each_other(search, values)
        return

    def penalty(theta: Tensor) -> Tensor:
        p = theta.masked_fill(~search.mask, -torch.inf).softmax(-1)
        if issubclass(kind, DrNAS):
            beta = (nn.functional.elu(theta) + 1) * search.mask
            p = beta / beta.sum(-1, keepdim=True)
        if issubclass(kind, NASP):  # the slope at its one-hot gates moves θ itself
            p = theta / theta.sum(-1, keepdim=True)  # so that a constant in a row's slopes is none in the gradient
        each = [value * p[range(len(p)), choice].prod() for choice, value in values.items()]
        return 0.7 * torch.stack(each).sum()

    at = search.expected_gates.double() if issubclass(kind, NASP) else search.theta.detach()
    (expected,) = torch.autograd.grad(penalty(at := at.clone().requires_grad_()), at)
    found = search.term_gradient(cost)
    if issubclass(kind, NASP):
        found = found - (found * at).sum(-1, keepdim=True)
    # λ is in single precision in the search.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def of_draws_that_depend_on_each_other(search: Any, values: dict[Choice, float]) -> None:
    """ENAS: the mean over all draws, weighted by their probabilities, is the gradient of the expected cost."""
    search.entropy_weight = 0.0
    parameters, choices = search.architecture_parameters(), list(values)
    log_p = search.controller(torch.tensor(choices))  # [n, E, J]
    probs = torch.stack([own[range(len(own)), choice].sum().exp() for own, choice in zip(log_p, choices, strict=True)])
    truth = torch.autograd.grad((0.7 * probs * torch.tensor([*values.values()])).sum(), parameters)
    estimates = [torch.zeros_like(parameter) for parameter in parameters]
    for p, choice in zip(probs.detach(), choices, strict=True):
        draw = search.one_hot(choice)
        trial = Trial(replace(draw, gates=draw.gates.double()), torch.tensor(0.0, dtype=torch.double), None, 1)
        search.baseline.zero_()
        for total, part in zip(estimates, search.architecture_gradients([trial]), strict=True):
            total += p * part
    for estimate, reference in zip(estimates, truth, strict=True):
        assert reference.abs().max() > 1e-6
        torch.testing.assert_close(estimate, reference, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", slow_but(["params", "macs"], ["macs"]))
def test_a_search_finds_networks_within_its_budget_and_knows_what_they_cost(
    kind: str, make_search: Callable[..., Any], make_loaders: Callable[..., Any], fit: Callable[..., Any]
) -> None:
    _, _, costs = counted_stack()
    budget = sorted(each[kind] for each in costs.values())[len(costs) // 2] * 1.01
    cost = ArchitectureCost(kind, budget=budget)
    search = make_search("advantage", Stack(), cost=cost, architecture_optimizer=partial(torch.optim.Adam, lr=0.02))
    fit(search, make_loaders(weights=8, architecture=8), max_epochs=20)
    found = costs[tuple(search.argmax_choice())][kind]
    assert found == pytest.approx(float(cost.expected(search.one_hot(search.argmax_choice()).gates)), rel=1e-12)
    assert found <= budget
    assert float(cost.expected(search.probs)) == pytest.approx(
        sum(
            each[kind] * float(search.probs.double()[range(len(choice)), choice].prod())
            for choice, each in costs.items()
        ),
        rel=1e-6,  # p is in single precision
    )
    assert costs[tuple(search.best.found)][kind] <= budget


def test_costs_survive_files_checkpoints_and_other_processes(tmp_path: Path) -> None:
    search, tables, _ = counted_stack()
    for kind, table in tables.items():
        write_costs(tmp_path / "costs.json", {kind: Measurement(table, {"device": "cpu"})})
        assert read_table(tmp_path / "costs.json", search.space) == table
        assert table.of_first(lambda sent: sent) == pickle.loads(pickle.dumps(table)) == table
        other = CostTable.read(table.content(), SearchSpace(Reordered()))  # its edges come in another order
        order = [search.space.edges.index(edge) for edge in other.edges]
        for choice in itertools.product(*(range(len(row)) for row in table.rows)):
            assert other.of([choice[edge] for edge in order]) == pytest.approx(table.of(choice), rel=1e-12)
    cost, again = (ArchitectureCost("macs", penalty=0.1) for _ in range(2))
    for each in (cost, again):
        each.attach(search.space)
    cost.measure(search.model, search.evaluator, BATCH)
    again.load_state_dict(cost.state_dict())
    assert again.result() == tables["macs"]
    assert torch.equal(again.slope(search.probs), cost.slope(search.probs))


def test_all_processes_have_the_interactions_of_the_first_one() -> None:
    _, tables, _ = counted_stack()
    first, sent = tables["macs"], []
    first.of_first(lambda own: sent.append(own) or own)  # type: ignore[func-returns-value]
    for other in (replace(first, interactions=()), replace(first, interactions=first.interactions[:2], fixed=1.0)):
        assert other.of_first(lambda _: sent[0]) == first


class Reordered(nn.ModuleList):
    """The edges of a :class:`Stack` in another order."""

    def __init__(self) -> None:
        net = Stack()
        super().__init__([net.head, net.layers, net.stem])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edges": ["width", "nowhere"]}, "what edges cost together is"),
        ({"edges": ["width"]}, "cost together has the shape"),
        ({"costs": [[1.0, "x"], [2.0, 3.0]]}, "what edges cost together is"),
        ({"costs": [[1.0, math.inf], [2.0, 3.0]]}, "is not finite"),
        ({"costs": [1.0, 2.0]}, "width and first cost together has the shape"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    search, tables, _ = counted_stack()
    content: Any = tables["params"].content()
    pair = {"edges": ["width", "first"], "costs": [[1.0, 2.0], [3.0, 4.0]]}
    with pytest.raises(ValueError, match=says):
        CostTable.read({**content, "interactions": [{**pair, **change}]}, search.space)
    with pytest.raises(ValueError, match="its interactions are 3"):
        CostTable.read({**content, "interactions": 3}, search.space)
    rows = {**content["edges"], "gone": {"x": 0.0}}
    gone = [{"edges": ["width", "gone"], "costs": [[1.0], [2.0]]}]
    with pytest.raises(ValueError, match="depends on the edge 'gone', which the network has not"):
        CostTable.read({**content, "edges": rows, "interactions": gone}, search.space)


# -- in what comes after a search ------------------------------------------------------------------------------------


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
    again = pickle.loads(pickle.dumps(ranking))
    assert [row.choice for row in again.within(both)] == [row.choice for row in ranking.within(both)]
    for genotype in finalists_of(search, draws=20, plan=ranking.plan(both)):
        assert max(costs[tuple(search.space.choice(genotype))].values()) <= budget


# -- where it is not known what edges cost together -------------------------------------------------------------------


class Product(nn.Module):
    """Two edges that no parameter shares, and whose sizes multiply each other in a product."""

    def __init__(self) -> None:
        super().__init__()
        self.left = elastic(nn.Linear(FEATURES, 6), out_features=[2, 4, 6], name="left")
        self.right = elastic(nn.Linear(FEATURES, 6), out_features=[3, 6], name="right")
        self.head = nn.Linear(1, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.left(x).unsqueeze(-1) @ self.right(x).unsqueeze(-2)
        return self.head(outer.flatten(1).mean(-1, keepdim=True))


def test_a_product_that_no_parameter_shows_is_found_and_costs_stay_above() -> None:
    net = Product()
    search = RandomSearch(net, objective=Classification(CLASSES))
    says = "cost=macs: what candidates of the edges left, right cost depends on each other.* above what a network costs"
    with pytest.warns(UserWarning, match=says):
        tables = measure_costs(["params", "macs"], net, search.evaluator, BATCH)
    assert not tables["macs"].interactions
    for choice in itertools.product(range(3), range(2)):
        found = search.space.genotype(choice).apply(net)
        assert tables["macs"].of(choice) >= count_macs(found, BATCH[0]) / 6 * (1 - 1e-12)
        assert tables["params"].of(choice) == count_parameters(found)


def test_too_many_networks_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advnas_lightning.cost.elastic.MOST_COUNTED", 5)
    net = Stack()
    search = RandomSearch(net, objective=Classification(CLASSES))
    with pytest.warns(UserWarning, match=r"cost=params: what candidates of the edges .* is not measured together"):
        table = measure_costs(["params"], net, search.evaluator, BATCH)["params"]
    assert not table.interactions
