"""Loaders without a batch are refused where a search needs one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from advnas_lightning import (
    AdvantageNAS,
)
from tests.support.classifier import OwnLoss, loader, pair
from tests.support.refusals import one_line
from tests.support.spoilt import OPTIMIZERS, Module, network

Fit = Callable[..., Trainer]


class Nothing(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(())


@pytest.mark.parametrize(
    "weights",
    [DataLoader(TensorDataset(torch.zeros(0, 4)), batch_size=6), range(0), DataLoader(Nothing(), batch_size=2)],
    ids=["loader", "iterable", "stream"],
)
def test_an_empty_weights_loader_is_refused(weights: Any, fit: Fit) -> None:
    search = OwnLoss(network(), **OPTIMIZERS)
    with one_line("weights loader", "empty"):
        fit(search, {"weights": weights, "architecture": loader()})


@pytest.mark.parametrize("of_a_module", [False, True])
def test_weights_that_are_to_be_trained_need_batches(of_a_module: bool, fit: Fit) -> None:
    search = (
        AdvantageNAS(Module(lambda losses: losses.mean()), architecture_optimizer=partial(Adam, lr=0.1))
        if of_a_module
        else OwnLoss(network(), **OPTIMIZERS)
    )
    with one_line('"weights"'):
        fit(search, {"architecture": loader()})


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_warm_up_without_an_end_is_no_search(epochs: int, fit: Fit) -> None:
    search = OwnLoss(network(), **OPTIMIZERS, warmup_epochs=3)
    with pytest.warns(UserWarning, match=rf"warmup_epochs=3.*max_epochs={epochs}"):
        fit(search, pair(3, 3), max_epochs=epochs)
    assert search.architecture_steps == 0
