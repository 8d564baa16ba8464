"""Temperatures fall with the architecture steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from advnas_lightning import (
    SearchLoader,
)

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


class Tempered:
    def architecture_step(self, batch: Any) -> None:
        self.temperatures.append(self.temperature)
        super().architecture_step(batch)


@pytest.mark.parametrize(
    ("options", "trainer", "alternate", "steps"),
    [
        pytest.param({}, {"max_epochs": 2}, False, 10, marks=pytest.mark.slow),
        ({"warmup_epochs": 2}, {"max_epochs": 4}, False, 10),
        pytest.param(
            {"warmup_epochs": 1}, {"max_epochs": 3, "limit_train_batches": 3}, False, 6, marks=pytest.mark.slow
        ),
        ({"warmup_epochs": 1}, {"max_epochs": 3, "limit_train_batches": 0.5}, False, 4),
        pytest.param({}, {"max_epochs": 3}, True, 6, marks=pytest.mark.slow),
        ({"warmup_epochs": 1}, {"max_epochs": 3, "limit_train_batches": 3}, True, 2),
    ],
)
def test_temperatures_follow_the_architecture_steps_that_are_taken(
    options: dict[str, Any],
    trainer: dict[str, Any],
    alternate: bool,
    steps: int,
    make_search: Make,
    make_loaders: Make,
    fit: Fit,
) -> None:
    loaders = make_loaders(weights=5)
    train = SearchLoader({"weights": loaders["weights"]}, alternate=True) if alternate else loaders
    gdas, snas = (make_search(name, mixin=Tempered, **options) for name in ("gdas", "snas"))
    for search in (gdas, snas):
        search.temperatures = []
        fit(search, train, **trainer)
        assert search.architecture_steps == steps
    assert gdas.temperatures == pytest.approx([10 + (0.1 - 10) * k / steps for k in range(steps)])
    assert snas.temperatures == pytest.approx([(1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)])
    assert gdas.temperatures[0] == 10
    assert snas.temperatures[0] == 1
    assert gdas.temperature == 0.1
    assert snas.temperature == 1e-3


def test_temperatures_stay_in_the_warm_up(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    for name, tau in (("gdas", 10), ("snas", 1)):
        search = make_search(name, warmup_epochs=1)
        temperatures = []

        class Look(Callback):
            def on_train_batch_end(self, *_: Any, search: Any = search, noted: list[float] = temperatures) -> None:
                noted.append(search.temperature)

        fit(search, make_loaders(), max_epochs=2, callbacks=[Look()])
        assert temperatures[:4] == [tau] * 4
        assert temperatures[4] < tau


@pytest.mark.parametrize("name", ["gdas", "snas"])
def test_temperatures_need_to_know_the_end(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    for unbounded in ({"max_epochs": None, "max_steps": 4}, {"max_epochs": -1, "max_steps": 4}):
        with pytest.raises(MisconfigurationException, match=r"anneals.*max_epochs"):
            fit(make_search(name), make_loaders(), **unbounded)
    endless = {"weights": _Endless(), "architecture": _Endless()}
    with pytest.raises(MisconfigurationException, match=r"anneals.*limit_train_batches"):
        fit(make_search(name), endless)


class _Endless:
    def __iter__(self) -> Any:
        while True:
            yield torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)
