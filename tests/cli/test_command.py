"""The command answers at once: help, versions, and one line on what is wrong, with what was probably meant."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from advnas_lightning.cli.checks import EXTRAS, GPU_DEVICES, check_settings, missing_extra
from advnas_lightning.cli.commands import COMMANDS
from advnas_lightning.cli.config import Config
from advnas_lightning.cli.errors import hydra_raises, wants_traceback
from advnas_lightning.cli.help import help_text
from advnas_lightning.cli.main import main
from advnas_lightning.cli.signatures import NO_VALUE, signature
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.runs import RunFolder
from tests.support.command_line import SMALL_TOY, launch, read, runs
from tests.support.speed import slow_but

Answer = Callable[[str], tuple[int, str, str]]
CONF = Path(__file__).parents[2] / "conf"
# Lines that need no PyTorch for their answer.
WRONG = {
    "advantage=exact": "did you mean strategy.advantage=exact?",
    "export=onyx": "export=onyx is unknown: did you mean onnx?",
    "export nowhere pt2": "nowhere: there is no such folder",
    "+advantage=exact": "nothing reads advantage: did you mean strategy.advantage?",
    "+foo=1": "nothing reads foo",
    "+task.foo=1": "nothing reads task.foo: use callbacks, data",
    "max_epochs=2": "did you mean trainer.max_epochs=2?",
    "trainer.max_epoch=3": "did you mean trainer.max_epochs=3?",
    "+trainer.max_epoch=3": "nothing reads trainer.max_epoch: did you mean trainer.max_epochs?",
    "stratgy=gdas": "did you mean strategy=gdas?",
    "strategy=gdass": "strategy=gdass is unknown: did you mean gdas?",
    "+strategy=gdas": "+strategy=gdas: strategy has a choice already: did you mean strategy=gdas?",
    "seed=1 logger=null": "logger=null: logger is a group with the choices csv, mlflow, tensorboard, wandb",
    "seed=0,1 -m strategy=gdass": "strategy=gdass is unknown: did you mean gdas?",
    "strategy.gama=1": "strategy.gama is no setting of strategy=advantage: did you mean strategy.gamma=1?",
    "+strategy.gama=1": "nothing reads strategy.gama: did you mean strategy.gamma?",
    "strategy.advantage=exakt": "strategy.advantage=exakt: give taylor or exact",
    "task.optimization.warmup_epochs=few": "task.optimization.warmup_epochs=few: give a whole number",
    "+checkpoint.every=3": "nothing reads checkpoint.every",
    "seed=abc": "seed=abc: give a whole number",
    "trainer.max_epochs=ten": "trainer.max_epochs=ten: give a whole number or null",
    "hydra.run.dirr=x": "did you mean hydra.run.dir=x?",
    "raport": "raport is neither a command nor a setting NAME=VALUE: did you mean report?",
    "seed=[1": "seed=[1 cannot be read",
    "select=argmx": "select=argmx: give argmax, process_best or null",
    "trainer.precision=bf17": "bf16-mixed, 32-true, 64-true, bf16 or null",
    "ckpt_path=nowhere": "there is no checkpoint nowhere",
    "-m strategy=advantage,gdass": "strategy=gdass is unknown: did you mean gdas?",
    "-m strategy=advantage,gdas strategy.gamma=0.1": "strategy.gamma is no setting of strategy=gdas",
    "cost mesure RUN": "say what to do, in advnas cost measure RUN or advnas cost show RUN, not mesure",
    "cost measure": "give the folder of a run: advnas cost measure RUN",
    "cost measure nowhere": "nowhere: there is no such folder or checkpoint",
    "cost measure . device=gpu": "error: . has no folder checkpoints",
    "cost measure . kind=macs": "kind=macs is unknown: did you mean kinds=macs?",
    "cost show nowhere": "there are no costs at nowhere: advnas cost measure RUN measures them",
    "refine run rungs=1,3,4": "rungs=1,3,4: give whole numbers of epochs, each the same factor times the one before",
    "task/training=search": "no chosen group has task/training",
}
TELLING = (
    "advantage=exact",
    "raport",
    "-m strategy=advantage,gdas strategy.gamma=0.1",
    "cost show nowhere",
    "refine run rungs=1,3,4",
)


# Answers line after line in one process, which starts once.
ANSWERING = """
import contextlib, io, json, os, sys
sys.modules |= dict.fromkeys(("torch", "numpy", "matplotlib", "jinja2", "optuna"))  # which cannot be imported
from advnas_lightning.cli.main import main
for asked in sys.stdin:
    folder, *sys.argv[1:] = json.loads(asked)
    os.chdir(folder)
    status = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def answering() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", ANSWERING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture
