"""The results of runs, by strategy and setting: the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from advnas_lightning.published import Published
from advnas_lightning.reading import Unreadable
from advnas_lightning.report.groups import Group, group
from advnas_lightning.report.palette import rank
from advnas_lightning.report.paper import Departure, departures
from advnas_lightning.report.plans import Plan
from advnas_lightning.report.runs import Run, read_run
from advnas_lightning.report.statistics import Interval, Paired, bootstrap_interval, mean_and_deviation, paired

__all__ = ["Result", "Row", "retrainings", "rows_of"]

REFERENCE = "advantage"  # the strategy that the others are compared with


@dataclass(frozen=True)
class Result:
    """One result of one strategy, from all its seeds.

    Attributes:
        values: The values by seed.
        theirs: The paper's value, if it has one.
        comparison: The comparison with AdvantageNAS, seed by seed.

    Example:
        >>> result = Result({0: 93.0, 1: 94.0}, Published(93.76, 0.0), comparison=None)
        >>> result.mean, round(result.deviation, 3), result.interval
        (93.5, 0.707, None)
    """

    values: Mapping[int, float]
    theirs: Published | None
    comparison: Paired | None

    @property
    def mean(self) -> float | None:
        """The mean over the seeds."""
        return mean_and_deviation(list(self.values.values()))[0] if self.values else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds."""
        return mean_and_deviation(list(self.values.values()))[1] if self.values else None

    @property
    def interval(self) -> Interval | None:
        """The bootstrap interval of the mean; ``None`` for fewer than three seeds."""
        return bootstrap_interval(list(self.values.values()))


@dataclass(frozen=True)
class Row:
    """The results of one strategy under one setting.

    Attributes:
        strategy: The name of the strategy.
        variant: The settings in which the row differs from the other rows of the table.
        results: The results by measure.
        parameters: The number of parameters in millions, for each seed.
        epochs: The numbers of epochs that occur among the runs.
        departures: The settings that are not the paper's.

    Example:
        >>> Row("gdas", "tau max 5", {}, parameters=(1.2,), epochs=(100,)).variant
        'tau max 5'
    """

    strategy: str
    variant: str
    results: Mapping[str, Result]
    parameters: tuple[float, ...]
    epochs: tuple[int, ...]
    departures: tuple[Departure, ...] = ()


def rows_of(plan: Plan, runs: Sequence[Run]) -> list[Row]:
    """The rows of a table in order; an empty list if none of the finished runs belongs in the table.

    Args:
        plan: What the table shows.
        runs: The runs, of any task.
    """
    if plan.retrained:
        runs = retrainings(runs)
        plan_runs = [run for run in runs if run.task == plan.task]
    else:
        plan_runs = [run for run in runs if plan.takes(run)]
    groups = [each for each in group([run for run in plan_runs if run.state == "finished"]) if _has_result(plan, each)]
    if not groups:
        return []
    rows = [_row(plan, each, _reference(each, groups)) for each in groups]
    rows += [
        _row(plan, Group(name, "", (), ()), None) for name in plan.theirs if name not in {g.strategy for g in groups}
    ]
    rows.sort(key=lambda row: (rank(row.strategy), row.variant))
    return rows


def retrainings(runs: Sequence[Run]) -> list[Run]:
    """The retrainings among some runs, each with the strategy and seed of the search that found its architecture.

    The search is read from the folder from which the retraining took its ``genotype.json``. A retraining whose search
    is not there any more is left out.
    """
    known = {run.folder.resolve(): run for run in runs}
    found = []
    for run in runs:
        if run.strategy != "fixed" or run.origin is None:
            continue
        try:
            folder = (run.origin if run.origin.is_dir() else run.origin.parent).resolve()
            search = known.get(folder) or read_run(folder)
        except (OSError, RuntimeError, Unreadable):  # links in a circle raise a RuntimeError
            continue
        found.append(replace(run, strategy=search.strategy, seed=search.seed))
    return found


def _has_result(plan: Plan, each: Group) -> bool:
    return any(run.number(measure.key) is not None for run in each.runs for measure in plan.measures)


def _reference(each: Group, groups: Sequence[Group]) -> Group | None:
    """AdvantageNAS under the same conditions. Of several variants the one with most seeds is taken."""
    alike = [other for other in groups if other.strategy == REFERENCE and other.conditions == each.conditions]
    return max(alike, key=lambda other: len(other.runs), default=None)


def _row(plan: Plan, each: Group, reference: Group | None) -> Row:
    results = {}
    for measure in plan.measures:
        values = _values(each, measure.key)
        compared = None
        if reference is not None and reference is not each:
            compared = paired(values, _values(reference, measure.key), higher_is_better=plan.higher_is_better)
        results[measure.name] = Result(values, plan.theirs.get(each.strategy, {}).get(measure.name), compared)
    sizes = [run.number(plan.parameters) for run in each.runs]
    epochs = sorted({run.epochs for run in each.runs})
    known = tuple(size for size in sizes if size is not None)
    unlike = tuple(departures(each.runs[0])) if each.runs else ()
    return Row(each.strategy, each.variant, results, known, tuple(epochs), unlike)


def _values(each: Group, key: str) -> dict[int, float]:
    values = {run.seed: run.number(key) for run in each.runs}
    return {seed: value for seed, value in values.items() if value is not None}
