"""Prints how well short trainings order given cells, for several proxies of the full training.

    python -m benchmarks.refine_proxies --table TABLE.csv --cells CELLS.json
    advnas refine RUN finalists=CELLS.json neighbours=false repeats=0 rungs=4 output=FOLDER/one
    advnas refine RUN finalists=CELLS.json neighbours=false repeats=0 rungs=4 output=FOLDER/other proxy=[KEY=VALUE,…]
    python -m benchmarks.refine_proxies FOLDER/* --table TABLE.csv

The first line writes a dozen cells without the zero operation: those that are 1st, 2nd, 4th, 8th, … and 2048th of 4096
by the test accuracy after 200 epochs. Any other list of cells will do.

The last line prints a table with one line for each folder. It shows the settings that differ from the other folders',
the mean minutes of a training, Spearman's rank correlations of the scores with the benchmark's validation accuracy
after 12 epochs and with its test accuracy after 200, and that test accuracy for the cell with the best score. The table
ends with the benchmark's validation accuracy itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from advnas_lightning.ranking.trust import spearman
from advnas_lightning.refine.oracle import COLUMN
from advnas_lightning.runs import REFINEMENT
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.model import EDGES
from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from advnas_lightning.tasks.cifar10.tables import OPERATIONS, Table
from benchmarks.refine_oracle import TEST
from benchmarks.rows import markdown


def dozen(table: Table) -> list[Genotype]:
    """The cells whose place by test accuracy is a power of two, of those without the zero operation."""
    cells = [Genotype(dict(zip(EDGES, names, strict=True))) for names in product(OPERATIONS[1:], repeat=len(EDGES))]
    cells.sort(key=lambda cell: table.scores(cell)[TEST], reverse=True)
    return [cells[2**power - 1] for power in range(12)]


def scores_of(refinement: Mapping[str, Any]) -> dict[Genotype, float]:
    """The score at the last rung of each cell that was trained to the end, once."""
    last = str(refinement["rungs"][-1])
    return {
        Genotype(trial["genotype"]): trial["scores"][last]
        for trial in refinement["trials"]
        if trial["state"] == "complete" and trial["repeat"] == 0
    }


def settings_of(refinement: Mapping[str, Any]) -> set[str]:
    """What the trainings were, as a set of settings."""
    return {f"rungs={refinement['rungs'][-1]}", f"weights={refinement['weights']}", *refinement["proxy"]}


def row(name: str, minutes: float | None, scores: Mapping[Genotype, float], table: Table) -> list[str]:
    """One line of the table, of a higher-is-better score."""
    known = {genotype: table.scores(genotype) for genotype in scores}
    best = max(scores, key=scores.__getitem__)
    shown = ["" if minutes is None else f"{minutes:.1f}"]
    for column in (COLUMN, TEST):
        found = spearman(list(scores.values()), [known[each][column] for each in scores])
        shown.append("" if found is None else f"{found:.2f}")
    return [name, str(len(scores)), *shown, f"{known[best][TEST]:.2f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refine_proxies", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders with a refine.json")
    parser.add_argument("--table", required=True, help="the benchmark's table, as in task.table")
    parser.add_argument("--cells", type=Path, help="a file to write a dozen cells to")
    options = parser.parse_args(arguments)
    table = open_table(options.table)
    if options.cells is not None:
        options.cells.write_text(json.dumps([dict(cell) for cell in dozen(table)], indent=1))
    if not options.folders:
        return
    refinements = {each: json.loads((each / REFINEMENT).read_text()) for each in options.folders}
    common = set.intersection(*map(settings_of, refinements.values())) if len(refinements) > 1 else set()
    lines = [["proxy", "cells", "minutes", "12 epochs", "200 epochs", "best"]]
    for refinement in refinements.values():
        sign = 1 if refinement["best"] == "highest" else -1
        scores = {genotype: sign * score for genotype, score in scores_of(refinement).items()}
        minutes = fmean(trial["seconds"] for trial in refinement["trials"] if trial["state"] == "complete") / 60
        name = ", ".join(sorted(settings_of(refinement) - common)) or "default"
        lines.append(row(name, minutes, scores, table))
    cells = {genotype: None for each in refinements.values() for genotype in scores_of(each)}
    lines.append(row("benchmark", None, {each: table.scores(each)[COLUMN] for each in cells}, table))
    print(markdown(lines))


if __name__ == "__main__":
    main()
