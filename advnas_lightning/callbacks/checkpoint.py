"""Checkpoints that let a run continue after it was killed at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from advnas_lightning.callbacks import beside
from advnas_lightning.callbacks.files import CheckpointFiles
from advnas_lightning.callbacks.intact import has_own_classes
from advnas_lightning.callbacks.run_log import RunLog
from advnas_lightning.callbacks.signals import Request, Signals
from advnas_lightning.checkpoint_part import keep_in, kept_in
from advnas_lightning.engine.lightning_private import batches_used, counted_once, dump_checkpoint, is_between_batches
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.runs import differences
from advnas_lightning.validate import check_int, check_positive


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, from which a search continues bit for bit, and ``previous.ckpt``, the one before it.

    It saves at the start, at the end of each epoch and at intervals in between. At SIGTERM and at Ctrl-C it saves when
    the running step is done, and says how to go on; a second Ctrl-C does not wait for that. If there are several
    processes, it is enough to signal one. A file is complete under another name, with a checksum, and on the disk
    before it replaces an older one, so that killing a run damages no file. While a run trains, no other one can use the
    folder.

    Args:
        folder: The folder of the two files.
        every_n_minutes: The interval between two checkpoints by the clock, or ``None`` for none.
        every_n_steps: The interval between two checkpoints in training batches, or ``None`` for none.
        settings: What decides the run's result beside what the search itself knows, in plain values by name, such as
            ``vars(arguments)``. A run with other values does not go on from the checkpoints of this one.
        go_on: What to type to go on, for the line that is shown at the end; by default a call of ``fit``.

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
        self,
        folder: str | Path,
        *,
        every_n_minutes: float | None = 5,
        every_n_steps: int | None = None,
        settings: Mapping[str, Any] | None = None,
        go_on: str | None = None,
    ) -> None:
        if every_n_minutes is not None:
            check_positive("every_n_minutes", every_n_minutes)
        if every_n_steps is not None:
            check_int("every_n_steps", every_n_steps, least=1)
        self.every_n_minutes, self.every_n_steps = every_n_minutes, every_n_steps
        self.settings = dict(settings or {})
        self._files = CheckpointFiles(folder)
        self.go_on = go_on
        self._signals = Signals()
        self._first = _BeforeOthers(self._start, self._between_epochs)
        self._saved_at, self._saved_after = 0.0, -1  # the time and the batch of the last checkpoint
        self._pending: dict[str, Any] | None = None  # the checkpoint of an epoch's end, until it is written
        self._place = ""  # where the run was when it was saved last, in words
        self._lost_rows: list[tuple[RunLog, int, int]] = []  # of the log, which are about to be written again
        self._is_resumed = self._has_trained = False

    @property
    def folder(self) -> Path:
        """The folder of the two files."""
        return self._files.folder

    def newest(self) -> Path | None:
        """The newest intact file, or ``None`` if there is no file; a warning tells if it is not the last one.

        Raises:
            ValueError: All files are damaged.
        """
        return self._files.newest()

    # -- the start -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold the folder, and take the places among the callbacks from which a checkpoint has what all of them did.

        Raises:
            MisconfigurationException: There is a second LastCheckpoint.
            ValueError: Another process uses the folder.
        """
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        others = [each for each in callbacks if each is not self and each is not self._first]
        if any(isinstance(each, LastCheckpoint) for each in others):
            raise MisconfigurationException("the Trainer has two LastCheckpoints: give it one")
        trainer.callbacks = [self._first, *others, self]  # type: ignore[attr-defined]
        self._hold_folder(trainer)
        self._is_resumed = self._has_trained = False
        self._place, self._lost_rows, self._pending = "", [], None

    def _hold_folder(self, trainer: Trainer) -> None:
        """Lock the folder in the first process, and let all of them know if that failed."""
        refusal = None
        if trainer.is_global_zero:
            try:
                self._files.hold()
            except (OSError, ValueError) as error:
                refusal = str(error)
        refusal = trainer.strategy.broadcast(refusal)
        if refusal is not None:
            raise ValueError(refusal)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that nobody else writes the same files.

        Raises:
            MisconfigurationException: A ModelCheckpoint does.
        """
        beside.refuse_same_file(trainer.callbacks, self._files.last)  # type: ignore[attr-defined]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle SIGTERM in the place of Lightning, if there are several processes."""
        self._signals.take_sigterm(several=trainer.world_size > 1)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle SIGTERM in the place of Lightning, if there are several processes."""
        self._signals.take_sigterm(several=trainer.world_size > 1)

    def _start(self, trainer: Trainer) -> None:
        """Say where a run goes on, before any other callback is told that it trains."""
        self._has_trained = True
        if self._is_resumed:
            rank_zero_info(f"going on from {trainer.ckpt_path}, saved {self._place}")
        self._continue_files(trainer)

    def _continue_files(self, trainer: Trainer) -> None:
        """Let the files of the folder be those of this run, up to the checkpoint that it goes on from."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._files.continue_from(trainer.ckpt_path)
        self._cut_logs()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state at the start of a new run, and begin to listen for signals."""
        assert isinstance(pl_module, SearchStrategy)
        self._note(pl_module)
        self._signals.begin(several=trainer.world_size > 1)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not self._is_resumed:  # or its random numbers, which are restored after this, would be saved too early
            self._save(trainer)
        pl_module.between_batches = lambda: self._between_batches(trainer, pl_module)

    # -- while it trains -----------------------------------------------------------------------------------------------

    def _between_batches(self, trainer: Trainer, search: SearchStrategy) -> None:
        """Save if a checkpoint is due or a signal has come, and then end if the signal asks for it."""
        steps, minutes = self.every_n_steps, self.every_n_minutes
        due = steps is not None and search.clock.batches - self._saved_after >= steps
        due |= minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        request = self._agree(trainer, max(self._signals.request, Request.SAVE if due else Request.GO_ON))
        if request > Request.GO_ON and search.is_resumable:
            self._save(trainer)
            request.obey()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the checkpoint but write it later, because Lightning logs the epoch's means after this hook."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._pending = dump_checkpoint(trainer)

    def _between_epochs(self, trainer: Trainer) -> None:
        """Write the checkpoint of the epoch before, and end there if a signal asked for it.

        No other callback has done anything for the next epoch yet: a run that goes on lets all of them do it again.
        """
        self._write_pending(trainer)
        self._agree(trainer, self._signals.request).obey()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening for Ctrl-C."""
        self._stop(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say if the checkpoint was of a run that is over."""
        if self._is_resumed and not self._has_trained:
            self._continue_files(trainer)
            epochs: Any = trainer.fit_loop.epoch_progress.current
            epochs.completed = epochs.processed  # as Lightning does it where max_epochs is reached
            rank_zero_info(f"nothing is left to train: {trainer.ckpt_path} was saved {self._place}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the folder."""
        self._files.lock.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save at SIGTERM, at which Lightning ends a run between two batches or two epochs; say what was saved."""
        self._stop(pl_module)
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1:
            self._write_pending(trainer)
            if is_between_batches(trainer) and isinstance(pl_module, SearchStrategy) and pl_module.is_resumable:
                self._place = _place(trainer)
                trainer.save_checkpoint(self._files.unfinished, weights_only=False)
                self._files.replace()
        if isinstance(exception, SIGTERMException | KeyboardInterrupt) and self._place and trainer.is_global_zero:
            line = self.go_on or self._call_of_fit()
            rank_zero_info(f"{self._files.last} was saved {self._place}; go on with: {line}")
        self._files.lock.release()

    def _call_of_fit(self) -> str:
        last = self._files.last
        trust = ", weights_only=False" if last.exists() and has_own_classes(last) else ""
        return f"trainer.fit(..., ckpt_path={str(last)!r}{trust})"

    # -- what a checkpoint holds ---------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the number of rows of the log to the checkpoint, the run's settings, and what other callbacks need."""
        rows = [logger.rows for logger in trainer.loggers if isinstance(logger, RunLog)]
        keep_in(
            checkpoint, log_rows=rows, settings=self.settings, place=_place(trainer), beside=beside.collect(trainer)
        )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Find the rows of the log that were written after the checkpoint, and let other callbacks go on.

        Raises:
            ValueError: The settings of the run were others.
        """
        if trainer.state.fn != "fit":  # what is evaluated does not go on
            return
        part = kept_in(checkpoint)
        found = differences(part["settings"], self.settings) if "settings" in part else []
        if found:
            raise ValueError(
                f"{trainer.ckpt_path} is of a run with other settings ({'; '.join(found)}): go on with those that it"
                " had, or start a new run in another folder"
            )
        logs = [logger for logger in trainer.loggers if isinstance(logger, RunLog)]
        rows = zip(logs, part.get("log_rows", []), strict=False)
        self._lost_rows = [(log, kept, log.rows) for log, kept in rows]
        is_own = Path(trainer.ckpt_path or "").resolve().parent == self.folder.resolve()
        for log, kept, end in self._lost_rows if is_own else ():
            if end < kept:
                rank_zero_warn(
                    f"{log.path} has {end} rows, and had {kept} when {trainer.ckpt_path} was saved: the run goes on"
                    " without the lost ones"
                )
        if "beside" in part:
            beside.restore(trainer, part["beside"], checkpoint)
        self._is_resumed, self._place = True, part.get("place", "")

    def _cut_logs(self) -> None:
        """Drop the rows of the log that were written after the checkpoint, now that nothing refuses it any more."""
        for log, kept, end in self._lost_rows:
            log.cut(kept, end)
        self._lost_rows = []

    # -- saving --------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer) -> None:
        """Save a checkpoint between two batches."""
        with counted_once(trainer):
            trainer.save_checkpoint(self._files.unfinished, weights_only=False)
        self._end_saving(trainer)

    def _end_saving(self, trainer: Trainer) -> None:
        """Put the file that was written in its place, together with all other processes."""
        if trainer.is_global_zero:
            self._files.replace()
        trainer.strategy.barrier()  # Lightning kills the first process soon after another one has ended
        self._place = _place(trainer)
        self._note(trainer.lightning_module)

    def _write_pending(self, trainer: Trainer) -> None:
        """Write the checkpoint of an epoch's end, if there is one."""
        if self._pending is not None:
            checkpoint, self._pending = self._pending, None
            self.on_save_checkpoint(trainer, trainer.lightning_module, checkpoint)  # the log has grown since then
            trainer.strategy.save_checkpoint(checkpoint, self._files.unfinished)
            self._end_saving(trainer)

    def _note(self, search: Any) -> None:
        """Note the time and the batch of a checkpoint, from which the intervals count."""
        self._saved_at, self._saved_after = time.monotonic(), search.clock.batches

    def _agree(self, trainer: Trainer, request: Request) -> Request:
        """The largest request of all processes."""
        if trainer.world_size == 1:
            return request
        largest = trainer.strategy.reduce(torch.tensor(request, device=trainer.strategy.root_device), reduce_op="max")
        return Request(int(largest))

    def _stop(self, search: Any) -> None:
        """Save no more, and stop listening for Ctrl-C."""
        search.between_batches = None
        self._signals.end()


class _BeforeOthers(Callback):
    """Is called before all other callbacks, where a LastCheckpoint, which Lightning calls last, would be too late."""

    def __init__(self, start: Callable[[Trainer], None], between_epochs: Callable[[Trainer], None]) -> None:
        self._start, self._between_epochs = start, between_epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._between_epochs(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._between_epochs(trainer)


def _place(trainer: Trainer) -> str:
    """Where a training is, in words."""
    used = batches_used(trainer)
    progress: Any = trainer.fit_loop.epoch_progress.current
    epochs = f"epoch {progress.started}{_total(trainer.max_epochs)}"
    if used:
        return f"after batch {used}{_total(trainer.num_training_batches)} in {epochs}"
    return f"after {epochs}" if progress.started else "at the start"


def _total(count: float | None) -> str:
    """How many there are in all, in words, if that is known."""
    return "" if count is None or count < 0 or count == float("inf") else f" of {int(count)}"
