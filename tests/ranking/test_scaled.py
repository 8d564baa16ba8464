"""A ranking of elastic sizes has the uniformly scaled networks, so that what it finds is not worse than they are."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn

from advnas_lightning import AdvantageNAS, Depth, MixedOp, RandomSearch, elastic
from advnas_lightning.objectives import Regression
from advnas_lightning.ranking import Evolution
from advnas_lightning.ranking.of_search import distribution_of

LAYERS, SIZES, DEPTHS = 6, [1, 2, 3, 4], [3, 6]


class Block(nn.Module):
    """A residual block that adds a share of each of its features."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.up = elastic(nn.Linear(1, SIZES[-1], bias=False), out_features=SIZES, name=f"width {number}")
        self.down = elastic(nn.Linear(SIZES[-1], 1, bias=False), in_features=SIZES, name=f"width {number}")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x))


def network() -> nn.Module:
    """Its output is the farther from 1 the more widths differ from 2, so that no draw is likely to be exact."""
    net = nn.Sequential(Depth([Block(number) for number in range(LAYERS)], DEPTHS, name="depth"))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                shape = torch.tensor([1.0, 1.0, -0.5, -0.5])
                module.weight.copy_(shape.reshape(module.weight.shape) if module.in_features == 1 else torch.ones(1, 4))
    return net


def search(kind: type = RandomSearch) -> RandomSearch:
    settings = {} if kind is RandomSearch else {"architecture_optimizer": torch.optim.Adam}
    made: RandomSearch = kind(network(), objective=Regression(), **settings)
    return made


def batches() -> list[tuple[Tensor, Tensor]]:
    """The largest output that the network has, which that of width 2 in all of six layers gives."""
    return [(torch.ones(2, 1), torch.full((2, 1), 3.0**LAYERS))] * 2


def test_the_best_uniformly_scaled_network_is_found_where_draws_miss_it() -> None:
    ranking = search().rank(batches(), top=5, sample=5, costs=["params"])
    assert ranking.best.loss == 0
    assert ranking.best.source == "scaled"
    assert set(ranking.best.genotype.values()) == {"2", "6"}
    scaled = {tuple(row.genotype.values()) for row in ranking if row.source in ("scaled", "found")}
    widths = {choice[1:] if choice[0] == "6" else choice[1 : 1 + DEPTHS[0]] for choice in scaled}
    assert {(str(size),) * LAYERS for size in SIZES} <= widths
    assert {(str(size),) * DEPTHS[0] for size in SIZES} <= widths


def test_the_table_shows_the_best_of_them() -> None:
    ranking = search().rank(batches(), top=5, sample=5)
    assert ranking.table()[1][-1] == "uniformly scaled"
    worse = [row for row in ranking if row.source == "scaled"][1:]
    without = replace(ranking, rows=[row for row in ranking if row.source != "scaled"] + worse)
    last = {line[-1]: line[0] for line in without.table(0)[1:]}
    assert last.keys() == {"argmax", "uniformly scaled"}
    assert last["uniformly scaled"] == str(worse[0].rank)


def test_they_are_within_the_budgets() -> None:
    made = search()
    everything = made.rank(batches(), top=5, sample=0, costs=["params"])
    costs = sorted({row.costs["params"] for row in everything if row.source == "scaled"})
    for budget in (costs[1], costs[-1]):
        ranking = made.rank(batches(), top=5, sample=0, tables=everything.tables, budgets={"params": budget})
        own = sorted({row.costs["params"] for row in ranking if row.source == "scaled"})
        assert own == [cost for cost in costs if cost <= budget]


def test_an_evolution_starts_from_them() -> None:
    ranking = search().rank(batches(), top=5, sample=0, evolution=Evolution(4, population=12))
    made = [row.genotype for row in ranking if row.source == "evolution"]
    near = [sum(size == "2" for size in list(genotype.values())[1:]) >= LAYERS - 1 for genotype in made]
    assert sum(near) >= 3  # a random network has five widths of 2 with a chance of 0.4 %


def test_edges_without_sizes_keep_what_the_search_finds_most_probable() -> None:
    edge = MixedOp("act", {"relu": nn.ReLU(), "tanh": nn.Tanh(), "skip": nn.Identity()})
    net = nn.Sequential(edge, elastic(nn.Linear(1, 4), out_features=SIZES, name="width"))
    made = AdvantageNAS(net, objective=Regression(), architecture_optimizer=torch.optim.Adam)
    with torch.no_grad():
        made.theta[0, 1] += 1
    assert list(distribution_of(made).scaled) == [(1, index) for index in (3, 2, 1, 0)]


def test_other_spaces_have_none() -> None:
    edges = [MixedOp(name, {"relu": nn.ReLU(), "tanh": nn.Tanh()}) for name in "ab"]
    found = distribution_of(RandomSearch(nn.Sequential(*edges), objective=Regression()))
    assert found.scaled == []
    assert found.space.size == len(list(product(range(2), repeat=2)))
