"""The table of proxies, from refinements that are made up."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from advnas_lightning.refine.ladder import Ladder, State, Trial
from advnas_lightning.runs import write_json
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.tables import CELL, OPERATIONS, MemoryTable
from benchmarks import refine_proxies
from benchmarks.refine_oracle import EDGES

NAMES = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CELLS = [Genotype({edge: name for edge in EDGES}) for name in NAMES]
VALID, TEST = [60.0, 70.0, 80.0, 50.0], [88.0, 91.0, 93.0, 92.0]


def write_refinement(folder: Path, scores: list[float], *, channels: int, maximize: bool) -> None:
    states: list[State] = ["complete", "complete", "complete", "pruned"]
    trials = [
        Trial(place, cell, state, {2: score}, "listed", 0, 30.0 * channels, 2)
        for place, (cell, score, state) in enumerate(zip(CELLS, scores, states, strict=True))
    ]
    repeat = Trial(4, CELLS[0], "complete", {2: 99.0}, "repeat", 0, 30.0 * channels, 2, repeat=1)
    settings = {"weights": "fresh", "proxy": ["task.model.cells=5", f"task.model.channels={channels}"]}
    ladder = Ladder([*trials, repeat], (2,), maximize=maximize)
    write_json(folder / "refine.json", {**settings, **ladder.content()})


def test_each_proxy_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["arch,cifar10_valid_12ep,cifar10_test"]
    for cell, valid, test in zip(CELLS, VALID, TEST, strict=True):
        lines.append(f"{CELL.format(*cell.values())},{valid},{test}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    for channels in (4, 8):
        (tmp_path / f"{channels}").mkdir()
    write_refinement(tmp_path / "4", [0.3, 0.2, 0.1, 0.9], channels=4, maximize=True)
    write_refinement(tmp_path / "8", [0.3, 0.2, 0.1, 0.0], channels=8, maximize=False)
    refine_proxies.main([str(tmp_path / "4"), str(tmp_path / "8"), "--table", str(table)])
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header == "| proxy | cells | minutes | 12 epochs | 200 epochs | best |"
    assert rule == "| --- | --- | --- | --- | --- | --- |"
    assert rows == [
        "| task.model.channels=4 | 3 | 2.0 | -1.00 | -1.00 | 88.00 |",
        "| task.model.channels=8 | 3 | 4.0 | 1.00 | 1.00 | 93.00 |",
        "| benchmark | 3 |  | 1.00 | 1.00 | 93.00 |",
    ]


def test_the_dozen_are_places_of_the_order_by_test_accuracy() -> None:
    cells = [Genotype(dict(zip(EDGES, names, strict=True))) for names in product(OPERATIONS[1:], repeat=len(EDGES))]
    rows = {cell.to_nasbench201(): [60.0 + place % 7, 94.0 - place / 100] for place, cell in enumerate(reversed(cells))}
    found = refine_proxies.dozen(MemoryTable(["cifar10_valid_12ep", "cifar10_test"], rows))
    places = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]
    assert found == [cells[-place] for place in places]