def answer(answering: subprocess.Popen[str], tmp_path: Path) -> Answer:
    """``answer(arguments)``: status, output and errors of the command where PyTorch cannot be imported."""

    def ask(arguments: str) -> tuple[int, str, str]:
        assert answering.stdin is not None
        assert answering.stdout is not None
        print(json.dumps([str(tmp_path), *arguments.split()]), file=answering.stdin, flush=True)
        status, out, err = json.loads(answering.stdout.readline())
        return status, out, err

    return ask


@pytest.mark.parametrize(("arguments", "says"), slow_but(WRONG.items(), [(line, WRONG[line]) for line in TELLING]))
def test_a_wrong_line_is_answered_without_pytorch_and_leaves_no_folder(
    arguments: str, says: str, answer: Answer, tmp_path: Path
) -> None:
    status, _, errors = answer(arguments)
    assert status == 1
    (line,) = errors.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert list(tmp_path.iterdir()) == []


HELP = ["--help", "-h", "help", "--version", "--cfg job", *(f"{each} --help" for each in COMMANDS)]


@pytest.mark.parametrize("arguments", HELP)
def test_help_needs_no_pytorch(arguments: str, answer: Answer, tmp_path: Path) -> None:
    status, printed, errors = answer(arguments)
    assert (status, errors) == (0, "")
    assert printed
    assert list(tmp_path.iterdir()) == []


def test_a_reader_may_have_read_enough() -> None:
    code = "from advnas_lightning.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize("arguments", slow_but(["--help", "advantage=exact"], ["advantage=exact"]))
def test_it_answers_sooner_than_pytorch_is_imported(arguments: str, tmp_path: Path) -> None:
    """Measured: 0.3 and 0.6 of the time of that import."""

    def seconds(run: Callable[[], object]) -> float:
        before = os.times()
        run()
        return sum(os.times()[2:4]) - sum(before[2:4])  # of the processor, for the child

    command = [sys.executable, "-c", "from advnas_lightning.cli.main import main; main()", *arguments.split()]
    answering = partial(subprocess.run, command, cwd=tmp_path, capture_output=True)
    importing = partial(subprocess.run, [sys.executable, "-c", "import torch"])
    assert any(seconds(answering) < seconds(importing) for _ in range(3))


