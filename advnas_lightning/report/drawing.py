"""Drawings of found architectures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

NODE = {"boxstyle": "round,pad=0.4", "facecolor": "#e8eef7", "edgecolor": "#33506e"}
CHAIN_STEP = 1.7  # between the nodes of a chain, whose straight arrows must be longer than their labels
LABEL = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}


def draw_genotype(genotype: Mapping[str, str], path: str | Path, *, title: str = "") -> None:
    """Draw a genotype: as a graph where every edge is named ``source->target``, else as a list.

    Args:
        genotype: candidate by edge.
        path: the picture's file; its ending says the format.
        title: above the picture.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set_title(title)
    arrows = [
        (edge.partition("->")[0], edge.partition("->")[2], candidate)
        for edge, candidate in genotype.items()
        if "->" in edge
    ]
    if len(arrows) == len(genotype):
        _draw_graph(axes, arrows)
    else:
        rows = [[edge, candidate] for edge, candidate in genotype.items()]
        axes.table(rows, colLabels=["edge", "candidate"], loc="center", cellLoc="left")
    figure.savefig(path, dpi=150)


def _draw_graph(axes: Axes, arrows: list[tuple[str, str, str]]) -> None:
    layers: dict[int, list[str]] = defaultdict(list)
    for node, depth in _depths(arrows).items():
        layers[depth].append(node)
    chain = all(len(nodes) == 1 for nodes in layers.values())
    step = CHAIN_STEP if chain else 1.0
    place = {
        node: (step * depth, (len(nodes) - 1) / 2 - row)
        for depth, nodes in layers.items()
        for row, node in enumerate(nodes)
    }
    heights = [y for _, y in place.values()]
    for source, target, candidate in arrows:
        (x0, y0), (x1, y1) = place[source], place[target]
        # In a chain of nodes the edges that skip some are arcs, higher the more they skip, so that no two labels meet.
        skipped = round((x1 - x0) / step) - 1
        height = 0.7 * skipped * (1 if round(x0 / step) % 2 == 0 else -1) if chain else 0.0
        bend = -2 * height / (x1 - x0) if x1 > x0 else 0.0
        arrow = FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=14,
            shrinkA=16,
            shrinkB=16,
            color="#5b6b7b",
        )
        axes.add_patch(arrow)
        share = 0.5 if chain else 0.7
        axes.text(
            x0 + share * (x1 - x0),
            y0 + share * (y1 - y0) + height,
            candidate,
            ha="center",
            va="center",
            bbox=LABEL,
            zorder=3,
        )
        heights.append(height)
    for node, (x, y) in place.items():
        axes.text(x, y, node, ha="center", va="center", bbox=NODE, zorder=4)
    if chain:
        axes.set_aspect("equal")  # an arc's height is drawn, not given in data units: only so does its label meet it
    axes.set_xlim(-0.4, step * max(layers) + 0.4)
    axes.set_ylim(min(heights) - 0.5, max(heights) + 0.5)


def _depths(arrows: list[tuple[str, str, str]]) -> dict[str, int]:
    """The longest path to each node."""
    depths = {node: 0 for source, target, _ in arrows for node in (source, target)}
    for _ in depths:  # as many rounds as a path can be long, so that a cycle ends too
        for source, target, _ in arrows:
            depths[target] = max(depths[target], min(depths[source] + 1, len(depths)))
    return depths
