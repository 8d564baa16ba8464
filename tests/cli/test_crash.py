"""Runs from the command line that end too early: killed, interrupted, told to stop; and what goes on after them."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.callbacks import crash_at, slow
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, read, write_images, write_ptb
from tests.support.ends_of_runs import assert_same_end, checkpoint, steps
from tests.support.speed import slow_but

STRATEGIES = [
    "advantage", "counterfactual", "reinforce", "enas", "parsec", "proxylessnas", "gdas", "darts", "snas", "nasp",
]  # fmt: skip
SMALL = {"toy": SMALL_TOY, "ptb": [*SMALL_PTB, "task.data.root=text"], "cifar10": SMALL_CIFAR10}
# Each strategy, each task, and both the first and the last epoch.
EVERYWHERE = [(strategy, task, early) for strategy in STRATEGIES for task in SMALL for early in (True, False)]
QUICK = [("darts", "ptb", False)]
MANY_CHECKPOINTS = "checkpoint.every_n_steps=1"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_ptb(tmp_path / "text")
    write_images(tmp_path / "images")
    return tmp_path


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    root = Path(__file__).parents[2]
    # A shell's background job, as these tests may be, ignores interrupts, and so would its children.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        [sys.executable, "-m", "advnas_lightning", "trainer.enable_progress_bar=false", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )


def written(path: Path) -> int:
    """When a file was."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # a run renames it before it writes the next one
        return 0


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not path.exists():
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


@pytest.mark.parametrize(("strategy", "task", "early"), slow_but(EVERYWHERE, QUICK))
def test_every_strategy_goes_on_within_an_epoch_of_every_task(
    strategy: str, task: str, early: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Any
) -> None:
    arguments = [*SMALL[task], f"strategy={strategy}", MANY_CHECKPOINTS]
    if (strategy, task) == ("darts", "ptb"):
        arguments.append("strategy.second_order=true")
    launch(monkeypatch, *arguments, "hydra.run.dir=straight")
    length = steps(folder / "straight")
    place = length // 4 if early else length - 2
    with pytest.raises(SystemExit):
        launch(monkeypatch, *arguments, "hydra.run.dir=broken",
               crash_at(place))  # fmt: skip
    # A pair of batches is not parted by a second-order strategy.
    assert steps(folder / "broken") in ((place, place - 1) if "strategy.second_order=true" in arguments else (place,))
    launch(monkeypatch, *arguments, "hydra.run.dir=broken", "ckpt_path=last")
    assert_same_end(folder / "broken", folder / "straight", assert_same)


LONG = {
    "toy": ["task.epochs=30", "task.data.batches=100", "task.data.test_batches=2"],
    "ptb": [*SMALL["ptb"], "task.epochs=150"],
    "cifar10": [*SMALL_CIFAR10, "task.epochs=60", "task.optimization.warmup_epochs=20"],
}


