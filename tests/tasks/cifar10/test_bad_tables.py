"""A table that contradicts itself names the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from tests.support.refusals import one_line

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([f"{CELL},90", f"{CELL},91"], f"line 3: {CELL} is there twice"),
        ([f"{CELL},nan"], "line 2: a score is not finite"),
        ([f"{CELL},inf"], "line 2: a score is not finite"),
    ],
)
def test_a_table_that_contradicts_itself_names_the_line(rows: list[str], named: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["arch,cifar10_test", *rows]) + "\n")
    with one_line(str(path), named):
        open_table(path)
