"""The ladder of a refinement as a figure: the scores of all trainings against the epochs that were spent."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from advnas_lightning.refine.ladder import Ladder, Trial
from advnas_lightning.refine.table import difference
from advnas_lightning.report.plots import RC_PARAMS, save_figure
from advnas_lightning.texts import counted, shortened

__all__ = ["draw_ladder"]

BEST, OTHER, AGAIN, PRUNED = "#D55E00", "#0077BB", "#009E73", "#A9B1BA"
LABEL = 34  # signs


def draw_ladder(ladder: Ladder, folder: Path) -> None:
    """Draw the scores of all trainings, and write the figure as ``refine.png`` and ``refine.svg``.

    Args:
        ladder: The trainings.
        folder: The folder of the files.
    """
    with mpl.rc_context(RC_PARAMS):
        save_figure(plot_ladder(ladder), folder / "refine")


def plot_ladder(ladder: Ladder) -> Figure:
    """The figure. Each training is a line from its first rung to its last one, beside the training before it.

    Args:
        ladder: The trainings.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    starts = [0, *accumulate(trial.begun for trial in ladder.trials)]
    path = {trial.number for trial in ladder.path}
    kinds = {"on the winner's path": BEST, "complete": OTHER, "trained again": AGAIN, "ended early": PRUNED}
    drawn = set()
    for trial, start in zip(ladder.trials, starts, strict=False):
        if not trial.scores:
            continue
        kind = _kind(trial, path)
        x = [start + epochs for epochs in trial.scores]
        wide = kind != "ended early"
        axes.plot(
            x, list(trial.scores.values()), color=kinds[kind], linewidth=1.8 if wide else 0.9,
            marker="o", markersize=4.5 if trial.number in path else 2.5, zorder=3 if wide else 2,
            label=None if kind in drawn else kind,
        )  # fmt: skip
        drawn.add(kind)
    _draw_path(ladder, axes, starts)
    axes.set(xlabel="epochs of all trainings", ylabel=ladder.metric)
    axes.set_title(_title(ladder), loc="left", fontsize=10.5, fontweight="bold")
    axes.margins(x=0.03, y=0.16)
    axes.locator_params(axis="x", integer=True)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if handles:
        shown = [kind for kind in kinds if kind in handles]
        figure.legend([handles[kind] for kind in shown], shown, loc="outside lower center", ncols=4)
    return figure


def _kind(trial: Trial, path: set[int]) -> str:
    if trial.number in path:
        return "on the winner's path"
    if trial.repeat:
        return "trained again"
    return "complete" if trial.state == "complete" else "ended early"


def _draw_path(ladder: Ladder, axes: Axes, starts: list[int]) -> None:
    """The score of the winner so far as a step line, and what each of its steps has changed."""
    path, last = ladder.path, ladder.rungs[-1]
    if not path:
        return
    x = [starts[trial.number] + last for trial in path]
    y = [trial.scores[last] for trial in path]
    axes.step([*x, starts[-1]], [*y, y[-1]], where="post", color=BEST, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    above = ladder.sign
    for place, trial in enumerate(path):
        if 0 < place < len(path) - 1 and x[place + 1] - x[place] < 0.12 * starts[-1]:
            continue  # the next label would cover this one
        right = x[place] > 0.6 * starts[-1]
        offset = 8 + 14 * (place % 2)  # two neighbours, of about the same score, have their labels at two heights
        axes.annotate(
            _step(ladder, trial), (x[place], y[place]), xytext=(4 if right else -4, offset * above),
            textcoords="offset points", fontsize=7.5, color=BEST, ha="right" if right else "left",
            va="bottom" if above > 0 else "top", zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _step(ladder: Ladder, trial: Trial) -> str:
    """What a step of the path is: who proposed a finalist, and what a neighbour or an exchange has changed."""
    by, _, number = trial.proposed_by.rpartition(" ")
    if by not in ("neighbour of", "exchange in"):
        return trial.proposed_by
    of = ladder.trials[int(number)]
    if by == "exchange in":
        edges = [edge for edge, name in trial.genotype.items() if of.genotype.get(edge) != name]
        return shortened(f"exchange {', '.join(edges)}", LABEL)
    return shortened(difference(trial.genotype, of.genotype), LABEL)


def _title(ladder: Ladder) -> str:
    complete = sum(trial.state == "complete" for trial in ladder.trials)
    better = "higher" if ladder.maximize else "lower"
    return f"{counted(len(ladder.trials), 'training')}, {complete} of them to the end ({better} is better)"
