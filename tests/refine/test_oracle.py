"""The benchmark's table in the place of trainings."""

from __future__ import annotations

import random
import sys
from itertools import product
from pathlib import Path

import pytest

from advnas_lightning.refine.oracle import table_oracle
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from advnas_lightning.tasks.cifar10.tables import CELL, OPERATIONS, MemoryTable
from benchmarks import refine_oracle
from tests.support.refusals import one_line


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of all cells with made-up scores, of which more 3×3 convolutions are better and one skip is best."""
    lines = ["arch,cifar10_test,cifar10_valid_12ep"]
    for names in product(OPERATIONS, repeat=6):
        worth = sum({"nor_conv_3x3": 1.0, "nor_conv_1x1": 0.5}.get(name, 0.0) for name in names)
        worth += 3.0 * (names[3] == "skip_connect") - 2.0 * names.count("none")
        lines.append(f"{CELL.format(*names)},{90 + worth / 2},{60 + worth}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines))
    return path


def test_the_score_is_that_of_the_table(table: Path) -> None:
    cell = Genotype.from_nasbench201(CELL.format(*["nor_conv_3x3"] * 3, "skip_connect", *["nor_conv_3x3"] * 2))
    assert table_oracle(open_table(table))(cell, Path(), 12) == 68.0


def test_what_a_table_does_not_have_is_one_line() -> None:
    with one_line("TABLE.csv has no column cifar10_valid_12ep", "advnas table"):
        table_oracle(MemoryTable(["cifar10_test"], {}), "TABLE.csv")
    cell = Genotype.from_nasbench201("|none~0|")
    with one_line("TABLE.csv has no cell |none~0|"):
        table_oracle(MemoryTable(["cifar10_valid_12ep"], {}), "TABLE.csv")(cell, Path(), 12)


def test_the_searches_are_compared_from_the_same_cells(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["refine_oracle", str(table), "--starts", "2", "--output", str(tmp_path / "new")])
    refine_oracle.main()
    printed = capsys.readouterr().out
    assert all(f"| {name} | " in printed for name in refine_oracle.SEARCHES)
    assert printed.count("2 of 2") >= 4  # both climbs find the only optimum of either space
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"refine_oracle.png", "refine_oracle.svg"}


def test_the_searches_train_no_cell_twice() -> None:
    candidates = dict.fromkeys(refine_oracle.EDGES, OPERATIONS[1:])
    start = refine_oracle.draw_cell(candidates, random.Random(1))

    def score(cell: Genotype) -> float:
        return float(sum(map(len, cell.values())))

    for name, search in refine_oracle.SEARCHES.items():
        found = []
        for cell in search(start, candidates, score, random.Random(0)):
            found.append(cell)
            if len(found) == 60:
                break
        assert found[0] == start, name
        assert len(set(found)) == len(found) > 18, name
