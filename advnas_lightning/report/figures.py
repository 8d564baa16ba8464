"""Draws the paper's figures from our runs."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advnas_lightning.report.drawing import Cell, draw_cells
from advnas_lightning.report.groups import Group, group
from advnas_lightning.report.palette import Style, styles
from advnas_lightning.report.runs import Curve, Run
from advnas_lightning.report.statistics import quartiles
from advnas_lightning.texts import LITERAL, shortened

__all__ = ["Plot", "make_plots", "save_plot"]

RC_PARAMS: dict[Any, Any] = {  # matplotlib's settings for all figures
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    **LITERAL,
}
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
LONGEST = 60  # characters of a title or of a name in a legend
PAPERS_ITERATIONS = 600  # the range of the paper's Figure 1
TASKS = {
    ("toy", False): "toy",
    ("cifar10", False): "CIFAR-10",
    ("cifar10", True): "CIFAR-10 with the zero operation",
    ("ptb", False): "Penn Treebank",
}
Read = Callable[[Run], Curve | None]


@dataclass(frozen=True)
class Plot:
    """A drawn figure of the report.

    Attributes:
        name: The name of the figure's files, without an ending.
        title: The title above the figure.
        caption: The text that says what the figure shows.
        figure: The drawing. The gid of each artist of a curve is ``strategy--<name>--<number>-<part>``.
        strategies: The strategies in the figure.
        is_curves: Whether the figure has curves, of which the page can hide some.

    Example:
        >>> from tempfile import mkdtemp
        >>> plot = Plot("empty", "Empty", "This figure shows nothing.", Figure(figsize=(1, 1)), strategies=())
        >>> folder = Path(mkdtemp())
        >>> svg = save_plot(plot, folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['empty.png', 'empty.svg']
    """

    name: str
    title: str
    caption: str
    figure: Figure
    strategies: tuple[str, ...]
    is_curves: bool = True


@dataclass(frozen=True)
class _Panel:
    """The content of one pair of axes: groups of runs, and a function that gives the curve of a run."""

    title: str
    groups: Sequence[Group]
    read: Read
    x_label: str
    y_label: str
    warmup: float | None = None
    unit: float = 1.0  # the number of seconds in a unit of x, if x is a time


def make_plots(runs: Sequence[Run]) -> list[Plot]:
    """All figures for which there are runs, finished or not.

    Args:
        runs: The runs, of any task. Retrainings are left out.
    """
    searches = [run for run in runs if run.strategy != "fixed"]
    style_of = styles(run.strategy for run in searches)
    with mpl.rc_context(RC_PARAMS):
        plots = [
            _toy_plot(searches, style_of),
            *_accuracy_plots("fig2", searches, style_of, dense=False),
            *_accuracy_plots("fig3", searches, style_of, dense=True),
            _entropy_plot(searches, style_of),
            *_cell_plots(searches, style_of),
        ]
    return [plot for plot in plots if plot is not None]


def save_plot(plot: Plot, folder: Path) -> str:
    """Write a figure as PNG and as SVG.

    Args:
        plot: The figure.
        folder: The folder for both files.

    Returns:
        The text of the SVG. Its letters are text, not paths, and equal runs give equal files.
    """
    text = io.StringIO()
    with mpl.rc_context({**RC_PARAMS, "svg.fonttype": "none", "svg.hashsalt": plot.name}):
        plot.figure.savefig(folder / f"{plot.name}.png", dpi=200)
        plot.figure.set_layout_engine("none")  # the layout is done, and doing it again would take time
        plot.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    (folder / f"{plot.name}.svg").write_text(text.getvalue(), encoding="utf-8")
    return text.getvalue()


# -- the figures ---------------------------------------------------------------------------------------------------


def _toy_plot(runs: Sequence[Run], style_of: dict[str, Style]) -> Plot | None:
    groups = _with_curve([run for run in runs if run.task == "toy"], _hundredfold_loss)
    if not groups:
        return None
    panels = [
        _Panel("first iterations, as in the paper", groups, _hundredfold_loss, "iteration", "100 × test loss"),
        _Panel("all iterations, logarithmic above 0.1", groups, _hundredfold_loss, "iteration", "100 × test loss"),
    ]
    figure, strategies = _draw(panels, style_of)
    first, whole = figure.axes
    first.set_xlim(0, min(PAPERS_ITERATIONS, first.get_xlim()[1]))
    first.set_ylim(bottom=0)
    whole.set_xlim(left=0)
    whole.set_yscale("symlog", linthresh=0.1, linscale=0.5)
    whole.set_ylim(bottom=0)
    whole.set_yticks([0, 0.1, 1], labels=["0", "0.1", "1"])
    caption = (
        "Loss of the arg-max student on fresh test batches, times 100, by iteration: median over the seeds, and the"
        f" band between the quartiles. {_counts(groups, style_of)}"
    )
    return Plot("fig1", "Figure 1: toy task", caption, figure, strategies)


def _accuracy_plots(name: str, runs: Sequence[Run], style_of: dict[str, Style], *, dense: bool) -> list[Plot]:
    """The accuracies by epoch, and against wall time."""
    plots = []
    for timed in (False, True):
        panels = []
        for zero_op in (False, True):
            here = [
                run
                for run in runs
                if (run.task, run.zero_op, style_of[run.strategy].dense) == ("cifar10", zero_op, dense)
            ]
            for kind in ("argmax", "process_best"):
                read = _read(f"nasbench201/{kind}", timed)
                groups = _with_curve(here, read)
                if groups:
                    title = kind.replace("_", " ") + (", with the zero operation" if zero_op else "")
                    panels.append(_Panel(title, groups, read, "epoch", "test accuracy (%)"))
        if not panels:
            continue
        unit, label = _time_unit(panels) if timed else (1.0, "search epoch")
        warmup = None if timed else _warmup(panels)
        panels = [_Panel(panel.title, panel.groups, panel.read, label, panel.y_label, warmup, unit) for panel in panels]
        figure, strategies = _draw(panels, style_of, share_y=True)
        drawn = panels[0].groups
        caption = (
            f"NAS-Bench-201 test accuracy on CIFAR-10 of the cell found so far, {'dense' if dense else 'sparse'}"
            f" strategies, {'against the time of training' if timed else 'by search epoch'}: median over the seeds, and"
            " the band between the quartiles."
        )
        if timed:
            caption += " An epoch stands at the median of the times at which it ended."
            if any("seconds" not in run.curves for each in drawn for run in each.runs):
                caption += " Runs without logged times are drawn as if all their epochs had taken equally long."
        elif warmup:
            caption += " θ moves from the dotted line on."
        caption += f" {_counts(drawn, style_of)}"
        number = name.removeprefix("fig")
        title = f"Figure {number}: {'dense' if dense else 'sparse'} strategies, accuracy"
        title += " against wall time" if timed else " by epoch"
        plots.append(Plot(f"{name}_time" if timed else name, title, caption, figure, strategies))
    return plots


def _entropy_plot(runs: Sequence[Run], style_of: dict[str, Style]) -> Plot | None:
    read = _read("entropy", timed=False)
    spaces = sorted({(run.task, run.zero_op) for run in runs}, key=lambda space: [*TASKS, space].index(space))
    panels = []
    for task, zero_op in spaces:
        groups = _with_curve([run for run in runs if (run.task, run.zero_op) == (task, zero_op)], read)
        if groups:
            title = TASKS.get((task, zero_op), task)
            panels.append(_Panel(title, groups, read, "epoch", "mean entropy per edge (nats)"))
    if not panels:
        return None
    panels = [
        _Panel(panel.title, panel.groups, read, panel.x_label, panel.y_label, _warmup([panel])) for panel in panels
    ]
    figure, strategies = _draw(panels, style_of)
    for axes in figure.axes:
        lowest, highest = axes.get_ylim()
        if lowest < 0.8 * highest:  # otherwise the searches have hardly begun, and their curves would overlap
            axes.set_ylim(bottom=0)
    caption = (
        "Entropy of an edge's probabilities, mean over the edges, by epoch (Appendix H): median over the seeds, and the"
        " band between the quartiles. 0 is a search whose choice is made."
        + (" Not all axes begin there." if any(axes.get_ylim()[0] for axes in figure.axes) else "")
        + (" θ moves from the dotted line on." if any(panel.warmup for panel in panels) else "")
    )
    return Plot("fig4", "Figure 4: entropy by epoch", caption, figure, strategies)


def _cell_plots(runs: Sequence[Run], style_of: dict[str, Style]) -> list[Plot]:
    """One figure for each search space with cells: for each strategy, the cell that most seeds found."""
    plots = []
    for (task, zero_op), title in TASKS.items():
        groups = [
            each for each in group([run for run in runs if (run.task, run.zero_op) == (task, zero_op)]) if each.runs
        ]
        cells = [cell for each in groups if (cell := _typical_cell(each, style_of[each.strategy])) is not None]
        if task == "toy" or not cells:
            continue  # each seed of the toy task has another teacher, and so another right answer
        name = "_".join(["cells", task, *(["zero_op"] if zero_op else [])])
        number = 6 if task == "ptb" else 5
        caption = (
            "For each strategy the cell that most seeds found, arg max; between cells found equally often, that of the"
            " lowest seed. Broken grey arrows are zero operations."
        )
        strategies = tuple(dict.fromkeys(cell.strategy for cell in cells))
        figure = draw_cells(cells)
        plots.append(Plot(name, f"Cells as in Figure {number}: {title}", caption, figure, strategies, is_curves=False))
    return plots


def _typical_cell(each: Group, style: Style) -> Cell | None:
    found = [run.genotypes["argmax"] for run in each.runs if "argmax" in run.genotypes]
    if not found or not all("->" in edge for edge in found[0]):
        return None
    counts = Counter(tuple(genotype.items()) for genotype in found)
    genotype, count = counts.most_common(1)[0]  # of equally common ones, the first
    title = _title(style, each.variant)
    unfinished = sum(run.state != "finished" for run in each.runs)
    note = f"{count} of {len(found)} seeds" + (f", {unfinished} of them still searching" if unfinished else "")
    return Cell(dict(genotype), title, style.colour, note, each.strategy)


# -- curves --------------------------------------------------------------------------------------------------------


def _hundredfold_loss(run: Run) -> Curve | None:
    curve = run.curves.get("test/loss")
    return None if curve is None else Curve(curve.x, 100 * curve.y)


def _read(column: str, timed: bool) -> Read:
    """A function that gives a run's curve of a column; if ``timed``, only for runs whose times are known."""

    def read(run: Run) -> Curve | None:
        curve = run.curves.get(column)
        if curve is None or not timed or _times(run) is not None:
            return curve
        return None

    return read


def _times(run: Run) -> Curve | None:
    """The seconds of training by epoch: as they were logged, or as shares of the run's total."""
    logged, seconds = run.curves.get("seconds"), run.number("seconds")
    if logged is not None:
        return logged
    if seconds is None or not 0 < seconds < np.inf or run.epochs < 1:
        return None
    epochs = np.arange(1.0, run.epochs + 1)
    return Curve(epochs, epochs * seconds / run.epochs)


def _with_curve(runs: Sequence[Run], read: Read) -> list[Group]:
    return group([run for run in runs if read(run) is not None])


def _warmup(panels: Sequence[_Panel]) -> float | None:
    """The number of warm-up epochs, after which θ moves, if it is the same for all runs."""
    found = {
        run.setting("task.optimization.warmup_epochs") for panel in panels for each in panel.groups for run in each.runs
    }
    (warmup,) = found if len(found) == 1 else (None,)
    return float(warmup) if isinstance(warmup, int) and warmup > 0 else None


def _time_unit(panels: Sequence[_Panel]) -> tuple[float, str]:
    times = [_times(run) for panel in panels for each in panel.groups for run in each.runs]
    longest = max(float(time.y[-1]) for time in times if time is not None)
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if longest >= 2 * unit:
            return unit, f"{name} of training"
    return 1.0, "seconds of training"


def _counts(groups: Sequence[Group], style_of: dict[str, Style]) -> str:
    """The number of seeds behind each curve, in words."""
    counts = {len(each.runs) for each in groups}
    unfinished = sum(run.state != "finished" for each in groups for run in each.runs)
    if len(counts) == 1:
        text = f"n = {counts.pop()}"
    else:
        text = "n: " + ", ".join(f"{_title(style_of[each.strategy], each.variant)} {len(each.runs)}" for each in groups)
    return text + (f"; runs that are not finished yet: {unfinished}." if unfinished else ".")


def _title(style: Style, variant: str) -> str:
    return shortened(style.title + (f" ({variant})" if variant else ""), LONGEST)


def _draw(
    panels: Sequence[_Panel], style_of: dict[str, Style], *, share_y: bool = False
) -> tuple[Figure, tuple[str, ...]]:
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns + (1.2 if columns == 1 else 0), 2.7 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row" if share_y else False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    handles: dict[tuple[str, str], Line2D] = {}
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.set_title(shortened(panel.title, LONGEST), loc="left")
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        if panel.warmup is not None:
            axes.axvline(panel.warmup, color="#666666", linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        variants: Counter[str] = Counter()
        for index, each in enumerate(panel.groups):
            line = _draw_group(axes, panel, each, style_of[each.strategy], index, variants[each.strategy])
            variants[each.strategy] += 1
            handles.setdefault((each.strategy, each.variant), line)
        if panel.x_label.endswith(("epoch", "iteration")):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    titles = [_title(style_of[strategy], variant) for strategy, variant in handles]
    width = max(map(len, titles))
    legend_columns = max(1, min(len(titles), 5 if columns > 1 else 3, 120 // (width + 8)))
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, len(titles) // legend_columns - 3))
    legend = figure.legend(
        list(handles.values()),
        [""] * len(titles),  # matplotlib 3.8 leaves out what begins with an underscore
        loc="outside lower center",
        ncols=legend_columns,
        handlelength=2.4,
    )
    legend.set_gid("legend")
    for text, title in zip(legend.get_texts(), titles, strict=True):
        text.set_text(title)
    return figure, tuple(dict.fromkeys(strategy for strategy, _ in handles))


def _draw_group(axes: Axes, panel: _Panel, each: Group, style: Style, index: int, variant: int) -> Line2D:
    """Draw a group's median as a line with a few markers, on the band between the quartiles."""
    curves = [curve for run in each.runs if (curve := panel.read(run)) is not None]
    x, (low, middle, high) = quartiles(curves)
    if panel.x_label.endswith("of training"):
        when, (_, times, _) = quartiles([times for run in each.runs if (times := _times(run)) is not None])
        timed = np.isin(x, when)
        low, middle, high = low[timed], middle[timed], high[timed]
        x = times[np.searchsorted(when, x[timed])] / panel.unit
    name = f"strategy--{each.strategy}--{variant}"
    axes.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0, gid=f"{name}-band", zorder=2)
    (line,) = axes.plot(
        x,
        middle,
        color=style.colour,
        linestyle=DASHES[variant % len(DASHES)],
        marker=style.marker,
        markersize=4.5,
        markevery=(0.014 * index, 0.16),  # in shares of the picture, shifted so that no two curves' markers meet
        markeredgecolor="white",
        markeredgewidth=0.4,
        linewidth=2.0 if each.strategy == "advantage" else 1.4,
        gid=f"{name}-line",
        zorder=4 if each.strategy == "advantage" else 3,
    )
    return line
