"""What candidates share is counted once, for whom it is there: the network that is found costs what the cost says."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from advnas_lightning import DARTS, AdvantageNAS, ArchitectureCost, MixedOp, SearchSpace, SearchStrategy
from advnas_lightning.cost import count_macs, count_parameters
from advnas_lightning.cost.measuring import count_candidates, meter_candidates
from advnas_lightning.cost.table import CostTable
from advnas_lightning.objectives import Classification, Outcome
from tests.support.classifier import pair
from tests.support.linear_space import every_choice
from tests.support.refusals import one_line
from tests.support.speed import slow_but

WIDTH = 4
INPUT = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """Edges in a row, with modules that some candidates share, and a network beside them that may use some too."""

    def __init__(self, edges: list[MixedOp], beside: list[nn.Module]) -> None:
        super().__init__()
        self.edges, self.beside = nn.ModuleList(edges), nn.ModuleList(beside)

    def forward(self, x: Tensor) -> Tensor:
        for module in (*self.beside, *self.edges):
            x = module(x)
        return x


def random_network(dice: random.Random, *, across: bool) -> Shared:
    """A network whose candidates are made of few modules; ``across`` edges too, or else within edges of one name."""

    def pool() -> list[nn.Module]:
        return [nn.Linear(WIDTH, WIDTH, bias=dice.random() < 0.5) for _ in range(dice.randint(1, 4))]

    everywhere, beside = pool(), [nn.Linear(WIDTH, WIDTH)]
    edges = []
    for name in dice.sample("aabbc", dice.randint(1, 4)):
        own = pool()
        known = next((edge for edge in edges if edge.name == name), None)
        parts = own + (everywhere if across else [])
        if known is not None and dice.random() < 0.5:  # another place of an edge may use the same modules
            parts += [module for module in known.candidates.modules() if isinstance(module, nn.Linear)]
        if dice.random() < 0.3:
            parts += beside
        names = [f"c{index}" for index in range(dice.randint(2, 4))] if known is None else known.names
        candidates = {}
        for candidate in names:
            chosen = [dice.choice(parts) for _ in range(dice.randint(0, 3))]
            candidates[candidate] = chosen[0] if len(chosen) == 1 else nn.Sequential(*chosen)
        edges.append(MixedOp(name, candidates))
    return Shared(edges, beside)


COUNTS = slow_but([30, 300], [30])  # of random networks


def networks(count: int, *, across: bool) -> Iterator[tuple[Shared, SearchSpace]]:
    for seed in range(count):
        network = random_network(random.Random(seed), across=across)
        yield network, SearchSpace(network)


def derived_sizes(network: Shared, space: SearchSpace) -> dict[tuple[int, ...], int]:
    return {choice: count_parameters(space.genotype(choice).apply(network)) for choice in every_choice(space)}


@pytest.mark.parametrize("count", COUNTS)
def test_each_architecture_costs_what_its_network_has(count: int) -> None:
    shared = 0
    for network, space in networks(count, across=False):
        table = count_candidates(network, space)
        sizes = derived_sizes(network, space)
        assert {choice: table.of(choice) for choice in sizes} == sizes
        assert (table.cheapest, table.largest) == (min(sizes.values()), max(sizes.values()))
        candidates = [each for edge in network.edges for each in edge.candidates.values()]
        counted = [id(weight) for each in candidates for weight in each.parameters()]
        shared += len(counted) > len(set(counted))
    assert shared > count / 3


def counted_or_refused(network: Shared, space: SearchSpace) -> CostTable | None:
    try:
        return count_candidates(network, space)
    except ValueError as error:
        if "share parameters, so what one costs depends on the other" not in str(error):
            raise
        return None


@pytest.mark.parametrize("count", COUNTS)
def test_sharing_between_different_edges_is_exact_or_refused(count: int) -> None:
    tables = []
    for network, space in networks(count, across=True):
        sizes = derived_sizes(network, space)
        table = counted_or_refused(network, space)
        assert table is None or {choice: table.of(choice) for choice in sizes} == sizes
        tables.append(table)
    assert 0.1 < tables.count(None) / count < 0.9


@pytest.mark.parametrize("count", slow_but([20, 60], [20]))
def test_each_architecture_takes_the_macs_that_its_network_takes(count: int) -> None:
    for network, space in networks(count, across=True):
        table = meter_candidates("macs", network, space, lambda network=network: Outcome(network(INPUT).sum(), 3))
        for choice in itertools.islice(every_choice(space), 12):
            assert table.of(choice) * 3 == count_macs(space.genotype(choice).apply(network), INPUT)


def test_a_network_that_hides_its_candidates_is_refused() -> None:
    network = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(4, 4), "skip": nn.Identity()}))
    space = SearchSpace(network)
    with one_line("no candidate could be measured in the network: a compiled network hides them"):
        meter_candidates("macs", network, space, lambda: Outcome(torch.zeros(()), 1))  # as compiled code runs


def test_a_function_is_called_for_the_candidate_of_its_edge_alone() -> None:
    shared = nn.Linear(WIDTH, WIDTH)
    both = {"inner": nn.Sequential(shared, nn.ReLU()), "plain": shared}
    network = Shared([MixedOp("a", both), MixedOp("b", {"plain": shared, "skip": nn.Identity()})], [shared])
    space, seen = SearchSpace(network), []

    def meter(candidate: nn.Module, x: Tensor) -> float:
        seen.append(candidate)
        return 1.0

    table = meter_candidates(meter, network, space, lambda: Outcome(network(INPUT).sum(), 3))
    assert table.edges == {"a": {"inner": 1, "plain": 1}, "b": {"plain": 1, "skip": 1}}
    assert [type(each).__name__ for each in seen] == ["Sequential", "Linear", "Linear", "Identity"]


def test_edges_that_share_a_parameter_are_both_named() -> None:
    shared = nn.Linear(WIDTH, WIDTH)
    network = nn.Sequential(
        MixedOp("first", {"plain": shared, "skip": nn.Identity()}),
        MixedOp("second", {"act": nn.Sequential(shared, nn.ReLU()), "skip": nn.Identity()}),
    )
    with one_line("cost=params", "edge 'first' (candidate 'plain') and edge 'second' (candidate 'act')", "one name"):
        count_candidates(network, SearchSpace(network))


def test_what_all_candidates_of_an_edge_share_is_there_for_another_edge_too() -> None:
    shared = nn.Linear(WIDTH, WIDTH)
    network = nn.Sequential(
        MixedOp("first", {"plain": shared, "act": nn.Sequential(shared, nn.ReLU())}),
        MixedOp("second", {"plain": shared, "skip": nn.Identity()}),
    )
    table = count_candidates(network, SearchSpace(network))
    assert table == CostTable("params", {"first": {"plain": 0, "act": 0}, "second": {"plain": 0, "skip": 0}}, 20)


def test_a_module_without_a_shape_is_named() -> None:
    network = nn.Sequential(MixedOp("edge", {"lazy": nn.LazyLinear(WIDTH), "skip": nn.Identity()}))
    with one_line("candidate 'lazy' of edge 'edge' has parameters without a shape"):
        count_candidates(network, SearchSpace(network))


@pytest.mark.parametrize("kind", [DARTS, AdvantageNAS])
def test_the_network_that_is_found_is_within_the_budget(kind: type[SearchStrategy], fit: Any) -> None:
    shared = nn.Linear(8, 8)
    edge = MixedOp("edge", {"plain": shared, "act": nn.Sequential(shared, nn.ReLU()), "skip": nn.Identity()})
    search = kind(
        nn.Sequential(nn.Linear(4, 8), edge, nn.Linear(8, 3)),
        weight_optimizer=partial(SGD, lr=0.1),
        architecture_optimizer=partial(Adam, lr=0.05),
        objective=Classification(3),
        cost=ArchitectureCost("params", budget=80),
    )
    fit(search, pair(), max_epochs=3)
    found = search.space.choice(search.genotype())
    assert float(search.cost.expected(search.one_hot(found).gates)) == count_parameters(search.derive()) == 67
