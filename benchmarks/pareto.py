"""Draws cost-aware searches on CIFAR-10 beside NAS-Bench-201's Pareto front: parameters or latency against accuracy.

    python -m advnas_lightning -m experiment=cifar10_small strategy=advantage task.table=TABLE.csv launcher=joblib \
        cost=params cost_penalty=0.01,0.03,0.06,0.1,0.3 hydra.sweep.dir=FOLDER
    python -m benchmarks.pareto FOLDER --table TABLE.csv

It writes FOLDER/pareto.png and .svg, and prints a line for each run. The line has λ, which for a budget is its last
value, then the budget, the expected cost and the cost of the arg-max cell. Then follow that cell's parameters and
accuracy in the benchmark's network, and the best accuracy that so many parameters allow. With task.table=nasbench201
and --table nasbench201 the accuracies are those on validation, and --against latency takes the latencies of this table
in the place of the parameters.
"""

from __future__ import annotations

import argparse
import json
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from omegaconf import OmegaConf

from advnas_lightning.report.palette import styles
from advnas_lightning.report.plots import RC_PARAMS, save_figure
from advnas_lightning.runs import SUMMARY, RunFolder
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.nasbench201 import measure, open_table
from advnas_lightning.tasks.cifar10.tables import ACCURACIES, OPERATIONS, MemoryTable, score_column
from benchmarks.rows import markdown


class Size(NamedTuple):
    """What the accuracies are drawn against."""

    key: str
    title: str
    unit: str


SIZES = {
    "parameters": Size("params_millions", "parameters of the benchmark's network (millions)", "M"),
    "latency": Size("cifar10_latency_ms", "latency of a batch as the benchmark's authors measured it (ms)", "ms"),
}


def benchmark(table: MemoryTable, column: str, size: Size) -> list[tuple[float, float]]:
    """The size and the accuracy of every cell, by size."""
    if size.key in table.columns:
        return sorted((scores[size.key], scores[column]) for _, scores in table.cells())
    return sorted(zip(parameters(table), (scores[column] for _, scores in table.cells()), strict=True))


def parameters(table: MemoryTable) -> list[float]:
    """The millions of parameters of every cell. They add up over the edges."""
    alike = {
        name: measure(Genotype.from_nasbench201(f"|{name}~0|+|{name}~0|{name}~1|+|{name}~0|{name}~1|{name}~2|"))
        for name in OPERATIONS
    }
    fixed = alike["none"]["params_millions"]
    each = {name: (sizes["params_millions"] - fixed) / 6 for name, sizes in alike.items()}
    return [fixed + sum(each[name] for name in Genotype.from_nasbench201(arch).values()) for arch, _ in table.cells()]


def read(folder: Path, column: str, size: Size) -> list[dict[str, Any]]:
    """The runs below a folder that have such a score, sorted by strategy and λ."""
    found = []
    for path in folder.rglob(SUMMARY):
        summary = json.loads(path.read_text())
        config = OmegaConf.load(RunFolder(path.parent).config)
        if {f"argmax/{column}", f"argmax/{size.key}"} <= summary.keys():
            budget = config.get("cost_budget")
            point = {"size": summary[f"argmax/{size.key}"], "accuracy": summary[f"argmax/{column}"]}
            found.append({"budget": budget, "weight": config.get("cost_penalty"), **summary, **point})
    return sorted(found, key=lambda run: (run["strategy"], run["weight"] or 0, run["budget"] or 0, run["seed"]))


def label(run: dict[str, Any]) -> str:
    """The budget or the λ with which a run was started, as a text."""
    if run["budget"] is not None:
        return f"B = {run['budget']:g}"
    return f"λ = {run['weight'] or 0:g}"


def draw(
    cells: list[tuple[float, float]],
    front: list[float],
    runs: list[dict[str, Any]],
    words: tuple[str, str],
    folder: Path,
) -> None:
    """Draw all cells, the Pareto front and the cells that the runs found, and write the figure."""
    with mpl.rc_context(RC_PARAMS):
        save_figure(plot(cells, front, runs, words), folder / "pareto")


def plot(
    cells: list[tuple[float, float]], front: list[float], runs: list[dict[str, Any]], words: tuple[str, str]
) -> Figure:
    """The figure: every cell, the Pareto front, and the found cells with the λ or the budget of their runs.

    Args:
        cells: The size and the accuracy of every cell, by size.
        front: The best accuracy up to each cell's size.
        runs: The runs.
        words: What the size and the accuracy are.
    """
    sizes = [size for size, _ in cells]
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(*zip(*cells, strict=True), s=2, color="#D8D8D8", rasterized=True, label="NAS-Bench-201, every cell")
    axes.step(sizes, front, where="post", color="#555555", linewidth=1.2, label="its Pareto front")
    style_of = styles(run["strategy"] for run in runs)
    halo = [withStroke(linewidth=2, foreground="white")]
    for row, (name, style) in enumerate(style_of.items()):  # a row of labels for each strategy, as cells may coincide
        own = [run for run in runs if run["strategy"] == name]
        points = [(run["size"], run["accuracy"]) for run in own]
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
    top = front[-1] + 0.6
    values = [run["accuracy"] for run in runs] + [top - 7]
    axes.set(xlabel=words[0], ylabel=f"{words[1]} accuracy (%)")
    axes.set_ylim(min(values) - 0.1 * (top - min(values)), top)
    axes.set_xlim(min(0.9 * min(sizes), min(sizes) - 0.02 * max(sizes)), 1.04 * max(sizes))
    axes.set_title(
        "Accuracy of the found cells by their cost: upper left is better", loc="left", fontsize=10.5, fontweight="bold"
    )
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def main() -> None:
    """Read the runs, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", required=True, help="NAS-Bench-201 as a CSV file, or nasbench201")
    parser.add_argument("--against", choices=SIZES, default="parameters", help="latency needs --table nasbench201")
    arguments = parser.parse_args()
    table, size = open_table(arguments.table), SIZES[arguments.against]
    column = score_column(table)
    if not isinstance(table, MemoryTable) or (arguments.against == "latency" and size.key not in table.columns):
        parser.error(
            f"--table {arguments.table} has no {arguments.against}: give nasbench201, or a CSV file that has it"
        )
    cells, runs = benchmark(table, column, size), read(arguments.folder, column, size)
    if not runs:
        parser.error(f"no finished runs with scores below {arguments.folder}")
    front = list(accumulate((accuracy for _, accuracy in cells), max))
    lines = [["strategy", "seed", "λ", "budget", "expected cost", "cost", arguments.against, "accuracy"]]
    lines[0].append("best of that size")
    for run in runs:
        best = max(top for (other, _), top in zip(cells, front, strict=True) if other <= run["size"] + 1e-6)
        weight, costs = run.get("cost_penalty"), [run.get("expected_cost"), run.get("cost")]
        fields = [run["strategy"], run["seed"], "" if weight is None else f"{weight:.3g}", run["budget"] or ""]
        fields += ["" if cost is None else f"{cost:.6g}" for cost in costs]
        fields += [f"{run['size']:.3f} {size.unit}", f"{run['accuracy']:.2f} %"]
        lines.append([*map(str, fields), f"{best:.2f} %"])
    print(markdown(lines))
    draw(cells, front, runs, (size.title, ACCURACIES[column]), arguments.folder)


if __name__ == "__main__":
    main()
