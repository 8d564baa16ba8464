"""What elastic sizes cost is what the found networks cost."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import ArchitectureCost, Depth, MixedOp, elastic
from advnas_lightning.cost import measure_costs
from advnas_lightning.cost.measuring import measure_whole
from advnas_lightning.cost.meters import count_macs, count_parameters
from advnas_lightning.objectives import Classification
from tests.support.elastic_net import ElasticNet, SkipNet
from tests.support.small_search import CLASSES, FEATURES
from tests.support.speed import slow_but

Make = Callable[..., Any]
MEASURED = {"params": count_parameters, "macs": lambda net: count_macs(net, torch.zeros(6, FEATURES)) / 6}


class Chain(nn.Module):
    """Each layer has one elastic side; a choice of another kind lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.up = elastic(nn.Linear(FEATURES, 9), out_features=[9, 2, 5], name="first")
        self.norm = elastic(nn.BatchNorm1d(9), num_features=[9, 2, 5], name="first")
        self.down = elastic(nn.Linear(9, 4), in_features=[9, 2, 5], name="first")
        self.choice = MixedOp("choice", {"skip": nn.Identity(), "linear": nn.Linear(4, 4)})
        self.again = elastic(nn.Linear(4, 6, bias=False), out_features=[3, 6], name="second")
        self.head = elastic(nn.Linear(6, CLASSES), in_features=[3, 6], name="second")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.choice(self.down(self.norm(self.up(x)).relu()))).relu())


def tables(net: nn.Module, make_search: Make) -> Any:
    search = make_search("advantage", net)
    batch = torch.zeros(6, FEATURES), torch.zeros(6, dtype=torch.long)
    return search, measure_costs(list(MEASURED), net, search.evaluator, batch)


def every(search: Any) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(row)) for row in search.space.candidates)))


@pytest.mark.parametrize("net", [Chain, ElasticNet, SkipNet])
def test_costs_are_those_of_the_found_networks(net: Any, make_search: Make) -> None:
    with warnings.catch_warnings(action="error"):
        search, costs = tables(net(), make_search)
    assert bool(costs["params"].interactions) == (net is not Chain)  # in which a layer has two elastic sides
    for choice in every(search):
        found = search.space.genotype(choice).apply(search.model)
        for kind, measured in MEASURED.items():
            assert costs[kind].of(choice) == pytest.approx(measured(found), rel=1e-12), (kind, choice)


class Block(nn.Module):
    """A layer of a stack that has an elastic size of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.up = elastic(nn.Linear(FEATURES, 8), out_features=[2, 5, 8], name=f"hidden {number}")
        self.down = elastic(nn.Linear(8, FEATURES), in_features=[2, 5, 8], name=f"hidden {number}")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def test_layers_that_are_left_out_cost_nothing(make_search: Make) -> None:
    stack = Depth([Block(number) for number in range(3)], [1, 2, 3], name="depth")
    search, costs = tables(nn.Sequential(stack, nn.Linear(FEATURES, CLASSES)), make_search)
    for choice in every(search):
        found = search.space.genotype(choice).apply(search.model)
        for kind, measured in MEASURED.items():
            assert costs[kind].of(choice) == pytest.approx(measured(found), rel=1e-12), (kind, choice)


def test_a_tied_parameter_counts_once(make_search: Make) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            embedding, head = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
            head.weight = embedding.weight
            self.embedding = elastic(embedding, embedding_dim=[2, 8], name="d")
            self.head = elastic(head, in_features=[2, 8], name="d")

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embedding(x))

    search = make_search("advantage", Tied())
    table = measure_costs(["params"], search.model, search.evaluator, None)["params"]
    assert (table.of((0,)), table.of((1,))) == (10.0, 40.0)
    found: Any = search.space.genotype((0,)).apply(search.model)
    assert found.head.weight is found.embedding.weight
    assert count_parameters(found) == 10


class Recurrent(nn.Module):
    """The slices of its weights are copies, and a backward pass needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = elastic(nn.GRU(FEATURES, 8, num_layers=2), hidden_size=[2, 8], name="hidden")
        self.head = elastic(nn.Linear(8, CLASSES), in_features=[2, 8], name="hidden")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0])


@pytest.mark.parametrize("net", [Recurrent, Chain])
def test_memory_is_that_of_the_found_networks(net: Any, make_search: Make) -> None:
    search = make_search("advantage", net())
    batch = torch.zeros(6, FEATURES), torch.zeros(6, dtype=torch.long)
    table = measure_costs(["memory"], search.model, search.evaluator, batch)["memory"]
    for choice in every(search):
        found = search.space.genotype(choice).apply(search.model)
        run = partial(Classification(CLASSES), found, batch)
        assert table.of(choice) == pytest.approx(measure_whole("memory", found, run), rel=1e-12), choice


@pytest.mark.parametrize(
    ("net", "kind"),
    slow_but(itertools.product([Chain, ElasticNet], MEASURED), [(Chain, "params"), (ElasticNet, "macs")]),
)
def test_what_a_search_finds_is_within_its_budget(
    net: Any, kind: str, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    _, costs = tables(net(), make_search)
    budget = (costs[kind].cheapest * 2 + costs[kind].largest) / 3
    search = make_search("advantage", net(), cost=ArchitectureCost(kind, budget=budget), architecture_optimizer=ADAM)
    fit(search, make_loaders(), max_epochs=2)
    for select in ("argmax", "process_best"):
        if search.genotype(select) is not None:
            assert MEASURED[kind](search.genotype(select).apply(search.model)) <= budget


ADAM = partial(torch.optim.Adam, lr=0.3)


def test_a_cost_of_ones_own_is_refused(make_search: Make) -> None:
    search = make_search("advantage", Chain())
    with pytest.raises(
        ValueError, match=r"own is that of one candidate, and elastic sizes are measured in whole networks"
    ):
        measure_costs([own], search.model, search.evaluator, (torch.zeros(6, FEATURES), torch.zeros(6).long()))


def own(module: nn.Module, *inputs: Any) -> float:
    return 1.0
