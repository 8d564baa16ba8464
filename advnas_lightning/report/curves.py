"""The curves of runs: which of the logged values a figure shows, and against what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from advnas_lightning.report.groups import Group, group
from advnas_lightning.report.runs import Curve, Run

__all__ = ["Panel", "Read", "hundredfold_loss", "reader", "time_unit", "times", "warmup", "with_curve"]

Read = Callable[[Run], Curve | None]


@dataclass(frozen=True)
class Panel:
    """The content of one pair of axes: groups of runs, and a function that gives the curve of a run.

    Attributes:
        title: The title above the axes.
        groups: The groups, each with at least one curve.
        read: The function.
        x_label: The label of the x axis.
        y_label: The label of the y axis.
        span: The least range of y that the axes show, so that noise does not look like a difference.
        warmup: The number of warm-up epochs, which is marked by a line.
        unit: The number of seconds in a unit of x, if x is a time; otherwise 0.

    Example:
        >>> Panel("toy", (), hundredfold_loss, "iteration", "100 × test loss", span=0.1).warmup
    """

    title: str
    groups: Sequence[Group]
    read: Read
    x_label: str
    y_label: str
    span: float
    warmup: float | None = None
    unit: float = 0.0


def hundredfold_loss(run: Run) -> Curve | None:
    """The curve of a toy run's test loss, times 100 as in the paper; ``None`` if it has none.

    Args:
        run: The run.
    """
    curve = run.curves.get("test/loss")
    return None if curve is None else Curve(curve.x, 100 * curve.y)


def reader(column: str, *, timed: bool = False) -> Read:
    """A function that gives a run's curve of a column.

    Args:
        column: The column of ``metrics.csv``.
        timed: Whether to leave out runs whose times are not known.
    """

    def read(run: Run) -> Curve | None:
        curve = run.curves.get(column)
        if curve is None or not timed or times(run) is not None:
            return curve
        return None

    return read


def times(run: Run) -> Curve | None:
    """The seconds of training by epoch: as they were logged, or as shares of the run's total.

    Args:
        run: The run.
    """
    logged, seconds = run.curves.get("seconds"), run.number("seconds")
    if logged is not None:
        return logged
    if seconds is None or not 0 < seconds < np.inf or run.epochs < 1:
        return None
    epochs = np.arange(1.0, run.epochs + 1)
    return Curve(epochs, epochs * seconds / run.epochs)


def with_curve(runs: Sequence[Run], read: Read) -> list[Group]:
    """The groups of those runs that have a curve.

    Args:
        runs: The runs, all of one task.
        read: The function that gives the curve of a run.
    """
    return group([run for run in runs if read(run) is not None])


def warmup(groups: Sequence[Group]) -> float | None:
    """The number of warm-up epochs, after which θ moves, if it is the same for all runs; otherwise ``None``.

    Args:
        groups: The groups of runs.
    """
    found = {run.setting("task.optimization.warmup_epochs") for each in groups for run in each.runs}
    (epochs,) = found if len(found) == 1 else (None,)
    return float(epochs) if isinstance(epochs, int) and epochs > 0 else None


def time_unit(groups: Sequence[Group]) -> tuple[float, str]:
    """The number of seconds in a unit that suits the longest run, and the name of the unit.

    Args:
        groups: The groups of runs, all of which have times.
    """
    found = [times(run) for each in groups for run in each.runs]
    longest = max(float(time.y[-1]) for time in found if time is not None)
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if longest >= 2 * unit:
            return unit, name
    return 1.0, "seconds"
