"""Draws groups of runs as curves, with a legend of the strategies and one of the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advnas_lightning.report.curves import Panel, times
from advnas_lightning.report.groups import Group
from advnas_lightning.report.palette import Style
from advnas_lightning.report.paper import departures
from advnas_lightning.report.plots import PAPER, SOFT, Dash, Series
from advnas_lightning.report.statistics import quartiles
from advnas_lightning.texts import shortened

__all__ = ["PAPERS", "Drawn", "draw"]

DASHES: tuple[Dash, ...] = (
    "solid", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (9, 2)), (0, (4, 1.5, 1, 1.5, 1, 1.5)),
    (0, (2.5, 2.5)), (0, (9, 1.5, 3, 1.5)),
)  # fmt: skip
PAPERS = "the paper's settings"  # the name of those in a legend
LONGEST, LONGEST_TITLE = 44, 60  # characters of an entry of a legend, and of a title
MOST_ENTRIES = 24  # of a legend
FEW = 12  # points; on so many each has a marker
TITLE_HEIGHT, GAP, MARGIN = 0.34, 0.07, 0.12  # inches
HIGHEST = 0.25  # the largest share of the height that the legends may take


class Drawn(NamedTuple):
    """What :func:`draw` has drawn.

    Attributes:
        figure: The figure.
        series: Its curves.
        dashes: The settings with their kinds of lines, if there are several.
        left_out: The number of settings that were not drawn, because there is no kind of line for them.

    Example:
        >>> Drawn(Figure(), (), {}, left_out=0).strategies
        ()
    """

    figure: Figure
    series: tuple[Series, ...]
    dashes: dict[str, Dash]
    left_out: int

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies with curves."""
        return tuple(dict.fromkeys(each.strategy for each in self.series))


