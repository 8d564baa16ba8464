"""Draws found architectures as graphs, or as lists where the edges' names do not say how they are connected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Line
from matplotlib.textpath import text_to_path

from advnas_lightning.runs import replacing
from advnas_lightning.texts import LITERAL, shortened

INK, SOFT, FAINT = "#1f2933", "#667380", "#dfe4ea"
NODE, BORDER = "#eef2f7", "#3b5570"
PLAIN, RIGHT, WRONG, CUT_COLOUR = "#3b5570", "#0b7a53", "#c4452d", "#b0b0b0"
# These names of NAS-Bench-201's operations are short enough to stand between two nodes.
SHORT = {"nor_conv_3x3": "conv 3×3", "nor_conv_1x1": "conv 1×1", "avg_pool_3x3": "pool 3×3", "skip_connect": "skip"}
CUT = {"none", "zero"}  # operations that cut an edge
LONGEST, LONGEST_IN_LIST, LONGEST_IN_CELLS = 32, 44, 14  # characters of a name: in a graph, in a list, in a small graph
LONGEST_TITLE = 80  # characters
ROWS, MOST_ROWS = 40, 400  # of a list: side by side from the first number on, and at most the second one
LARGEST, MARGIN = 100.0, 0.3  # inches of a drawing, and around it
PITCH, BAR = 0.34, 0.9  # inches between two edges that lead to one node, and of a probability of 1 in a list


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


class Choice(NamedTuple):
    """What was chosen for an edge.

    Attributes:
        source: The node from which the edge leads; empty if its name does not say that.
        target: The node to which it leads, or its whole name.
        candidate: The chosen candidate.
        probability: The candidate's probability; ``None`` if it is not known.
        is_right: Whether the choice is right; ``None`` if that is not known.

    Example:
        >>> Choice("0", "1", "skip", 0.25, None).label(32), Choice("0", "1", "skip", 0.25, False).label(32)
        ('skip 25 %', '✗ skip 25 %')
    """

    source: str
    target: str
    candidate: str
    probability: float | None = None
    is_right: bool | None = None

    @property
    def name(self) -> str:
        """The name of the edge."""
        return f"{self.source}->{self.target}" if self.source else self.target

    @property
    def colour(self) -> str:
        """The colour of the edge."""
        if self.is_right is not None:
            return RIGHT if self.is_right else WRONG
        return CUT_COLOUR if self.candidate in CUT else PLAIN

    @property
    def ink(self) -> str:
        """The colour of the edge's label."""
        return self.colour if self.is_right is not None else SOFT if self.candidate in CUT else INK

    @property
    def width(self) -> float:
        """The width of the edge's line in points, which grows with the probability."""
        return 1.3 if self.probability is None else 0.8 + 3.2 * self.probability

    def label(self, longest: int) -> str:
        """The candidate with its probability, and a mark if it is wrong.

        Args:
            longest: The number of characters of the candidate's name.
        """
        mark = "✗ " if self.is_right is False else ""
        certain = "" if self.probability is None else f" {100 * self.probability:.0f} %"
        return mark + shortened(self.candidate, longest) + certain


def draw_genotype(
    genotype: Mapping[str, str],
    path: Path,
    *,
    title: str = "",
    probabilities: Mapping[str, float] | None = None,
    right: Mapping[str, bool] | None = None,
) -> None:
    """Draw a genotype into a file: as a graph if every edge is named ``source->target``, otherwise as a list.

    The names may be any texts. Long ones are shown without their middle.

    Args:
        genotype: The candidate of each edge.
        path: The file, which is complete at any moment. Its ending says the format.
        title: The title above the drawing.
        probabilities: The probability of the chosen candidate by edge, which is shown as a number and as the width of
            a line.
        right: Whether the choice is right by edge. Right ones are green, and wrong ones red and marked.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "cell.png")
        >>> draw_genotype({"0->1": "skip_connect", "0->2": "none", "1->2": "nor_conv_3x3"}, path, title="my cell")
        >>> path.exists()
        True
    """
    figure = genotype_figure(genotype, title=title, probabilities=probabilities, right=right)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150 if max(figure.get_size_inches()) < 60 else 80, format=path.suffix[1:])


