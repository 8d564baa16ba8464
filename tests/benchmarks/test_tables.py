"""The tables of results take the runs of their task from a folder, whatever else is in it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest


def printed(module: str, *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    runpy.run_module(f"benchmarks.{module}", run_name="__main__")
    return capsys.readouterr().out


def add_run(folder: Path, task: str) -> None:
    folder.mkdir()
    summary = {"strategy": "gdas", "task": task, "seed": 0, "seconds": 2.0, "edges": 10, "argmax/edges_right": 9}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.csv").write_text("step,test/loss\n100,0.5\n200,0.25\n200,0.25\n")


def test_a_toy_table_has_no_other_task_and_no_iteration_that_was_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, task in (("one", "toy"), ("two", "cifar10")):
        add_run(tmp_path / name, task)
    _, _, *rows = printed("toy_table", str(tmp_path), monkeypatch=monkeypatch, capsys=capsys).splitlines()
    assert rows == ["| gdas | 1 | 50.000 | 25.000 |  |  |  |  | 90 % | 2.0 |"]


def test_a_table_of_cells_has_no_other_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(tmp_path / "one", "toy")
    table = tmp_path / "table.csv"
    cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    table.write_text(f"arch,accuracy\n{cell},93.76\n")
    output = printed("cifar10_table", str(tmp_path), "--table", str(table), monkeypatch=monkeypatch, capsys=capsys)
    assert "gdas" not in output
