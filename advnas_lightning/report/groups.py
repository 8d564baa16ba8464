"""Groups of runs that repeat one another: they differ only in their seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from advnas_lightning.report.palette import rank
from advnas_lightning.report.runs import Run

__all__ = ["Group", "group", "one_per_seed"]

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Group:
    """The runs behind one row of a table, or one curve of a figure.

    Attributes:
        strategy: The name of the strategy.
        variant: The settings in which the group differs from others of its table or figure; empty if there are none.
        runs: One run for each seed.
        conditions: Those of these settings that are not the strategy's own. Groups are comparable if these are equal.

    Example:
        >>> Group("gdas", variant="tau_max=5", runs=(), conditions=()).finished
        ()
    """

    strategy: str
    variant: str
    runs: tuple[Run, ...]
    conditions: Settings

    @property
    def finished(self) -> tuple[Run, ...]:
        """Those of the runs that have a result."""
        return tuple(run for run in self.runs if run.state == "finished")


def one_per_seed(runs: Iterable[Run]) -> list[Run]:
    """One run for each seed. Of several the newest finished one is taken, or the newest one if none has finished."""
    chosen: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: (run.state == "finished", run.changed)):
        chosen[run.seed] = run
    return [chosen[seed] for seed in sorted(chosen)]


def group(runs: Sequence[Run]) -> list[Group]:
    """Sort the runs of one task into groups, which are ordered by strategy.

    Two runs of a strategy are in one group if their configurations agree on every setting that both of them have.
    Settings that have no influence on the result do not count.
    """
    by_strategy: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_strategy[run.strategy].append(run)
    shared = _differing([run.binding for run in runs], own=False)
    groups = []
    for strategy in sorted(by_strategy, key=rank):
        own = _differing([run.binding for run in by_strategy[strategy]], own=True)
        by_variant: dict[tuple[Settings, Settings], list[Run]] = defaultdict(list)
        for run in by_strategy[strategy]:
            by_variant[_chosen(run.binding, shared), _chosen(run.binding, own)].append(run)
        for (conditions, options), members in sorted(by_variant.items()):
            variant = ", ".join(f"{key.partition('.')[2] or key}={value}" for key, value in (*options, *conditions))
            groups.append(Group(strategy, variant, tuple(one_per_seed(members)), conditions))
    return groups


def _differing(settings: Sequence[Mapping[str, str]], *, own: bool) -> list[str]:
    """The keys with more than one value: either among the strategy's own settings, or among all others."""
    values: dict[str, set[str]] = defaultdict(set)
    for each in settings:
        for key, value in each.items():
            if key.startswith("strategy.") == own:
                values[key].add(value)
    return sorted(key for key, found in values.items() if len(found) > 1)


def _chosen(settings: Mapping[str, str], keys: Sequence[str]) -> Settings:
    return tuple((key, settings[key]) for key in keys if key in settings)
