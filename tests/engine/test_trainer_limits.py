"""What a Trainer limits, in a search of a user's module."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning.pytorch.callbacks.timer
import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from advnas_lightning import (
    MixedOp,
    SearchStrategy,
)
from tests.support.classifier import VAL, Classifier, OwnLoss, Wrap, as_it_is, loader, make, pair, search_of, subject
from tests.support.speed import slow_but

Make = Callable[..., Any]


class Count(Callback):
    """Counts what a fit does."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.counts["train"] += 1

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.counts["sanity" if trainer.sanity_checking else "val"] += 1

    def on_train_epoch_end(self, *_: Any) -> None:
        self.counts["epochs"] += 1


USUAL = {"train": 12, "val": 6, "sanity": 2, "epochs": 2}


LIMITS: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({}, {}),
    ({"fast_dev_run": True}, {"train": 1, "val": 1, "sanity": 0, "epochs": 1}),
    ({"fast_dev_run": 2}, {"train": 2, "val": 2, "sanity": 0, "epochs": 1}),
    ({"limit_train_batches": 4}, {"train": 8}),
    ({"limit_train_batches": 0.5}, {"train": 6}),
    ({"limit_train_batches": 0}, {"train": 0, "val": 0, "epochs": 0}),
    ({"limit_val_batches": 0}, {"val": 0, "sanity": 0}),
    ({"limit_val_batches": 0.34}, {"val": 2, "sanity": 1}),
    ({"val_check_interval": 2}, {"val": 18}),
    ({"val_check_interval": 0.5}, {"val": 12}),
    ({"val_check_interval": 4, "check_val_every_n_epoch": None}, {"val": 9}),
    ({"check_val_every_n_epoch": 2}, {"val": 3}),
    ({"overfit_batches": 2}, {"train": 4, "val": 4}),
    ({"overfit_batches": 0.5}, {"train": 6, "val": 2, "sanity": 1}),
    ({"max_steps": 7, "max_epochs": -1}, {"train": 7, "val": 3}),
    ({"max_steps": 0}, {"train": 0, "val": 0, "epochs": 0}),
    ({"max_epochs": 1, "min_steps": 20}, {"train": 6, "val": 3, "epochs": 1}),
    ({"num_sanity_val_steps": 0}, {"sanity": 0}),
    ({"num_sanity_val_steps": -1}, {"sanity": 3}),
    ({"reload_dataloaders_every_n_epochs": 1}, {}),
    ({"plugins": []}, {}),
]
KINDS = ["plain", "module", "own loss"]  # the first one says what Lightning does


@pytest.mark.parametrize(
    ("options", "expected", "which"),
    slow_but(
        [(*limit, kind) for limit in LIMITS for kind in KINDS],
        [(*limit, kind) for limit, kind in zip(LIMITS, itertools.cycle(KINDS[1:]), strict=False)],
    ),
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_limits_are_those_of_any_training(
    which: str, options: dict[str, Any], expected: dict[str, int], train: Make
) -> None:
    count, module = Count(), subject(which)
    trainer = train(module, callbacks=[count], **options)
    assert {**dict.fromkeys(USUAL, 0), **count.counts} == {**USUAL, **expected}
    assert trainer.global_step == count.counts["train"]
    if isinstance(module, SearchStrategy):
        assert module.weight_steps == module.architecture_steps == count.counts["train"]


def test_without_extras_there_are_none(fit: Make) -> None:
    search = search_of()
    off = {"logger": None, "enable_checkpointing": None, "enable_progress_bar": None, "enable_model_summary": None}
    trainer = fit(search, pair(), barebones=True, **off)
    assert (search.weight_steps, search.architecture_steps) == (6, 6)
    assert not trainer.callback_metrics


@pytest.mark.parametrize("which", ["module", "own loss"])
def test_max_time_ends_at_the_clock(which: str, train: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0

    class Tick(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            nonlocal seconds
            seconds += 1

    clock = SimpleNamespace(monotonic=lambda: seconds)
    monkeypatch.setattr(lightning.pytorch.callbacks.timer, "time", clock)
    search = subject(which)
    train(search, max_time={"seconds": 8}, max_epochs=-1, callbacks=[Tick()])
    assert search.weight_steps == search.architecture_steps == 8


def test_max_steps_counts_weight_steps_alone(train: Make) -> None:
    class Net(Classifier):
        """Without a parameter where the tanh is drawn, and then there is no weight step."""

        def __init__(self, wrap: Wrap = as_it_is) -> None:
            super().__init__(wrap)
            self.net = nn.Sequential(MixedOp("edge", {"tanh": nn.Tanh(), "linear": nn.Linear(4, 4)}))

    search = search_of(make(Net))
    trainer = train(search, max_steps=5, max_epochs=-1)
    assert search.skipped_weight_steps > 0
    assert search.weight_steps == trainer.global_step == 5
    assert search.architecture_steps == 5 + search.skipped_weight_steps


def test_max_steps_counts_accumulated_batches_once(train: Make) -> None:
    count, search = Count(), search_of(accumulate=2)
    train(search, max_steps=4, max_epochs=-1, callbacks=[count])
    assert (search.weight_steps, search.architecture_steps, count.counts["train"]) == (4, 4, 8)


def test_max_steps_counts_architecture_steps_where_there_are_no_others(train: Make) -> None:
    search = search_of(make().net, OwnLoss)
    train(search, max_steps=5, max_epochs=-1)
    assert (search.weight_steps, search.architecture_steps) == (0, 5)


def test_overfitting_repeats_the_same_batches_of_both_loaders(fit: Make) -> None:
    seen: list[tuple[float, float]] = []

    class Note(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
            seen.append((float(batch["weights"][0][0, 0]), float(batch["architecture"][0][0, 0])))

    loaders = pair(shuffle=True)
    fit(search_of(), loaders, overfit_batches=2, max_epochs=3, callbacks=[Note()])
    firsts = [[float(each.dataset[6 * batch][0][0]) for batch in (0, 1)] for each in loaders.values()]
    assert seen == 3 * list(zip(*firsts, strict=True))


def test_the_modules_own_loaders_are_reloaded(fit: Make) -> None:
    class WithData(Classifier):
        asked = 0

        def train_dataloader(self) -> Any:
            self.asked += 1
            return pair()

        def val_dataloader(self) -> Any:
            return loader(9, VAL)

    for every, asked in ((0, 1), (1, 3), (2, 2)):
        search, count = search_of(make(WithData)), Count()
        fit(search, None, max_epochs=3, reload_dataloaders_every_n_epochs=every, callbacks=[count])
        assert search.model.asked == asked
        assert (search.weight_steps, search.architecture_steps, count.counts["val"]) == (18, 18, 9)
