"""Beside Lightning's callbacks, in any order, a run that goes on ends as one that was never stopped."""

from __future__ import annotations

import csv
import itertools
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import AdvantageNAS, SearchLoader
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.callbacks.run_log import RunLog
from tests.support.speed import slow_but

Make = Callable[..., Any]


class Crash(Exception):
    """What a killed process does not raise."""


class CrashIn(Callback):
    """Ends a run in the n-th call of a hook, from 0."""

    def __init__(self, hook: str, number: int) -> None:
        self.left = number
        setattr(self, hook, self._count)

    def _count(self, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash


class Counts(Callback):
    """Keeps a dictionary that it changes in place, and changes the weights at the start of each epoch."""

    def __init__(self) -> None:
        self.counts = {"starts": 0, "ends": 0}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.counts["starts"] += 1
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(0.9)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.counts["ends"] += 1

    def state_dict(self) -> dict[str, Any]:
        return self.counts

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts = state_dict


class Module(LightningModule):
    """Logs in every way: at the start of an epoch, in its first batch, in each, with metrics, as sums and as maxima."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.accuracy, self.first = net, MulticlassAccuracy(3), MulticlassAccuracy(3)

    def on_train_epoch_start(self) -> None:
        self.log("begun", float(self.current_epoch))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.net(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx=max)
        self.log("sum", loss, on_step=False, on_epoch=True, reduce_fx="sum")
        if batch_idx == 0:
            self.first(logits, batch[1])
            self.log("first", self.first, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = OneCycleLR(optimizer, 0.2, total_steps=int(self.trainer.estimated_stepping_batches))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


SAVING: dict[str, Callable[[Path], list[ModelCheckpoint]]] = {
    "best": lambda folder: [ModelCheckpoint(folder, monitor="val", save_top_k=2)],
    "best and last": lambda folder: [ModelCheckpoint(folder, monitor="val", save_last=True)],
    "all": lambda folder: [ModelCheckpoint(folder, save_top_k=-1)],
    "link": lambda folder: [ModelCheckpoint(folder, monitor="val", save_last="link", save_top_k=2)],
    "steps": lambda folder: [ModelCheckpoint(folder, every_n_train_steps=2, monitor="loss_step", save_top_k=2)],
    "validation": lambda folder: [ModelCheckpoint(folder, monitor="val", save_on_train_epoch_end=False)],
    "two": lambda folder: [
        ModelCheckpoint(folder / "a", monitor="val"),
        ModelCheckpoint(folder / "b", monitor="loss_epoch", mode="max", save_top_k=2),
    ],
}
ORDERS = ("first", "last", "between")
HOOKS = (
    "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end", "on_validation_end", "on_train_epoch_start",
    "on_train_end",
)  # fmt: skip
EVERYTHING = list(itertools.product(SAVING, ORDERS, HOOKS))


@pytest.fixture
def run(small_net: Make, fit: Make, make_loaders: Make) -> Callable[..., dict[str, Any]]:
    """``run(folder, saving, order, …)``: all that a run leaves."""

    def train(
        folder: Path, saving: str, order: str, crash: Callback | None = None, *, in_turn: bool = False, **options: Any
    ) -> dict[str, Any]:
        last = LastCheckpoint(folder / "last", every_n_steps=1)
        own = SAVING[saving](folder / "own")
        for each in own:
            each._enable_version_counter = False  # so that what is saved again has the same name
        others = [Counts(), EarlyStopping("val", patience=2, min_delta=1e-3), LearningRateMonitor(), RichProgressBar()]
        callbacks = {
            "first": [last, *own, *others],
            "last": [*others, *own, last],
            "between": [*others[:2], *own[:1], last, *others[2:], *own[1:]],
        }[order]
        log = RunLog(folder)
        search = AdvantageNAS(Module(small_net()), architecture_optimizer=partial(Adam, lr=0.1))
        loaders = make_loaders(weights=6 if in_turn else 5, architecture=3, shuffle=True)
        train_on = SearchLoader({"weights": loaders["weights"]}, alternate=True) if in_turn else loaders
        resume = last.newest()
        seed_everything(0 if resume is None else 99, verbose=False)
        try:
            trainer = fit(
                search,
                train_on,
                make_loaders(architecture=2)["architecture"],
                ckpt_path=resume,
                **{"max_epochs": 4, "logger": log, "log_every_n_steps": 1, "enable_checkpointing": True, **options},
                enable_progress_bar=True,
                callbacks=[*callbacks, *([] if crash is None else [crash])],
            )
        except Crash:
            return {}
        return {
            "state": search.state_dict(),
            "epochs": trainer.current_epoch,
            "counts": next(each for each in callbacks if isinstance(each, Counts)).counts,
            "stopping": next(each for each in callbacks if isinstance(each, EarlyStopping)).state_dict(),
            "saved": [_without(each.state_dict(), folder) for each in own],
            "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ckpt")),
            "rows": read(log),
        }

    return train


def read(log: RunLog) -> list[list[tuple[str, str]]]:
    """What was logged, whatever the order of the columns."""
    with log.path.open() as file:
        return [sorted((key, value) for key, value in row.items() if value) for row in csv.DictReader(file)]


def _without(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A ModelCheckpoint's state without the folder, and without what Lightning keeps and does not restore."""
    texts = {key: str(value).replace(str(folder), "") for key, value in state.items() if key != "current_score"}
    return dict(texts)


@pytest.mark.parametrize(
    ("saving", "order", "hook"),
    slow_but(EVERYTHING, [(saving, ORDERS[n % 3], HOOKS[n % 6]) for n, saving in enumerate(SAVING)][::3]),
)
def test_it_ends_as_a_run_that_was_never_stopped(
    saving: str, order: str, hook: str, run: Make, assert_same: Make, tmp_path: Path
) -> None:
    dice = random.Random(f"{saving}{order}{hook}")
    in_turn = dice.random() < 0.5
    options = {} if saving == "two" else {"val_check_interval": dice.choice([1.0, 0.5])}
    straight = run(tmp_path / "straight", saving, order, in_turn=in_turn, **options)
    often = straight["epochs"] * (6 if in_turn else 5) if "batch" in hook else straight["epochs"]
    crash = CrashIn(hook, 0 if hook == "on_train_end" else dice.randrange(often))
    assert run(tmp_path / "broken", saving, order, crash, in_turn=in_turn, **options) == {}
    assert_same(run(tmp_path / "broken", saving, order, in_turn=in_turn, **options), straight)


def test_a_run_that_is_killed_at_its_start_again_and_again_ends_alike(
    run: Make, tmp_path: Path, assert_same: Make
) -> None:
    straight = run(tmp_path / "straight", "best", "first", max_epochs=2)
    for _ in range(3):
        run(tmp_path / "broken", "best", "first", CrashIn("on_train_batch_start", 0), max_epochs=2)
    assert_same(run(tmp_path / "broken", "best", "first", max_epochs=2), straight)


def test_a_search_that_was_stopped_early_stays_stopped(run: Make, tmp_path: Path, assert_same: Make) -> None:
    straight = run(tmp_path / "straight", "best", "first", max_epochs=20)
    assert straight["epochs"] < 20
    run(tmp_path / "broken", "best", "first", CrashIn("on_train_end", 0), max_epochs=20)
    assert_same(run(tmp_path / "broken", "best", "first", max_epochs=20), straight)
    again = run(tmp_path / "broken", "best", "first", max_epochs=20)  # and again
    assert_same({key: again[key] for key in ("state", "epochs")}, {key: straight[key] for key in ("state", "epochs")})


def test_two_callbacks_that_save_last_are_refused(
    make_search: Make, make_loaders: Make, fit: Make, tmp_path: Path
) -> None:
    both = [LastCheckpoint(tmp_path / "a"), LastCheckpoint(tmp_path / "b")]
    with pytest.raises(MisconfigurationException, match="the Trainer has two LastCheckpoints: give it one"):
        fit(make_search("advantage"), make_loaders(), callbacks=both, enable_checkpointing=True)


def test_a_callback_that_writes_the_same_file_is_refused(
    make_search: Make, make_loaders: Make, fit: Make, tmp_path: Path
) -> None:
    other = ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)
    with pytest.raises(MisconfigurationException, match=r"would write over LastCheckpoint's .*last\.ckpt: give it"):
        fit(
            make_search("advantage"),
            make_loaders(),
            callbacks=[other, LastCheckpoint(tmp_path)],
            enable_checkpointing=True,
        )


