"""Draws cost-aware searches on CIFAR-10 beside NAS-Bench-201's Pareto front: parameters against accuracy.

    python -m advnas_lightning -m experiment=cifar10_small strategy=advantage task.table=TABLE.csv launcher=joblib \
        cost=params cost_penalty=0.01,0.03,0.06,0.1,0.3 hydra.sweep.dir=FOLDER
    python -m benchmarks.pareto FOLDER --table TABLE.csv

It writes FOLDER/pareto.png and .svg, and prints a line for each run. The line has λ, which for a budget is its last
value, then the budget, the expected cost and the cost of the arg-max cell. Then follow that cell's parameters and
accuracy in the benchmark's network, and the best accuracy that so many parameters allow.
"""

from __future__ import annotations

import argparse
import csv
import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from omegaconf import OmegaConf

from advnas_lightning.report.palette import styles
from advnas_lightning.report.plots import RC_PARAMS
from advnas_lightning.runs import SUMMARY, RunFolder
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.nasbench201 import measure

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def benchmark(path: Path) -> list[tuple[float, float]]:
    """The millions of parameters and the test accuracy of every cell, by size. Parameters add up over the edges."""
    alike = {
        name: measure(Genotype.from_nasbench201(f"|{name}~0|+|{name}~0|{name}~1|+|{name}~0|{name}~1|{name}~2|"))
        for name in OPERATIONS
    }
    fixed = alike["none"]["params_millions"]
    each = {name: (sizes["params_millions"] - fixed) / 6 for name, sizes in alike.items()}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(Genotype.from_nasbench201(row["arch"]), float(row["cifar10_test"])) for row in csv.DictReader(file)]
    return sorted((fixed + sum(each[name] for name in cell.values()), accuracy) for cell, accuracy in rows)


def read(folder: Path) -> list[dict[str, Any]]:
    """The runs below a folder, sorted by strategy and λ."""
    found = []
    for path in folder.rglob(SUMMARY):
        summary = json.loads(path.read_text())
        config = OmegaConf.load(RunFolder(path.parent).config)
        if "argmax/cifar10_test" in summary:
            budget = config.get("cost_budget")
            found.append({"budget": budget, "weight": config.get("cost_penalty"), **summary})
    return sorted(found, key=lambda run: (run["strategy"], run["weight"] or 0, run["budget"] or 0, run["seed"]))


def label(run: dict[str, Any]) -> str:
    """The budget or the λ with which a run was started, as a text."""
    if run["budget"] is not None:
        return f"B = {run['budget']:g}"
    return f"λ = {run['weight'] or 0:g}"


def draw(cells: list[tuple[float, float]], front: list[float], runs: list[dict[str, Any]], folder: Path) -> None:
    """Draw all cells, the Pareto front and the cells that the runs found, and write the figure."""
    with mpl.rc_context(RC_PARAMS):
        figure = plot(cells, front, runs)
        for ending in ("png", "svg"):
            figure.savefig(folder / f"pareto.{ending}", dpi=160)


def plot(cells: list[tuple[float, float]], front: list[float], runs: list[dict[str, Any]]) -> Figure:
    """The figure: every cell, the Pareto front, and the found cells with the λ or the budget of their runs."""
    sizes = [size for size, _ in cells]
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(*zip(*cells, strict=True), s=2, color="#D8D8D8", rasterized=True, label="NAS-Bench-201, every cell")
    axes.step(sizes, front, where="post", color="#555555", linewidth=1.2, label="its Pareto front")
    style_of = styles(run["strategy"] for run in runs)
    halo = [withStroke(linewidth=2, foreground="white")]
    for row, (name, style) in enumerate(style_of.items()):  # a row of labels for each strategy, as cells may coincide
        own = [run for run in runs if run["strategy"] == name]
        points = [(run["argmax/params_millions"], run["argmax/cifar10_test"]) for run in own]
        axes.scatter(
            *zip(*points, strict=True), s=46, color=style.colour, marker=style.marker, edgecolors="white",
            linewidths=0.6, zorder=3, label=style.title,
        )  # fmt: skip
        for point in sorted(set(points)):  # all runs that found a cell of this size and accuracy share a label
            here = [run for run, its in zip(own, points, strict=True) if its == point]
            text = ", ".join(dict.fromkeys(map(label, here)))
            inside = point[0] < 0.75 * max(sizes)  # otherwise a label on the right would cross the frame
            axes.annotate(
                text, point, xytext=(7 if inside else -7, -2 - 9 * row), textcoords="offset points", fontsize=7.5,
                color=style.colour, va="top", ha="left" if inside else "right", zorder=4,
                path_effects=halo,
            )  # fmt: skip
    values = [run["argmax/cifar10_test"] for run in runs] + [88.0]
    room = 0.1 * (95 - min(values))
    axes.set(xlabel="parameters of the benchmark's network (millions)", ylabel="CIFAR-10 test accuracy (%)")
    axes.set_ylim(min(values) - room, 95)
    axes.set_xlim(-0.02 * max(sizes), 1.04 * max(sizes))
    axes.set_title(
        "Accuracy of the found cells by their size: upper left is better", loc="left", fontsize=10.5, fontweight="bold"
    )
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def main() -> None:
    """Read the runs, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, required=True, help="NAS-Bench-201 as a CSV file")
    arguments = parser.parse_args()
    cells, runs = benchmark(arguments.table), read(arguments.folder)
    if not runs:
        parser.error(f"no finished runs with scores below {arguments.folder}")
    front = list(accumulate((accuracy for _, accuracy in cells), max))
    print("| strategy | seed | λ | budget | expected cost | cost | parameters | accuracy | best of that size |")
    print("| --- " * 9 + "|")
    for run in runs:
        size = run["argmax/params_millions"]
        best = max(top for (millions, _), top in zip(cells, front, strict=True) if millions <= size + 1e-6)
        weight, costs = run.get("cost_penalty"), [run.get("expected_cost"), run.get("cost")]
        fields = [run["strategy"], run["seed"], "" if weight is None else f"{weight:.3g}", run["budget"] or ""]
        fields += ["" if cost is None else f"{cost:.6g}" for cost in costs]
        fields += [f"{size:.3f} M", f"{run['argmax/cifar10_test']:.2f} %"]
        print("| " + " | ".join(map(str, [*fields, f"{best:.2f} %"])) + " |")
    draw(cells, front, runs, arguments.folder)


if __name__ == "__main__":
    main()
