"""Checkpoints of a run that may be killed at any moment."""

from __future__ import annotations

import os
import signal
import threading
import time
import zipfile
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from advnas_lightning.callbacks.run_log import RunLog
from advnas_lightning.engine.lightning_private import counted_once, dump_checkpoint, is_between_batches
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.validate import check_int, check_positive

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class Request(IntEnum):
    """Action requested between two batches. Across ranks the most urgent one, which is the largest, wins."""

    GO_ON = 0
    SAVE = 1
    INTERRUPT = 2  # save, and end as at Ctrl-C
    TERMINATE = 3  # save, and end as at SIGTERM


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, from which a search goes on bit for bit, and ``previous.ckpt``, the one before it.

    It saves at the start, at the end of each epoch, and in between every so often, at SIGTERM and at Ctrl-C (once the
    running step is done; a second Ctrl-C does not wait for it). Of several processes, it is enough to tell one. A file
    is complete under another name, and on the disk, before it replaces an older one, so killing a run damages none.

    Args:
        folder: where.
        every_n_minutes: how often, by the clock; ``None``: at the ends of epochs alone.
        every_n_steps: how often, in training batches; ``None``: by the clock alone.

    Raises:
        ValueError: a number that is not above 0.

    Example:
        >>> LastCheckpoint("checkpoints", every_n_steps=0)
        Traceback (most recent call last):
            ...
        ValueError: every_n_steps=0 must be a whole number of at least 1
    """

    def __init__(
        self, folder: str | Path, *, every_n_minutes: float | None = 5, every_n_steps: int | None = None
    ) -> None:
        if every_n_minutes is not None:
            check_positive("every_n_minutes", every_n_minutes)
        if every_n_steps is not None:
            check_int("every_n_steps", every_n_steps, least=1)
        self.folder = Path(folder)
        self.every_n_minutes, self.every_n_steps = every_n_minutes, every_n_steps
        self._saved_at, self._saved_after = 0.0, -1  # on the clock, and after which batch
        self._request = Request.GO_ON  # or what a signal asked for
        self._handler: Any = None  # of Ctrl-C, before ours
        self._is_training = False
        self._pending: dict[str, Any] | None = None  # the checkpoint of an epoch's end, to be written

    def newest(self) -> Path | None:
        """What to go on from: the newest file that is whole, with a warning if that is not the last; ``None``: nothing.

        Raises:
            ValueError: there are only damaged ones.
        """
        there_is_one = any((self.folder / name).exists() for name in (LAST, PREVIOUS))
        return intact_checkpoint(self.folder / LAST) if there_is_one else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM from Lightning, if there are several processes."""
        self._take_sigterm(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM from Lightning, if there are several processes."""
        self._take_sigterm(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the beginning of a fresh run."""
        assert isinstance(pl_module, SearchStrategy)
        self._request, self._is_training, self._pending = Request.GO_ON, True, None
        self._note(pl_module)
        self._listen()
        self._take_sigterm(trainer)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.current_epoch == 0 and pl_module.clock.batches == 0:
            self._save(trainer)
        pl_module.between_batches = lambda: self._between_batches(trainer, pl_module)

    def _between_batches(self, trainer: Trainer, search: SearchStrategy) -> None:
        steps, minutes = self.every_n_steps, self.every_n_minutes
        due = steps is not None and search.clock.batches - self._saved_after >= steps
        due |= minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        request = self._agree(trainer, max(self._request, Request.SAVE if due else Request.GO_ON))
        if request > Request.GO_ON and search.is_resumable:
            self._save(trainer)
            self._obey(request)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what is to be saved, but wait: Lightning has yet to log the epoch's means, and will not do it again."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._pending = dump_checkpoint(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch before, and end there if that was asked for."""
        self._write_pending(trainer)
        self._obey(self._agree(trainer, self._request))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last epoch, likewise, and leave Ctrl-C to others again."""
        self.on_train_epoch_start(trainer, pl_module)
        self._stop(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save at SIGTERM, for which Lightning ends a run between two batches or two epochs."""
        self._stop(pl_module)
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1:
            self._write_pending(trainer)
        resumable = is_between_batches(trainer) and isinstance(pl_module, SearchStrategy) and pl_module.is_resumable
        if isinstance(exception, SIGTERMException) and resumable and trainer.world_size == 1:
            trainer.strategy.save_checkpoint(dump_checkpoint(trainer), self._unfinished)
            self._replace()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note how long the log is."""
        checkpoint["log_rows"] = [logger.rows for logger in trainer.loggers if isinstance(logger, RunLog)]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Drop what the log has beyond."""
        logs = [logger for logger in trainer.loggers if isinstance(logger, RunLog)]
        for log, rows in zip(logs, checkpoint.get("log_rows", []), strict=False):
            log.cut(rows)

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _unfinished(self) -> Path:
        return self.folder / f"{LAST}.part"

    def _save(self, trainer: Trainer) -> None:
        with counted_once(trainer):
            checkpoint = dump_checkpoint(trainer)
        self._write(trainer, checkpoint)

    def _write(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        trainer.strategy.save_checkpoint(checkpoint, self._unfinished)
        if trainer.is_global_zero:
            self._replace()
        trainer.strategy.barrier()  # Lightning kills the first process soon after another one has ended
        self._note(trainer.lightning_module)

    def _write_pending(self, trainer: Trainer) -> None:
        if self._pending is not None:
            checkpoint, self._pending = self._pending, None
            self.on_save_checkpoint(trainer, trainer.lightning_module, checkpoint)  # the log is longer by now
            self._write(trainer, checkpoint)

    def _note(self, search: Any) -> None:
        self._saved_at, self._saved_after = time.monotonic(), search.clock.batches

    def _replace(self) -> None:
        with self._unfinished.open("rb") as file:
            os.fsync(file.fileno())
        last = self.folder / LAST
        if last.exists():
            os.replace(last, self.folder / PREVIOUS)
        os.replace(self._unfinished, last)

    def _agree(self, trainer: Trainer, request: Request) -> Request:
        if trainer.world_size == 1:
            return request
        largest = trainer.strategy.reduce(torch.tensor(request, device=trainer.strategy.root_device), reduce_op="max")
        return Request(int(largest))

    def _obey(self, request: Request) -> None:
        if request == Request.INTERRUPT:
            raise KeyboardInterrupt
        if request == Request.TERMINATE:
            raise SIGTERMException

    def _stop(self, search: Any) -> None:
        search.between_batches = None
        self._is_training = False
        self._stop_listening()

    def _listen(self) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and handler is signal.default_int_handler:
            self._handler = handler
            signal.signal(signal.SIGINT, self._on_interrupt)

    def _stop_listening(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def _take_sigterm(self, trainer: Trainer) -> None:
        # Lightning's handler talks to the other processes at once, amid whatever else they were saying: they may then
        # wait for each other for ever.
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        if not self._is_training:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._request = Request.TERMINATE

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._request = max(self._request, Request.INTERRUPT)
        self._stop_listening()
        rank_zero_info("interrupted: saving a checkpoint after this step; press Ctrl-C again to stop at once")


def intact_checkpoint(path: str | Path) -> Path:
    """The checkpoint at this path; or, where it is ``last.ckpt`` and damaged or gone, the one that was saved before it.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, and there is none before it that is not.
    """
    path = Path(path)
    candidates = [path, path.with_name(PREVIOUS)] if path.name == LAST else [path]
    present = [each for each in candidates if each.exists()]
    if not present:
        raise FileNotFoundError(f"there is no checkpoint {path}: name the checkpoints/{LAST} of a run")
    for index, each in enumerate(present):
        reason = _damage(each)
        if reason is None:
            return each
        if index + 1 < len(present):
            rank_zero_warn(f"{each} is damaged ({reason}): going on from {present[index + 1]}, saved before it")
    raise ValueError(f"the checkpoint {present[-1]} is damaged ({reason}): start anew, or name another")


def _damage(path: Path) -> str | None:
    """What is wrong with a file of torch.save, which is a zip archive with checksums; torch.load skips those."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        return str(error)
    return None if damaged is None else f"the checksum of {damaged} is wrong"
