"""Prints how well a supernet orders the cells of NAS-Bench-201: by its losses, by log p, and by the score of both.

    for run in RUNS/*; do advnas rank "$run" sample=150; done
    python -m benchmarks.rank_table RUNS/*/ranking.json --table TABLE.csv

Each file has three lines, one for each order. They show Spearman's rank correlation with the benchmark's test accuracy
over the cells that were drawn with equal chances, and the test accuracy of the first cell of the order and of the best
one among the first 10 and 100, over all cells of the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advnas_lightning.ranking.trust import spearman
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from advnas_lightning.tasks.cifar10.tables import Table
from benchmarks.refine_oracle import TEST
from benchmarks.rows import markdown

Row = Mapping[str, Any]
ORDERS: Mapping[str, Callable[[Row], float]] = {
    "−loss": lambda row: -row["loss"],
    "log p": lambda row: row["log_probability"],
    "score": lambda row: row["score"],
}
FIRST = (1, 10, 100)


def lines_of(name: str, rows: Sequence[Row], table: Table) -> list[list[str]]:
    """The lines of one ranking.

    Args:
        name: What the lines begin with.
        rows: The architectures of a ranking.json, of which those without a finite loss are left out.
        table: The benchmark's table.
    """
    known = [(row, table.scores(Genotype(row["genotype"]))[TEST]) for row in rows if row["loss"] is not None]
    drawn = [(row, accuracy) for row, accuracy in known if row["source"] == "sample"]
    lines = []
    for title, order in ORDERS.items():
        found = spearman([order(row) for row, _ in drawn], [accuracy for _, accuracy in drawn])
        ordered = [accuracy for _, accuracy in sorted(known, key=lambda pair: order(pair[0]), reverse=True)]
        best = [f"{max(ordered[:count]):.2f}" for count in FIRST]
        lines.append([name, title, str(len(drawn)), "" if found is None else f"{found:.2f}", str(len(known)), *best])
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rank_table", description=__doc__.splitlines()[0])
    parser.add_argument("rankings", nargs="+", type=Path, help="files that advnas rank has written")
    parser.add_argument("--table", required=True, help="the benchmark's table, as in task.table")
    options = parser.parse_args(arguments)
    table = open_table(options.table)
    titles = ["ranking", "order", "drawn", "Spearman", "cells", *(f"best of {count}" for count in FIRST)]
    lines = [titles]
    for path in options.rankings:
        lines += lines_of(str(path), json.loads(path.read_text())["architectures"], table)
    print(markdown(lines))


if __name__ == "__main__":
    main()