@pytest.mark.parametrize("choice", EXTRAS)
def test_a_missing_extra_says_what_to_install(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group, _, name = choice.partition("=")
    extra, modules = EXTRAS[choice]
    project = tomllib.loads((CONF.parent / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    monkeypatch.setattr("advnas_lightning.cli.checks.find_spec", lambda module: None if module in modules else True)
    typed = choice.removeprefix("hydra/")
    assert missing_extra(group, name) == f'{typed} needs an extra: pip install "advnas-lightning[{extra}]"'


@pytest.mark.skipif(any(Path(each).exists() for each in GPU_DEVICES), reason="there may be a GPU")
def test_no_gpu_says_what_to_use(answer: Answer) -> None:
    _, _, errors = answer("trainer=gpu")
    assert errors == "error: trainer.accelerator=gpu: this machine has no GPU: use trainer=cpu\n"


def test_only_a_user_asks_for_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with hydra_raises():
        inherited = dict(os.environ)  # by a process that Lightning starts
        assert not wants_traceback()
    with monkeypatch.context() as patch:
        for name in ("HYDRA_FULL_ERROR", "ADVNAS_LIGHTNING_RAISES"):
            patch.setenv(name, inherited[name])
        with hydra_raises():
            assert not wants_traceback()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with hydra_raises():
        assert wants_traceback()
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    with hydra_raises():
        assert not wants_traceback()


def test_ctrl_c_ends_a_command_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("advnas_lightning.cli.cost.main", interrupt)
    monkeypatch.setattr(sys, "argv", ["advnas", "cost", "show", "run"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr() == ("", "error: interrupted\n")


def test_the_help_names_every_group_every_choice_and_every_setting() -> None:
    text = help_text()
    for group in CONF.iterdir():
        if group.is_dir() and group.name not in ("run", "__pycache__"):
            for choice in group.glob("*.yaml"):
                assert re.search(rf"\b{choice.stem}\b", text), choice
    unsaid = {"trainer", "logger", "task", "strategy", "retraining", "cost_rate", "cost_damping"}
    for name in Config.__dataclass_fields__.keys() - unsaid:
        assert re.search(rf"\b{name}\b", text), name
    assert "gradient_clip_val" not in text


def test_the_help_has_the_options_of_the_strategies_with_their_defaults() -> None:
    text = help_text().partition("options of the strategies")[2]
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    for path in (CONF / "strategy").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        found = signature(content.pop("_target_"))
        assert found is not None
        line = lines.get(path.stem, "")
        if path.stem == "enas":
            line = line.replace("those of reinforce", lines["reinforce"])
        for name, value in content.items():
            values = found.arguments[name].values
            assert f"{name}=" in line, (path.stem, name)
            if name != "genotype" and values:
                assert set(re.search(rf"{name}=(\S+)", line)[1].split("|")) - {"NUMBER"} == set(values)  # type: ignore[index]
            if name != "genotype":
                first = re.search(rf"{name}=([^\s|]+)", line)[1]  # type: ignore[index]
                assert first == str(value).lower() or yaml.safe_load(first) == value or float(first) == float(value)


@pytest.mark.parametrize("task", slow_but(["toy", "cifar10", "ptb"], ["toy"]))
def test_all_settings_of_the_package_pass(task: str) -> None:
    lines = [[f"experiment={path.stem}"] for path in (CONF / "experiment").glob("*.yaml") if task == "toy"]
    lines += [[f"task={task}", f"strategy={path.stem}"] for path in (CONF / "strategy").glob("*.yaml")]
    lines += [[f"task={task}", f"strategy={name}", "preset=authors_code"] for name in ("advantage", "parsec")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for line in lines:
            config = compose("config", line, return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            check_settings(config)


def test_a_signature_is_that_which_python_sees() -> None:
    import inspect

    from lightning import Trainer

    for path, kind in {"lightning.Trainer": Trainer, "advnas_lightning.SearchStrategy": SearchStrategy}.items():
        found = signature(path)
        assert found is not None
        assert not found.takes_others
        theirs = dict(list(inspect.signature(kind).parameters.items()))
        assert list(found.arguments) == list(theirs)
        for name, each in found.arguments.items():
            if each.default is not NO_VALUE:
                assert each.default == theirs[name].default


OTHERS = """
import functools
from dataclasses import dataclass
from typing import overload

class Mixin: ...
class Base:
    def __init__(self, size: int = None): ...
class Two(Mixin, Base): ...
class Own(Base):
    def __init__(self, **kwargs): super().__init__(**kwargs)
class Decorated:
    @functools.cache
    def __init__(self): ...
class Made:
    def __new__(cls, size): return object.__new__(cls)
@functools.total_ordering
class Changed: ...
class Many:
    @overload
    def __init__(self): ...
    def __init__(self, size=1): ...
class Holds:
    class Inner:
        def __init__(self, size): ...
@functools.wraps(print)
def wrapped(): ...
if True:
    class Either: ...
else:
    class Either:
        def __init__(self, size): ...
"""


def test_what_the_source_of_a_stranger_does_not_tell_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strangers_module.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Two", "Decorated", "Made", "Changed", "Many", "Holds", "wrapped", "Either"):
        assert signature(f"strangers_module.{name}") is None, name
    for name in ("Base", "Own"):
        found = signature(f"strangers_module.{name}")
        assert found is not None
        assert (list(found.arguments), found.takes_others) == (["size"], False)
        assert found.arguments["size"].refuses(None) is None


def test_a_key_that_an_interpolation_reads_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *SMALL_TOY, "+own.nodes=4", "task.data.nodes=${own.nodes}", "hydra.run.dir=run")
    assert len(read(tmp_path / "run", "genotype.json")["argmax"]) == 4


def test_what_fails_after_the_start_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_TOY, "strategy.gamma=7", "hydra.run.dir=some/new/run")
    assert "gamma=7" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "some").mkdir()
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_TOY, "strategy.gamma=7", "hydra.run.dir=some/new/run")
    assert [path.name for path in tmp_path.rglob("*")] == ["some"]


def test_a_run_with_a_folder_in_the_place_of_its_file(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, *SMALL_TOY, "strategy=fixed", "strategy.genotype=run", "hydra.run.dir=retrained")
    assert read(Path("retrained"), "genotype.json")["argmax"] == read(toy, "genotype.json")["argmax"]
    launch(monkeypatch, *SMALL_TOY, "ckpt_path=run", "task.epochs=3", "hydra.run.dir=on")
    assert read(Path("on"), "summary.json")["epochs"] == 3


@pytest.mark.parametrize("metric", ["test/loss", pytest.param("architecture/loss", marks=pytest.mark.slow)])
def test_optuna_finds_the_better_rate(metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    rate = "task.optimization.architecture_optimizer.lr=choice(0.000001,0.1)"
    grid = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=sweep"]
    launch(monkeypatch, "-m", *SMALL_TOY, "task.epochs=5", *grid, rate, f"optimized_metric={metric}")
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    results = {}
    for run in runs(tmp_path):
        job = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
        results[job["task"]["optimization"]["architecture_optimizer"]["lr"]] = RunFolder(run).results()[metric]
    assert len(results) == 2
    best = min(results, key=lambda rate: results[rate])
    assert found["best_value"] == results[best]
    assert found["best_params"] == {"task.optimization.architecture_optimizer.lr": best}
    with pytest.raises(SystemExit):  # its jobs would be taken for those of the new one
        launch(monkeypatch, "-m", *SMALL_TOY, *grid, rate, f"optimized_metric={metric}")


def test_a_damaged_study_of_a_sweep_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("study.db").write_text("no database")
    storage = "hydra.sweeper.storage=sqlite:///study.db"
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, "-m", *SMALL_TOY, "hydra/sweeper=optuna", "seed=range(0,2)", "hydra.sweep.dir=s", storage)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(
        f"error: {storage}: Optuna cannot read or write it (file is not a database)"
    )
    assert "Traceback" not in error


def test_a_result_that_there_is_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "optimized_metric=test/los")
    assert "optimized_metric=test/los is no result of this run: did you mean test/loss?" in capsys.readouterr().err
    assert (tmp_path / "run" / "summary.json").exists()


def test_tensorboard_gets_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "logger=tensorboard", "strategy.gamma=0.1")
    found = yaml.safe_load((tmp_path / "run" / "tensorboard" / "hparams.yaml").read_text())
    assert (found["strategy.gamma"], found["task.data.batches"], found["seed"]) == (0.1, 10, 0)
