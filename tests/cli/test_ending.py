"""The end of a run in the terminal: what was found, how sure it is, and what to type next."""

from __future__ import annotations

import io
import math
import re
import shlex
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from advnas_lightning.cli.ending import next_lines, notes, show, title
from advnas_lightning.cli.summary import found_by
from advnas_lightning.report.drawing import LONGEST_TITLE
from advnas_lightning.report.palette import STRATEGIES
from advnas_lightning.tasks.toy import ToyNetwork
from advnas_lightning.tasks.toy.callbacks import sparkline
from advnas_lightning.texts import shortened
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, read, write_images, write_ptb
from tests.support.findings import search_that_found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_the_title_of_every_run_of_the_package_is_whole() -> None:
    for strategy, task, kind in product(STRATEGIES, ("cifar10", "ptb", "toy"), ("argmax", "process_best")):
        summary = {"strategy": strategy, "task": task, "selected": kind, "epochs": 1000, "found_by": "proxylessnas"}
        assert shortened(title(summary), LONGEST_TITLE) == title(summary)


def test_the_found_network_stands_with_its_probabilities(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(monkeypatch, *SMALL_TOY, "strategy=gdas", 'hydra.run.dir="my runs/1"')
    printed = capsys.readouterr().out
    summary, genotype = (read(folder / "my runs" / "1", f"{name}.json") for name in ("summary", "genotype"))
    assert "GDAS on toy: the process-best architecture after 2 epochs\n" in printed
    assert "epoch 1" not in printed  # no progress, which is switched off
    rows = re.findall(r"^(input->\d+) +(\w+) +(0\.\d\d) +(\w+) +(✓|✗)$", printed, re.MULTILINE)
    assert {edge: found for edge, found, *_ in rows} == genotype["process_best"]
    assert all((found == teacher) == (mark == "✓") for _, found, _, teacher, mark in rows)
    assert sum(mark == "✓" for *_, mark in rows) == summary["edges_right"]
    assert re.search(r"^over the run +[▁▂▃▄▅▆▇█]{2} \(\d to \d\)$", printed, re.MULTILINE)
    wrong = r"^wrong edges +(\S+) costs most: with (\w+) there the test loss is ([\d.e-]+), not ([\d.e-]+)$"
    (edge, right, better, now) = re.findall(wrong, printed, re.MULTILINE)[0]
    assert (edge, right) in {(edge, teacher) for edge, _, _, teacher, mark in rows if mark == "✗"}
    assert float(better) < float(now) == float(f"{summary['loss']:.3g}")
    lines = printed[printed.index("\nnext\n") :].splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["report", "diagnose"]  # there are no weights to train
    assert shlex.split(lines[0])[-2:] == ["report", "my runs/1"]
    assert shlex.split(lines[1])[-2:] == ["diagnose", "my runs/1"]


@pytest.mark.slow
def test_a_retraining_says_who_found_the_architecture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ptb(folder / "text")
    task = [*SMALL_PTB, "task.data.root=text"]
    launch(monkeypatch, *task, "strategy=gdas", "strategy.tau_max=5.0", "hydra.run.dir=search")
    printed = capsys.readouterr().out
    (line,) = re.findall(r"^  retrain +(.*)$", printed, re.MULTILINE)
    arguments = shlex.split(line)
    start = arguments.index("strategy=fixed")
    assert arguments[start:] == ["strategy=fixed", "strategy.genotype=search", *task]
    arguments[start + 1] += "/genotype.json"
    launch(monkeypatch, *arguments[start:], "hydra.run.dir=trained")
    printed = capsys.readouterr().out
    assert "the architecture that GDAS found, trained on ptb for 2 epochs\n" in printed
    assert read(folder / "trained", "summary.json")["found_by"] == "gdas"
    assert re.search(r"^test perplexity +[\d.]+ \(the paper's GDAS: 95.40 ± 2.01\)$", printed, re.MULTILINE)
    assert re.search(r"^validation perplexity +[\d.]+ \(the paper's GDAS: 99.28 ± 2.00\)$", printed, re.MULTILINE)
    assert "entropy" not in printed
    assert "diagnose" not in printed
    assert "probability" not in printed


@pytest.mark.slow
def test_a_search_that_never_began_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(folder / "images")
    launch(monkeypatch, *SMALL_CIFAR10, "cost=macs", "cost_penalty=1", "task.optimization.warmup_epochs=2")
    printed = capsys.readouterr().out
    assert "note: no architecture step was taken, since θ waits for 2 epochs of warm-up" in printed
    assert "nothing was searched, and the cost had no effect" in printed
    launch(monkeypatch, *SMALL_TOY, "trainer.max_epochs=0")
    assert "note: nothing was trained (0 epochs)" in capsys.readouterr().out


def test_the_next_lines_take_a_folder_with_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    line = SimpleNamespace(overrides=SimpleNamespace(task=["task=ptb"]), runtime=SimpleNamespace(config_sources=[]))
    hydra = SimpleNamespace(initialized=lambda: True, get=lambda: line)
    monkeypatch.setattr("advnas_lightning.cli.ending.HydraConfig", hydra)
    search = search_that_found(ToyNetwork(nodes=1, candidates=2), {"input->1": "filter0"})
    search.optimizations = {"weights": SimpleNamespace(made=[])}  # type: ignore[dict-item]
    lines = {
        name: shlex.split(each) for name, each in next_lines({"strategy": "gdas"}, search, Path("my runs")).items()
    }
    assert lines["retrain"][-3:] == ["strategy=fixed", 'strategy.genotype="my runs"', "task=ptb"]
    assert lines["refine"][-2:] == ["refine", "my runs"]


def test_a_loss_that_is_not_finite_is_named() -> None:
    search = search_that_found(ToyNetwork(nodes=1, candidates=2), {"input->1": "filter0"})
    search.architecture_steps = 1
    assert notes({"epochs": 1, "loss": 0.5}, search) == []
    search.guard.total["weight"] = 3
    assert notes({"epochs": 1, "selected/test/loss": math.inf}, search) == [
        "selected/test/loss is not finite: lower a learning rate, or clip the gradients",
        "3 weight step(s) were left out, because their loss or gradient was not finite",
    ]


def test_the_results_of_another_architecture_than_arg_max_stand_beside_those_during_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    search = search_that_found(ToyNetwork(nodes=1, candidates=2), {"input->1": "filter0"})
    summary: dict[str, Any] = {"strategy": "gdas", "task": "toy", "selected": "process_best", "epochs": 1,
                               "params_millions": 0.0272, "seconds": 1.0, "val/loss": 0.25,
                               "selected/val/loss": 0.5, "selected/test/loss": 0.75}  # fmt: skip
    show(summary, search, [], Path("run"))
    show(summary | {"selected": "argmax"}, search, [], Path("run"))
    printed = capsys.readouterr().out
    assert re.findall(r"^validation loss +(.*)$", printed, re.MULTILINE) == ["0.5 (arg max: 0.25)", "0.5"]
    assert re.findall(r"^test loss +(.*)$", printed, re.MULTILINE) == ["0.75", "0.75"]


@pytest.mark.parametrize("width", [80, 60])
def test_no_line_of_a_large_space_is_broken(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    found = {f"input->{node}": "filter1" for node in range(1, 71)}
    search = search_that_found(ToyNetwork(nodes=70, candidates=2), found)
    summary: dict[str, Any] = {"strategy": "mine", "task": "toy", "selected": "argmax", "epochs": 1, "entropy": 1.0,
                               "params_millions": 0.0272, "seconds": 1.0}  # fmt: skip
    place = Path("a_folder_with_a_very_long_name_" * 5)
    show(summary, search, [], place)
    lines = capsys.readouterr().out.splitlines()
    assert f"files    {place}" in lines
    assert "network  27.2 k parameters in the found network" in lines
    assert "and 10 more in genotype.json" in [line.strip() for line in lines]


def test_a_terminal_without_blocks_gets_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert sparkline([1, 4, 9], 10) == "1 4 9"


def test_nobody_is_known_to_have_found_a_text(tmp_path: Path) -> None:
    assert found_by("|skip_connect~0|+|none~0|none~1|") is None
    assert found_by(None) is None
    assert found_by(tmp_path) is None
