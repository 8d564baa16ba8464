"""Lightning's callbacks that watch, in a search of a user's module."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from torch import Tensor
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from advnas_lightning import (
    SearchStrategy,
)
from tests.support.classifier import VAL, Classifier, OwnLoss, Rows, Scripted, loader, make, search_of
from tests.support.speed import slow_but

Make = Callable[..., Any]


class Scored(Classifier):
    """Logs a score that is known beforehand, epoch by epoch."""

    scores = (5.0, 3.0, 2.0, 2.5, 2.0, 1.0, 9.0)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("score", self.scores[self.current_epoch])

    def on_train_epoch_end(self) -> None:
        self.log("train_score", self.scores[self.current_epoch])


@pytest.mark.parametrize(
    ("patience", "epochs", "monitor"),
    slow_but(
        [(*each, monitor) for each in [(1, 4), (2, 5), (3, 7)] for monitor in ("score", "train_score")],
        [(2, 5, "train_score")],
    ),
)
def test_early_stopping_on_the_modules_metric(monitor: str, patience: int, epochs: int, train: Make) -> None:
    # The best is that of epoch 2, and 2 again is no better.
    search = search_of(make(Scored))
    trainer = train(search, max_epochs=7, callbacks=[EarlyStopping(monitor, patience=patience)])
    assert trainer.current_epoch == epochs
    assert search.weight_steps == search.architecture_steps == 6 * epochs


@pytest.mark.parametrize(
    ("own_loss", "validates"),
    slow_but(itertools.product([False, True], [True, False]), [(True, False)]),
)
def test_early_stopping_on_the_entropy(validates: bool, own_loss: bool, train: Make) -> None:
    kind: type[SearchStrategy] = type("Search", (Scripted, OwnLoss), {}) if own_loss else Scripted
    search = search_of(make().net if own_loss else make(), kind)
    off = {} if validates else {"limit_val_batches": 0}
    # From 0.5 on, no epoch is better by 0.25.
    trainer = train(search, max_epochs=7, callbacks=[EarlyStopping("entropy", patience=2, min_delta=0.25)], **off)
    assert trainer.current_epoch == 4


def test_early_stopping_names_the_metrics_that_there_are(train: Make) -> None:
    with pytest.raises(RuntimeError, match=r"`loss` which is not available.*`train_loss`.*`val_loss`.*`entropy`"):
        train(search_of(), callbacks=[EarlyStopping("loss")])


@pytest.mark.parametrize("adam", slow_but([False, True], [False]))
def test_the_learning_rates_of_both_optimizers_are_logged(adam: bool, train: Make) -> None:
    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = Adam(self.parameters(), lr=0.1) if adam else SGD(self.parameters(), lr=0.1)
            return [optimizer], [StepLR(optimizer, 1, 0.5)]

    logger = Rows()
    search = search_of(make(Scheduled), architecture_scheduler=partial(StepLR, step_size=1, gamma=0.1), warmup_epochs=1)
    trainer = train(search, max_epochs=4, logger=logger, callbacks=[LearningRateMonitor("epoch")])
    weights, theta = ("lr-Adam", "lr/architecture") if adam else ("lr-SGD", "lr/architecture")
    assert logger.values(weights) == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    assert logger.values(theta) == pytest.approx([0.1, 0.1, 0.01, 0.001])  # θ's stays in the warm-up
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.00625)


def test_optimizers_without_a_schedule_are_told_apart(train: Make) -> None:
    class WithAdam(Classifier):
        def configure_optimizers(self) -> Any:
            return Adam(self.parameters(), lr=0.01)

    for kind, names in ((Classifier, {"lr-SGD": 0.1, "lr-Adam": 0.3}), (WithAdam, {"lr-Adam": 0.01, "lr-Adam-1": 0.3})):
        logger = Rows()
        search = search_of(make(kind), architecture_optimizer=partial(Adam, lr=0.3))
        train(search, logger=logger, callbacks=[LearningRateMonitor()], log_every_n_steps=1)
        for name, rate in names.items():
            assert set(logger.values(name)) == {rate}


class Entropies(Callback):
    """Notes each epoch's entropy and θ."""

    def __init__(self) -> None:
        self.entropies: list[float] = []
        self.states: list[dict[str, Any]] = []
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SearchStrategy)
        self.entropies.append(float(pl_module.entropy))
        self.states.append(copy.deepcopy(pl_module.state_dict()))
        self.losses.append(float(trainer.callback_metrics["val_loss"]))


@pytest.mark.parametrize("monitor", slow_but(["val_loss", "entropy"], ["entropy"]))
def test_the_best_epoch_is_kept_and_can_be_loaded(monitor: str, train: Make, assert_same: Make, tmp_path: Path) -> None:
    saving, noted = ModelCheckpoint(tmp_path, "{epoch}", monitor=monitor), Entropies()
    search = search_of(warmup_epochs=1)
    train(search, max_epochs=5, callbacks=[saving, noted], enable_checkpointing=True)
    values = noted.losses if monitor == "val_loss" else noted.entropies
    best = min(range(5), key=values.__getitem__)
    assert [path.name for path in tmp_path.iterdir()] == [f"epoch={best}.ckpt"]
    assert float(saving.best_model_score) == pytest.approx(values[best])  # type: ignore[arg-type]
    saved = torch.load(saving.best_model_path, weights_only=True)["state_dict"]
    assert_same({name: saved[name] for name in noted.states[best]}, dict(noted.states[best]))
    again = search_of(warmup_epochs=1)
    again.load_state_dict(saved)
    assert torch.equal(again.theta, noted.states[best]["theta"])
    validated = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (metrics,) = validated.validate(again.derive(), loader(9, VAL), verbose=False)
    assert metrics["val_loss"] == pytest.approx(noted.losses[best], rel=1e-5)


@pytest.mark.parametrize("bar", slow_but([TQDMProgressBar, RichProgressBar, None], [RichProgressBar]))
def test_progress_bars_show_the_modules_metrics(
    bar: type[Callback] | None, train: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    search = search_of()
    train(search, callbacks=[bar()] if bar else [], enable_progress_bar=bar is not None, log_every_n_steps=1)
    printed = "".join(capsys.readouterr())
    assert all((text in printed) == (bar is not None) for text in ("train_loss", "entropy", "architecture/loss"))
    assert (search.weight_steps, search.architecture_steps) == (12, 12)
