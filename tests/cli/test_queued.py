"""A job in a cluster's queue saves a checkpoint before it is queued again. tests/slurm does the same on a cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from advnas_lightning.cli import queued
from advnas_lightning.cli.queued import saved_before_requeue
from tests.support.command_line import SMALL_TOY, launch
from tests.support.ends_of_runs import assert_same_end, steps

REQUEUED = 255  # submitit's exit status


class SignalAt(Callback):
    """Sends this process a signal at the start of a batch."""

    def __init__(self, batch: int, name: str) -> None:
        self.batch, self.name = batch, name

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            signal.raise_signal(getattr(signal, self.name))


@pytest.fixture(autouse=True)
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The state in which submitit leaves a process to a job's function."""
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    signal.signal(signal.SIGTERM, ignore)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ignore(number: int, frame: FrameType | None) -> None:
    """As submitit does at SIGTERM."""


def give_back(number: int, frame: FrameType | None) -> None:
    """As submitit does at its signal: another process queues the job again, and this one ends."""
    sys.exit(REQUEUED)


def refuse(number: int, frame: FrameType | None) -> None:
    """As submitit does when there were too many such signals."""
    raise RuntimeError("Job not requeued because: timed-out too many times.")


def exit_status(act: Callable[[], None]) -> Any:
    with pytest.raises(SystemExit) as stop, saved_before_requeue():
        act()
    return stop.value.code


def test_a_search_is_saved_before_its_job_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGUSR2, give_back)
    at = "+trainer.callbacks=[{_target_: tests.cli.test_queued.SignalAt, batch: 7, name: SIGUSR2}]"
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", at)
    assert stop.value.code == REQUEUED
    assert steps(tmp_path / "run") == 8
    assert signal.getsignal(signal.SIGUSR2) is give_back
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "ckpt_path=last")
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=straight")
    assert_same_end(tmp_path / "run", tmp_path / "straight", assert_same)


def test_a_job_that_does_not_train_is_queued_again_at_once() -> None:
    signal.signal(signal.SIGUSR2, give_back)
    assert exit_status(lambda: signal.raise_signal(signal.SIGUSR2)) == REQUEUED


def test_a_step_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # somebody notes it, and ends after this step
        signal.raise_signal(signal.SIGUSR2)
        time.sleep(60)

    monkeypatch.setattr(queued, "PATIENCE", 0.1)
    signal.signal(signal.SIGUSR2, give_back)
    assert exit_status(train) == REQUEUED


def test_a_job_that_is_out_of_time_too_often_fails() -> None:
    signal.signal(signal.SIGUSR2, refuse)
    with pytest.raises(TimeoutError, match=r"timed-out too many times.*larger hydra\.launcher\.timeout_min"):  # noqa: SIM117
        with saved_before_requeue():
            signal.raise_signal(signal.SIGUSR2)


def test_in_slurm_a_job_that_was_told_to_end_waits_until_it_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> None:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        raise SIGTERMException

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    signal.signal(signal.SIGUSR2, give_back)
    before = time.monotonic()
    assert exit_status(train) == 128 + signal.SIGTERM
    assert time.monotonic() - before > 0.4


def test_in_slurm_a_job_that_waits_for_its_end_is_queued_again_if_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train() -> None:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR2)).start()
        raise SIGTERMException

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    signal.signal(signal.SIGUSR2, give_back)
    assert exit_status(train) == REQUEUED


@pytest.mark.parametrize("variable", ["SUBMITIT_EXECUTOR", "SUBMITIT_PREEMPT_SIGNAL"])
def test_elsewhere_no_signal_is_taken(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGUSR2, give_back)
    if variable == "SUBMITIT_EXECUTOR":
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, "WINCH")  # for which nobody has a handler

    def act() -> None:
        assert signal.getsignal(signal.SIGUSR2) is give_back
        raise SIGTERMException

    assert exit_status(act) == SIGTERMException().code