def draw(title: str, panels: Sequence[Panel], style_of: Mapping[str, Style], *, share_y: bool = False) -> Drawn:
    """Draw panels, two in a row: a strategy has its colour and marker, a setting its kind of line.

    Args:
        title: The title of the figure.
        panels: The panels.
        style_of: The style of each strategy.
        share_y: Whether the panels of a row have the same limits of y.
    """
    dashes, left_out = _dashes(panels)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = 3.7 * columns + (1.4 if columns == 1 else 0)
    figure = Figure(figsize=(width, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    series: list[Series] = []
    for axes, panel in zip(grid.flat, panels, strict=False):
        series += _draw_panel(axes, panel, style_of, dashes)
    if share_y:  # with ticks at each, since the page may show them one below the other
        for row in grid:
            limits = [axes.get_ylim() for axes in row if axes.figure is not None]
            for axes in row:
                axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    drawn = list(dict.fromkeys(each.strategy for each in series))
    legends = [_legend(figure, "strategies", _strategy_entries(drawn, style_of))]
    if len(dashes) > 1:
        lines = {name: Line2D([], [], color=SOFT, linestyle=dash) for name, dash in dashes.items()}
        legends.append(_legend(figure, "settings", lines))
    _place(figure, title, legends, 2.6 * rows)
    return Drawn(figure, tuple(series), dashes if len(dashes) > 1 else {}, left_out)


def _dashes(panels: Sequence[Panel]) -> tuple[dict[str, Dash], int]:
    """The settings that are drawn, each with its kind of line, and the number of those that are not.

    The paper's come first, and then those with most runs.
    """
    counts: Counter[str] = Counter()
    for panel in panels:
        for each in panel.groups:
            counts[_setting(each)] += len(each.runs)
    names = sorted(counts, key=lambda name: (name != PAPERS, -counts[name], name))
    return dict(zip(names, DASHES, strict=False)), max(len(names) - len(DASHES), 0)


def _setting(each: Group) -> str:
    """The name of a group's settings, which tells them from those of the other panels as well."""
    if each.variant:
        return each.variant
    found = [departure.ours for departure in departures(each.runs[0])]
    return ", ".join(found[:2]) or PAPERS


def _draw_panel(axes: Axes, panel: Panel, style_of: Mapping[str, Style], dashes: Mapping[str, Dash]) -> list[Series]:
    axes.set_title(shortened(panel.title, LONGEST_TITLE), loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.warmup is not None:
        axes.axvline(panel.warmup, color=SOFT, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    variants: Counter[str] = Counter()
    series = []
    shown = [each for each in panel.groups if _setting(each) in dashes]
    for index, each in enumerate(shown):
        label = style_of[each.strategy].title
        if len(dashes) > 1 and _setting(each) != PAPERS:
            label += f", {_setting(each)}"
        found = _series(axes, panel, each, label)
        name = f"strategy--{each.strategy}--{variants[each.strategy]}"
        _draw_series(found, style_of[each.strategy], dashes[_setting(each)], name, index)
        variants[each.strategy] += 1
        series.append(found)
    ends = [float(each.x[-1]) for each in series if len(each.x)]
    if panel.unit:
        axes.set_xlim(0, 1.04 * max(ends, default=1.0))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlim(0, max(1.04 * max(ends, default=1.0), 2.0))
    low, high = axes.get_ylim()
    if high - low < panel.span:
        middle = (low + high) / 2
        axes.set_ylim(middle - panel.span / 2, middle + panel.span / 2)
    return series


def _series(axes: Axes, panel: Panel, each: Group, label: str) -> Series:
    """The quartiles of a group's curves, by epoch or iteration, or at the medians of the times of the epochs."""
    curves = [curve for run in each.runs if (curve := panel.read(run)) is not None]
    x, bands = quartiles(curves)
    if panel.unit:
        when, (_, middle, _) = quartiles([time for run in each.runs if (time := times(run)) is not None])
        timed = np.isin(x, when)
        x, bands = middle[np.searchsorted(when, x[timed])] / panel.unit, bands[:, timed]
    return Series(axes, each.strategy, label, len(curves), x, bands)


def _draw_series(series: Series, style: Style, dash: Dash, name: str, index: int) -> None:
    """Draw the median as a line with a few markers, on the band between the quartiles; a single point as a point."""
    axes, x, (low, middle, high) = series.axes, series.x, series.y
    is_main = series.strategy == "advantage"
    if len(x) == 1:
        axes.vlines(x, low, high, color=style.colour, linewidth=1.2, gid=f"{name}-band", zorder=2)
    else:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0, gid=f"{name}-band", zorder=2)
    axes.plot(
        x,
        middle,
        color=style.colour,
        linestyle=dash,
        marker=style.marker,
        markersize=5.5 if len(x) == 1 else 4.5,
        # in shares of the picture, shifted so that no two curves' markers meet
        markevery=1 if len(x) <= FEW else (0.014 * index, 0.16),
        markeredgecolor=PAPER,
        markeredgewidth=0.4,
        linewidth=2.0 if is_main else 1.4,
        gid=f"{name}-line",
        zorder=4 if is_main else 3,
    )


# -- legends -------------------------------------------------------------------------------------------------------


def _strategy_entries(names: Iterable[str], style_of: Mapping[str, Style]) -> dict[str, Line2D]:
    return {
        style_of[name].title: Line2D(
            [], [], color=style_of[name].colour, marker=style_of[name].marker, markersize=4.5,
            markeredgecolor=PAPER, markeredgewidth=0.4, linewidth=2.0 if name == "advantage" else 1.4,
        )
        for name in names
    }  # fmt: skip


def _legend(figure: Figure, name: str, entries: Mapping[str, Line2D]) -> Legend:
    """A legend in as many columns as the figure has room for."""
    titles, handles = list(entries), list(entries.values())
    more = len(titles) - MOST_ENTRIES
    if more > 0:
        titles, handles = [*titles[:MOST_ENTRIES], f"and {more} more"], [*handles[:MOST_ENTRIES], Line2D([], [])]
    longest = LONGEST
    while True:
        for columns in range(min(len(titles), 6), 0, -1):
            legend = _made(figure, [shortened(title, longest) for title in titles], handles, columns)
            if legend.get_window_extent().width <= figure.bbox.width - 2 * MARGIN * figure.dpi:
                legend.set_gid(f"legend-{name}")
                return legend
            legend.remove()
        longest = 3 * longest // 4  # letters that are wider than most


def _made(figure: Figure, titles: Sequence[str], handles: Sequence[Artist], columns: int) -> Legend:
    keywords: dict[str, Any] = {"ncols": columns, "handlelength": 2.8, "borderaxespad": 0, "columnspacing": 1.6}
    # matplotlib 3.8 leaves out what begins with an underscore
    legend = figure.legend(list(handles), [""] * len(titles), loc="lower left", borderpad=0.2, **keywords)
    for text, title in zip(legend.get_texts(), titles, strict=True):
        text.set_text(title)
    legend.set_in_layout(False)
    return legend


def _place(figure: Figure, title: str, legends: Sequence[Legend], panels: float) -> None:
    """Put the title above the panels and the legends below them, and make the figure so high that all have room.

    Args:
        figure: The figure.
        title: The title.
        legends: The legends, from top to bottom.
        panels: The height of the panels in inches.
    """
    heights = [legend.get_window_extent().height / figure.dpi for legend in legends]
    below = sum(heights) + GAP * (len(heights) + 1)
    height = max(panels + below + TITLE_HEIGHT, below / HIGHEST)
    figure.set_figheight(height)
    bottom = below
    left = MARGIN / figure.get_figwidth()
    for legend, own in zip(legends, heights, strict=True):
        bottom -= own + GAP
        legend.set_bbox_to_anchor((left, bottom / height))
    figure.text(
        left, 1 - 0.08 / height, title, va="top", fontsize=10.5, fontweight="bold",
        gid="title", in_layout=False,
    )  # fmt: skip
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, below / height, 1, 1 - (below + TITLE_HEIGHT) / height))
