"""Prints tables of small CIFAR-10 searches: the benchmark accuracy of the cells that they have found.

    python -m advnas_lightning -m experiment=cifar10_small task.table=TABLE.csv launcher=joblib \
        strategy=advantage,counterfactual seed=0,1,2 hydra.sweep.dir=FOLDER
    for run in FOLDER/cifar10/*/*; do advnas rank "$run" && advnas refine "$run" jobs=2 minutes=50; done
    python -m benchmarks.cifar10_table FOLDER --table TABLE.csv

The first table has one line for each run. It shows the accuracy in % of the arg-max cell, and of the process-best one,
after each epoch in which θ moved, and that of the best cell by advnas rank and by advnas refine, where the run has
them. Then follows the arg-max cell: each edge in order has one letter for its operation, which is n(one), s(kip
connect), 1 or 3 (convolutions), or a(verage pooling). The last two columns are the mean entropy of p, and the minutes
of the search and of refine's trainings. The second table has the mean and the standard deviation over the runs that
differ in nothing but their seed.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from advnas_lightning.reading import read_yaml
from advnas_lightning.runs import OVERRIDES, REFINEMENT, SUMMARY, RunFolder, decides_result
from advnas_lightning.space.genotype import LATER, Genotype
from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from advnas_lightning.tasks.cifar10.tables import Table, score_column

LETTERS = {"none": "n", "skip_connect": "s", "nor_conv_1x1": "1", "nor_conv_3x3": "3", "avg_pool_3x3": "a"}


def by_epoch(run: RunFolder, kind: str) -> list[float]:
    """The logged accuracies in order, without those before the first architecture step."""
    with run.metrics.open() as file:
        rows = list(csv.DictReader(file))
    moved = {row["epoch"] for row in rows if row["architecture/loss"]}
    names = [f"nasbench201/{kind}", f"nasbench201_valid/{kind}"]
    return [float(row[name]) for row in rows if row["epoch"] in moved for name in names if row.get(name)]


def found_later(run: RunFolder, table: Table) -> dict[str, float]:
    """The accuracies of the cells that were found after the search, by kind."""
    kept = json.loads(run.genotype.read_text())
    column = score_column(table)
    return {kind: table.scores(Genotype(kept[kind]))[column] for kind in LATER if kept.get(kind)}


def setting(run: RunFolder) -> str:
    """The settings of a run that decide its result, but for its seed."""
    lines = [line.partition("=") for line in read_yaml(run.path / OVERRIDES)]
    kept = [f"{key}={value}" for key, _, value in lines if decides_result(key.lstrip("+~"), repetitions=True)]
    return " ".join(each for each in kept if not each.startswith(("task=", "experiment=", "hydra.", "launcher=")))


def spread(values: Sequence[float]) -> str:
    """The mean and, of several values, the standard deviation."""
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "") if values else ""


def row(cells: Sequence[Any]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Read the runs below a folder and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", required=True, help="as task.table")
    options = parser.parse_args()
    table = open_table(options.table)
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    titles = ["setting", "seed", "argmax by epoch", "process_best by epoch", *LATER, "cell", "entropy", "minutes"]
    print(row(titles), row(["---"] * len(titles)), sep="\n")
    for path in sorted(options.folder.rglob(SUMMARY)):
        run, summary = RunFolder(path.parent), json.loads(path.read_text())
        if summary["task"] != "cifar10":
            continue
        found = {kind: by_epoch(run, kind) for kind in ("argmax", "process_best")}
        later, minutes = found_later(run, table), [summary["seconds"] / 60]
        if (run.path / REFINEMENT).exists():
            minutes.append(json.loads((run.path / REFINEMENT).read_text())["seconds"] / 60)
        cell = "".join(LETTERS[name] for name in Genotype.from_nasbench201(summary["argmax/arch"]).values())
        curves = [" → ".join(f"{value:.2f}" for value in values) for values in found.values()]
        times = " + ".join(f"{value:.1f}" for value in minutes)
        scores = [f"{later[kind]:.2f}" if kind in later else "" for kind in LATER]
        print(row([setting(run), summary["seed"], *curves, *scores, cell, f"{summary['entropy']:.3f}", times]))
        group = groups[setting(run)]
        for kind, values in found.items():
            group[kind] += values[-1:]
        for kind, value in later.items():
            group[kind].append(value)
        group["minutes"].append(minutes[0])
    columns = ["argmax", "process_best", *LATER, "minutes"]
    print("", row(["setting", "n", *columns]), row(["---"] * (2 + len(columns))), sep="\n")
    for name, group in sorted(groups.items()):
        print(row([name, len(group["minutes"]), *(spread(group[column]) for column in columns)]))


if __name__ == "__main__":
    main()
