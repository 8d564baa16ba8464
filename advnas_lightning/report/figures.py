"""All figures of a report: the paper's figures, from our runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib as mpl

from advnas_lightning.report.curves import Panel, hundredfold_loss, reader, time_unit, warmup, with_curve
from advnas_lightning.report.drawing import Cell, draw_cells
from advnas_lightning.report.groups import Group, group
from advnas_lightning.report.palette import Style, styles
from advnas_lightning.report.panels import Drawn, draw
from advnas_lightning.report.plots import INK, RC_PARAMS, Plot
from advnas_lightning.report.runs import Run
from advnas_lightning.texts import counted, shortened

__all__ = ["KINDS", "TASKS", "make_plots"]

LONGEST = 60  # characters of a title
PAPERS_ITERATIONS = 600  # the range of the paper's Figure 1
TASKS = {
    ("toy", False): "toy task",
    ("cifar10", False): "CIFAR-10",
    ("cifar10", True): "CIFAR-10 with the zero operation",
    ("ptb", False): "Penn Treebank",
}
BANDS = "A line is the median over the seeds, and a band lies between the quartiles."
KINDS = {"argmax": "arg max", "process_best": "process best"}


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
            *_accuracy_plots("fig2", searches, style_of, dense=False, images="validation"),
            *_accuracy_plots("fig3", searches, style_of, dense=True, images="validation"),
            _entropy_plot(searches, style_of),
            *_cell_plots(searches, style_of),
        ]
    return [plot for plot in plots if plot is not None]


def _plot(name: str, title: str, remark: str, caption: Sequence[str], drawn: Drawn, groups: Sequence[Group]) -> Plot:
    text = " ".join([*caption, *_counts(groups)])
    if drawn.left_out:
        text += f" {counted(drawn.left_out, 'more setting is', 'more settings are')} left out of the figure."
    return Plot(name, title, remark, text, drawn.figure, drawn.strategies, drawn.series, drawn.dashes)


def _warmup_note(panels: Sequence[Panel], drawn: Drawn) -> list[str]:
    """What the dotted line means, if there is one in sight."""
    ends = [axes.get_xlim()[1] for axes in drawn.figure.axes]
    seen = any(panel.warmup is not None and panel.warmup <= end for panel, end in zip(panels, ends, strict=True))
    return ["θ moves from the dotted line on."] if seen else []


def _toy_plot(runs: Sequence[Run], style_of: Mapping[str, Style]) -> Plot | None:
    groups = with_curve([run for run in runs if run.task == "toy"], hundredfold_loss)
    if not groups:
        return None
    title = "Toy task: test loss of the network found so far"
    panel = Panel("first iterations", groups, hundredfold_loss, "iteration", "100 × test loss", span=0.1)
    drawn = draw(title, [panel, replace(panel, title="all iterations, logarithmic above 0.1")], style_of)
    first, whole = drawn.figure.axes
    first.set_xlim(0, min(PAPERS_ITERATIONS, first.get_xlim()[1]))
    whole.set_yscale("symlog", linthresh=0.1, linscale=0.5)
    for axes in (first, whole):
        axes.set_ylim(bottom=0)
    top = whole.get_ylim()[1]
    ticks = [0, 0.1, *(10.0**power for power in range(9) if 10.0**power <= top)]
    whole.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    caption = ["Loss of the arg max on fresh test batches, times 100. Lower is better.", BANDS]
    return _plot("fig1", title, "Figure 1 of the paper", caption, drawn, groups)


def _accuracy_plots(
    name: str, runs: Sequence[Run], style_of: Mapping[str, Style], *, dense: bool, images: str = "test"
) -> list[Plot]:
    """The accuracies by epoch, and against wall time. Test and validation are never in one figure."""
    kind = "dense" if dense else "sparse"
    curves = "nasbench201" if images == "test" else "nasbench201_valid"
    number = f"Figure {name.removeprefix('fig')} of the paper"
    if images != "test":
        name, number = f"{name}_{images}", f"{number}, with {images} accuracies"
    plots = []
    for timed in (False, True):
        panels = []
        for zero_op in (False, True):
            here = [
                run
                for run in runs
                if (run.task, run.zero_op, style_of[run.strategy].dense) == ("cifar10", zero_op, dense)
            ]
            for column, words in KINDS.items():
                read = reader(f"{curves}/{column}", timed=timed)
                groups = with_curve(here, read)
                if groups:
                    title = words + (", with the zero operation" if zero_op else "")
                    panels.append(Panel(title, groups, read, "epoch", f"{images} accuracy (%)", span=0.5))
        if not panels:
            continue
        drawn_groups = [each for panel in panels for each in panel.groups]
        title = f"CIFAR-10, {kind} strategies: {images} accuracy by epoch"
        caption = [
            f"{images.capitalize()} accuracy in NAS-Bench-201 of the cell found so far. Higher is better.",
            BANDS,
        ]
        if timed:
            unit, word = time_unit(drawn_groups)
            panels = [replace(panel, x_label=f"{word} of training", unit=unit) for panel in panels]
            title = f"CIFAR-10, {kind} strategies: {images} accuracy by time"
            caption.append("An epoch stands at the median of the times at which it ended.")
            if any("seconds" not in run.curves for each in drawn_groups for run in each.runs):
                caption.append("Runs without logged times are drawn as if all their epochs had taken equally long.")
        else:
            panels = [replace(panel, warmup=warmup(panel.groups)) for panel in panels]
        drawn = draw(title, panels, style_of, share_y=True)
        caption += _warmup_note(panels, drawn)
        counted_groups = [*panels[0].groups]
        file, remark = (f"{name}_time", f"{number}, against the time of training") if timed else (name, number)
        plots.append(_plot(file, title, remark, caption, drawn, counted_groups))
    return plots


def _entropy_plot(runs: Sequence[Run], style_of: Mapping[str, Style]) -> Plot | None:
    read = reader("entropy")
    spaces = sorted({(run.task, run.zero_op) for run in runs}, key=lambda space: [*TASKS, space].index(space))
    panels = []
    for task, zero_op in spaces:
        groups = with_curve([run for run in runs if (run.task, run.zero_op) == (task, zero_op)], read)
        if groups:
            title = TASKS.get((task, zero_op), task)
            panels.append(Panel(title, groups, read, "epoch", "entropy (nats)", span=0.02, warmup=warmup(groups)))
    if not panels:
        return None
    title = "How sure each search is of its choice: entropy"
    drawn = draw(title, panels, style_of)
    for axes in drawn.figure.axes:
        lowest, highest = axes.get_ylim()
        if lowest < 0.8 * highest:  # otherwise the searches have hardly begun, and their curves would overlap
            axes.set_ylim(bottom=0)
    caption = ["Entropy of an edge's probabilities, mean over the edges. 0 is a search whose choice is made.", BANDS]
    if any(axes.get_ylim()[0] for axes in drawn.figure.axes):
        caption.append("Not all axes begin there.")
    caption += _warmup_note(panels, drawn)
    return _plot("fig4", title, "Appendix H of the paper", caption, drawn, [g for p in panels for g in p.groups])


def _cell_plots(runs: Sequence[Run], style_of: Mapping[str, Style]) -> list[Plot]:
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
        caption = (
            "For each strategy the cell that most seeds found, arg max; between cells found equally often, that of the"
            " lowest seed. Broken grey arrows are zero operations."
        )
        strategies = tuple(dict.fromkeys(cell.strategy for cell in cells))
        remark = f"as in Figure {6 if task == 'ptb' else 5} of the paper"
        plots.append(Plot(name, f"{title}: the cells that were found", remark, caption, draw_cells(cells), strategies))
    return plots


def _typical_cell(each: Group, style: Style) -> Cell | None:
    found = [run.genotypes["argmax"] for run in each.runs if "argmax" in run.genotypes]
    if not found or not all("->" in edge for edge in found[0]):
        return None
    counts = Counter(tuple(genotype.items()) for genotype in found)
    genotype, count = counts.most_common(1)[0]  # of equally common ones, the first
    title = shortened(style.title + (f", {each.variant}" if each.variant else ""), LONGEST)
    unfinished = sum(run.state != "finished" for run in each.runs)
    note = f"{count} of {counted(len(found), 'seed')}"
    note += f", {unfinished} of them unfinished" if unfinished else ""
    return Cell(dict(genotype), title, INK, note, each.strategy)  # some strategies' colours are too pale for a text


def _counts(groups: Sequence[Group]) -> list[str]:
    """The number of seeds behind each curve, in words."""
    counts = sorted({len(each.runs) for each in groups})
    runs = {run.folder: run for each in groups for run in each.runs}.values()
    unfinished = sum(run.state != "finished" for run in runs)
    spread = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    texts = [f"{spread} seed{'s' if counts != [1] else ''} for each curve."]
    if unfinished:
        texts.append(f"{counted(unfinished, 'run is', 'runs are')} not finished yet.")
    return texts