@pytest.mark.slow
@pytest.mark.parametrize("task", SMALL)
def test_a_run_survives_twenty_kills(task: str, folder: Path, assert_same: Any) -> None:
    dice = random.Random(task)
    arguments = [*LONG[task], "checkpoint.every_n_steps=7", "threads=1"]
    begun = time.monotonic()
    assert start(*arguments, "hydra.run.dir=straight").wait() == 0
    training = read(folder / "straight", "summary.json")["seconds"]
    start_up = time.monotonic() - begun - training
    run, saved, kills = folder / "broken", folder / "broken" / "checkpoints" / "last.ckpt", []
    while True:
        process = start(*arguments, "hydra.run.dir=broken", "ckpt_path=last")
        moment = dice.uniform(0, start_up)
        if len(kills) % 2 == 0:  # while it trains; so early that twenty kills do not reach the end, at thrice the speed
            before = written(saved)
            while process.poll() is None and written(saved) == before:
                time.sleep(0.01)
            moment = dice.uniform(0, training / 100)
        try:
            _, errors = process.communicate(timeout=moment if len(kills) < 20 else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills.append(steps(run) if saved.exists() else -1)
        else:
            assert process.returncode == 0, errors
            break
    print(f"{task}: {len(kills)} kills, with checkpoints at the steps {kills}; {steps(folder / 'straight')} in all")
    assert len(kills) >= 20
    assert len(set(kills)) > 5
    assert_same_end(run, folder / "straight", assert_same)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_saves_first(
    number: signal.Signals, folder: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Any
) -> None:
    arguments = ["task.data.batches=200", "task.data.batch_size=10", "task.data.test_batches=2", "task.epochs=1"]
    process = start(*arguments, "hydra.run.dir=run", slow(AdvantageNAS=0.02))  # 4 seconds
    wait_for(folder / "run" / "metrics.csv", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert 0 < steps(folder / "run") < 200  # in the middle of the only epoch, and by no clock
    assert not (folder / "run" / "summary.json").exists()
    launch(monkeypatch, *arguments, "hydra.run.dir=run", "ckpt_path=last")
    launch(monkeypatch, *arguments, "hydra.run.dir=straight")
    assert_same_end(folder / "run", folder / "straight", assert_same)


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait(folder: Path) -> None:
    process = start("task.data.batches=3000", "task.data.batch_size=10", "hydra.run.dir=run")
    wait_for(folder / "run" / "metrics.csv", process)
    for _ in range(20):  # one may come while the other is handled
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode not in (0, None)
    checkpoint(folder / "run")


def test_the_clock_saves_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_TOY, "checkpoint.every_n_minutes=1e-9", "hydra.run.dir=run",
               crash_at(7))  # fmt: skip
    assert steps(folder / "run") == 7


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content[: len(content) // 2] if how == "cut" else b"" if how == "empty" else content)


@pytest.mark.parametrize("how", ["flipped", *(pytest.param(each, marks=pytest.mark.slow) for each in ("cut", "empty"))])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    how: str, folder: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Any
) -> None:
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "ckpt_path=last", MANY_CHECKPOINTS,
               crash_at(7))  # fmt: skip
    assert steps(folder / "run") == 7  # a run that has not begun starts with ckpt_path=last, too
    damage(folder / "run" / "checkpoints" / "last.ckpt", how)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged \(.*going on from .*previous\.ckpt"):
        launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "ckpt_path=last")
    assert_same_end(folder / "run", finished, assert_same)


def test_without_a_whole_checkpoint_there_is_one_line(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("last", "previous"):
        damage(toy / "checkpoints" / f"{name}.ckpt", "cut")
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "ckpt_path=last")
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1
    damaged = r"run/checkpoints/{}\.ckpt is damaged \([^\n]+\)"
    both = f"{damaged.format('last')}; {damaged.format('previous')}"
    assert re.fullmatch(rf"error: the checkpoint {both}: start anew, or name another", error)


def test_a_gone_checkpoint_is_replaced_by_the_one_before(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "checkpoints" / "last.ckpt").unlink()  # as after a kill between two renames
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "ckpt_path=last")
    assert steps(toy) == 20


NO_FIT = [
    (["hydra.run.dir=run"], "run/checkpoints has a run's checkpoints: go on with ckpt_path=last, or set another"),
    (["ckpt_path=other/last.ckpt"], "there is no checkpoint other/last.ckpt: name the checkpoints/last.ckpt of a"),
    (["ckpt_path=run/checkpoints/last.ckpt", "strategy=gdas"], "is of AdvantageNAS search, and this is GDAS"),
    (["ckpt_path=run/checkpoints/last.ckpt", "task.data.nodes=3", "task.model.nodes=3"], "search space is"),
    (["ckpt_path=old.ckpt"], "the checkpoint has the format 0 of another version, and this one reads 2"),
    (["ckpt_path=foreign.ckpt"], "the checkpoint is of no search of this package"),
    (["checkpoint.every_n_steps=0"], "every_n_steps=0 must be a whole number of at least 1"),
    (["checkpoint.every_n_minutes=-1"], "every_n_minutes=-1.0 must be a finite number above 0"),
    (["checkpoint.every_n_steps=often"], "often"),
    (["checkpoint.minutes=3"], "minutes"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), slow_but(NO_FIT, NO_FIT[::2]))
def test_a_checkpoint_that_does_not_fit_is_refused(
    arguments: list[str],
    message: str,
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = checkpoint(toy)
    content["advnas_lightning"]["search"]["format"] = 0
    torch.save(content, "old.ckpt")
    torch.save({key: value for key, value in content.items() if key != "advnas_lightning"}, "foreign.ckpt")
    before = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *SMALL_TOY, *arguments)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1
    assert message in error
    assert "Traceback" not in error
    for path, saved in before.items():
        if ".hydra" not in path.parts:
            assert path.read_bytes() == saved, path  # nothing already saved is lost
