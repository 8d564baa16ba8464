"""What each candidate costs: counted, timed, or told by the user."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from advnas_lightning import AdvantageNAS, ArchitectureCost, MixedOp, SearchStrategy
from advnas_lightning.cost import count_parameters
from advnas_lightning.objectives import Classification
from tests.support.measured import measured
from tests.support.speed import slow_but

Make = Callable[..., SearchStrategy]


def test_parameters_are_exact(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("params", penalty=1))
    cost = measured(search)
    for choice in [(0, 0), (1, 1), (2, 0), (3, 1)]:
        derived = search.space.genotype(choice).apply(search.model)
        assert float(cost.expected(search.one_hot(choice).gates)) == count_parameters(derived)
    assert cost.result().edges["first"] == {
        "linear": 60,
        "tanh": 0,
        "block": 2 * (25 + 10 + 30),
        "zero": 0,
    }  # in two cells


def test_multiply_accumulates_are_exact(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("macs", penalty=1))
    cost = measured(search)
    assert cost.result().edges == {
        "first": {"linear": 50, "tanh": 0, "block": 100, "zero": 0},
        "second": {"linear": 50, "skip": 0},
    }
    assert float(cost.fixed) == 4 * 5 + 5 * 3  # stem and head, for one of the six samples


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.edge = MixedOp("edge", {"conv": nn.Conv2d(2, 2, 3, padding=1), "deep": self.deep(), "skip": nn.Identity()})
        self.twice = MixedOp("edge", {"conv": nn.Conv2d(2, 2, 1), "deep": self.deep(), "skip": nn.Identity()})

    @staticmethod
    def deep() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(self.edge(x)).mean((2, 3))


def image_search(cost: ArchitectureCost) -> tuple[SearchStrategy, tuple[Tensor, Tensor]]:
    adam = partial(torch.optim.Adam, lr=0.1)
    search = AdvantageNAS(Image(), architecture_optimizer=adam, objective=Classification(2), cost=cost)
    batch = torch.randn(4, 2, 8, 8), torch.tensor([0, 1, 0, 1])
    cost.measure(search.model, search.evaluator, batch)
    return search, batch


def test_memory_is_what_a_backward_pass_needs() -> None:
    search, _ = image_search(ArchitectureCost("memory", penalty=1))
    activation = 4 * 2 * 8 * 8 * 4 / 2**20  # MiB
    costs = search.cost.result().edges["edge"]
    assert costs["conv"] == pytest.approx(2 * activation)  # at two places: its input
    assert costs["skip"] == 0
    # the inputs of convolution and normalization, the dropout's mask or factor, tanh's output; and statistics
    assert 4 * activation < costs["deep"] / 2 < 5 * activation


def test_latency_tells_slow_from_fast_and_times_each_place() -> None:
    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.003)
            return x

    model = nn.Sequential(*(MixedOp("a", {"slow": Slow(), "fast": nn.Identity()}) for _ in range(2)))
    cost = ArchitectureCost("latency", penalty=1)
    search = AdvantageNAS(
        model, architecture_optimizer=partial(torch.optim.Adam, lr=0.1), objective=Classification(3), cost=cost
    )
    cost.measure(search.model, search.evaluator, (torch.randn(2, 3), torch.tensor([0, 1])))
    costs = cost.result().edges["a"]
    assert 6 <= costs["slow"] < 60  # milliseconds; the upper bound leaves room for a busy machine
    assert costs["fast"] < 3


def test_a_function_of_the_users() -> None:
    def own(candidate: nn.Module, x: Tensor) -> float:
        return x.shape[-1] * sum(1 for _ in candidate.modules())

    search, _ = image_search(ArchitectureCost(own, penalty=1))
    assert search.cost.result().edges["edge"] == {"conv": 16, "deep": 80, "skip": 16}
    assert (float(search.cost.fixed), search.cost.result().content()["cost"]) == (0, "own")
    with pytest.raises(
        ValueError, match=r"cost of candidate 'conv' of edge 'edge' is None: it must be a finite number"
    ):
        image_search(ArchitectureCost(lambda candidate, x: None, penalty=1))


@pytest.mark.parametrize("kind", slow_but(["params", "macs", "latency", "memory"], ["macs", "latency"]))
def test_measuring_changes_nothing_else(
    kind: str, make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Trainer], assert_same: Any
) -> None:
    ends = []
    for cost in (None, ArchitectureCost(kind, penalty=0)):
        torch.manual_seed(0)
        search = make_search("advantage", cost=cost)
        fit(search, make_loaders(), max_epochs=2)
        state = {name: value for name, value in search.state_dict().items() if not name.startswith("cost.")}
        ends.append([dict(state), torch.get_rng_state()])
    assert_same(*ends)
