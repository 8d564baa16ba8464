"""Prints the results that the paper's Figure 1 plots, those of the toy task, as a table.

    python -m advnas_lightning -m experiment=fig1 launcher=joblib trainer.enable_progress_bar=false
    python -m benchmarks.toy_table multirun/DATE_TIME

For each strategy it shows the median over the runs of 100 × test loss of the arg-max student at some iterations, and
the share of edges that equal the teacher's at the end.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

from advnas_lightning.runs import SUMMARY, RunFolder

ITERATIONS = (100, 200, 300, 600, 1000, 2000)


def main() -> None:
    """Read the runs below a folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    runs = sorted(parser.parse_args().folder.rglob(SUMMARY))
    curves: dict[str, list[dict[int, float]]] = defaultdict(list)
    right: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for path in runs:
        summary = json.loads(path.read_text())
        if summary["task"] != "toy":
            continue
        with RunFolder(path.parent).metrics.open() as file:
            rows = [row for row in csv.DictReader(file) if row["test/loss"]]
        rows.pop()  # that of the final evaluation
        curves[summary["strategy"]].append({int(row["step"]): 100 * float(row["test/loss"]) for row in rows})
        right[summary["strategy"]].append(summary["argmax/edges_right"] / summary["edges"])
        seconds[summary["strategy"]].append(summary["seconds"])
    print("| strategy | n | " + " | ".join(map(str, ITERATIONS)) + " | edges right | s per run |")
    print("| --- " * (len(ITERATIONS) + 4) + "|")
    for strategy, losses in curves.items():
        values = [[curve[at] for curve in losses if at in curve] for at in ITERATIONS]
        cells = [f"{median(own):.3f}" if own else "" for own in values]
        share = f"{100 * mean(right[strategy]):.0f} %"
        print(f"| {strategy} | {len(losses)} | " + " | ".join(cells) + f" | {share} | {mean(seconds[strategy]):.1f} |")


if __name__ == "__main__":
    main()
