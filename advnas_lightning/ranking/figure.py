"""The figure of a ranking: score against cost, or loss against probability where no cost is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advnas_lightning.ranking.result import RankedArchitecture, Ranking
from advnas_lightning.report.plots import INK, RC_PARAMS, SOFT, save_figure

__all__ = ["draw_ranking", "front"]

POINT, SCALED, BEST = "#8FA3B8", "#AA4499", "#D55E00"
MARKERS = {"argmax": ("arg max", "s", "#0077BB"), "process_best": ("process-best", "D", "#117733")}
MOST = 4  # panels


def draw_ranking(ranking: Ranking, folder: Path) -> None:
    """Draw a ranking, and write it as ``ranking.png`` and ``ranking.svg``.

    With costs there is a panel for each: the score by the cost, and the front of the architectures of which no other
    one has a higher score at no higher cost. Without costs it is the loss by the logarithm of the probability.
    Uniformly scaled architectures have a mark of their own.

    Args:
        ranking: The ranking.
        folder: The folder for the files.
    """
    kinds = list(ranking.tables)[:MOST]
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(6.4 if len(kinds) < 2 else 9.6, 4.2 * max(1, math.ceil(len(kinds) / 2))))
        figure.set_layout_engine("constrained")
        columns = 2 if len(kinds) > 1 else 1
        for place, kind in enumerate(kinds):
            axes = figure.add_subplot(math.ceil(len(kinds) / 2), columns, place + 1)
            _draw_cost(axes, ranking, kind)
        if not kinds:
            axes = figure.add_subplot()
            _scatter(axes, ranking, lambda row: row.log_prob, lambda row: row.loss)
            axes.set(xlabel="logarithm of the probability in the search", ylabel="loss with the shared weights")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        title = "Architectures of one supernet: score by cost" if kinds else "Architectures of one supernet"
        figure.suptitle(title, x=0.02, ha="left", fontsize=10.5, fontweight="bold", color=INK)
        save_figure(figure, folder / "ranking")


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of which no other one has a higher y at no higher x, by increasing x.

    Example:
        >>> front([(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7)])
        [(1.0, 0.5), (2.0, 0.7)]
    """
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def _draw_cost(axes: Axes, ranking: Ranking, kind: str) -> None:
    _scatter(axes, ranking, lambda row: row.costs[kind], lambda row: row.score)
    points = [(row.costs[kind], row.score) for row in ranking if math.isfinite(row.score)]
    if points:
        best = front(points)
        axes.step(*zip(*best, strict=True), where="post", color=INK, linewidth=1.2, zorder=2, label="front")
    axes.set(xlabel=ranking.tables[kind].unit or kind, ylabel="score")
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    limits = [budgets[kind] for budgets in ranking.budgets if kind in budgets]
    for index, limit in enumerate(limits):
        axes.axvline(limit, color=SOFT, linestyle=":", linewidth=1, label="budget" if index == 0 else None)


def _scatter(axes: Axes, ranking: Ranking, x: Any, y: Any) -> None:
    rows = [row for row in ranking if math.isfinite(y(row)) and math.isfinite(x(row))]
    axes.scatter(list(map(x, rows)), list(map(y, rows)), s=14, color=POINT, linewidths=0, alpha=0.75, zorder=1)
    scaled = [row for row in rows if row.source == "scaled"]
    if scaled:
        axes.scatter(list(map(x, scaled)), list(map(y, scaled)), s=26, marker="^", facecolors="none", edgecolors=SCALED,
                     linewidths=1.2, zorder=3, label="uniformly scaled")  # fmt: skip
    by_choice = {row.choice: row for row in rows}
    marked: list[tuple[RankedArchitecture | None, tuple[str, str, str]]] = [
        (by_choice.get(ranking.named[kind]), style) for kind, style in MARKERS.items() if kind in ranking.named
    ]
    marked.append((rows[0] if rows else None, ("ranked first", "*", BEST)))
    for row, (label, marker, colour) in marked:
        if row is not None:
            size = 150 if marker == "*" else 55
            axes.scatter([x(row)], [y(row)], s=size, marker=marker, facecolors="none" if marker != "*" else colour,
                         edgecolors=colour, linewidths=1.6, zorder=4, label=label)  # fmt: skip
