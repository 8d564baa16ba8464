"""Callbacks that tests name on the command line."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer


class CrashAt(Callback):
    """Ends a run at the start of a training batch, counted from 0 over all epochs."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            raise RuntimeError("crash")


def crash_at(batch: int) -> str:
    """What a command line says to end its run at the start of a batch."""
    return f"+trainer.callbacks=[{{_target_: {CrashAt.__module__}.{CrashAt.__name__}, batch: {batch}}}]"