def genotype_figure(
    genotype: Mapping[str, str],
    *,
    title: str = "",
    probabilities: Mapping[str, float] | None = None,
    right: Mapping[str, bool] | None = None,
) -> Figure:
    """The drawing of :func:`draw_genotype`, which has its arguments, as a figure.

    Example:
        >>> genotype_figure({"0->1": "skip", "0->2": "relu", "1->2": "skip"}).get_size_inches().round(1)
        array([3.8, 1.7])
    """
    choices = _choices(genotype, probabilities or {}, right or {})
    with mpl.rc_context(LITERAL):
        figure = Figure(figsize=(6, 4))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        is_graph = bool(choices) and all(each.source and each.source != each.target for each in choices)
        width, height = _graph(axes, choices) if is_graph else _list(axes, choices)
        lines = _legend(is_graph, bool(probabilities), bool(right))
        heading, top = shortened(title, LONGEST_TITLE), height + MARGIN
        for text, size, weight, colour in (
            *((line, 9.0, "normal", SOFT) for line in reversed(lines)),
            *([(heading, 13.0, "bold", INK)] if heading else []),
        ):
            axes.text(0, top, text, fontsize=size, fontweight=weight, color=colour, va="bottom")
            top += 2 * size / 72
            width = max(width, _width(text, size, weight))
        left, right_end, bottom, top = -MARGIN, width + MARGIN, -MARGIN, top + MARGIN / 2
        axes.set(xlim=(left, right_end), ylim=(bottom, top))
        figure.set_size_inches(min(right_end - left, LARGEST), min(top - bottom, LARGEST))  # a unit is an inch
    return figure


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
        choices = [each for each in _choices(short, {}, {}) if each.source]
        width, height = _graph(axes, choices, size=8, longest=LONGEST_IN_CELLS, step=1.12)
        axes.set(xlim=(-0.06, width + 0.06), ylim=(-0.06, height + 0.06), aspect="equal")
        title = f"{shortened(cell.title, LONGEST)}\n"
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=cell.colour)
        axes.text(0, 1.02, cell.note, transform=axes.transAxes, fontsize=8, color="#444444", va="bottom")
    return figure


def _choices(
    genotype: Mapping[str, str], probabilities: Mapping[str, float], right: Mapping[str, bool]
) -> list[Choice]:
    found = []
    for edge, candidate in genotype.items():
        source, _, target = edge.partition("->") if "->" in edge else ("", "", edge)
        found.append(Choice(source, target, candidate, probabilities.get(edge), right.get(edge)))
    return found


def _legend(is_graph: bool, has_probabilities: bool, has_right: bool) -> list[str]:
    """The lines below the title."""
    lines = []
    if has_probabilities:
        lines.append(f"{'width of a line' if is_graph else 'bar'} and percentage: probability of the choice")
    if has_right:
        lines.append("green: the right choice; red and ✗: a wrong one")
    return lines


def _width(text: str, size: float, weight: str = "normal") -> float:
    """The width of a text in inches."""
    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


# -- graphs --------------------------------------------------------------------------------------------------------


def _graph(
    axes: Axes, choices: list[Choice], *, size: float = 10, longest: int = LONGEST, step: float | None = None
) -> tuple[float, float]:
    """Draw nodes and edges, in inches from the lower left corner, and return the width and the height."""
    layers: dict[int, list[str]] = defaultdict(list)
    for node, depth in _depths(choices).items():
        layers[depth].append(node)
    if all(len(nodes) == 1 for nodes in layers.values()):
        return _chain(axes, choices, [layers[depth][0] for depth in sorted(layers)], size, longest, step)
    return _layered(axes, choices, [layers[depth] for depth in sorted(layers)], size, longest)


