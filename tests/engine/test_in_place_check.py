"""What a found network would change in place where an identity was chosen, and a search does not, is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from advnas_lightning import DARTS, REINFORCE, AdvantageNAS, CounterfactualNAS, MixedOp, search_loaders
from advnas_lightning.objectives import Regression
from benchmarks.software_device import DEVICE, software_device

STRATEGIES = {"advantage": AdvantageNAS, "reinforce": REINFORCE, "darts": DARTS, "counterfactual": CounterfactualNAS}


class Block(nn.Module):
    """A residual block that normalizes first, perhaps, and then applies an activation."""

    def __init__(self, activation: nn.Module, *, residual: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = MixedOp("norm", {"layer norm": nn.LayerNorm(4), "none": nn.Identity()})
        self.other = MixedOp("other", {"tanh": nn.Tanh(), "same": nn.Identity()})
        self.activation, self.last, self.residual = activation, nn.Linear(4, 4), residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(self.first(x))
        out: Tensor = self.last(self.activation(self.norm(x)))
        return out + x if self.residual else out


def search(
    net: nn.Module, fit: Callable[..., Trainer], make: Any = AdvantageNAS, max_epochs: int = 1, **options: Any
) -> Any:
    torch.manual_seed(0)
    data = DataLoader([(torch.randn(4), torch.ones(4)) for _ in range(16)], 4)
    made = make(net, objective=Regression(), architecture_optimizer=partial(SGD, lr=0.1),
                weight_optimizer=partial(SGD, lr=0.1), **options)  # fmt: skip
    fit(made, search_loaders(data, architecture=0.5), max_epochs=max_epochs)
    return made


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_input_that_is_changed_and_used_again_is_refused(name: str, fit: Callable[..., Trainer]) -> None:
    with pytest.raises(ValueError, match="where edge 'norm' runs 'none', which returns its input"):
        search(Block(nn.ReLU(inplace=True)), fit, STRATEGIES[name])


class Sums(nn.Module):
    """Adds what each edge returns, which no gradient needs."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(MixedOp(f"edge {n}", {"same": nn.Identity(), "tanh": nn.Tanh()}) for n in range(9))

    def forward(self, x: Tensor) -> Tensor:
        for edge in self.edges:
            x = x + edge(x)
        return x


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_it_observes_takes_no_memory(name: str) -> None:
    def peak(observed: tuple[str, ...]) -> int:
        torch.manual_seed(0)
        with software_device() as memory:
            made = STRATEGIES[name](Sums(), objective=Regression(), architecture_optimizer=partial(SGD, lr=0.1))
            made.to(DEVICE)
            made.evaluator.observed = observed
            batch, before = torch.ones(100, 4).to(DEVICE), memory.now
            memory.peak = before
            made.evaluate(made.space.one_hot([0] * len(made.space)), (batch, batch))
            return memory.peak - before

    assert peak(()) == peak(tuple(f"edge {n}" for n in range(9)))


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("name", ["advantage", "darts"])
@pytest.mark.parametrize("same", [Same(), nn.Flatten(), nn.Dropout(0.0), nn.Unflatten(-1, (4,))])
def test_any_candidate_that_returns_its_input_is_found(same: nn.Module, name: str, fit: Callable[..., Trainer]) -> None:
    net = Block(nn.ReLU(inplace=True))
    net.norm = MixedOp("norm", {"layer norm": nn.LayerNorm(4), "batch norm": nn.BatchNorm1d(4), "none": same})
    with pytest.raises(ValueError, match="where edge 'norm' runs 'none', which returns its input"):
        search(net, fit, STRATEGIES[name], max_epochs=4)


def test_a_loss_that_is_random_beyond_its_seed_is_not_refused(fit: Callable[..., Trainer]) -> None:
    noise = cycle((0.0, 1.0, 0.0, 0.0, 1.0))

    class Search(AdvantageNAS):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch).loss + next(noise)  # type: ignore[union-attr]

    search(Block(nn.ReLU(inplace=True), residual=False), fit, Search, max_epochs=8)


@pytest.mark.parametrize(
    "net",
    [Block(nn.ReLU()), Block(nn.ReLU(inplace=True), residual=False)],
    ids=["out of place", "not used again"],
)
def test_the_found_network_of_others_has_the_search_s_loss(net: nn.Module, fit: Callable[..., Trainer]) -> None:
    made, x = search(net, fit, calibrate=0), torch.randn(3, 4)
    for choice in ((0, 0), (0, 1), (1, 0), (1, 1)):
        with made.space.bind(made.space.one_hot(choice)):
            expected = made.model(x)
        assert torch.equal(made.space.genotype(choice).apply(made.model)(x.clone()), expected)


def test_a_batch_and_a_weight_that_the_check_would_change_stay(fit: Callable[..., Trainer]) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(4))
            self.edge = MixedOp("edge", {"tanh": nn.Tanh(), "same": nn.Identity()})
            self.last = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            changed = self.edge(x).mul_(2.0)
            with torch.no_grad():
                self.edge(self.shift).add_(1.0)
            return self.last(changed)

    torch.manual_seed(0)
    inputs = torch.randn(16, 4)
    before = inputs.clone()
    net = First()
    data = DataLoader([(inputs[place : place + 4], torch.ones(4, 4)) for place in range(0, 16, 4)], batch_size=None)
    made = AdvantageNAS(net, objective=Regression(), architecture_optimizer=partial(SGD, lr=0.1),
                        weight_optimizer=partial(SGD, lr=0.0))  # fmt: skip
    fit(made, {"weights": data, "architecture": data}, max_epochs=2)
    assert torch.equal(inputs, before)
    assert torch.equal(net.shift, torch.ones(4))


def test_the_module_is_told_that_a_check_is_no_weight_step(fit: Callable[..., Trainer]) -> None:
    weight_steps: list[int] = []

    class Search(AdvantageNAS):
        def loss(self, batch: Any) -> Tensor:
            if not self.in_architecture_step:
                weight_steps.append(self.global_step)
            return super().loss(batch)  # type: ignore[return-value]

    search(Block(nn.ReLU()), fit, Search)
    assert weight_steps == [0, 1]
