"""A search in half and in double precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.optim import SGD

from advnas_lightning import (
    Trial,
)
from tests.support.small_search import parameters_of

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


def test_bfloat16_networks_are_searched(engine: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search, loaders = make_search(engine), make_loaders(weights=2)
    fit(search, loaders, precision="bf16-mixed")
    assert search.weight_steps == 2
    if search.searches:
        assert all(parameter.isfinite().all() for parameter in search.architecture_parameters())
        assert {parameter.dtype for parameter in search.architecture_parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["advantage", "enas", "parsec", "proxylessnas", "gdas", "darts", "snas", "nasp"])
def test_double_precision_networks_are_searched(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search, loaders = make_search(name), make_loaders(weights=3)
    for loader in loaders.values():
        loader.dataset.inputs = loader.dataset.inputs.double()
    fit(search, loaders, loaders["architecture"], precision="64-true")
    assert search.architecture_steps == 3
    assert {parameter.dtype for parameter in search.architecture_parameters()} == {torch.float64}


def test_the_mathematics_of_a_step_is_in_full_precision_under_autocast(
    make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    class Checked:
        def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
            gradient = super().theta_gradient(trials)
            with torch.autocast("cpu", enabled=False):
                omega = torch.stack([-trial.size * trial.loss for trial in trials]).softmax(0)
                mean = sum(w * trial.architecture.gates for w, trial in zip(omega, trials, strict=True))
                torch.testing.assert_close(gradient, self.probs - mean)
            return gradient

    search = make_search("parsec", mixin=Checked)
    fit(search, make_loaders(), precision="bf16-mixed")
    assert search.architecture_steps == 4


@pytest.mark.parametrize("name", ["advantage", "enas", "darts", "gdas", "nasp"])
def test_the_loss_scaling_of_half_precision_changes_no_architecture_step(
    name: str, small_net: Make, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    """The gradient scaler unscales what an optimizer is given, so θ's gradient must be given scaled."""

    def theta(**options: Any) -> list[Tensor]:
        search = make_search(
            name,
            small_net(dropout=0.0, norm=False),  # a norm after a choice's scale leaves it no gradient
            weight_optimizer=partial(SGD, lr=0.0),
            architecture_optimizer=partial(SGD, lr=1.0),
            **({"baseline_init": "zero"} if name == "enas" else {}),  # so that the first loss is no baseline of itself
        )
        start = parameters_of(search)
        fit(search, make_loaders(weights=1), **options)
        return [after - before for before, after in zip(start, parameters_of(search), strict=True)]

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plain, scaled = theta(), theta(plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    largest = max(part.abs().max().item() for part in plain)
    assert largest > 0
    for part, expected in zip(scaled, plain, strict=True):
        torch.testing.assert_close(part, expected, rtol=0.05, atol=0.05 * largest)
