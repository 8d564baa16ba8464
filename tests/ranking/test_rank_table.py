"""The table of how a supernet orders cells, from a ranking that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from advnas_lightning.ranking.result import RankedArchitecture, Ranking
from advnas_lightning.ranking.trust import Trust
from advnas_lightning.runs import write_json
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.tables import CELL
from benchmarks import rank_table
from benchmarks.refine_oracle import EDGES

NAMES = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CELLS = [Genotype({edge: name for edge in EDGES}) for name in NAMES]
ACCURACIES = [88.0, 91.0, 93.0, 94.0]


def test_each_order_of_each_ranking_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    lines = [f"{CELL.format(*cell.values())},{known}" for cell, known in zip(CELLS, ACCURACIES, strict=True)]
    table.write_text("\n".join(["arch,cifar10_test", *lines]) + "\n")
    values = [  # loss, log p, score, source
        (0.3, -1.0, 2.0, "sample"),
        (0.1, -2.0, 1.0, "sample"),
        (0.2, -3.0, 3.0, "sample"),
        (0.4, -4.0, 4.0, "probable"),
    ]
    rows = [
        RankedArchitecture(place, cell, (0,), score, loss, (loss, loss), {}, log_p, source=source)
        for place, (cell, (loss, log_p, score, source)) in enumerate(zip(CELLS, values, strict=True), start=1)
    ]
    lost = RankedArchitecture(5, CELLS[0], (0,), 9.0, float("nan"), (0.0, 0.0), {}, 0.0, source="sample")
    write_json(tmp_path / "seed-0.json", Ranking([*rows, lost], Trust(4, None, None)).content())
    rank_table.main([f"{tmp_path}/seed-0.json", "--table", str(table)])
    header, rule, *printed = capsys.readouterr().out.splitlines()
    assert header == "| ranking | order | drawn | Spearman | cells | best of 1 | best of 10 | best of 100 |"
    assert rule == "| --- | --- | --- | --- | --- | --- | --- | --- |"
    assert printed == [
        f"| {tmp_path}/seed-0.json | −loss | 3 | 0.50 | 4 | 91.00 | 94.00 | 94.00 |",
        f"| {tmp_path}/seed-0.json | log p | 3 | -1.00 | 4 | 88.00 | 94.00 | 94.00 |",
        f"| {tmp_path}/seed-0.json | score | 3 | 0.50 | 4 | 94.00 | 94.00 | 94.00 |",
    ]
