"""Runs on two processes that end too early: one of them dies, or they are told to stop; and what goes on after them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from advnas_lightning.callbacks.intact import intact_checkpoint
from tests.support.ends_of_runs import assert_same_end, steps

MINUTE = 60
WARM = 5  # batches
RUN = [
    *("task.epochs=2", "task.data.batches=400", "task.data.batch_size=10", "task.data.test_batches=2"),
    *("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.enable_progress_bar=false"),
    "+trainer.callbacks=[{_target_: tests.cli.test_rank_death.Beacon}]",
]
DIED = r"^error: a process of this run has died.*: go on with the run's hydra\.run\.dir=… and ckpt_path=last$"
# Who gets which signal. A terminal's Ctrl-C is for all; job managers tell the first process, or all of them.
ENDS = [
    ((1,), signal.SIGTERM),
    ((1,), signal.SIGKILL),
    ((0,), signal.SIGTERM),
    ((0,), signal.SIGKILL),
    ((0, 1), signal.SIGTERM),
    ((0, 1), signal.SIGINT),
]

Start = Callable[[str], "subprocess.Popen[bytes]"]


class Beacon(Callback):
    """Tells which process a rank is, once training is well under way in it."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.batches += 1
        if self.batches == WARM:
            beacon = Path(f"rank{trainer.global_rank}")
            beacon.with_suffix(".part").write_text(str(os.getpid()))
            beacon.with_suffix(".part").replace(beacon)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(run)``: the first of two processes, which starts the other; its output ends when both have."""
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    started = []

    def begin(run: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "advnas_lightning", *RUN, f"hydra.run.dir={run}", "ckpt_path=last"],
            env=environment,
            bufsize=0,  # or what readline() has read ahead would be lost to communicate()
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell's background job, as these tests may be, ignores interrupts, and so would its children.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # both, should they still run
        process.communicate()


def output_of(process: subprocess.Popen[bytes], *, timeout: float) -> str:
    """All that both processes still write until the last one ends."""
    return process.communicate(timeout=timeout)[0].decode()


def under_way(process: subprocess.Popen[bytes]) -> list[int]:
    """Wait until both train; which processes they are."""
    beacons = [Path("rank0"), Path("rank1")]
    while process.poll() is None and not all(beacon.exists() for beacon in beacons):
        time.sleep(0.05)
    assert process.poll() is None, output_of(process, timeout=MINUTE)
    pids = [int(beacon.read_text()) for beacon in beacons]
    for beacon in beacons:
        beacon.unlink()
    assert pids[0] == process.pid
    return pids


@pytest.mark.slow
def test_a_run_goes_on_from_whatever_ended_its_processes(folder: Path, start: Start, assert_same: Any) -> None:
    straight = start("straight")
    output = output_of(straight, timeout=600)
    assert straight.returncode == 0, output
    for beacon in folder.glob("rank?"):
        beacon.unlink()
    last = folder / "broken" / "checkpoints" / "last.ckpt"
    for ranks, number in ENDS:
        before = steps(folder / "broken") if last.exists() else 0
        process = start("broken")
        pids = under_way(process)
        since = time.monotonic()
        for rank in ranks:
            os.kill(pids[rank], number)
        output = output_of(process, timeout=MINUTE)
        print(f"{number.name} for {ranks}: {time.monotonic() - since:.1f} s, status {process.returncode}\n{output}")
        assert process.returncode != 0
        assert "Traceback" not in output
        assert intact_checkpoint(last) == last
        torch.load(last, weights_only=True)
        if number == signal.SIGKILL:
            assert re.search(DIED, output, re.MULTILINE)
            assert steps(folder / "broken") == before
        else:
            assert "error" not in output
            assert steps(folder / "broken") >= before + WARM
    process = start("broken")
    output = output_of(process, timeout=600)
    assert process.returncode == 0, output
    assert_same_end(folder / "broken", folder / "straight", assert_same)


@pytest.mark.slow
def test_no_process_waits_for_a_first_one_that_died_before_they_met(start: Start) -> None:
    process = start("run")
    assert process.stdout is not None
    line = b"-"
    while line and b"GLOBAL_RANK: 0" not in line:  # the other one has just been started
        line = process.stdout.readline()
    process.kill()
    output = output_of(process, timeout=2 * MINUTE)  # one of them for the other one's start
    assert re.search(DIED, output, re.MULTILINE), output
    assert "Traceback" not in output
