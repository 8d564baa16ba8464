"""Checkpoints that let a run continue after it was killed at any moment."""

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
    """An action that is requested between two batches. Of several processes' requests the largest one is obeyed.

    Example:
        >>> max(Request.SAVE, Request.TERMINATE).name
        'TERMINATE'
    """

    GO_ON = 0
    SAVE = 1
    INTERRUPT = 2  # save, and then end as at Ctrl-C
    TERMINATE = 3  # save, and then end as at SIGTERM


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, from which a search continues bit for bit, and ``previous.ckpt``, the one before it.

    It saves at the start, at the end of each epoch and at intervals in between. At SIGTERM and at Ctrl-C it saves when
    the running step is done; a second Ctrl-C does not wait for that. If there are several processes, it is enough to
    signal one. A file is complete under another name and on the disk before it replaces an older one, so that killing a
    run damages no file.

    Args:
        folder: The folder of the two files.
        every_n_minutes: The interval between two checkpoints by the clock, or ``None`` for none.
        every_n_steps: The interval between two checkpoints in training batches, or ``None`` for none.

    Raises:
        ValueError: An interval is not above 0.

    Example:
        >>> LastCheckpoint("new_folder", every_n_minutes=10).newest() is None  # nothing has been saved yet
        True
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
        self._saved_at, self._saved_after = 0.0, -1  # the time and the batch of the last checkpoint
        self._request = Request.GO_ON  # a signal may change it
        self._handler: Any = None  # the handler of Ctrl-C before this one
        self._is_training = False
        self._pending: dict[str, Any] | None = None  # the checkpoint of an epoch's end, until it is written

    def newest(self) -> Path | None:
        """The newest intact file, or ``None`` if there is no file; a warning tells if it is not the last one.

        Raises:
            ValueError: All files are damaged.
        """
        there_is_one = any((self.folder / name).exists() for name in (LAST, PREVIOUS))
        return intact_checkpoint(self.folder / LAST) if there_is_one else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle SIGTERM in the place of Lightning, if there are several processes."""
        self._take_sigterm(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle SIGTERM in the place of Lightning, if there are several processes."""
        self._take_sigterm(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state at the start of a new run, and begin to listen for signals."""
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
        """Save if a checkpoint is due or a signal has come, and then end if the signal asks for it."""
        steps, minutes = self.every_n_steps, self.every_n_minutes
        due = steps is not None and search.clock.batches - self._saved_after >= steps
        due |= minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        request = self._agree(trainer, max(self._request, Request.SAVE if due else Request.GO_ON))
        if request > Request.GO_ON and search.is_resumable:
            self._save(trainer)
            self._obey(request)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the checkpoint but write it later, because Lightning logs the epoch's means after this hook."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._pending = dump_checkpoint(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint of the epoch before, and end there if a signal asked for it."""
        self._write_pending(trainer)
        self._obey(self._agree(trainer, self._request))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint of the last epoch in the same way, and stop listening for Ctrl-C."""
        self.on_train_epoch_start(trainer, pl_module)
        self._stop(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save at SIGTERM, at which Lightning ends a run between two batches or two epochs."""
        self._stop(pl_module)
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1:
            self._write_pending(trainer)
        resumable = is_between_batches(trainer) and isinstance(pl_module, SearchStrategy) and pl_module.is_resumable
        if isinstance(exception, SIGTERMException) and resumable and trainer.world_size == 1:
            trainer.save_checkpoint(self._unfinished)
            self._replace()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the number of rows of the log to the checkpoint."""
        checkpoint["log_rows"] = [logger.rows for logger in trainer.loggers if isinstance(logger, RunLog)]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Drop the rows of the log that were written after the checkpoint."""
        logs = [logger for logger in trainer.loggers if isinstance(logger, RunLog)]
        for log, rows in zip(logs, checkpoint.get("log_rows", []), strict=False):
            log.cut(rows)

    # -- saving and signals --------------------------------------------------------------------------------------------

    @property
    def _unfinished(self) -> Path:
        """The name of a checkpoint until it is complete."""
        return self.folder / f"{LAST}.part"

    def _save(self, trainer: Trainer) -> None:
        """Save a checkpoint between two batches."""
        with counted_once(trainer):
            trainer.save_checkpoint(self._unfinished)
        self._end_saving(trainer)

    def _end_saving(self, trainer: Trainer) -> None:
        """Put the file that was written in its place, together with all other processes."""
        if trainer.is_global_zero:
            self._replace()
        trainer.strategy.barrier()  # Lightning kills the first process soon after another one has ended
        self._note(trainer.lightning_module)

    def _write_pending(self, trainer: Trainer) -> None:
        """Write the checkpoint of an epoch's end, if there is one."""
        if self._pending is not None:
            checkpoint, self._pending = self._pending, None
            self.on_save_checkpoint(trainer, trainer.lightning_module, checkpoint)  # the log has grown since then
            trainer.strategy.save_checkpoint(checkpoint, self._unfinished)
            self._end_saving(trainer)

    def _note(self, search: Any) -> None:
        """Note the time and the batch of a checkpoint, from which the intervals count."""
        self._saved_at, self._saved_after = time.monotonic(), search.clock.batches

    def _replace(self) -> None:
        """Put the complete checkpoint on the disk in the place of the last one, which becomes the previous one."""
        with self._unfinished.open("rb") as file:
            os.fsync(file.fileno())
        last = self.folder / LAST
        if last.exists():
            os.replace(last, self.folder / PREVIOUS)
        os.replace(self._unfinished, last)

    def _agree(self, trainer: Trainer, request: Request) -> Request:
        """The largest request of all processes."""
        if trainer.world_size == 1:
            return request
        largest = trainer.strategy.reduce(torch.tensor(request, device=trainer.strategy.root_device), reduce_op="max")
        return Request(int(largest))

    def _obey(self, request: Request) -> None:
        """End the run as the signal would have done, if a signal was received."""
        if request == Request.INTERRUPT:
            raise KeyboardInterrupt
        if request == Request.TERMINATE:
            raise SIGTERMException

    def _stop(self, search: Any) -> None:
        """Save no more, and stop listening for Ctrl-C."""
        search.between_batches = None
        self._is_training = False
        self._stop_listening()

    def _listen(self) -> None:
        """Handle Ctrl-C, unless somebody else does."""
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and handler is signal.default_int_handler:
            self._handler = handler
            signal.signal(signal.SIGINT, self._on_interrupt)

    def _stop_listening(self) -> None:
        """Restore the earlier handler of Ctrl-C."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def _take_sigterm(self, trainer: Trainer) -> None:
        """Handle SIGTERM in the place of Lightning, if there are several processes."""
        # Lightning's handler communicates with the other processes at once, also in the middle of other communication.
        # The processes may then wait for each other for ever.
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: request the end of a training, or end at once if no training runs."""
        if not self._is_training:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._request = Request.TERMINATE

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C: request the end of the training, and let a second Ctrl-C end it at once."""
        self._request = max(self._request, Request.INTERRUPT)
        self._stop_listening()
        rank_zero_info("interrupted: saving a checkpoint after this step; press Ctrl-C again to stop at once")


def intact_checkpoint(path: str | Path) -> Path:
    """Find an intact checkpoint: the one at this path; or, if a ``last.ckpt`` is damaged or missing, the previous one.

    Args:
        path: The path of the file.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The checkpoint is damaged, and there is no intact one before it.

    Example:
        >>> intact_checkpoint("missing.ckpt")
        Traceback (most recent call last):
            ...
        FileNotFoundError: there is no checkpoint missing.ckpt: name the checkpoints/last.ckpt of a run
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
    """The damage of a file of torch.save, or ``None``. It is a zip archive with checksums, which torch.load ignores."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        return str(error)
    return None if damaged is None else f"the checksum of {damaged} is wrong"
