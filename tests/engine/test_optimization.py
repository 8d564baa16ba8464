"""Two optimizers with a schedule and a clip each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from advnas_lightning import (
    MixedOp,
)
from advnas_lightning.objectives import Classification
from tests.support.small_search import few, parameters_of
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
Make = Callable[..., Any]
SINGLE_PATH = [
    "advantage",
    "counterfactual",
    "reinforce",
    "enas",
    "parsec",
    "parsec-authors_code",
    "proxylessnas-binary",
    "gdas",
    "nasp",
    "random",
]


@pytest.mark.parametrize("name", ["advantage", "enas", "nasp", "random", "fixed"])
def test_schedules_move_in_the_epochs_in_which_their_parameters_do(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    halve = partial(StepLR, step_size=1, gamma=0.5)
    search = make_search(
        name,
        weight_optimizer=partial(SGD, lr=1.0),
        architecture_optimizer=partial(Adam, lr=1.0),
        weight_scheduler=halve,
        architecture_scheduler=halve,
        warmup_epochs=2,
    )
    rates = []

    class Look(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    trainer = fit(search, make_loaders(weights=1), max_epochs=4, callbacks=[Look()])
    rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
    assert [rate[0] for rate in rates] == [1, 0.5, 0.25, 0.125, 0.0625]
    assert [rate[1:] for rate in rates] == ([[1], [1], [1], [0.5], [0.25]] if search.searches else [[]] * 5)


@pytest.mark.parametrize("order", [("weights",), ("architecture",), ("weights", "architecture")])
def test_schedules_move_once_per_epoch_whichever_optimizers_there_are(
    order: tuple[str, ...], make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    """A schedule is told from its optimizer, not from its place in the list."""
    halve = partial(StepLR, step_size=1, gamma=0.5)
    search = make_search(
        "advantage",
        weight_optimizer=partial(SGD, lr=1.0),
        architecture_optimizer=partial(Adam, lr=1.0),
        weight_scheduler=halve if "weights" in order else None,
        architecture_scheduler=halve if "architecture" in order else None,
        warmup_epochs=1,
    )
    trainer = fit(search, make_loaders(weights=1), max_epochs=3)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == [0.125 if "weights" in order else 1, 0.25 if "architecture" in order else 1]


class NormSGD(SGD):
    """Notes the norm of each gradient that it is given."""

    def __init__(self, parameters: Any, norms: list[float]) -> None:
        super().__init__(parameters, lr=0.0)
        self.norms = norms

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)  # Lightning's closure clips
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return result


@pytest.mark.parametrize("name", slow_but(["advantage", "enas", "random"], ["enas", "random"]))
def test_each_optimizer_has_its_own_clip(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    def norms(**clips: float) -> tuple[list[float], list[float]]:
        weights: list[float] = []
        theta: list[float] = []
        search = make_search(
            name,
            weight_optimizer=partial(NormSGD, norms=weights),
            architecture_optimizer=partial(NormSGD, norms=theta),
            # or the first loss were its own baseline, and the first gradient nothing but a rounding error
            **({"baseline_init": "zero"} if name == "enas" else {}),
            **clips,
        )
        torch.manual_seed(0)  # the dropout's
        fit(search, make_loaders())
        return weights, theta

    weights, theta = norms()
    assert len(weights) == 4
    assert len(theta) == (0 if name == "random" else 4)
    w, t = sorted(weights)[2] * 0.99, (sorted(theta)[2] * 0.99 if theta else 1.0)
    for clips in ({"weight_clip": w}, {"architecture_clip": t}):
        for ours, before, clip in zip(
            norms(**clips), (weights, theta), ("weight_clip", "architecture_clip"), strict=True
        ):
            # torch multiplies by the clip / (norm + 1e-6); the rest is float32's rounding of one product and one norm
            expected = [norm * min(1.0, clips.get(clip, math.inf) / (norm + 1e-6)) for norm in before]
            assert ours == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", few(SINGLE_PATH))
def test_a_draw_without_parameters_skips_the_weight_step(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    model = nn.Sequential(MixedOp("first", {"tanh": nn.Tanh(), "linear": nn.Linear(4, 4)}), nn.Softsign())
    search = make_search(name, model, objective=Classification(4), weight_clip=1.0)
    fit(search, make_loaders(weights=12, architecture=12))
    assert search.weight_steps + search.skipped_weight_steps == 12
    assert search.weight_steps > 0
    assert search.skipped_weight_steps > 0
    assert search.architecture_steps == (12 if search.searches else 0)


@pytest.mark.parametrize(
    "name",
    slow_but(
        [*SINGLE_PATH, "proxylessnas", "darts", "snas", "fixed"], ["advantage", "enas", "parsec", "darts", "fixed"]
    ),
)
def test_a_network_without_parameters_skips_every_weight_step(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    options = {"genotype": {"first": "tanh"}} if name == "fixed" else {}
    model = nn.Sequential(MixedOp("first", {"tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}))
    search = make_search(name, model, objective=Classification(4), **options)
    fit(search, make_loaders())
    assert (search.weight_steps, search.skipped_weight_steps) == (0, 4)
    assert search.architecture_steps == (4 if search.searches else 0)


def test_without_a_weight_optimizer_the_weights_stay(
    engine: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    search = make_search(engine, weight_optimizer=None)
    start, theta = copy.deepcopy(search.model.state_dict()), parameters_of(search)
    keys = ("architecture",) if engine.startswith(("advantage", "snas", "random")) else ("weights", "architecture")
    loaders = {key: loader for key, loader in make_loaders(weights=3, architecture=3).items() if key in keys}
    if engine == "darts-second_order":
        with pytest.raises(MisconfigurationException, match="second_order=true"):
            fit(search, loaders)
        return
    fit(search, loaders)
    assert (search.weight_steps, search.architecture_steps) == (0, 3 if search.searches else 0)
    assert all(torch.equal(value, start[key]) for key, value in search.model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(theta, parameters_of(search), strict=True)) != search.searches
