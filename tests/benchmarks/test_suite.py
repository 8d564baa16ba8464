"""Every case of the suite runs at tiny sizes; its command, its files, and what it measures with."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as suite
from benchmarks import measuring
from benchmarks.cases import CASES
from benchmarks.cases.scaling import AXES
from benchmarks.measuring import OURS, Turns, peak_memory
from benchmarks.rows import HEADER, Results, Row
from benchmarks.software_device import DEVICE, count_waits, software_device

ROWS = {
    "cifar10-gdas": 2,
    "elastic": 2,
    "ptb": 4,
    "ptb-bf16": 6,
    "waits": 4,
    "no-trace": 3,
    "offload": 6,
    "many-runs": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_case_runs(case: str) -> None:
    rows = CASES[case](case, small=True)
    assert len(rows) == ROWS.get(case, 2 if case in AXES else 1)
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        assert row.case == case
        assert row.ours > 0 or case == "waits"
        assert len(row.cells()) == len(HEADER)
        if row.unit == "ms":
            assert row.other is not None
            assert row.ratio is not None
            assert row.quartiles is not None
            assert row.other > 0
            assert row.quartiles[0] <= row.ratio <= row.quartiles[1]
            assert math.isfinite(row.quartiles[1])


# -- the command -------------------------------------------------------------------------------------------------------


def launch(patch: pytest.MonkeyPatch, *arguments: str) -> None:
    patch.setattr(sys, "argv", ["benchmarks", *arguments])
    suite.main()


def made_up(case: str, *, small: bool) -> list[Row]:
    return [Row.of_pairs(case, "4 things", "bare loop", [0.004, 0.006], [0.002, 0.002], memory=2.0, other_memory=1.0)]


def test_it_prints_and_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, "edges", made_up)
    launch(monkeypatch, "edges", "--small", "--output", f"{tmp_path}/now.json")
    printed = capsys.readouterr().out
    assert "| edges | 4 things | 5 ms | bare loop | 2 ms | 2.500 (2.250 to 2.750) | 2.0 | 1.0 | 2 |" in printed
    values = json.loads((tmp_path / "now.json").read_text())
    assert values["small"] is True
    assert values["versions"]["torch"] == torch.__version__
    assert values["hardware"]["threads"] == torch.get_num_threads()
    assert Results.read(tmp_path / "now.json").rows == made_up("edges", small=True)
    assert "number of edges" in (tmp_path / "now-edges.svg").read_text()


def test_it_compares_two_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, "toy", made_up)
    here, there = Results.here(small=True), tmp_path / "before.json"
    (row,) = made_up("toy", small=True)
    replace(here, rows=[replace(row, ours=4.0, ratio=2.0, memory=3.0)]).write(there)
    launch(monkeypatch, "toy", "--small", "--against", str(there))
    printed = capsys.readouterr().out
    assert "| toy | 4 things | bare loop | 4 ms | 5 ms | 1.250 | 2.000 | 2.500 | 3.0 to 2.0 |" in printed
    assert "not the same" not in printed


def test_times_of_other_hardware_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, "toy", made_up)
    here, there = Results.here(small=True), tmp_path / "before.json"
    hardware = {**here.hardware, "cpu": "another"}
    replace(here, hardware=hardware, rows=made_up("toy", small=True)).write(there)
    launch(monkeypatch, "toy", "--small", "--against", str(there))
    printed = capsys.readouterr().out
    assert f"not the same in {there}: cpu: another there, " in printed
    assert "| 5 ms | 5 ms |  | 2.500 | 2.500 |" in printed


def test_what_is_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "toy", made_up)
    here = Results.here(small=True)
    replace(here, small=False, rows=made_up("toy", small=False)).write(tmp_path / "full.json")
    replace(here, rows=made_up("ptb", small=True)).write(tmp_path / "ptb.json")
    (tmp_path / "other.json").write_text('{"rows": [1]}')
    for arguments, message in (
        (["tyo"], "there is no case tyo: give some of cifar10-advantage, "),
        (["toy", "--output", f"{tmp_path}/no/x.json"], "there is no folder .*no: make it first"),
        (["toy", "--small", "--against", f"{tmp_path}/x.json"], "cannot read .*x.json: No such file"),
        (["toy", "--small", "--against", f"{tmp_path}/other.json"], "other.json is no file that python -m benchmarks"),
        (["toy", "--small", "--against", f"{tmp_path}/full.json"], "only one of the two was measured with --small"),
        (["toy", "--small", "--against", f"{tmp_path}/ptb.json"], "have no row in common: measure the same cases"),
    ):
        with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
            launch(monkeypatch, *arguments)


# -- what it measures with ---------------------------------------------------------------------------------------------


def test_each_side_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def advance(seconds: float) -> Any:
        while True:
            clock[0] += seconds
            yield

    monkeypatch.setattr(measuring, "now", lambda: clock[0])
    turns = Turns({"slow": advance(5), "fast": advance(1)})
    turns.on_train_start()
    for _ in range(2):
        clock[0] += 2
        turns.on_train_batch_end()
    assert turns.seconds == {OURS: [2.0, 2.0], "slow": [5.0, 5.0], "fast": [1.0, 1.0]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's allocator has blocks")
def test_the_peak_is_that_of_the_tensors() -> None:
    before = torch.ones(1000)
    with peak_memory() as peak:
        weight = torch.ones(1000, requires_grad=True)  # 4 kB
        doubled = 2 * weight  # 4 kB
        doubled.view(10, 100).add_(1)  # nothing
        del doubled
        (before * weight.exp()).sum().backward()  # the exponential, which is kept, and the product; then gradients
        weight.grad = None
        before.add_(1)
    assert 12_000 <= peak[0] <= 16_100
    with peak_memory() as peak:
        for _ in range(9):
            torch.ones(1000)
    assert peak == [4000]


def test_waits_are_counted_with_their_places() -> None:
    with software_device():
        there, here = torch.ones(3).to(DEVICE), torch.ones(3)
        with count_waits() as waits:
            (there + 1).sum().mul_(2)
            here.sum().item()
            here.to(DEVICE, non_blocking=True)
            there.copy_(here, non_blocking=True)
            here[here > 0]
        assert not waits
        for wait in (
            lambda: there.sum().item(),
            lambda: bool(there.sum() > 0),
            lambda: there.tolist(),
            lambda: there.cpu(),
            lambda: here.to(DEVICE),
            lambda: there.copy_(here),
            lambda: there[there > 0],
            lambda: there.nonzero(),
            lambda: torch.equal(there, there),
        ):
            with count_waits() as waits:
                wait()
            assert waits.total() == 1, waits
            assert all(place.startswith("tests/benchmarks/test_suite.py:") for place in waits)
