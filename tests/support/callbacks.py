"""Callbacks that tests name on the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer


class CrashAt(Callback):
    """Ends a run at the start of a training batch, counted from 0 over all epochs."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            raise RuntimeError("crash")


class Slow(Callback):
    """Waits before each batch, so that something can happen in the middle of a search.

    It adds a line to the run's ``starts.txt`` at each start: the number of batches that are done, and the process.

    Args:
        seconds: How long, by the name of the strategy's class; others do not wait.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = dict(seconds)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with (Path(trainer.loggers[0].save_dir or ".") / "starts.txt").open("a") as file:
            file.write(f"{trainer.fit_loop.epoch_loop.total_batch_idx + 1} {os.getpid()}\n")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        time.sleep(self.seconds.get(type(pl_module).__name__, 0.0))


def crash_at(batch: int) -> str:
    """What a command line says to end its run at the start of a batch."""
    return f"+trainer.callbacks=[{{_target_: {CrashAt.__module__}.{CrashAt.__name__}, batch: {batch}}}]"


def slow(**seconds: float) -> str:
    """What a command line says to make the batches of strategies take so long, by the name of their class."""
    values = ", ".join(f"{name}: {value}" for name, value in seconds.items())
    return f"+trainer.callbacks=[{{_target_: {Slow.__module__}.{Slow.__name__}, seconds: {{{values}}}}}]"
