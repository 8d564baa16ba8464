"""A loss that cannot be descended is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from advnas_lightning import (
    ENAS,
    PARSEC,
    REINFORCE,
    AdvantageNAS,
    MixedOp,
    SearchStrategy,
)
from advnas_lightning.objectives import Objective, Outcome
from tests.support.classifier import OwnLoss, loader, pair
from tests.support.refusals import one_line
from tests.support.spoilt import OPTIMIZERS, Module, Spoil, network, search_with

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


def test_without_a_loss_the_strategy_says_what_to_define(make_loaders: Make, fit: Fit) -> None:
    search = AdvantageNAS(network(), architecture_optimizer=Adam, weight_optimizer=partial(SGD, lr=0.1))
    with pytest.raises(NotImplementedError, match=r"objective=.*loss\(batch\)"):
        fit(search, make_loaders())


# -- losses ----------------------------------------------------------------------------------------------------------


LOSSES: dict[str, tuple[Spoil, str]] = {
    "one per sample": (lambda losses: losses, "[6]"),
    "detached": (lambda losses: losses.mean().detach(), "graph"),
    "of whole numbers": (lambda losses: losses.mean().long(), "int64"),
    "complex": (lambda losses: losses.mean().to(torch.complex64), "complex64"),
    "a number": (lambda losses: losses.mean().item(), "float"),
    "nothing": (lambda losses: None, "NoneType"),
    "a pair": (lambda losses: (losses.mean(), 6), "tuple"),
    "a text": (lambda losses: "loss", "str"),
    "a dict": (lambda losses: {"cost": losses.mean()}, "dict"),
}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("step", ["weight", "architecture"])
def test_a_loss_that_cannot_be_descended_is_named(kind: str, step: str, fit: Fit) -> None:
    loss, named = LOSSES[kind]
    search = search_with(loss, **({"weight_optimizer": None} if step == "architecture" else {}))
    with one_line("loss", named):
        fit(search, pair(3, 3))
    assert (search.weight_steps, search.architecture_steps) == (0, 0)


@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "nothing"])  # that leaves a batch out
def test_a_modules_loss_that_cannot_be_descended_is_named(kind: str, fit: Fit) -> None:
    loss, named = LOSSES[kind]
    search = AdvantageNAS(Module(loss), architecture_optimizer=partial(Adam, lr=0.1))
    with one_line("Module.training_step", *(["loss"] if kind == "a dict" else ["loss", named])):
        fit(search, pair(3, 3))


@pytest.mark.parametrize("kind", [REINFORCE, ENAS, PARSEC])
@pytest.mark.parametrize("loss", ["one per sample", "detached"])
def test_strategies_without_a_gradient_name_it_too(kind: type[SearchStrategy], loss: str, fit: Fit) -> None:
    # Their architecture steps take a loss without a graph; their weight steps would all be left out unnoticed.
    spoil, named = LOSSES[loss]
    with one_line("loss", named):
        fit(search_with(spoil, kind), pair(3, 3))


def test_edges_that_a_network_detaches_are_no_part_of_its_loss(fit: Fit) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = network(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x).detach())

    with one_line("loss", "do not detach"):
        fit(OwnLoss(Detached(), **OPTIMIZERS), pair(3, 3))


def test_a_draw_without_parameters_is_no_loss_without_a_graph(fit: Fit) -> None:
    edge = MixedOp("edge", {"tanh": nn.Tanh(), "skip": nn.Identity()})
    search = OwnLoss(nn.Sequential(edge, nn.Softsign()), **OPTIMIZERS)
    fit(search, pair(3, 3))
    assert (search.weight_steps, search.skipped_weight_steps, search.architecture_steps) == (0, 3, 3)


@pytest.mark.parametrize("kind", ["one per sample", "a number"])
def test_a_bad_loss_of_an_evaluation_is_named(kind: str, fit: Fit) -> None:
    loss, named = LOSSES[kind]
    search = search_with(lambda losses: losses.mean() if torch.is_grad_enabled() else loss(losses))
    with one_line("loss", named):
        fit(search, pair(3, 3), loader())


@pytest.mark.parametrize("size", [0, -1])
def test_a_loss_is_the_mean_of_at_least_one_term(size: Any, fit: Fit) -> None:
    class Own(Objective):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
            return Outcome(F.cross_entropy(model(batch[0]), batch[1]), size)

    with one_line(f"size={size}"):
        fit(AdvantageNAS(network(), **OPTIMIZERS, objective=Own()), pair(3, 3), loader())


@pytest.mark.parametrize("kind", ["one per sample", "a number", "nothing"])
def test_a_tasks_loss_is_named_too(kind: str, fit: Fit) -> None:
    spoil, named = LOSSES[kind]

    class Own(Objective):
        def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
            return Outcome(spoil(F.cross_entropy(model(batch[0]), batch[1], reduction="none")), 6)

    with one_line("loss", named):
        fit(AdvantageNAS(network(), **OPTIMIZERS, objective=Own()), pair(3, 3), loader())