def _chain(
    axes: Axes, choices: list[Choice], nodes: list[str], size: float, longest: int, step: float | None
) -> tuple[float, float]:
    """Draw nodes in a row. An edge that skips some is an arc, which is the higher the more it skips."""
    place = {node: index for index, node in enumerate(nodes)}
    box = max(_width(shortened(node, longest), size) for node in nodes) + 0.16 * size / 8
    tall = 2.6 * size / 72
    near = [each.label(longest) for each in choices if place[each.target] - place[each.source] == 1]
    step = step or max([_width(text, size) for text in near] + [0.6]) + box + 0.55
    heights = {each: _arc_height(place[each.source], place[each.target], 0.056 * size) for each in choices}
    line = 1.5 * size / 72  # of text
    base = max(tall / 2, *(line - height for height in heights.values()))
    for node, index in place.items():
        _node(axes, box / 2 + step * index, base, box, tall)
        _text(axes, box / 2 + step * index, base, shortened(node, longest), size, zorder=4)
    for each, height in heights.items():
        x0, x1 = (box / 2 + step * place[node] for node in (each.source, each.target))
        if height == 0:
            corners, codes = [(x0 + box / 2, base), (x1 - box / 2, base)], [Line.MOVETO, Line.LINETO]
        else:  # from the top or the bottom of one node to that of the other, with the label at three quarters of it
            side = base + (tall / 2 if height > 0 else -tall / 2)
            far = side + (base + height - side) / 0.75
            x0, x1 = x0 + 0.2 * box, x1 - 0.2 * box
            corners, codes = [(x0, side), (x0, far), (x1, far), (x1, side)], [Line.MOVETO, *[Line.CURVE4] * 3]
        axes.add_patch(FancyArrowPatch(path=Line(corners, codes), **_style(each, size)))
        middle = (x0 + x1) / 2
        if height == 0:  # a label on a straight arrow between neighbours would hide it
            _text(axes, middle, base + 0.045 + each.width / 144, each.label(longest), size, each.ink, va="bottom")
        else:
            _text(axes, middle, base + height, each.label(longest), size, each.ink, background=True)
    return box + step * (len(nodes) - 1), base + max(tall / 2, *heights.values()) + line


def _arc_height(start: int, end: int, unit: float) -> float:
    """The height of an edge's arc: 0 between neighbours. Arcs from every second node are below."""
    skipped = end - start - 1
    return unit * skipped * (1 if start % 2 == 0 else -1)


def _layered(
    axes: Axes, choices: list[Choice], layers: list[list[str]], size: float, longest: int
) -> tuple[float, float]:
    """Draw nodes in columns. Each edge ends in a straight piece of its own, on which its label stands."""
    into: dict[str, list[Choice]] = defaultdict(list)
    for each in choices:
        into[each.target].append(each)
    tall = {node: max(PITCH * len(into[node]), 0.3) for nodes in layers for node in nodes}
    height = max(sum(tall[node] + 0.1 for node in nodes) - 0.1 for nodes in layers)
    places: dict[str, tuple[float, float, float]] = {}  # the left end, the middle and the width of each node
    x = 0.0
    for depth, nodes in enumerate(layers):
        widths = [_width(shortened(node, longest), size) + 0.24 for node in nodes]
        if depth:
            labels = [_width(each.label(longest), size) for node in nodes for each in into[node]]
            x += max(labels, default=0.0) + 0.5 + min(0.7 + 0.28 * len(labels), 4.0)
        y = height / 2 + (sum(tall[node] + 0.1 for node in nodes) - 0.1) / 2
        for node in nodes:
            places[node] = x, y - tall[node] / 2, max(widths)
            y -= tall[node] + 0.1
        x += max(widths)
    for node, (left, middle, wide) in places.items():
        _node(axes, left + wide / 2, middle, wide, min(tall[node], 0.3) if len(into[node]) < 2 else tall[node])
        _text(axes, left + wide / 2, middle, shortened(node, longest), size, zorder=4)
        for port, each in enumerate(into[node]):
            x0 = places[each.source][0] + places[each.source][2]
            y0, y1 = places[each.source][1], middle + PITCH * ((len(into[node]) - 1) / 2 - port)
            straight = left - _width(each.label(longest), size) - 0.38
            bend = (x0 + straight) / 2
            corners = [(x0, y0), (bend, y0), (bend, y1), (straight, y1), (left, y1)]
            codes = [Line.MOVETO, Line.CURVE4, Line.CURVE4, Line.CURVE4, Line.LINETO]
            axes.add_patch(FancyArrowPatch(path=Line(corners, codes), **_style(each, size)))
            x1, y1 = straight + 0.05, y1 + 0.03 + each.width / 144
            _text(axes, x1, y1, each.label(longest), size, each.ink, va="bottom", ha="left", background=True)
    return x, height


