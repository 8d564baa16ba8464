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

from advnas_lightning.loggers import RunLog
from advnas_lightning.strategies import SearchStrategy

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class Wish(IntEnum):
    """What a process wants between two batches; of several, all do what the largest one says."""

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
        ValueError: every_n_steps=0 must be above 0, or null
    """

    def __init__(
        self, folder: str | Path, *, every_n_minutes: float | None = 5, every_n_steps: int | None = None
    ) -> None:
        for name, value in (("every_n_minutes", every_n_minutes), ("every_n_steps", every_n_steps)):
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ValueError(f"{name}={value!r} must be above 0, or null")
        self.folder = Path(folder)
        self.every_n_minutes, self.every_n_steps = every_n_minutes, every_n_steps
        self._saved_at, self._saved_after = 0.0, -1  # on the clock, and after which batch
        self._stop_wish = Wish.GO_ON  # or what a signal asked for
        self._handler: Any = None  # of Ctrl-C, before ours
        self._is_training = False

    def newest(self) -> Path | None:
        """What to go on from: the newest file that is whole, with a warning if that is not the last; ``None``: nothing.

        Raises:
            ValueError: there are only damaged ones.
        """
        there_is_one = any((self.folder / name).exists() for name in (LAST, PREVIOUS))
        return whole_checkpoint(self.folder / LAST) if there_is_one else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM from Lightning, if there are several processes."""
        self._take_sigterm(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM from Lightning, if there are several processes."""
        self._take_sigterm(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the beginning of a fresh run."""
        assert isinstance(pl_module, SearchStrategy)
        self._stop_wish, self._is_training = Wish.GO_ON, True
        self._note(trainer)
        self._listen()
        self._take_sigterm(trainer)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.current_epoch == 0 and trainer.fit_loop.epoch_loop.total_batch_idx < 0:
            self._save(trainer)
        pl_module.between_batches = lambda: self._between_batches(trainer, pl_module)

    def _between_batches(self, trainer: Trainer, search: SearchStrategy) -> None:
        steps, minutes = self.every_n_steps, self.every_n_minutes
        due = steps is not None and trainer.fit_loop.epoch_loop.total_batch_idx - self._saved_after >= steps
        due |= minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        wish = self._agree(trainer, max(self._stop_wish, Wish.SAVE if due else Wish.GO_ON))
        if wish > Wish.GO_ON and search.is_resumable:
            self._save(trainer)
            self._obey(wish)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer, epoch_is_over=True)
        self._obey(self._agree(trainer, self._stop_wish))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave Ctrl-C to others again."""
        self._stop(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save at SIGTERM, for which Lightning ends a run between two batches or two epochs."""
        self._stop(pl_module)
        loop = trainer.fit_loop.epoch_loop
        progress: Any = loop.batch_progress.current
        between = progress.completed == progress.ready > 0 and not loop._num_ready_batches_reached()
        resumable = between and isinstance(pl_module, SearchStrategy) and pl_module.is_resumable
        if isinstance(exception, SIGTERMException) and resumable and trainer.world_size == 1:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint()
            trainer.strategy.save_checkpoint(checkpoint, self._unfinished)
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

    def _save(self, trainer: Trainer, *, epoch_is_over: bool = False) -> None:
        loop = trainer.fit_loop.epoch_loop
        # Lightning counts a batch for its loggers after the validation that may follow it, and after a resumption
        # there once more; but not after one from the end of an epoch.
        fetcher: Any = trainer.fit_loop._data_fetcher
        validates = loop.batch_progress.current.ready > 0 and loop._should_check_val_fx(fetcher)
        twice = int(validates and not epoch_is_over)
        loop._batches_that_stepped -= twice
        trainer.save_checkpoint(self._unfinished)
        loop._batches_that_stepped += twice
        if trainer.is_global_zero:
            self._replace()
        trainer.strategy.barrier()  # Lightning kills the first process soon after another one has ended
        self._note(trainer)

    def _note(self, trainer: Trainer) -> None:
        self._saved_at, self._saved_after = time.monotonic(), trainer.fit_loop.epoch_loop.total_batch_idx

    def _replace(self) -> None:
        with self._unfinished.open("rb") as file:
            os.fsync(file.fileno())
        last = self.folder / LAST
        if last.exists():
            os.replace(last, self.folder / PREVIOUS)
        os.replace(self._unfinished, last)

    def _agree(self, trainer: Trainer, wish: Wish) -> Wish:
        if trainer.world_size == 1:
            return wish
        largest = trainer.strategy.reduce(torch.tensor(wish, device=trainer.strategy.root_device), reduce_op="max")
        return Wish(int(largest))

    def _obey(self, wish: Wish) -> None:
        if wish == Wish.INTERRUPT:
            raise KeyboardInterrupt
        if wish == Wish.TERMINATE:
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
        self._stop_wish = Wish.TERMINATE

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stop_wish = max(self._stop_wish, Wish.INTERRUPT)
        self._stop_listening()
        rank_zero_info("interrupted: saving a checkpoint after this step; press Ctrl-C again to stop at once")


def whole_checkpoint(path: str | Path) -> Path:
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
