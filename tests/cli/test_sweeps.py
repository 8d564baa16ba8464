"""Sweeps: what they leave, what survives a failing job, and what goes on."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer

from advnas_lightning.cli import sweeps
from advnas_lightning.cli.sweep_jobs import Jobs
from advnas_lightning.cli.sweeps import SweepCallback, show_end
from advnas_lightning.report.collection import collect
from advnas_lightning.report.paper_tables import build_table
from advnas_lightning.report.plans import TABLES
from tests.support.callbacks import crash_at
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, read, runs, write_images, write_ptb
from tests.support.ends_of_runs import assert_same_end, steps
from tests.support.speed import slow_but

SWEEP = ["-m", *SMALL_TOY, "hydra.sweep.dir=sweep"]
ADVANTAGE, GDAS = Path("sweep/toy/advantage"), Path("sweep/toy/gdas")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class FailOnce(Callback):
    """Fails in the middle of the second epoch of a strategy, unless the file ``repaired`` is there."""

    def __init__(self, strategy: str) -> None:
        self.strategy = strategy

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        fails = type(pl_module).__name__ == self.strategy and not Path("repaired").exists()
        if fails and (trainer.current_epoch, batch_idx) == (1, 3):
            raise RuntimeError("out of luck\nand of memory")


FAILING = "+trainer.callbacks=[{_target_: tests.cli.test_sweeps.FailOnce, strategy: AdvantageNAS}]"


def contents(folder: Path) -> dict[Path, bytes]:
    """All of a job's own files, without Hydra's copies of its settings."""
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts
    }  # fmt: skip


def test_a_sweep_survives_a_failing_job_and_goes_on(
    folder: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    assert_same: Any,
) -> None:
    arguments = [*SWEEP, "strategy=advantage,gdas", "checkpoint.every_n_steps=1", FAILING]
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *arguments)
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert runs(folder / "sweep") == [folder / GDAS / "1"]
    error = (ADVANTAGE / "0" / "error.txt").read_text()
    assert error.startswith("RuntimeError: out of luck\n\nTraceback")
    assert "test_sweeps.py" in error
    assert "error: RuntimeError: out of luck (sweep/toy/advantage/0/error.txt)" in printed.err
    assert "job 0 failed: RuntimeError: out of luck (sweep/toy/advantage/0)\n" in printed.out
    assert "1 of 2 jobs have finished: sweep" in printed.out
    assert "Traceback" not in printed.err

    before = contents(GDAS)
    Path("repaired").touch()
    launch(monkeypatch, *arguments)
    printed = capsys.readouterr()
    assert contents(GDAS) == before  # skipped
    assert "2 of 2 jobs have finished: sweep" in printed.out
    assert printed.err == ""
    assert not list(folder.rglob("error.txt"))
    assert_same_end(ADVANTAGE / "0", finished, assert_same)  # it went on, and did not start anew


@pytest.mark.parametrize("task", slow_but(["toy", "ptb", "cifar10"], ["toy"]))
def test_a_job_goes_on_from_the_end_of_an_epoch(
    task: str, folder: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Any
) -> None:
    write_ptb(folder / "text")
    write_images(folder / "images")
    small = {"toy": SMALL_TOY, "ptb": [*SMALL_PTB, "task.data.root=text"], "cifar10": SMALL_CIFAR10}[task]
    straight = finished if task == "toy" else folder / "straight"
    if task != "toy":
        launch(monkeypatch, *small, "hydra.run.dir=straight")
    crash = crash_at(steps(straight) // 2)
    with pytest.raises(SystemExit):
        launch(monkeypatch, "-m", *small, crash, "hydra.sweep.dir=sweep")
    run = folder / "sweep" / task / "advantage" / "0"
    assert steps(run) == steps(straight) // 2
    launch(monkeypatch, *small, f"hydra.run.dir={run}", "ckpt_path=last")  # without the callback that fails
    assert_same_end(run, straight, assert_same)


@pytest.mark.slow
def test_a_damaged_summary_is_written_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, *SWEEP)
    (run,) = runs(folder / "sweep")
    summary = read(run, "summary.json")
    (run / "summary.json").write_text('{"strategy": "adv')
    launch(monkeypatch, *SWEEP)
    assert {**read(run, "summary.json"), "seconds": 0} == {**summary, "seconds": 0}


OTHER_SWEEPS = [
    (["seed=1,0"], r"sweep/toy/advantage/0 is of another sweep \(seed is 0, not 1\)"),
    (["seed=0"], r"sweep/toy/advantage/1 is of another sweep \(there is no such job\)"),
    (["seed=0,1", "strategy=gdas"], r"toy/advantage/0 is of another sweep \(strategy\._target_ is adv\S+, not adv"),
    (["seed=0,1", "trainer.max_epochs=3"], r"\(trainer\.max_epochs is \${task\.epochs}, not 3\)"),
]


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep of two seeds, which nobody changes."""
    folder = tmp_path_factory.mktemp("two_seeds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launch(patch, *SWEEP, "seed=0,1")
    return folder / "sweep"


@pytest.mark.parametrize(("arguments", "says"), slow_but(OTHER_SWEEPS, OTHER_SWEEPS[:1]))
def test_the_folder_of_another_sweep_is_refused(
    arguments: list[str],
    says: str,
    two_seeds: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(two_seeds, "sweep")
    before = {path: path.read_bytes() for path in Path("sweep").rglob("*") if path.is_file()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *SWEEP, *arguments)
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert re.fullmatch(rf"error: .*{says}.*: set another hydra\.sweep\.dir", printed.err.strip())
    assert printed.out == ""
    assert {path: path.read_bytes() for path in Path("sweep").rglob("*") if path.is_file()} == before


MIXED_UP = [
    (["hydra.run.dir=there"], "there has a sweep: go on with it with -m and hydra.sweep.dir=there, or set another"),
    (["-m", "hydra.sweep.dir=there"], "there has a run: go on with it without -m, with hydra.run.dir=there, or set"),
    (["hydra.sweep.dir=new"], "hydra.sweep.dir=new: this is a run, whose folder is hydra.run.dir; -m makes a sweep"),
    (["-m", "hydra.run.dir=new"], "hydra.run.dir=new: this is a sweep, whose folder is hydra.sweep.dir; -m makes"),
    (["hydra.run.dir="], "hydra.run.dir has no value: name a folder, or leave it out"),
    (["-m", "hydra.sweep.dir="], "hydra.sweep.dir has no value: name a folder, or leave it out"),
]


@pytest.mark.parametrize(("arguments", "says"), slow_but(MIXED_UP, [MIXED_UP[0], *MIXED_UP[3:5]]))
def test_a_folder_is_named_and_a_run_and_a_sweep_are_not_mixed_up(
    arguments: list[str], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign = folder / "there" / (".hydra/config.yaml" if "-m" in arguments else "multirun.yaml")
    sign.parent.mkdir(parents=True)
    sign.touch()
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *SMALL_TOY, "ckpt_path=last", *arguments)
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {says}")
    assert [path for path in folder.rglob("*") if path.is_file()] == [sign]


@pytest.mark.parametrize("name", slow_but(["hydra.yaml", "config.yaml"], ["config.yaml"]))
def test_a_job_whose_settings_are_damaged_is_named(
    name: str, two_seeds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(two_seeds, "sweep")
    settings = ADVANTAGE / "0" / ".hydra" / name
    settings.write_text("")  # as a full disk leaves it
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *SWEEP, "seed=0,1", "strategy.gamma=0.1")
    assert stop.value.code == 1
    says = f"error: whether {ADVANTAGE}/0 is of this sweep cannot be told ({settings}: it is empty): remove that folder"
    assert capsys.readouterr().err.strip() == f"{says}, or set another hydra.sweep.dir"
    assert not settings.read_text()


@pytest.mark.slow
def test_a_job_that_could_not_even_write_its_settings_starts_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ADVANTAGE / "0" / ".hydra"
    settings.mkdir(parents=True)
    (settings / "hydra.yaml").write_text("")
    launch(monkeypatch, *SWEEP)
    printed = capsys.readouterr()
    assert "1 of 1 jobs have finished: sweep" in printed.out
    assert printed.err == ""


@pytest.mark.slow
def test_a_sweep_is_extended_at_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, *SWEEP, "strategy=advantage")
    before = contents(ADVANTAGE)
    launch(monkeypatch, *SWEEP, "strategy=advantage,gdas", "threads=2", "checkpoint.every_n_minutes=1")
    assert contents(ADVANTAGE) == before
    assert runs(folder / "sweep") == [folder / ADVANTAGE / "0", folder / GDAS / "1"]


TINY = {
    "fig1": SMALL_TOY,
    "table3": [*SMALL_PTB[1:], "task.data.root=text"],
    "table3_small": [*SMALL_PTB[1:], "task.data.root=text"],
    **dict.fromkeys(("table2", "table4", "table2_small", "table4_small"), SMALL_CIFAR10[1:]),
}


@pytest.mark.parametrize("experiment", slow_but(TINY, ["fig1"]))
def test_an_experiment_is_a_sweep(experiment: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ptb(folder / "text")
    write_images(folder / "images")
    grid = ["strategy=advantage,gdas", "seed=1", "hydra.sweep.dir=sweep"]
    launch(monkeypatch, f"experiment={experiment}", *TINY[experiment], *grid)
    found = [read(run, "summary.json") for run in runs(folder / "sweep")]
    expected = ["advantage", "fixed", "gdas", "fixed"] if experiment.startswith("table3") else ["advantage", "gdas"]
    assert [(each["strategy"], each["seed"], each["epochs"]) for each in found] == [(name, 1, 2) for name in expected]


RETRAIN = [*SMALL_PTB, "task.data.root=text", "retrain=true"]


def test_what_a_search_found_is_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], assert_same: Any
) -> None:
    write_ptb(folder / "text")
    arguments = [*RETRAIN, "strategy=gdas", "strategy.tau_max=5.0", "select=argmax"]
    launch(monkeypatch, *arguments, 'hydra.run.dir="it\'s one"')
    search, retrained = folder / "it's one", folder / "it's one" / "retrained"
    assert read(retrained, "genotype.json")["argmax"] == read(search, "genotype.json")["argmax"]
    genotype = f'strategy.genotype="{search}/genotype.json"'
    launch(monkeypatch, *SMALL_PTB, "task.data.root=text", "strategy=fixed", genotype, "hydra.run.dir=by_hand")
    assert_same_end(retrained, folder / "by_hand", assert_same)
    (plan,) = (each for each in TABLES if each.name == "table3")
    table = build_table(plan, collect([search]).runs)
    assert table is not None
    assert [line.strategy for line in table.lines if line.fields[1].value] == ["gdas"]


