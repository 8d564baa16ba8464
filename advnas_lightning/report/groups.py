"""Groups of runs that repeat one another: they differ only in their seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from advnas_lightning.report.palette import rank
from advnas_lightning.report.paper import departures, is_papers
from advnas_lightning.report.runs import EPOCHS, Run
from advnas_lightning.report.settings import described, in_order
from advnas_lightning.texts import plain

__all__ = ["Group", "group", "one_per_seed"]

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Group:
    """The runs behind one row of a table, or one curve of a figure.

    Attributes:
        strategy: The name of the strategy.
        variant: The settings that tell the group from others of its table or figure, in words; empty if they are the
            paper's, or if there are no others.
        runs: One run for each seed.
        conditions: Those of these settings that are not the strategy's own. Groups are comparable if these are equal.

    Example:
        >>> Group("gdas", variant="tau max 5", runs=(), conditions=()).finished
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
    Settings that have no influence on the result do not count. A group's label names as few settings as tell it from
    the others, and none that is the paper's.
    """
    by_strategy: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_strategy[run.strategy].append(run)
    shared = _differing(runs, own=False)
    members: dict[str, dict[tuple[Settings, Settings], list[Run]]] = {}
    for strategy in sorted(by_strategy, key=rank):
        own = _differing(by_strategy[strategy], own=True)
        split: dict[tuple[Settings, Settings], list[Run]] = defaultdict(list)
        for run in by_strategy[strategy]:
            split[_chosen(run, shared), _chosen(run, own)].append(run)
        members[strategy] = split
    conditions = _telling({condition for split in members.values() for condition, _ in split})
    groups = []
    for strategy, split in members.items():
        keys = _telling({(*condition, *option) for condition, option in split}, given=conditions)
        labels: list[str] = []
        for place, alike in sorted(split.items()):
            label = _label(alike[0], keys)
            labels.append(label)
            if labels.count(label) > 1:  # one of them lacks a setting, and the other has the paper's value of it
                label = f"{label or 'other settings'} ({labels.count(label)})"
            groups.append(Group(strategy, label, tuple(one_per_seed(alike)), place[0]))
    return groups


def _differing(runs: Sequence[Run], *, own: bool) -> list[str]:
    """The keys with more than one value: either among the strategy's own settings, or among all others.

    A reference to another setting, which all runs have, differs only if that setting does, and that one is listed.
    """
    texts: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for key, text in run.binding.items():
            if key.startswith("strategy.") == own:
                texts[key].add(text)
    hidden = tuple(f"${{{key}}}" for key in EPOCHS)  # they are in no run's binding settings
    several = [key for key, found in texts.items() if len(found) > 1 or found & set(hidden)]
    return sorted(key for key in several if len({_text(run, key) for run in runs if key in run.binding}) > 1)


def _text(run: Run, key: str) -> str:
    return plain(str(run.setting(key)))


def _chosen(run: Run, keys: Sequence[str]) -> Settings:
    return tuple((key, _text(run, key)) for key in keys if key in run.binding)


def _telling(places: Collection[Settings], given: Sequence[str] = ()) -> list[str]:
    """As few keys as tell all places apart, beside some that are given; those first that say most in a label."""
    known = [dict(place) for place in places]
    chosen = list(given)
    parts = len({tuple(place.get(each) for each in chosen) for place in known})
    for key in in_order({key for place in known for key in place}):
        split = len({tuple(place.get(each) for each in (*chosen, key)) for place in known})
        if split > parts:
            chosen.append(key)
            parts = split
    return chosen


def _label(run: Run, keys: Sequence[str]) -> str:
    known = [key for key in in_order(keys) if key in run.binding]
    shown = [key for key in known if not is_papers(run, key)]
    if not shown and departures(run):  # all groups depart from the paper in something that does not tell them apart
        shown = known
    return ", ".join(dict.fromkeys(described(key, run.setting(key)) for key in shown))
