"""A figure of the report: what it is called, what it shows, and its files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from advnas_lightning.runs import replacing, write_text
from advnas_lightning.texts import LITERAL

__all__ = ["INK", "PAPER", "RC_PARAMS", "RULE", "SOFT", "Dash", "Plot", "Series", "save_figure", "save_plot"]

INK, SOFT, RULE, PAPER = "#1c2733", "#5b6876", "#e3e7ec", "#ffffff"  # the page shows these by its own colours
RC_PARAMS: dict[Any, Any] = {  # matplotlib's settings for all figures
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": PAPER,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 9),
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    **LITERAL,
}
MOST_POINTS = 120  # of a curve, that the page shows values of
Dash = Literal["solid"] | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Series:
    """A drawn curve, whose values the page shows.

    Attributes:
        axes: The axes that it is in.
        strategy: The name of the strategy.
        label: The strategy's title, with the settings of the curve if there are several.
        runs: The number of runs behind it.
        x: The x of each point, ``[N]``.
        y: The lower quartile, the median and the upper quartile, ``[3, N]``.

    Example:
        >>> axes = Figure().add_subplot()
        >>> Series(axes, "gdas", "GDAS", 1, np.array([1.0]), np.zeros((3, 1))).runs
        1
    """

    axes: Axes
    strategy: str
    label: str
    runs: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Plot:
    """A drawn figure of the report.

    Attributes:
        name: The name of the figure's files, without an ending.
        title: The title above the figure, in words.
        remark: What it is in the paper.
        caption: The text that says what the figure shows.
        figure: The drawing. The gid of each artist of a curve is ``strategy--<name>--<number>-<part>``.
        strategies: The strategies in the figure.
        series: The curves, of which the page can hide some. A figure without any shows something else.
        dashes: The settings in words, each with its kind of line, if there are several.

    Example:
        >>> from tempfile import mkdtemp
        >>> plot = Plot("empty", "Empty", "", "This figure shows nothing.", Figure(figsize=(1, 1)), strategies=())
        >>> folder = Path(mkdtemp())
        >>> svg = save_plot(plot, folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['empty.png', 'empty.svg']
    """

    name: str
    title: str
    remark: str
    caption: str
    figure: Figure
    strategies: tuple[str, ...]
    series: tuple[Series, ...] = ()
    dashes: dict[str, Dash] = field(default_factory=dict)

    def views(self) -> list[dict[str, Any]]:
        """The panels for the page: the part of the figure that each takes, and the values of its curves.

        The figure must have been drawn, since its layout decides the places. They are shares of the width and height,
        from the left and from the top. A long curve has some of its points.
        """
        with mpl.rc_context(RC_PARAMS):  # on which the ticks depend
            return [self._view(axes) for axes in self.figure.axes]

    def _view(self, axes: Axes) -> dict[str, Any]:
        width, height = self.figure.bbox.width, self.figure.bbox.height
        view, inner = axes.get_tightbbox(), axes.get_window_extent()
        assert view is not None
        part = view.x0 / width, 1 - view.y1 / height, view.width / width, view.height / height
        box = inner.x0 / width, 1 - inner.y1 / height, inner.x1 / width, 1 - inner.y0 / height
        curves = [self._points(each) for each in self.series if each.axes is axes]
        return {"view": _shares(part), "box": _shares(box), "x": axes.get_xlabel(), "curves": curves}

    def _points(self, each: Series) -> dict[str, Any]:
        """The points of a curve: the place, x, lower quartile, median and upper quartile of each."""
        at = np.unique(np.linspace(0, len(each.x) - 1, min(len(each.x), MOST_POINTS)).round().astype(int))
        x, y = each.x[at], each.y[:, at]
        shown = np.isfinite(y).all(axis=0)
        places = each.axes.transData.transform(np.stack([x[shown], y[1, shown]], axis=1))  # [N, 2]
        places = places / [self.figure.bbox.width, self.figure.bbox.height]
        points = [
            [*_shares((float(px), 1 - float(py))), _short(at_x), *map(_short, values)]
            for (px, py), at_x, values in zip(places, x[shown], y[:, shown].T, strict=True)
        ]
        return {"strategy": each.strategy, "label": each.label, "n": each.runs, "points": points}


def save_plot(plot: Plot, folder: Path) -> str:
    """Write a figure as PNG and as SVG. Each file is complete at any moment.

    Args:
        plot: The figure.
        folder: The folder for both files.

    Returns:
        The text of the SVG. Its letters are text, not paths, and equal runs give equal files.
    """
    text = io.StringIO()
    with mpl.rc_context({**RC_PARAMS, "svg.fonttype": "none", "svg.hashsalt": plot.name}):
        with replacing(folder / f"{plot.name}.png") as unfinished:
            plot.figure.savefig(unfinished, dpi=200, format="png")
        plot.figure.set_layout_engine("none")  # the layout is done, and doing it again would take time
        plot.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write_text(folder / f"{plot.name}.svg", text.getvalue())
    return text.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and as SVG. Each file is complete at any moment.

    Args:
        figure: The figure.
        path: The path of the files, without their endings.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> save_figure(Figure(figsize=(1, 1)), folder / "empty")
        >>> sorted(path.name for path in folder.iterdir())
        ['empty.png', 'empty.svg']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "svg"):
        with replacing(path.with_name(f"{path.name}.{ending}")) as unfinished:
            figure.savefig(unfinished, dpi=160, format=ending)


def _shares(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in values]


def _short(value: float) -> float | int:
    number = float(f"{value:.5g}")
    return int(number) if number.is_integer() else number