# -- what it says, and who may use the folder ------------------------------------------------------------------------


class Presses(Callback):
    """Presses Ctrl-C, or sends SIGTERM, in the n-th batch."""

    def __init__(self, number: signal.Signals, batch: int) -> None:
        self.number, self.batch = number, batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_what_it_saved_and_how_to_go_on(
    number: signal.Signals,
    make_search: Make,
    make_loaders: Make,
    fit: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    for module in ("checkpoint", "signals"):
        monkeypatch.setattr(f"advnas_lightning.callbacks.{module}.rank_zero_info", said.append)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        saving = LastCheckpoint(tmp_path)
        with pytest.raises((SystemExit, SIGTERMException)):
            fit(
                make_search("advantage"), make_loaders(), max_epochs=3, enable_checkpointing=True,
                callbacks=[saving, Presses(number, 5)],
            )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    line = f"trainer.fit(..., ckpt_path='{tmp_path / 'last.ckpt'}')"
    assert said[-1] == f"{tmp_path / 'last.ckpt'} was saved after batch 2 of 4 in epoch 2 of 3; go on with: {line}"
    said.clear()
    call = {"trainer": type("", (), {"fit": lambda self, *_, ckpt_path: ckpt_path})()}
    path = eval(line, call)  # what was said is a call that works
    fit(
        make_search("advantage"),
        make_loaders(),
        max_epochs=3,
        enable_checkpointing=True,
        callbacks=[saving],
        ckpt_path=path,
    )
    assert said == [f"going on from {path}, saved after batch 2 of 4 in epoch 2 of 3"]
    said.clear()
    fit(
        make_search("advantage"),
        make_loaders(),
        max_epochs=3,
        enable_checkpointing=True,
        callbacks=[saving],
        ckpt_path=path,
    )
    assert said == [f"nothing is left to train: {path} was saved after epoch 3 of 3"]


def test_a_second_run_in_the_folder_is_refused_while_the_first_one_trains(
    make_search: Make, make_loaders: Make, fit: Make, tmp_path: Path
) -> None:
    refused: list[str] = []

    class Another(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            if not refused:
                with pytest.raises(ValueError, match="is in use by process") as no:
                    fit(make_search("advantage"), make_loaders(), callbacks=[LastCheckpoint(tmp_path)],
                        enable_checkpointing=True)  # fmt: skip
                refused.append(str(no.value))

    fit(
        make_search("advantage"),
        make_loaders(),
        callbacks=[LastCheckpoint(tmp_path), Another()],
        enable_checkpointing=True,
    )
    assert len(refused) == 1
    assert "\n" not in refused[0]
    crash = [LastCheckpoint(tmp_path), CrashIn("on_train_batch_end", 2)]
    with pytest.raises(Crash):
        fit(make_search("advantage"), make_loaders(), callbacks=crash, enable_checkpointing=True)
    fit(make_search("advantage"), make_loaders(), callbacks=[LastCheckpoint(tmp_path)], enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_run_with_other_settings_of_its_user_is_refused(
    make_search: Make, make_loaders: Make, fit: Make, tmp_path: Path
) -> None:
    def run(width: int, ckpt_path: Path | None) -> None:
        saving = LastCheckpoint(tmp_path, settings={"width": width, "data": ["a", None]})
        fit(make_search("advantage"), make_loaders(), callbacks=[saving], enable_checkpointing=True,
            ckpt_path=ckpt_path, logger=RunLog(tmp_path), max_epochs=2)  # fmt: skip

    run(3, None)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"last\.ckpt is of a run with other settings \(width is 3, not 4\): go on"):
        run(4, tmp_path / "last.ckpt")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(3, tmp_path / "last.ckpt")


def test_what_is_evaluated_keeps_its_log(make_search: Make, make_loaders: Make, fit: Make, tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    fit(
        make_search("advantage"),
        make_loaders(),
        callbacks=[LastCheckpoint(tmp_path)],
        enable_checkpointing=True,
        logger=log,
    )
    log.log_metrics({"mine": 1.0}, step=9)
    rows = read(log)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(logger=log, callbacks=[LastCheckpoint(tmp_path)], default_root_dir=tmp_path, **quiet)
    loader = make_loaders()["weights"]
    trainer.validate(make_search("advantage", seed=3), loader, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert read(log)[: len(rows)] == rows
    assert len(read(log)) > len(rows)


@pytest.mark.parametrize("left", ["half a line", "header", "nothing"])
def test_lost_rows_of_the_log_are_told_and_the_others_stay_whole(
    left: str, make_search: Make, make_loaders: Make, fit: Make, tmp_path: Path
) -> None:
    def run(epochs: int, ckpt_path: Path | None) -> RunLog:
        log = RunLog(tmp_path)
        fit(make_search("advantage"), make_loaders(), callbacks=[LastCheckpoint(tmp_path)], enable_checkpointing=True,
            ckpt_path=ckpt_path, logger=log, max_epochs=epochs)  # fmt: skip
        return log

    whole = run(1, None)
    rows, content = read(whole), whole.path.read_text()
    end = {"half a line": len(content) - 9, "header": content.index("\n") + 1, "nothing": 0}[left]
    whole.path.write_text(content[:end])
    kept = rows[: max(content[:end].count("\n") - 1, 0)]
    says = rf"metrics\.csv has {len(kept)} rows, and had {len(rows)} when .*last\.ckpt was saved: the run goes on"
    with pytest.warns(UserWarning, match=says):
        log = run(2, tmp_path / "last.ckpt")
    assert read(log)[: len(kept)] == kept
    assert all("step" in dict(row) for row in read(log))
    assert len(read(log)) == log.rows > len(kept)


def test_a_log_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"step\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged \(.*\): move it away, and the run begins a new one"):
        RunLog(tmp_path)
