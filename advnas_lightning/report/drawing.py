"""Draws found architectures as graphs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from advnas_lightning.texts import LITERAL, shortened

NODE = {"boxstyle": "round,pad=0.4", "facecolor": "#e8eef7", "edgecolor": "#33506e"}
CHAIN_STEP = 2.0  # the distance of a chain's nodes, wide enough for the labels of its straight arrows
LABEL = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
# These names of NAS-Bench-201's operations are short enough to stand between two nodes.
SHORT = {"nor_conv_3x3": "conv 3×3", "nor_conv_1x1": "conv 1×1", "avg_pool_3x3": "pool 3×3", "skip_connect": "skip"}
CUT = {"none", "zero"}  # operations that cut an edge
CUT_COLOUR = "#b0b0b0"
LONGEST, LONGEST_IN_LIST, LONGEST_IN_CELLS = 32, 44, 14  # characters of a name: in a graph, in a list, in a small graph
LETTER = 0.09  # the width of a letter in inches, at the largest size
ROWS, MOST_ROWS = 40, 400  # of a list: side by side from the first number on, and at most the second one


class Cell(NamedTuple):
    """A found cell that is drawn among others.

    Attributes:
        genotype: The candidate of each edge. Every edge is named ``source->target``.
        title: The title above the cell.
        colour: The colour of the title.
        note: The small text below the title.
        strategy: The name of the strategy that found the cell.

    Example:
        >>> cell = Cell({"0->1": "skip_connect"}, "GDAS", "#882255", "2 of 3 seeds", "gdas")
        >>> len(draw_cells([cell]).axes)
        1
    """

    genotype: Mapping[str, str]
    title: str
    colour: str
    note: str
    strategy: str


def draw_genotype(genotype: Mapping[str, str], path: str | Path, *, title: str = "") -> None:
    """Draw a genotype into a file: as a graph if every edge is named ``source->target``, otherwise as a list.

    The names may be any texts. Long ones are shown without their middle.

    Args:
        genotype: The candidate of each edge.
        path: The file. Its ending says the format.
        title: The title above the drawing.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "cell.png")
        >>> draw_genotype({"0->1": "skip_connect", "0->2": "none", "1->2": "nor_conv_3x3"}, path)
        >>> path.exists()
        True
    """
    with mpl.rc_context(LITERAL):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.axis("off")
        axes.set_title(shortened(title, 2 * LONGEST))
        arrows = _arrows(genotype)
        if arrows and len(arrows) == len(genotype) and all(source != target for source, target, _ in arrows):
            figure.set_size_inches(_size_of_graph(arrows))
            _draw_graph(axes, arrows)
        else:
            _draw_list(axes, genotype)
        figure.savefig(path, dpi=150)


def draw_cells(cells: Sequence[Cell]) -> Figure:
    """Draw cells side by side, as in the paper's Figures 5 and 6: nodes in a row, edges as arcs with their operations.

    An edge that is cut by a zero operation is dashed and grey.

    Args:
        cells: The cells, all from one search space.
    """
    columns = min(2, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(3.9 * columns, 2.05 * rows))
    # All cells have one size in inches, so no layout has to be computed.
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.4 / (2.05 * rows), wspace=0.03, hspace=0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(cells) :]:
        axes.remove()
    for axes, cell in zip(grid.flat, cells, strict=False):
        axes.axis("off")
        short = {edge: SHORT.get(candidate, candidate) for edge, candidate in cell.genotype.items()}
        _draw_graph(axes, _arrows(short), size=8, longest=LONGEST_IN_CELLS)
        title = f"{shortened(cell.title, LONGEST)}\n"
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=cell.colour)
        axes.text(0, 1.02, cell.note, transform=axes.transAxes, fontsize=8, color="#444444", va="bottom")
    return figure


def _arrows(genotype: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The source, target and candidate of each edge whose name has both ends."""
    return [
        (edge.partition("->")[0], edge.partition("->")[2], candidate)
        for edge, candidate in genotype.items()
        if "->" in edge
    ]


