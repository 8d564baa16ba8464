"""Schedules are stepped when Lightning would step them, whoever wrote the loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from omegaconf import OmegaConf
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR

from advnas_lightning import Fixed, Genotype, SearchStrategy
from advnas_lightning.engine.schedules import schedule
from tests.support.classifier import (
    GENOTYPE,
    VAL,
    Classifier,
    OwnLoss,
    Rows,
    assert_same_state,
    loader,
    make,
    pair,
    search_of,
)
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
BY_STEP: dict[str, Any] = {
    "one_cycle": {"scheduler": partial(OneCycleLR, max_lr=0.5, total_steps=18), "interval": "step"},
    "every_second": {"scheduler": partial(ExponentialLR, gamma=0.5), "interval": "step", "frequency": 2},
    "every_second_epoch": {"scheduler": partial(ExponentialLR, gamma=0.5), "frequency": 2},
    "plateau": {
        "scheduler": partial(ReduceLROnPlateau, patience=1, factor=0.5, threshold=0.3),
        "interval": "step",
        "monitor": "train_loss",
    },
    "plateau_of_validation": {
        "scheduler": partial(ReduceLROnPlateau, patience=0, factor=0.5, threshold=0.9),
        "interval": "step",
        "frequency": 3,
        "monitor": "val_loss",
        "strict": False,
    },
}


class Rates(Callback):
    """The rates that each batch, validation and epoch begins with."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(("batch", trainer.optimizers[0].param_groups[0]["lr"]))

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(("validation", trainer.optimizers[0].param_groups[0]["lr"]))

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append(("end", trainer.optimizers[0].param_groups[0]["lr"]))


class Scheduled(Classifier):
    options: dict[str, Any]

    def configure_optimizers(self) -> Any:
        sgd = SGD(self.parameters(), lr=0.1, momentum=0.9)
        return {"optimizer": sgd, "lr_scheduler": {**self.options, "scheduler": self.options["scheduler"](sgd)}}


@pytest.mark.parametrize(
    ("name", "own_loss", "check"),
    slow_but(
        [
            (name, own_loss, check)
            for name, own_loss, check in itertools.product(BY_STEP, [False, True], [1.0, 0.5])
            if not (own_loss and "plateau" in name)
        ],
        [*((name, False, 0.5) for name in BY_STEP), ("every_second", True, 1.0)],
    ),
)
def test_rates_are_those_of_the_modules_own_training(name: str, check: float, own_loss: bool, fit: Fit) -> None:
    kind = type(name, (Scheduled,), {"options": BY_STEP[name]})
    alone = Genotype(GENOTYPE).apply(make(kind))
    if own_loss:
        search: Any = type("Search", (Fixed,), {"loss": OwnLoss.loss})(
            make(kind).net,
            genotype=GENOTYPE,
            weight_optimizer=partial(SGD, lr=0.1, momentum=0.9),
            weight_scheduler=partial(schedule, **BY_STEP[name]),
        )
    else:
        search = Fixed(make(kind), genotype=GENOTYPE)
    found = []
    for module in (alone, search):
        torch.manual_seed(0)
        fit(
            module,
            pair()["weights"],
            loader(9, VAL),
            max_epochs=3,
            callbacks=[rates := Rates()],
            val_check_interval=check,
        )
        found.append(rates.seen)
    assert found[1] == found[0]
    assert len({rate for _, rate in found[0]}) > 1
    assert_same_state(search.model, alone.net if own_loss else alone)


def test_a_schedule_of_the_architecture_moves_with_its_batches(fit: Fit) -> None:
    seen: list[float] = []

    class Looking(OwnLoss):
        def architecture_step(self, batch: Any) -> None:
            seen.append(self.trainer.optimizers[1].param_groups[0]["lr"])
            super().architecture_step(batch)

    search = search_of(
        make().net,
        Looking,
        weight_optimizer=partial(SGD, lr=0.1),
        architecture_scheduler=lambda optimizer: {"scheduler": StepLR(optimizer, 4, gamma=0.1), "interval": "step"},
        warmup_epochs=1,
    )
    fit(search, pair(6, 6), max_epochs=3)
    assert seen == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 4)


def test_a_file_gives_one() -> None:
    text = """
    _target_: advnas_lightning.engine.schedules.schedule
    _partial_: true
    scheduler:
      _target_: torch.optim.lr_scheduler.OneCycleLR
      _partial_: true
      max_lr: 0.5
      total_steps: 18
    interval: step
    """
    search = search_of(
        make().net,
        OwnLoss,
        weight_optimizer=partial(SGD, lr=0.1),
        weight_scheduler=instantiate(OmegaConf.create(text)),
    )
    search.configure_optimizers()
    (config,) = search.optimizations["weights"].schedules
    assert (type(config.scheduler), config.interval, config.name) == (OneCycleLR, "step", "lr/weights")


