"""The command ``advnas cost``: measuring from the folder of a run alone, and showing what a file has."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from advnas_lightning import Genotype
from advnas_lightning.cli import cost_measuring
from advnas_lightning.cli.cost import MEASURE, main
from advnas_lightning.cli.known import training_line
from advnas_lightning.cli.loading import load
from advnas_lightning.cli.options import COST_KINDS
from advnas_lightning.cost import UNITS, CostTable, count_macs, count_parameters
from advnas_lightning.cost.files import Measurement, read_costs, write_costs
from advnas_lightning.report.__main__ import main as report
from advnas_lightning.runs import RunFolder
from advnas_lightning.tasks.cifar10 import NASBench201
from tests.support.callbacks import crash_at
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, read, write_images, write_ptb
from tests.support.ends_of_runs import steps
from tests.support.speed import slow_but

NETWORK = NASBench201(classes=3, cells=1, channels=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folder ``run`` of a search, whose images are gone."""
    folder = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_images(folder / "images")
        launch(patch, *SMALL_CIFAR10, "cost=macs", "cost_penalty=0.1", "hydra.run.dir=run")
    shutil.rmtree(folder / "images")
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a copy of that run alone."""
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which the command refuses its arguments."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_the_kinds_of_the_command_are_those_of_the_package() -> None:
    assert tuple(UNITS) == COST_KINDS
    assert MEASURE["kinds"].default == ",".join(UNITS)


def test_a_folder_alone_is_enough(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_search = read(here / "run", "costs.json")
    main(["measure", "run", "output=all.json", "threads=1", "check=4"])
    shown = capsys.readouterr().out
    content = read(here, "all.json")["costs"]
    assert list(content) == list(COST_KINDS)
    assert {"edges": content["macs"]["edges"], "fixed": content["macs"]["fixed"]} == {
        "edges": by_search["edges"], "fixed": by_search["fixed"]
    }  # fmt: skip
    found = read_costs(here / "all.json")
    for cell in (
        Genotype(read(here / "run", "genotype.json")["argmax"]),
        Genotype(dict.fromkeys(by_search["edges"], "nor_conv_3x3")),
    ):
        network = cell.apply(NETWORK)
        choice = [list(row).index(cell[edge]) for edge, row in found["macs"].table.edges.items()]
        assert found["macs"].table.of(choice) == count_macs(network, torch.zeros(1, 3, 8, 8))
        assert found["params"].table.of(choice) == sum(each.numel() for each in network.parameters())
    for kind, each in found.items():
        assert {"device", "device_name", "threads", "torch", "batch", "date", "check"} == each.measured.keys()
        assert (each.measured["threads"], each.measured["batch"]) == (1, [[6, 3, 8, 8], [6]])
        assert len(each.measured["check"]["whole"]) == 4
        assert kind in shown
    assert all(found[kind].measured["check"]["error"] == 0 for kind in ("params", "macs"))
    assert "what they add up to is what 4 whole networks cost" in shown
    assert re.search(r"^cost +cheapest +dearest +argmax +process-best$", shown, re.MULTILINE)
    assert shown.splitlines()[-1] == "all.json"
    assert read(here / "run", "costs.json") == by_search


def test_a_long_line_is_not_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a processor with a long name " * 4 + "at last"
    table = CostTable("macs", {"edge": {"linear": 1.0, "skip": 0.0}}, 0.0)
    write_costs(tmp_path / "costs.json", {"macs": Measurement(table, {"device": "cpu", "device_name": name})})
    main(["show", str(tmp_path)])
    assert f"all measured on cpu, {name}" in capsys.readouterr().out.splitlines()


def test_what_is_measured_joins_what_there_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["measure", "run", "kinds=params,tests.support.measured.own"])
    assert "replaced" not in capsys.readouterr().out
    content = read(here / "run", "costs.json")["costs"]
    assert list(content) == ["macs", "params", "tests.support.measured.own"]
    assert content["macs"]["measured"] == {}
    assert content["tests.support.measured.own"]["cost"] == "own"
    assert content["tests.support.measured.own"]["edges"]["0->1"]["skip_connect"] == 3  # one in each of three cells
    main(["measure", "run", "kinds=macs"])
    assert "replaced in run/costs.json: macs, measured by a search" in capsys.readouterr().out
    again = read(here / "run", "costs.json")["costs"]
    assert again["macs"]["measured"]["device"] == "cpu"
    assert again["params"] == content["params"]


def test_what_another_command_has_measured_meanwhile_stays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, others = cost_measuring.measure, [["measure", "run", "kinds=params"]]

    def measure(*arguments: Any) -> CostTable:
        if others:
            main(others.pop())
        return real(*arguments)

    monkeypatch.setattr(cost_measuring, "measure", measure)
    main(["measure", "run", "kinds=tests.support.measured.own"])
    assert list(read(here / "run", "costs.json")["costs"]) == ["macs", "params", "tests.support.measured.own"]


def test_a_damaged_file_of_architectures_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run" / "genotype.json").write_text('{"argmax": {')
    assert "run/genotype.json has no architectures of these costs: it is no JSON" in refused(capsys, "show", "run")


def test_the_size_of_the_batch_can_be_chosen(here: Path) -> None:
    main(["measure", "run", "kinds=macs,memory", "batch_size=2", "output=two.json"])
    main(["measure", "run", "kinds=macs,memory", "output=six.json"])
    two, six = (read_costs(here / name) for name in ("two.json", "six.json"))
    assert two["memory"].measured["batch"] == [[2, 3, 8, 8], [2]]
    assert two["macs"].table == six["macs"].table  # of one image
    assert two["memory"].table.edges["0->1"]["nor_conv_3x3"] < six["memory"].table.edges["0->1"]["nor_conv_3x3"]


@pytest.mark.slow
def test_a_search_takes_one_of_the_costs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["measure", "run", "kinds=latency"])
    write_images(here / "images")
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_CIFAR10, "cost=run/costs.json", "cost_penalty=0.1")
    assert (
        "run/costs.json has the costs macs, latency: say which, as in cost=macs cost_file=" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_CIFAR10, "cost_file=run/costs.json", "cost_penalty=0.1")
    assert "may have several costs: say which, as in cost=latency" in capsys.readouterr().err
    arguments = ["cost=latency", "cost_file=run/costs.json", "cost_penalty=0.1", "hydra.run.dir=with"]
    launch(monkeypatch, *SMALL_CIFAR10, *arguments)
    content = read(here / "with", "costs.json")
    assert (content["cost"], content["edges"]) == (
        "latency",
        read(here / "run", "costs.json")["costs"]["latency"]["edges"],
    )


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_what_was_measured_meanwhile(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(here / "images")
    arguments = [*SMALL_CIFAR10, "cost=macs", "cost_penalty=0.1", "hydra.run.dir=crashed"]
    with pytest.raises(SystemExit):
        launch(monkeypatch, *arguments, "checkpoint.every_n_steps=1", crash_at(steps(here / "run") - 1))
    main(["measure", "crashed", "kinds=params"])
    params = read(here / "crashed", "costs.json")["costs"]["params"]
    launch(monkeypatch, *arguments, "ckpt_path=last")
    content = read(here / "crashed", "costs.json")["costs"]
    assert list(content) == ["macs", "params"]
    assert content["params"] == params
    assert content["macs"]["edges"] == read(here / "run", "costs.json")["edges"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere, but on a read-only disk
    line = refused(capsys, "measure", "run", "kinds=params")
    assert line == f"error: {here / 'run'} cannot be written to: name another file, output=FILE"
    main(["measure", "run", "kinds=params", "output=costs.json"])


class Measure(Callback):
    """Measures the costs of a run that is still going on."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            main(["measure", "run", "kinds=params", "trust=true"])


