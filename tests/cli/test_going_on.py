"""Runs that are to go on: with other settings, beside another process, by the line that a run has told."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.callbacks import crash_at
from tests.support.command_line import SMALL_PTB, SMALL_TOY, launch, read, write_ptb
from tests.support.ends_of_runs import assert_same_end, steps
from tests.support.speed import slow_but

GO_ON = ["hydra.run.dir=run", "ckpt_path=last"]
LONG = ["task.data.batches=4000", "task.data.batch_size=10", "task.data.test_batches=2", "task.epochs=1"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start() -> Iterator[Any]:
    """``start(*arguments)``: the command line in a process of its own, which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
        process = subprocess.Popen(
            [sys.executable, "-m", "advnas_lightning", *arguments, "trainer.enable_progress_bar=false"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not path.exists():
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def contents(folder: Path) -> dict[Path, bytes]:
    """All files, Hydra's own included; of a lock, only that there is one."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command line is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *arguments)
    assert stop.value.code == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each]
    return line


def stopped(monkeypatch: pytest.MonkeyPatch, *arguments: str, batch: int = 15) -> None:
    """A run that was stopped within an epoch."""
    with pytest.raises(SystemExit):
        launch(monkeypatch, *arguments, "hydra.run.dir=run", "checkpoint.every_n_steps=1", crash_at(batch))


@pytest.fixture(scope="module")
def halted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a run of the toy task, which nobody changes."""
    folder = tmp_path_factory.mktemp("halted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stopped(patch, *SMALL_TOY)
    return folder / "run"


DECIDING = [
    ("seed=5", "seed is 0, not 5"),
    ("strategy=gdas", "strategy._target_ is advnas_lightning.AdvantageNAS, not advnas_lightning.GDAS"),
    ("strategy.gamma=0.1", "strategy.gamma is 0.05, not 0.1"),
    ("task.data.batch_size=5", "task.data.batch_size is 10, not 5"),
    ("task.optimization.architecture_optimizer.lr=0.1", "task.optimization.architecture_optimizer.lr is 0.001, not"),
    ("trainer.precision=bf16-mixed", "trainer.precision is None, not bf16-mixed"),
    ("trainer.limit_train_batches=5", "trainer.limit_train_batches is None, not 5"),
    ("trainer.max_epochs=1", "the checkpoint is of epoch 2, and max_epochs=1"),
]


@pytest.mark.parametrize(("override", "says"), slow_but(DECIDING, [DECIDING[0], DECIDING[1], *DECIDING[-2:]]))
def test_a_setting_that_decides_the_result_is_refused_before_anything_is_written(
    override: str,
    says: str,
    folder: Path,
    halted: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(halted, "run")
    before = contents(folder)
    error = refusal(monkeypatch, capsys, *SMALL_TOY, override, *GO_ON)
    assert error.startswith("error: ")
    assert says in error
    assert contents(folder) == before


def test_what_fails_later_leaves_the_settings_of_the_run(
    folder: Path, halted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(halted, "run")
    before = contents(folder)
    assert "MPS" in refusal(monkeypatch, capsys, *SMALL_TOY, "trainer.accelerator=mps", *GO_ON)
    assert contents(folder) == before


def test_incidental_settings_may_change(
    folder: Path, halted: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Any
) -> None:
    shutil.copytree(halted, "run")
    launch(monkeypatch, *SMALL_TOY, "checkpoint.every_n_minutes=1", "trainer.num_sanity_val_steps=0", *GO_ON)
    assert_same_end(folder / "run", finished, assert_same)


@pytest.mark.parametrize("batch", slow_but([None, 7], [7]))
def test_a_longer_run_ends_as_if_it_had_been_so_long_from_the_start(
    batch: int | None, folder: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Any
) -> None:
    if batch is None:
        shutil.copytree(finished, "run")
    else:
        stopped(monkeypatch, *SMALL_TOY, batch=batch)
    launch(monkeypatch, *SMALL_TOY, "task.epochs=4", *GO_ON)
    launch(monkeypatch, *SMALL_TOY, "task.epochs=4", "hydra.run.dir=straight")
    assert_same_end(folder / "run", folder / "straight", assert_same)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*SMALL_TOY, "strategy=gdas"], "trainer.max_epochs is 2, not 4"),  # its temperature
        ([*SMALL_PTB, "task.data.root=text"], "task.optimization.weight_scheduler.T_max is 2, not 4"),
    ],
)
def test_a_longer_run_is_refused_where_something_depends_on_its_length(
    arguments: list[str],
    says: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_ptb(folder / "text")
    launch(monkeypatch, *arguments, "hydra.run.dir=run")
    before = contents(folder)
    assert says in refusal(monkeypatch, capsys, *arguments, "task.epochs=4", *GO_ON)
    assert contents(folder) == before


def test_a_found_architecture_may_be_trained_afterwards(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(toy, "genotype.json")
    launch(monkeypatch, *SMALL_TOY, "retrain=true", *GO_ON)
    assert read(toy, "genotype.json") == found
    assert read(toy / "retrained", "genotype.json")["argmax"] == found["argmax"]


def test_results_without_a_checkpoint_are_not_overwritten(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (toy / "checkpoints").iterdir():
        path.unlink()
    before = contents(toy)
    for arguments in (GO_ON, GO_ON[:1]):
        error = refusal(monkeypatch, capsys, *SMALL_TOY, "seed=1", *arguments)
        assert error == "error: run has a run's results and no checkpoint to go on from: set another hydra.run.dir"
    assert contents(toy) == before


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_one_runs(
    folder: Path, start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(*LONG, "hydra.run.dir=run")
    wait_for(folder / "run" / "metrics.csv", first)
    settings = contents(folder / "run" / ".hydra")
    error = refusal(monkeypatch, capsys, *LONG, "threads=2", *GO_ON)
    assert re.fullmatch(
        rf"error: run is in use by process {first.pid} on .+: wait for its end, or use another.*", error
    )
    assert contents(folder / "run" / ".hydra") == settings
    first.kill()
    first.communicate()
    second = start(*LONG, *GO_ON)  # a killed one holds nothing
    while second.poll() is None and not (folder / "run" / ".lock").read_text().startswith(f"process {second.pid} "):
        time.sleep(0.05)
    assert second.poll() is None, second.communicate()


@pytest.mark.slow
def test_a_second_sweep_is_refused_while_the_first_one_runs(
    folder: Path, start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["-m", *LONG, "hydra.sweep.dir=sweep"]
    first = start(*sweep, "seed=0,1")
    wait_for(folder / "sweep/toy/advantage/0/metrics.csv", first)
    assert "error: sweep is in use by process" in refusal(monkeypatch, capsys, *sweep, "seed=0,1")
    error = refusal(monkeypatch, capsys, *LONG, "hydra.run.dir=sweep/toy/advantage/0", "ckpt_path=last")
    assert "sweep/toy/advantage/0 is in use by process" in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_line_that_is_told_goes_on(
    number: signal.Signals, folder: Path, start: Any, monkeypatch: pytest.MonkeyPatch, assert_same: Any
) -> None:
    name = "it's a run, of 'mine'"
    arguments = [*LONG, "task.data.batches=500", "select='argmax'"]
    quoted = name.replace("'", r"\'")
    process = start(*arguments, f"hydra.run.dir='{quoted}'")
    wait_for(folder / name / "metrics.csv", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode not in (0, None)
    found = re.search(r"last\.ckpt was saved after batch (\d+) of 500 in epoch 1 of 1; go on with: (.+)$", errors, re.M)
    assert found is not None, errors
    assert int(found[1]) == steps(folder / name)
    assert "ckpt_path=last" in shlex.split(found[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(["sh", "-c", found[2]], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"last.ckpt, saved after batch {found[1]} of 500 in epoch 1 of 1" in done.stderr
    launch(monkeypatch, *arguments, "hydra.run.dir=straight")
    assert_same_end(folder / name, folder / "straight", assert_same)


def test_a_run_that_finds_nothing_to_go_on_from_says_so(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("advnas_lightning.cli.going_on.rank_zero_info", said.append)
    launch(monkeypatch, *SMALL_TOY, *GO_ON)
    assert not said
    launch(monkeypatch, *SMALL_TOY, "ckpt_path=last", "hydra.run.dir=misspelt")
    assert [Path(line.split()[0]).parts[-2:] for line in said] == [("misspelt", "checkpoints")]
    assert said[0].endswith("has no checkpoint: the run starts from the beginning")


def test_a_run_that_is_done_says_so(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = read(toy, "summary.json")
    said: list[str] = []
    monkeypatch.setattr("advnas_lightning.callbacks.checkpoint.rank_zero_info", said.append)
    launch(monkeypatch, *SMALL_TOY, *GO_ON)
    assert re.fullmatch(r"nothing is left to train: .*last\.ckpt was saved after epoch 2 of 2", said[-1])
    assert {**read(toy, "summary.json"), "seconds": 0} == {**summary, "seconds": 0}


def test_a_run_that_is_done_goes_on_in_another_folder_with_all_its_files(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(monkeypatch, *SMALL_TOY, "ckpt_path=run", "hydra.run.dir=other")
    other = Path("other")
    assert read(other, "genotype.json") == read(toy, "genotype.json")
    assert (other / "checkpoints" / "last.ckpt").read_bytes() == (toy / "checkpoints" / "last.ckpt").read_bytes()


@pytest.mark.slow
def test_a_run_that_was_stopped_early_and_killed_before_its_summary_keeps_its_epochs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: seconds, patience: 1}"
    arguments = [*SMALL_TOY, "task.epochs=9", f"+trainer.callbacks=[{stopping}]"]
    launch(monkeypatch, *arguments, "hydra.run.dir=run")
    summary = read(folder / "run", "summary.json")
    assert summary["epochs"] < 9
    (folder / "run" / "summary.json").unlink()
    launch(monkeypatch, *arguments, *GO_ON)
    assert {**read(folder / "run", "summary.json"), "seconds": 0} == {**summary, "seconds": 0}
