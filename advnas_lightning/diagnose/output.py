"""Shows a diagnosis: a table in the terminal, and a figure of bias against noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.table import Table

from advnas_lightning.diagnose.statistics import Credit, EstimatorStatistics, Truth, recommend
from advnas_lightning.report.palette import styles
from advnas_lightning.report.plots import RC_PARAMS, SOFT, save_figure
from advnas_lightning.texts import listed, rich

WIDTH = 100  # columns of the terminal that the table and its explanation take at most
COLUMNS = {
    "bias": "how far the mean of all estimates is from the exact gradient: 0 is best. ≤ means that the bias may be any"
    " smaller number, since with so few draws chance alone shows as much",
    "noise": "how far a single step scatters around that mean (standard deviation): 0 is best",
    "right edges": "on how many edges the mean raises the same candidate as the exact gradient",
    "ms a step": "the time of one architecture step",
    "after 1 s": "how well the sum of a second's steps points along the exact gradient (cosine): 1 is best",
}
TITLE: dict[str, Any] = {"fontsize": 10.5, "fontweight": "bold"}
CLEAR = 2.0  # a bias is seen if it is so many times what chance would show


def show(truth: Truth, statistics: Sequence[EstimatorStatistics], credit: Credit) -> None:
    """Print the table of all estimators, the best one first, what its columns mean, and the recommended estimator.

    Args:
        truth: The exact gradient.
        statistics: The statistics of each estimator.
        credit: How well the two kinds of credit agree.
    """
    console = Console()
    console = Console(width=min(console.width, WIDTH)) if console.is_terminal else Console(width=WIDTH)
    table = Table("estimator", title="estimates of the gradient of θ, the best one first")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for each in sorted(statistics, key=lambda each: -each.second_cosine):
        bias = _short(each.bias) if each.bias > CLEAR * each.noise else f"≤ {_short(max(each.bias, each.noise))}"
        noise = _short(math.sqrt(max(each.variance, 0.0)))
        edges = f"{each.agreement(truth)} of {len(truth.raises)}"
        table.add_row(each.name, bias, noise, edges, _short(1000 * each.seconds), f"{each.second_cosine:.2f}")
    console.print(table)
    meanings = Table.grid(padding=(0, 2))
    for column, meaning in COLUMNS.items():
        meanings.add_row(f"[b]{column}[/b]", meaning)
    console.print(meanings)
    size = float(truth.gradient.norm())
    console.print(
        f"Bias and noise are shares of the exact gradient's length, {size:.3g}. It comes from {truth.by}"
        + (f", and may be off by {truth.error / max(size, 1e-30):.2g} of it." if truth.error else "."),
        highlight=False,
    )
    choices = listed(f"{edge} {candidate}" for edge, candidate in truth.raises.items())
    console.print(rich(f"The exact gradient raises most: {choices}."), soft_wrap=True)
    console.print(
        "AdvantageNAS's credit from one backward pass (Eq. 7), compared with that from a forward pass per edge (Eq. 6):"
        f" rank correlation {credit.rank_correlation:.3f}, same sign in {credit.sign_agreement:.0%} ({credit.draws}"
        " draws).",
        highlight=False,
    )
    console.print(f"Recommended: {recommend(statistics)}.", highlight=False)


def draw(statistics: Sequence[EstimatorStatistics], folder: Path) -> None:
    """Draw bias against the noise of one step. An estimator near the lower left corner is better.

    Args:
        statistics: The statistics of each estimator.
        folder: The folder for the figure.
    """
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = figure.add_subplot()
        style_of = styles(each.name.partition("-")[0] for each in statistics)
        for each in statistics:
            name, _, variant = each.name.partition("-")
            style = style_of[name]
            x, y = math.sqrt(max(each.variance, 1e-12)), max(each.bias, each.noise, 1e-6)
            face: Any = {"": style.colour, "exact": "none"}.get(variant, (style.colour, 0.35))
            axes.scatter(
                x, y, s=60, marker=style.marker, edgecolors=style.colour, facecolors=face, zorder=3, label=each.name
            )
        axes.set(xscale="log", yscale="log")
        axes.set_xlabel("noise: standard deviation of one step, as a share of the exact gradient")
        axes.set_ylabel("bias, or what chance would show")
        axes.margins(0.15)
        for axis in ("x", "y"):
            readable(axes, axis)
        axes.set_title("How far each estimate is from the exact gradient of θ", loc="left", **TITLE)
        figure.legend(loc="outside right upper")
        better(axes, (0.16, 0.2), (0.03, 0.04))
        save_figure(figure, folder / "diagnosis")


def _short(value: float) -> str:
    """A number with two digits, and without a power of 10 unless it is huge."""
    return f"{float(f'{value:.2g}'):g}"


def readable(axes: Axes, name: Literal["x", "y"]) -> None:
    """Give a logarithmic axis ticks that are plain numbers, at least two of them, and none too close to another.

    Args:
        axes: The axes.
        name: The axis.
    """
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
    if high / low < 5:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(5), middle * math.sqrt(5)
        axes.set_xlim(low, high) if name == "x" else axes.set_ylim(low, high)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 500 else (1.0,), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def better(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow to where better estimates are.

    Args:
        axes: The axes.
        start: The start of the arrow with its word, in shares of the axes.
        end: The end of the arrow.
    """
    arrow = axes.annotate(
        "better", end, start, xycoords="axes fraction", textcoords="axes fraction", color=SOFT, fontsize=9,
        ha="center", va="center", arrowprops={"arrowstyle": "-|>", "color": SOFT}, zorder=1,
        annotation_clip=False,
    )  # fmt: skip
    arrow.set_in_layout(False)