def _style(choice: Choice, size: float) -> dict[str, Any]:
    return {
        "arrowstyle": "-|>,head_length=0.35,head_width=0.18",
        "mutation_scale": 1.3 * size,
        "shrinkA": 0,
        "shrinkB": 0,
        "linewidth": choice.width,
        "color": choice.colour,
        "capstyle": "butt",
        "joinstyle": "miter",
        "linestyle": (0, (4, 2)) if choice.candidate in CUT else "solid",
        "zorder": 1,
    }


def _node(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    shape, place = "round,pad=0,rounding_size=0.07", (x - width / 2, y - height / 2)
    colours: dict[str, Any] = {"facecolor": NODE, "edgecolor": BORDER}
    axes.add_patch(FancyBboxPatch(place, width, height, boxstyle=shape, linewidth=1.0, zorder=2, **colours))


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = INK,
    *,
    va: str = "center",
    ha: str = "center",
    background: bool = False,
    zorder: int = 3,
) -> None:
    # A background keeps a label readable where other lines pass below it.
    box = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none"} if background else None
    axes.text(x, y, text, va=va, ha=ha, fontsize=size, color=colour, bbox=box, zorder=zorder)


def _depths(choices: list[Choice]) -> dict[str, int]:
    """The length of the longest path to each node."""
    depths = {node: 0 for each in choices for node in (each.source, each.target)}
    for _ in depths:  # no path is longer than this, and with a cycle the loop ends too
        for each in choices:
            depths[each.target] = max(depths[each.target], min(depths[each.source] + 1, len(depths)))
    return depths


# -- lists ---------------------------------------------------------------------------------------------------------


def _list(axes: Axes, choices: list[Choice]) -> tuple[float, float]:
    """Draw a row for each edge, with a bar as long as its probability; and return the width and the height."""
    size, row = 9.0, 0.25
    more = len(choices) - MOST_ROWS + 1 if len(choices) > MOST_ROWS else 0
    shown = choices[: len(choices) - more]
    lines = len(shown) + bool(more)
    columns = max(1, ceil(lines / ROWS))
    rows = max(1, ceil(lines / columns))
    names = [(shortened(each.name, LONGEST_IN_LIST), shortened(each.candidate, LONGEST_IN_LIST)) for each in shown]
    first = max((_width(name, size) for name, _ in names), default=0.0) + 0.25
    second = max((_width(candidate, size) for _, candidate in names), default=0.0) + 0.35
    third = BAR + 0.6 if any(each.probability is not None for each in shown) else 0.0
    height = row * rows
    for index, (each, (name, candidate)) in enumerate(zip(shown, names, strict=True)):
        x, y = (index // rows) * (first + second + third + 0.4), height - row * (index % rows + 0.5)
        _text(axes, x, y, name, size, SOFT, ha="left")
        _text(axes, x + first, y, ("✗ " if each.is_right is False else "") + candidate, size, each.ink, ha="left")
        if each.probability is not None:
            start = x + first + second
            for length, fill in ((BAR, FAINT), (BAR * each.probability, each.colour)):
                axes.add_patch(Rectangle((start, y - 0.05), length, 0.1, facecolor=fill, edgecolor="none"))
            _text(axes, start + BAR + 0.08, y, f"{100 * each.probability:.0f} %", size, SOFT, ha="left")
    if more:
        x = ((lines - 1) // rows) * (first + second + third + 0.4)
        _text(axes, x, height - row * ((lines - 1) % rows + 0.5), f"and {more} more", size, SOFT, ha="left")
    return columns * (first + second + third + 0.4) - 0.4, height
