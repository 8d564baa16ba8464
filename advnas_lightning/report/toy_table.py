"""The table of the toy task: the loss by iteration, and the edges that equal the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

from advnas_lightning.report.curves import hundredfold_loss, with_curve
from advnas_lightning.report.groups import Group
from advnas_lightning.report.palette import styles
from advnas_lightning.report.paper import departures
from advnas_lightning.report.paper_tables import named_field
from advnas_lightning.report.results import Row
from advnas_lightning.report.runs import Run
from advnas_lightning.report.tables import NOTHING, Column, Field, Line, Table

__all__ = ["build_toy_table"]

ITERATIONS = (100, 200, 300, 600, 1000, 2000)
LOSS = "100 × test loss, median over the seeds, after iteration"
MOST_ENDS = 3  # columns for iterations at which runs end


def build_toy_table(runs: Sequence[Run]) -> Table | None:
    """The table of the toy task; ``None`` if none of its runs has finished.

    Args:
        runs: The runs, of any task.
    """
    finished = [run for run in runs if run.task == "toy" and run.strategy != "fixed" and run.state == "finished"]
    groups = with_curve(finished, hundredfold_loss)
    if not groups:
        return None
    lengths = {_last(run) for each in groups for run in each.runs}
    ends = sorted(lengths)[-MOST_ENDS:]
    iterations = sorted({at for at in ITERATIONS if at <= max(lengths)} | set(ends))
    rows = [_row(each) for each in groups]
    style_of = styles(row.strategy for row in rows)
    lines = [
        Line(
            each.strategy,
            (named_field(row, style_of), *_fields(each, iterations)),
            row.departures,
            (_record(each, row, iterations),),
        )
        for each, row in zip(groups, rows, strict=True)
    ]
    columns = [Column("strategy"), Column("seeds"), *(Column(f"{at}", LOSS, f"loss after {at}") for at in iterations)]
    columns += [Column("edges right, mean"), Column("seconds a run")]
    notes = ("The loss is that of the arg max, and an edge is right if the arg max has the teacher's candidate.",)
    title = "Toy task: loss by iteration, and edges right"
    return Table("toy", title, "Figure 1 of the paper in numbers", tuple(columns), tuple(lines), notes)


def _row(each: Group) -> Row:
    return Row(each.strategy, each.variant, {}, (), (), tuple(departures(each.runs[0])))


def _last(run: Run) -> int:
    return int(run.curves["test/loss"].x[-1])


def _losses(each: Group, at: int) -> list[float]:
    found = []
    for run in each.runs:
        curve = hundredfold_loss(run)
        if curve is not None:
            found += [float(y) for y in curve.y[curve.x == at]]
    return found


def _numbers(each: Group, key: str) -> list[float]:
    return [value for run in each.runs if (value := run.number(key)) is not None]


def _fields(each: Group, iterations: Sequence[int]) -> Iterator[Field]:
    yield Field(str(len(each.runs)), len(each.runs))
    for at in iterations:
        losses = _losses(each, at)
        yield Field(f"{median(losses):.3f}", median(losses)) if losses else Field(NOTHING)
    right, edges = _numbers(each, "argmax/edges_right"), sorted(set(_numbers(each, "edges")))
    if right:
        of = f"of {edges[0]:.0f}" if len(edges) == 1 else ""
        yield Field(f"{fmean(right):.1f} {of}".strip(), fmean(right))
    else:
        yield Field(NOTHING)
    seconds = _numbers(each, "seconds")
    yield Field(f"{fmean(seconds):.1f}", fmean(seconds)) if seconds else Field(NOTHING)


def _record(each: Group, row: Row, iterations: Sequence[int]) -> dict[str, Any]:
    losses = {f"loss_{at}": median(found) if (found := _losses(each, at)) else None for at in iterations}
    means = {
        name: fmean(found) if (found := _numbers(each, key)) else None
        for name, key in (("edges_right", "argmax/edges_right"), ("edges", "edges"), ("seconds", "seconds"))
    }
    return {
        "strategy": each.strategy,
        "variant": each.variant,
        "n": len(each.runs),
        "seeds": " ".join(str(run.seed) for run in each.runs),
        **losses,
        **means,
        "not_the_papers": "; ".join(map(str, row.departures)),
    }
