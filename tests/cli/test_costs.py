"""Costs and budgets on the command line."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from advnas_lightning import Genotype
from advnas_lightning.cost import count_macs
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.texts import readable
from tests.support.callbacks import crash_at
from tests.support.command_line import SMALL_CIFAR10, launch, read, write_images
from tests.support.ends_of_runs import assert_same_end, steps
from tests.support.speed import slow_but


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    return tmp_path


def test_a_run_counts_costs_and_leaves_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(
        monkeypatch,
        *SMALL_CIFAR10,
        "cost=macs",
        "cost_penalty=0.5",
        "beta_decay=2",
        "retrain=true",
        "hydra.run.dir=run",
    )
    assert re.search(r"^cost +[\d.]+ k multiply-accumulates per term of the loss, at a penalty of 0.5$",
                     capsys.readouterr().out, re.MULTILINE)  # fmt: skip
    summary, costs = read(folder / "run", "summary.json"), read(folder / "run", "costs.json")
    assert costs["edges"]["0->1"]["skip_connect"] == 0
    cell = Genotype(read(folder / "run", "genotype.json")["argmax"])
    network = cell.apply(NASBench201(classes=3, cells=1, channels=2))
    assert summary["cost"] == count_macs(network, torch.zeros(1, 3, 8, 8))
    log = (folder / "run" / "metrics.csv").read_text()
    assert "cost_penalty" in log.splitlines()[0]
    assert read(folder / "run" / "retrained", "summary.json")["strategy"] == "fixed"
    launch(
        monkeypatch, *SMALL_CIFAR10, "cost=run/costs.json", "cost_penalty=0.5", "beta_decay=2", "hydra.run.dir=again"
    )
    assert read(folder / "again", "summary.json")["cost"] == summary["cost"]
    launch(monkeypatch, *SMALL_CIFAR10, "cost=tests.support.measured.own", "cost_budget=20", "hydra.run.dir=own")
    assert read(folder / "own", "costs.json")["edges"]["0->1"]["skip_connect"] == 3  # one in each of three cells


@pytest.mark.slow
def test_a_budgeted_run_goes_on_bit_for_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, assert_same: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL_CIFAR10, "cost=macs", "cost_budget=15000", "cost_rate=1", "task.epochs=3"]
    launch(monkeypatch, *arguments, "hydra.run.dir=straight")
    crash = crash_at(steps(folder / "straight") - 2)
    with pytest.raises(SystemExit):
        launch(monkeypatch, *arguments, "checkpoint.every_n_steps=1", crash, "hydra.run.dir=crashed")
    launch(monkeypatch, *arguments, "hydra.run.dir=crashed", "ckpt_path=last")
    assert_same_end(folder / "crashed", folder / "straight", assert_same)
    summary = read(folder / "straight", "summary.json")
    assert summary["cost_penalty"] > 0
    expected = f"expected cost {readable(summary['expected_cost'], 4)} in the mean over draws, with a budget of 15 k"
    assert expected in " ".join(capsys.readouterr().out.split())


BAD = [
    (["cost_penalty=1"], "cost_penalty=1.0 of what? Say cost=params or macs or latency or memory"),
    (["cost=macs"], "cost=macs alone changes nothing: add cost_penalty=0.1, or cost_budget=B"),
    (["cost=flops", "cost_penalty=1"], "cost='flops' is unknown: use params"),
    (["cost=no.such", "cost_penalty=1"], "cost=no.such is neither a file nor a function: No module named 'no'"),
    (["cost=images", "cost_penalty=1"], "cost='images' is unknown"),
    (["cost=macs", "cost_budget=1"], "cost_budget=1 is below what the cheapest architecture costs"),
    (["cost=broken.json", "cost_penalty=1"], "broken.json has no costs for this network"),
    (["cost=macs", "cost_penalty=1", "strategy=random"], "RandomSearch has no choice that a cost could change"),
]


@pytest.mark.parametrize(("arguments", "says"), slow_but(BAD, BAD[::3]))
def test_bad_settings_are_named(
    arguments: list[str], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.json").write_text('{"edges": {}}')
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *SMALL_CIFAR10, *arguments)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_a_run_says_when_its_costs_will_be_measured(folder: Path) -> None:
    arguments = [*SMALL_CIFAR10, "cost=latency", "cost_penalty=1", "task.optimization.warmup_epochs=1", "task.epochs=2"]
    done = subprocess.run(
        [sys.executable, "-m", "advnas_lightning", *arguments, "hydra.run.dir=run"], text=True, capture_output=True
    )
    assert done.returncode == 0
    assert "cost=latency will be measured at the first architecture step, after 1 epoch" in done.stderr
    assert "GPU available" not in done.stderr
    costs = [row.get("cost", "") for row in csv.DictReader((folder / "run" / "metrics.csv").open())]
    assert len([cost for cost in costs if cost]) == 1  # at the end of the second epoch