@pytest.mark.slow
def test_a_sweep_of_trainings_alone_has_nothing_to_train_again(
    finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", *SMALL_TOY, "retrain=true", "strategy=fixed", "hydra.sweep.dir=sweep"]  # as table3_small has it
    launch(monkeypatch, *arguments, f"strategy.genotype={finished}")
    (job,) = (path.parent for path in (folder / "sweep").rglob("summary.json"))
    assert "1 of 1 jobs have finished: sweep" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in job.iterdir() if path.is_file()}
    launch(monkeypatch, *arguments, f"strategy.genotype={finished}")  # goes on, with nothing left to do
    assert {path: path.stat().st_mtime_ns for path in job.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_a_job_goes_on_with_its_retraining(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], assert_same: Any
) -> None:
    write_ptb(folder / "text")
    crash = FAILING.replace("AdvantageNAS", "Fixed")
    arguments = ["-m", *RETRAIN, "checkpoint.every_n_steps=1", crash, "hydra.sweep.dir=sweep"]
    with pytest.raises(SystemExit):
        launch(monkeypatch, *arguments)
    job = folder / "sweep/ptb/advantage/0"
    assert "0 of 1 jobs have finished: sweep" in capsys.readouterr().out
    assert (job / "error.txt").read_text().startswith("RuntimeError: out of luck")
    before = {path: path.stat().st_mtime_ns for path in job.glob("*") if path.is_file()}
    Path("repaired").touch()
    launch(monkeypatch, *arguments)
    assert "1 of 1 jobs have finished: sweep" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in job.glob("*") if path.is_file()}
    del before[job / "error.txt"]
    assert after == before  # of the search
    launch(monkeypatch, *RETRAIN, crash, "hydra.run.dir=straight")
    assert_same_end(job / "retrained", folder / "straight" / "retrained", assert_same)


