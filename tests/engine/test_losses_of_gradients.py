"""A user's loss that is made of gradients is searched by every strategy, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD

from advnas_lightning import AdvantageNAS, ArchitectureCost, MixedOp
from tests.support.classifier import loader
from tests.support.refusals import one_line
from tests.support.small_search import STRATEGIES, few

Fit = Callable[..., Trainer]


class Critic(LightningModule):
    """As of a WGAN with a gradient penalty; it keeps its losses, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        candidates = {"linear": nn.Linear(8, 8), "tanh": nn.Tanh(), "soft": nn.Softplus()}
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), MixedOp("edge", candidates), nn.Linear(8, 1))
        self.kept: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        mixed = (batch[0] + torch.rand_like(batch[0])).requires_grad_()
        self.kept.append(0.0)
        (slope,) = torch.autograd.grad(self.net(mixed).sum(), mixed, create_graph=True)
        loss = self.net(batch[0]).mean() + (slope.norm(dim=1) - 1).square().mean()
        self.kept[-1] = loss.item()
        return loss

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.1)


REFUSED, EXACT = ("counterfactual", "fixed"), "counterfactual-exact"


@pytest.mark.parametrize("name", few(each for each in STRATEGIES if not each.startswith(REFUSED) or each == EXACT))
def test_every_strategy_searches_a_loss_of_gradients(name: str, fit: Fit) -> None:
    kind, options = STRATEGIES[name]
    module = Critic()
    search = kind(module, architecture_optimizer=partial(SGD, lr=1.0), **options)
    fit(search, {"weights": loader(1), "architecture": loader(2)})
    assert search.weight_steps == len(module.kept) == 3
    assert search.architecture_steps == (3 if search.searches else 0)
    assert all(parameter.isfinite().all() for parameter in search.parameters())
    if search.searches and search.needs_gate_grad:
        assert search.theta.ne(search.theta[0, 0]).any()


@pytest.mark.parametrize("name", ["counterfactual", "counterfactual-paper"])
def test_credits_of_candidates_that_did_not_run_are_refused_there(name: str, fit: Fit) -> None:
    kind, options = STRATEGIES[name]
    search = kind(Critic(), architecture_optimizer=partial(SGD, lr=1.0), **options)
    with one_line("edge 'edge'", "create_graph=True", "AdvantageNAS"):
        fit(search, {"weights": loader(1), "architecture": loader(2)})


def test_costs_of_its_network_are_measured_where_it_can_do_without(fit: Fit) -> None:
    class Careful(Critic):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) if torch.is_grad_enabled() else self.net(batch[0]).mean()

    def search(module: Critic) -> AdvantageNAS:
        cost = ArchitectureCost("macs", penalty=0.1)
        return AdvantageNAS(module, architecture_optimizer=partial(SGD, lr=1.0), cost=cost)

    data = {"weights": loader(1), "architecture": loader(2)}
    with one_line("cost=macs is measured without gradients", "torch.is_grad_enabled()"):
        fit(search(Critic()), data)
    careful = search(Careful())
    fit(careful, data)
    assert careful.cost is not None
    assert careful.cost.result().edges == {"edge": {"linear": 64.0, "tanh": 0.0, "soft": 0.0}}


class WithGraph(Critic):
    """Needs no second try."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.enable_grad():
            return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("name", ["reinforce", "enas", "parsec", "advantage-exact"])
def test_the_try_without_a_graph_changes_nothing(name: str, fit: Fit, assert_same: Callable[..., None]) -> None:
    """Where no gradient is needed the first evaluation fails half way, and is done again with a graph."""
    results = []
    for module in (Critic(), WithGraph()):
        kind, options = STRATEGIES[name]
        search = kind(module, architecture_optimizer=partial(SGD, lr=1.0), **options)
        torch.manual_seed(3)
        fit(search, {"weights": loader(1), "architecture": loader(2)})
        results.append((search.state_dict(), module.kept))
    assert_same(*results)


class Adversarial(Critic):
    """Learns from examples that a backward pass of its own has made worse."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].clone().requires_grad_()
        self.net(x).square().mean().backward()
        return self.net(batch[0] + 0.1 * x.grad.sign()).square().mean()


@pytest.mark.parametrize("name", few(each for each in STRATEGIES if not each.startswith("fixed")))
def test_every_strategy_searches_a_loss_with_a_backward_pass_of_its_own(name: str, fit: Fit) -> None:
    kind, options = STRATEGIES[name]
    search = kind(Adversarial(), architecture_optimizer=partial(SGD, lr=1.0), **options)
    fit(search, {"weights": loader(1), "architecture": loader(2)})
    assert search.weight_steps == 3
    assert search.architecture_steps == (3 if search.searches else 0)
    if search.searches and search.needs_gate_grad:
        assert search.theta.ne(search.theta[0, 0]).any()