@pytest.mark.parametrize("at", slow_but([3, 8, 17], [8]))
def test_a_resumed_run_goes_on_with_the_rate(at: int, fit: Fit, tmp_path: Path) -> None:
    def run(**options: Any) -> SearchStrategy:
        by_step = partial(schedule, scheduler=partial(OneCycleLR, max_lr=0.5, total_steps=18), interval="step")
        search = search_of(
            make().net,
            OwnLoss,
            weight_optimizer=partial(SGD, lr=0.1, momentum=0.9),
            weight_scheduler=by_step,
            architecture_scheduler=by_step,
        )
        torch.manual_seed(0)
        fit(search, pair(6, 6), loader(9, VAL), max_epochs=3, enable_checkpointing=True, **options)
        return search

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(callbacks=[saving])
    rates = [optimizer.param_groups[0]["lr"] for optimizer in whole.trainer.optimizers]
    again = run(ckpt_path=tmp_path / f"step={at}.ckpt")
    assert [optimizer.param_groups[0]["lr"] for optimizer in again.trainer.optimizers] == rates
    assert_same_state(again, whole)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda _: {}, "makes a NoneType: let it return a schedule"),
        (lambda _: [1], "makes a list: let it return a schedule"),
        (lambda sgd: {"scheduler": StepLR(sgd, 1), "period": 2}, "'period': use scheduler, name, interval, frequency"),
        (lambda sgd: {"scheduler": StepLR(sgd, 1), "interval": "batch"}, "interval='batch'.*use epoch or step"),
        (lambda sgd: {"scheduler": StepLR(sgd, 1), "frequency": 0}, "frequency=0 must be a whole number"),
        (lambda sgd: {"scheduler": StepLR(sgd, 1), "strict": 0}, "strict=0 must be true or false"),
    ],
)
@pytest.mark.parametrize("argument", ["weight_scheduler", "architecture_scheduler"])
def test_what_is_no_schedule_is_said(argument: str, made: Any, says: str, fit: Fit) -> None:
    search = search_of(make().net, OwnLoss, weight_optimizer=partial(SGD, lr=0.1), **{argument: made})
    with pytest.raises((MisconfigurationException, ValueError), match=f"{argument}.*{says}") as caught:
        fit(search, pair(2, 2))
    assert "\n" not in str(caught.value)


class Leaving(Classifier):
    """Leaves the second epoch at its third batch, and the third one at once."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if (self.current_epoch, batch_idx) in ((1, 2), (2, 0)) else None

    def configure_optimizers(self) -> Any:
        sgd = SGD(self.parameters(), lr=0.1)
        by_step = {"scheduler": ExponentialLR(sgd, 0.9), "interval": "step"}
        return [sgd], [StepLR(sgd, 1, gamma=0.5), by_step]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_epoch_that_a_hook_leaves_moves_them_too(accumulate: int, fit: Fit) -> None:
    alone, search = (
        Genotype(GENOTYPE).apply(make(Leaving)),
        Fixed(make(Leaving), genotype=GENOTYPE, accumulate=accumulate),
    )
    found = []
    for module in (alone, search):
        torch.manual_seed(0)
        own = {} if module is search else {"accumulate_grad_batches": accumulate}
        fit(module, pair()["weights"], max_epochs=5, callbacks=[rates := Rates()], **own)
        found.append(rates.seen)
    assert found[1] == found[0]
    for ours, theirs in zip(search.model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)  # the mean of two batches is rounded otherwise


class WithAdam(Classifier):
    def configure_optimizers(self) -> Any:
        return Adam(
            [{"params": self.net[:2].parameters(), "name": "first"}, {"params": self.net[2:].parameters(), "lr": 0.2}],
            lr=0.01,
        )


class Both(Classifier):
    def configure_optimizers(self) -> Any:
        adam = Adam(self.parameters(), lr=0.01)
        by_step = {"scheduler": ExponentialLR(adam, 0.9), "interval": "step", "name": "mine"}
        return [adam], [StepLR(adam, 1), by_step, {"scheduler": ExponentialLR(adam, 0.99), "interval": "step"}]


@pytest.mark.parametrize(
    ("kind", "scheduled", "interval"),
    slow_but(
        itertools.product([Classifier, WithAdam, Both], [True, False], [None, "step", "epoch"]),
        [(Classifier, True, None), (WithAdam, True, "step"), (WithAdam, False, "epoch"), (Both, True, "epoch")],
    ),
)
def test_a_monitor_calls_the_weights_rates_as_without_a_search(
    kind: type[Classifier], scheduled: bool, interval: Any, fit: Fit
) -> None:
    options = {"architecture_scheduler": partial(StepLR, step_size=1)} if scheduled else {}
    rows = [Rows(), Rows()]
    for module, logger in zip(
        (Genotype(GENOTYPE).apply(make(kind)), search_of(make(kind), **options)), rows, strict=True
    ):
        train = pair(6, 6) if logger is rows[1] else pair()["weights"]
        monitor = LearningRateMonitor(interval, log_momentum=True, log_weight_decay=True)
        fit(module, train, max_epochs=2, logger=logger, callbacks=[monitor], log_every_n_steps=1)
    alone, ours = ({name for _, row in each.rows for name in row if name.startswith("lr")} for each in rows)
    assert alone <= ours
    for name in alone:
        assert rows[1].values(name) == rows[0].values(name) != []
    architecture = "lr/architecture" if scheduled else "lr-Adam"
    assert all(name.startswith(architecture) for name in ours - alone)
    assert len(ours - alone) == 3


def test_another_schedule_does_not_go_on(fit: Fit, tmp_path: Path) -> None:
    def search(total_steps: int) -> SearchStrategy:
        one_cycle = partial(OneCycleLR, max_lr=0.5, total_steps=total_steps)
        return search_of(
            make().net,
            OwnLoss,
            weight_optimizer=partial(SGD, lr=0.1),
            weight_scheduler=partial(schedule, scheduler=one_cycle, interval="step"),
        )

    fit(search(12), pair(2, 2)).save_checkpoint(tmp_path / "saved.ckpt")
    with pytest.raises(Exception, match=r"total_steps=12.*total_steps=24") as caught:
        fit(search(24), pair(2, 2), max_epochs=2, ckpt_path=tmp_path / "saved.ckpt")
    assert "\n" not in str(caught.value)