@pytest.mark.slow
def test_a_retraining_goes_on_in_a_folder_that_was_moved_but_not_with_another_architecture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ptb(folder / "text")
    crash = FAILING.replace("AdvantageNAS", "Fixed")
    arguments = ["-m", *RETRAIN, "checkpoint.every_n_steps=1", crash]
    with pytest.raises(SystemExit):
        launch(monkeypatch, *arguments, f"hydra.sweep.dir={folder}/sweep")
    (folder / "sweep").rename(folder / "moved")
    Path("repaired").touch()
    genotype = folder / "moved/ptb/advantage/0/genotype.json"
    found = genotype.read_text()
    other = dict.fromkeys(json.loads(found)["argmax"], "zero")
    genotype.write_text(json.dumps({"selected": "argmax", "argmax": other, "process_best": None}))
    with pytest.raises(SystemExit):
        launch(monkeypatch, *arguments, f"hydra.sweep.dir={folder}/moved")
    assert "the checkpoint trains {" in capsys.readouterr().out
    genotype.write_text(found)
    launch(monkeypatch, *arguments, f"hydra.sweep.dir={folder}/moved")
    assert "1 of 1 jobs have finished" in capsys.readouterr().out


def test_the_line_to_go_on_takes_a_folder_with_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    show_end(Jobs(Path("my sweep"), [["seed=0"]]), "my sweep")
    line = capsys.readouterr().out.partition("go on with the same line and ")[2]
    assert shlex.split(line) == ['hydra.sweep.dir="my sweep"']