def test_a_new_run_keeps_what_was_measured_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL_TOY, "task.data.nodes=2", "task.data.candidates=2", "cost=latency", "cost_penalty=0.1"]
    measure = "+trainer.callbacks=[{_target_: tests.cli.test_cost.Measure}]"
    launch(monkeypatch, *arguments, "hydra.run.dir=run", measure)
    assert list(read(tmp_path / "run", "costs.json")["costs"]) == ["latency", "params"]


def test_a_run_without_a_description_needs_its_data_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = read(here / "run", "batch.json")
    (here / "run" / "batch.json").unlink()
    line = refused(capsys, "measure", "run", "kinds=params", "output=costs.json")
    assert "run/batch.json is missing, as in a run of an older version, and without it the data are needed: " in line
    write_images(here / "images")
    main(["measure", "run", "kinds=params", "output=costs.json"])
    again = read(here / "run", "batch.json")
    shapes = [[each["shape"] for each in content["batch"]["tuple"]] for content in (kept, again)]
    assert shapes[0] == shapes[1] == [[6, 3, 8, 8], [6]]
    assert again["model_arguments"] == kept["model_arguments"] == {"classes": 3}
    shutil.rmtree(here / "images")
    main(["measure", "run", "kinds=params", "output=costs.json"])


@pytest.mark.parametrize("task", slow_but(["toy", "ptb"], ["ptb"]))
def test_every_task_can_be_measured_without_its_data(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = SMALL_TOY
    if task == "ptb":
        write_ptb(tmp_path / "texts")
        arguments = [*SMALL_PTB, "task.data.root=texts"]
    launch(monkeypatch, *arguments, "task.epochs=1", "hydra.run.dir=run")
    shutil.rmtree(tmp_path / "texts", ignore_errors=True)
    main(["measure", "run", "kinds=params,macs,latency,memory", "threads=1"])
    found = read_costs(tmp_path / "run" / "costs.json")
    assert list(found) == list(COST_KINDS)
    assert found["macs"].table.largest > 0
    if task == "ptb":
        line = refused(capsys, "measure", "run", "batch_size=2")
        assert "batch_size=2: the batch has the number" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["measure", "run", "device=cuda:99"], "device=cuda:99: PyTorch finds no such device here: use device=cpu"),
        (["measure", "run", "kinds=no.such"], "kinds has no.such, which is no function: No module named 'no'"),
        (["measure", "run", "kinds=torch.cost"], "kinds has torch.cost, which is no function: .* no attribute 'cost'"),
        (["measure", "run", "kinds=torch.__version__"], "kinds has torch.__version__, which is no function, but a "),
        (["measure", "run", "kinds=.x"], "kinds has .x, which is no function: "),
        (["measure", "run", "output=other.json"], "other.json has the costs of another network: name another file"),
        (["measure", "run", "output=broken.json"], "broken.json has no costs .*: it is no JSON.* move it away"),
        (["show", "broken.json"], "broken.json has no costs for this network: it is no JSON"),
        (["show", "run", "cost_budget={mac: 3}"], "there is a budget of 'mac', .* those of macs: did you mean macs"),
        (["show", "run", "cost_budget={macs: -3}"], "cost_budget: macs=-3 must be a finite number above 0"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_the_files(
    arguments: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_costs(here / "other.json", {"own": Measurement(CostTable("own", {"a": {"x": 1.0}}, 0.0), {"threads": 1})})
    (here / "broken.json").write_text("{")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert re.search(says, refused(capsys, *arguments))
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_batch_of_somebody_elses_class_is_not_made_without_trust(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "run" / "batch.json"
    content: Any = json.loads(path.read_text())
    content["batch"] = {"named": "tests.support.measured:own", "entries": []}
    path.write_text(json.dumps(content))
    assert "which may run any code: trust=true allows it" in refused(capsys, "measure", "run")


MODULE = """
import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader
from advnas_lightning import MixedOp

class Data(LightningDataModule):
    def prepare_data(self):
        open("needed").close()

    def loader(self):
        return DataLoader([{"x": torch.ones(8), "y": torch.tensor(i % 3)} for i in range(12)], batch_size=6)

    val_dataloader = loader

    def train_dataloader(self):
        return {"weights": self.loader(), "architecture": self.loader()}

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.edge, self.head = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}), nn.Linear(8, 3)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.head(self.edge(batch["x"])), batch["y"])
        self.log("mine", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["words"] = ["one", "two"]

    def on_load_checkpoint(self, checkpoint):
        self.words = checkpoint["words"]
"""
TASK = """
epochs: 1
data: {_target_: own_task.Data}
model: {_target_: own_task.Net}
optimization:
  architecture_optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 0.01}
"""


def test_a_task_of_ones_own_that_trains_itself_is_measured_with_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_task.py").write_text(MODULE)
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "own.yaml").write_text(TASK)
    (tmp_path / "needed").touch()
    launch(monkeypatch, "--config-dir", "conf", "task=own", "hydra.run.dir=run")
    shown = capsys.readouterr().out
    assert re.search(r"diagnose run trust=true$", shown, re.MULTILINE)
    assert re.search(r"refine run trust=true$", shown, re.MULTILINE)
    assert re.search(r" --config-dir conf strategy=fixed strategy.genotype=run task=own$", shown, re.MULTILINE)
    assert " --config-dir conf strategy=fixed " in training_line(RunFolder(tmp_path / "run"), "ranked")
    summary = read(tmp_path / "run", "summary.json")
    assert "val/loss" in summary
    assert "test/loss" not in summary  # the module has no test_step
    assert load("run", trust=True).search.model.words == ["one", "two"]
    (tmp_path / "needed").unlink()
    assert "makes 'own_task.Data' (task.data), which may run any code: trust=true" in refused(capsys, "measure", "run")
    assert "a LightningModule with a loss of its own: leave check out" in refused(
        capsys, "measure", "run", "trust=true", "check=2"
    )
    main(["measure", "run", "trust=true"])
    found = read_costs(tmp_path / "run" / "costs.json")
    assert found["params"].table == CostTable("params", {"edge": {"linear": 72.0, "skip": 0.0}}, 27.0)
    assert found["macs"].table == CostTable("macs", {"edge": {"linear": 64.0, "skip": 0.0}}, 24.0)


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
def test_a_run_of_one_architecture_has_no_candidates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(monkeypatch, *SMALL_TOY, "strategy=fixed", "strategy.genotype=run", "hydra.run.dir=fixed")
    assert "fixed trains one architecture, which has no candidates" in refused(capsys, "measure", "fixed")


def test_show_has_a_plan(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", "run"])
    shown = capsys.readouterr().out
    assert "macs: multiply-accumulates per term of the loss" in shown
    assert "all measured by a search" in shown
    assert re.search(r"^beside the edges ", shown, re.MULTILINE)
    cell = Genotype(read(here / "run", "genotype.json")["argmax"])
    cost = count_macs(cell.apply(NETWORK), torch.zeros(1, 3, 8, 8)) / 1000
    assert re.search(rf"^macs .* {cost:.4g} k", shown, re.MULTILINE)
    main(["measure", "run", "kinds=params,macs", "output=both.json"])
    cheap = count_parameters(Genotype(dict.fromkeys(cell, "skip_connect")).apply(NETWORK))
    capsys.readouterr()
    main(["show", "both.json", f"cost_budget={{params: {cheap}, macs: 1}}"])
    shown = capsys.readouterr().out
    assert re.search(r"^params .* (yes|no) *$", shown, re.MULTILINE)
    assert re.search(r"^macs .* 1 +no *$", shown, re.MULTILINE)
    assert "No architecture is within all budgets." in shown
    assert "argmax" not in shown  # the file is in no run's folder


def test_a_report_takes_runs_with_several_costs(here: Path) -> None:
    main(["measure", "run", "kinds=params"])
    report(["run", "--output", "report"])
    assert "advantage" in (here / "report" / "report.html").read_text().lower()
