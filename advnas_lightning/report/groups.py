"""Selection runs are repetitions of each other: of one strategy, under one setting, with different seeds."""

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
    """One row of a table, one curve of a figure.

    Attributes:
        strategy: whose.
        variant: the settings in which it differs from other groups beside it; empty if there is nothing to tell.
        runs: one for each seed.
        conditions: the settings that are not the strategy's own: groups are compared where these are equal.
    """

    strategy: str
    variant: str
    runs: tuple[Run, ...]
    conditions: Settings

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have a result."""
        return tuple(run for run in self.runs if run.state == "finished")


def one_per_seed(runs: Iterable[Run]) -> list[Run]:
    """Of the runs of one group that have a seed in common, the finished one that was written last."""
    chosen: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: (run.state == "finished", run.changed)):
        chosen[run.seed] = run
    return [chosen[seed] for seed in sorted(chosen)]


def group(runs: Sequence[Run]) -> list[Group]:
    """Sort runs of one task into groups, ordered by strategy.

    Two runs of one strategy are in one group if all that both configurations set is set alike, apart from what has no
    influence on the result.
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
    """The keys, the strategy's own ones or all others, that have more than one value."""
    values: dict[str, set[str]] = defaultdict(set)
    for each in settings:
        for key, value in each.items():
            if key.startswith("strategy.") == own:
                values[key].add(value)
    return sorted(key for key, found in values.items() if len(found) > 1)


def _chosen(settings: Mapping[str, str], keys: Sequence[str]) -> Settings:
    return tuple((key, settings[key]) for key in keys if key in settings)