def _size_of_graph(arrows: list[tuple[str, str, str]]) -> tuple[float, float]:
    """The width and height in inches at which the names have room."""
    depths = list(_depths(arrows).values())
    nodes = max(len(shortened(node, LONGEST)) for source, target, _ in arrows for node in (source, target))
    candidates = max(len(shortened(candidate, LONGEST)) for _, _, candidate in arrows)
    width = LETTER * (nodes + candidates + 6) * (max(depths) + 1)
    height = 0.4 * max(depths.count(depth) for depth in depths)
    return min(max(9.0, width), 100.0), min(max(5.0, height), 100.0)


def _draw_list(axes: Axes, genotype: Mapping[str, str]) -> None:
    """Draw a genotype as a table, which has several columns if it is long."""
    names = [tuple(shortened(name, LONGEST_IN_LIST) for name in pair) for pair in genotype.items()]
    if len(names) > MOST_ROWS:
        names = [*names[: MOST_ROWS - 1], (f"and {len(names) - MOST_ROWS + 1} more", "")]
    columns = max(1, ceil(len(names) / ROWS))
    height = ceil(len(names) / columns)
    names += [("", "")] * (columns * height - len(names))
    rows = [["edge", "candidate"] * columns]
    rows += [[text for column in range(columns) for text in names[column * height + row]] for row in range(height)]
    widths = [max(map(len, column)) + 4 for column in zip(*rows, strict=True)]
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.set_size_inches(max(9.0, LETTER * sum(widths)), max(5.0, 0.23 * len(rows) + 0.8))
    share = min(1.0, 0.06 * len(rows))  # of the height
    table = axes.table(
        rows,
        cellLoc="left",
        colWidths=[width / sum(widths) for width in widths],
        bbox=(0, (1 - share) / 2, 1, share),  # type: ignore[arg-type]
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)


def _draw_graph(axes: Axes, arrows: list[tuple[str, str, str]], *, size: float = 10, longest: int = LONGEST) -> None:
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
        # In a chain of nodes an edge that skips some is an arc, which is the higher the more it skips, so that no two
        # labels overlap.
        skipped = round((x1 - x0) / step) - 1
        height = 0.7 * skipped * (1 if round(x0 / step) % 2 == 0 else -1) if chain else 0.0
        bend = -2 * height / (x1 - x0) if x1 > x0 else 0.0
        arrow = FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=14,
            shrinkA=1.6 * size,
            shrinkB=1.6 * size,
            color=CUT_COLOUR if candidate in CUT else "#5b6b7b",
            linestyle=(0, (4, 3)) if candidate in CUT else "solid",
        )
        axes.add_patch(arrow)
        share = 0.5 if chain else 0.7
        above = chain and height == 0  # a label on a straight arrow between neighbours would hide it
        axes.text(
            x0 + share * (x1 - x0),
            y0 + share * (y1 - y0) + (0.05 if above else height),
            shortened(candidate, longest),
            ha="center",
            va="bottom" if above else "center",
            bbox=None if above else LABEL,  # a background would hide the ends of the arcs
            fontsize=size,
            color="#8a8a8a" if candidate in CUT else "black",
            zorder=3,
        )
        heights.append(height)
    for node, (x, y) in place.items():
        axes.text(x, y, shortened(node, longest), ha="center", va="center", bbox=NODE, fontsize=size, zorder=4)
    if chain:
        axes.set_aspect("equal")  # an arc is bent in display units, and another aspect would part it from its label
    axes.set_xlim(-0.4, step * max(layers) + 0.4)
    axes.set_ylim(min(heights) - 0.5, max(heights) + 0.5)


def _depths(arrows: list[tuple[str, str, str]]) -> dict[str, int]:
    """The length of the longest path to each node."""
    depths = {node: 0 for source, target, _ in arrows for node in (source, target)}
    for _ in depths:  # no path is longer than this, and with a cycle the loop ends too
        for source, target, _ in arrows:
            depths[target] = max(depths[target], min(depths[source] + 1, len(depths)))
    return depths