class Interrupt(Callback):
    """What Ctrl-C does in the second epoch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_sweep_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt = "+trainer.callbacks=[{_target_: tests.cli.test_sweeps.Interrupt}]"
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *SWEEP, "seed=0,1", interrupt)
    assert stop.value.code == 130
    error = capsys.readouterr().err
    (line,) = re.findall(r"^interrupted: 0 of 2 jobs have finished; go on with: (.*)$", error, re.MULTILINE)
    arguments = shlex.split(line)
    arguments = arguments[arguments.index("-m", arguments.index("advnas_lightning")) :]
    assert "hydra.sweep.dir=sweep" in arguments
    monkeypatch.setattr(Interrupt, "on_train_batch_start", Callback.on_train_batch_start)
    launch(monkeypatch, *[each for each in arguments if each != "trainer.enable_progress_bar=false"])
    assert "2 of 2 jobs have finished: sweep\n" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_sweep_that_cannot_begin_does_not_say_that_it_was_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SWEEP, "seed=0,1", "launcher=joblib", "hydra.launcher.n_jobs=0")
    assert capsys.readouterr().err == "error: n_jobs == 0 in Parallel has no meaning\n"


@pytest.mark.parametrize(("error", "says"), [(KeyboardInterrupt, True), (SystemExit, True), (ValueError, False)])
def test_a_sweep_that_is_interrupted_before_its_first_job_says_how_to_go_on(
    error: type[BaseException],
    says: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = SweepCallback()
    vars(sweep).update(_jobs=Jobs(tmp_path, [["seed=0"]]), _go_on="advnas -m seed=0")  # in a queue, without a folder
    monkeypatch.setattr(sweeps, "_running", [sweep])
    with pytest.raises(error), sweeps.interruptible():
        raise error
    assert capsys.readouterr().err == says * "interrupted: 0 of 1 jobs have finished; go on with: advnas -m seed=0\n"
