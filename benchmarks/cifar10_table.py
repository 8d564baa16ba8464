"""Prints a table of small CIFAR-10 searches: the benchmark accuracy of the cell that each had found by each epoch.

    python -m advnas_lightning -m experiment=cifar10_small task.table=TABLE.csv launcher=joblib \
        strategy=advantage,reinforce,gdas,proxylessnas,parsec,darts seed=0,1,2
    python -m benchmarks.cifar10_table multirun/DATE_TIME

Each run has one line. It shows the test accuracy in % of the arg-max cell, and of the process-best one, after each
epoch in which θ moved. Then follows the found cell: each edge in order has one letter for its operation, which is
n(one), s(kip connect), 1 or 3 (convolutions), or a(verage pooling).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from advnas_lightning.runs import SUMMARY, RunFolder
from advnas_lightning.space.genotype import Genotype

LETTERS = {"none": "n", "skip_connect": "s", "nor_conv_1x1": "1", "nor_conv_3x3": "3", "avg_pool_3x3": "a"}


def by_epoch(rows: list[dict[str, str]], kind: str) -> str:
    """The logged accuracies in order, without those before the first architecture step."""
    moved = {row["epoch"] for row in rows if row["architecture/loss"]}
    name = f"nasbench201/{kind}"
    return " → ".join(f"{float(row[name]):.2f}" for row in rows if row["epoch"] in moved and row.get(name))


def main() -> None:
    """Read the runs below a folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    print("| strategy | seed | argmax by epoch | process_best by epoch | cell | parameters | entropy | minutes |")
    print("| --- " * 8 + "|")
    for path in sorted(parser.parse_args().folder.rglob(SUMMARY)):
        summary = json.loads(path.read_text())
        with RunFolder(path.parent).metrics.open() as file:
            rows = list(csv.DictReader(file))
        cell = "".join(LETTERS[name] for name in Genotype.from_nasbench201(summary["argmax/arch"]).values())
        fields = [summary["strategy"], str(summary["seed"]), by_epoch(rows, "argmax"), by_epoch(rows, "process_best")]
        fields += [cell, f"{summary['argmax/params_millions']:.2f} M", f"{summary['entropy']:.3f}"]
        print(f"| {' | '.join(fields)} | {summary['seconds'] / 60:.1f} |")


if __name__ == "__main__":
    main()
