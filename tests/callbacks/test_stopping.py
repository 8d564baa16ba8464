"""A search that has converged stops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Adam

from advnas_lightning import (
    MixedOp,
    SearchStrategy,
)
from advnas_lightning.callbacks import ConvergenceStopping
from tests.support.classifier import Classifier, Scripted, Wrap, as_it_is, make, search_of, subject
from tests.support.speed import slow_but

Make = Callable[..., Any]


def test_a_search_stops_at_the_first_epoch_below_the_threshold(train: Make) -> None:
    search = search_of(kind=Scripted)
    trainer = train(search, max_epochs=7, callbacks=[ConvergenceStopping(0.3)])
    assert trainer.current_epoch == 5  # 0.3 is not below
    assert search.architecture_steps == 30


@pytest.mark.parametrize("which", slow_but(["module", "own loss"], ["module"]))
def test_a_search_that_converges_stops(which: str, train: Make) -> None:
    noted: list[float] = []

    class Note(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            noted.append(float(pl_module.entropy))

    search = subject(which)
    trainer = train(search, max_epochs=60, callbacks=[ConvergenceStopping(0.4), Note()])
    assert 1 < trainer.current_epoch < 60
    assert len(noted) == trainer.current_epoch
    assert min(noted[:-1]) >= 0.4 > noted[-1]


def test_a_search_that_does_not_converge_is_left_alone(train: Make) -> None:
    assert train(search_of(), max_epochs=4, callbacks=[ConvergenceStopping(1e-6)]).current_epoch == 4


class OneChoiceOfMany(Classifier):
    """Nine edges, of which one has a second candidate: the mean entropy of equal θ is log 2 / 9 = 0.077."""

    def __init__(self, wrap: Wrap = as_it_is) -> None:
        super().__init__(wrap)
        alone = [MixedOp(f"alone{index}", {"tanh": nn.Tanh()}) for index in range(8)]
        choice = MixedOp("choice", {"tanh": nn.Tanh(), "linear": nn.Linear(8, 8)})
        self.net = nn.Sequential(nn.Linear(4, 8), *alone, choice, nn.Linear(8, 3))


@pytest.mark.parametrize("kind", [Classifier, OneChoiceOfMany])
def test_the_warm_up_is_no_convergence(kind: type[Classifier], train: Make) -> None:
    search = search_of(make(kind), warmup_epochs=3, architecture_optimizer=partial(Adam, lr=1e-3))
    train(search, max_epochs=4, callbacks=[ConvergenceStopping()])
    assert search.architecture_steps == 6


def test_edges_without_a_choice_do_not_count(train: Make) -> None:
    search = search_of(make(OneChoiceOfMany), architecture_optimizer=partial(Adam, lr=1e-3))
    assert train(search, max_epochs=3, callbacks=[ConvergenceStopping(0.6)]).current_epoch == 3  # that of the one: 0.69
    assert train(search, max_epochs=6, callbacks=[ConvergenceStopping(0.7)]).current_epoch < 6


@pytest.mark.parametrize("crash", [1, 3])
def test_a_resumed_search_stops_where_the_whole_one_does(crash: int, train: Make, tmp_path: Path) -> None:
    def go(**options: Any) -> tuple[SearchStrategy, int]:
        search = search_of(kind=Scripted)
        trainer = train(search, callbacks=[ConvergenceStopping(0.3)], **{"max_epochs": 7, **options})
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return search, trainer.current_epoch

    whole, epochs = go()
    assert go(max_epochs=crash)[1] == crash
    resumed, stopped = go(ckpt_path=tmp_path / "end.ckpt")
    assert stopped == epochs == 5
    assert torch.equal(resumed.theta, whole.theta)
