"""What an optimizer's or a schedule's factory has to make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import Adam

from tests.support.classifier import OwnLoss, pair
from tests.support.refusals import one_line
from tests.support.spoilt import OPTIMIZERS, network

Fit = Callable[..., Trainer]


@pytest.mark.parametrize("role", ["weight", "architecture"])
@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (lambda _: None, "NoneType"),
        # Nothing would move, and nothing would tell.
        (lambda _: Adam([nn.Parameter(torch.ones(1))]), "parameters"),
    ],
    ids=["nothing", "others"],
)
def test_an_optimizer_factory_makes_an_optimizer_of_what_it_is_given(
    role: str, factory: Callable[..., Any], says: str, fit: Fit
) -> None:
    search = OwnLoss(network(), **{**OPTIMIZERS, f"{role}_optimizer": factory})
    with one_line(f"{role}_optimizer", says):
        fit(search, pair(3, 3))


@pytest.mark.parametrize("role", ["weight", "architecture"])
def test_a_schedule_factory_makes_a_schedule(role: str, fit: Fit) -> None:
    with one_line(f"{role}_scheduler", "NoneType"):
        fit(OwnLoss(network(), **OPTIMIZERS, **{f"{role}_scheduler": lambda _: None}), pair(3, 3))
