"""A user's module logs in a search as in its own training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch.callbacks import (
    LearningRateMonitor,
)
from torch import Tensor

from advnas_lightning import (
    Genotype,
)
from tests.support.classifier import GENOTYPE, Classifier, Rows, make, search_of, subject

Make = Callable[..., Any]


class Talkative(Classifier):
    """Logs in every hook that may, and in every way."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("mean", loss, on_step=False, on_epoch=True)
        self.log("best", loss, on_step=False, on_epoch=True, reduce_fx="min")
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("gradient", self.net[0].weight.grad.norm())

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("after", 1.0)

    def on_train_epoch_end(self) -> None:
        self.log("end", 2.0)

    def on_validation_epoch_end(self) -> None:
        self.log("val_end", 3.0)


def logs(train: Make, accumulate: int = 1, **options: Any) -> tuple[Rows, Rows]:
    """What plain training logs, and what a search does."""
    rows = Rows(), Rows()
    alone = Genotype(GENOTYPE).apply(make(Talkative))
    search = search_of(make(Talkative), accumulate=accumulate)
    for module, logger in zip((alone, search), rows, strict=True):
        own = {"accumulate_grad_batches": accumulate} if module is alone else {}
        train(module, logger=logger, callbacks=[LearningRateMonitor()], **own, **options)
    return rows


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"log_every_n_steps": 1}, marks=pytest.mark.slow),
        {"log_every_n_steps": 2, "val_check_interval": 3},
        pytest.param({"log_every_n_steps": 3, "max_steps": 8, "max_epochs": -1}, marks=pytest.mark.slow),
        {"log_every_n_steps": 4, "val_check_interval": 4, "check_val_every_n_epoch": None},
        {"log_every_n_steps": 50, "max_epochs": 3, "check_val_every_n_epoch": 2},
    ],
    ids=str,
)
def test_every_log_of_a_module_is_at_the_step_of_plain_training(options: dict[str, Any], train: Make) -> None:
    plain, search = logs(train, **options)
    assert search.places() == plain.places()
    names = {name for _, _, row in plain.places() for name in row}
    assert {"mean", "best", "end", "val_loss", "val_end", "both_epoch"} <= names
    assert ("train_loss" in names) == (options["log_every_n_steps"] < 50)


def test_every_log_of_a_module_that_accumulates_is_at_the_step_of_plain_training(train: Make) -> None:
    plain, search = logs(train, accumulate=2, log_every_n_steps=1)
    assert [step for step, _, names in plain.places() if "train_loss" in names] == [0, 1, 2, 3, 4, 5]
    assert search.places() == plain.places()


def test_a_module_that_validates_adds_no_row_without_values(train: Make) -> None:
    logger = Rows()
    train(search_of(make(Talkative)), logger=logger, log_every_n_steps=1)
    assert {"epoch"} not in [row.keys() for _, row in logger.rows]


def test_a_searchs_own_logs_are_at_the_number_of_batches(train: Make) -> None:
    logger = Rows()
    train(subject("own loss"), logger=logger, log_every_n_steps=1)
    assert [(step, row["epoch"]) for step, row in logger.rows if "entropy" in row] == [(6, 0), (12, 1)]
    assert [(step, row["epoch"]) for step, row in logger.rows if "val/loss" in row] == [(6, 0), (12, 1)]
