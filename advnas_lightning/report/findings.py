"""What the runs say, in plain sentences: what was compared, what was best, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from advnas_lightning.report.figures import TASKS
from advnas_lightning.report.groups import Group, group
from advnas_lightning.report.palette import Style
from advnas_lightning.report.paper import departures
from advnas_lightning.report.results import retrainings
from advnas_lightning.report.runs import Run
from advnas_lightning.report.statistics import LEAST, paired
from advnas_lightning.report.tables import bracketed, number
from advnas_lightning.texts import counted

__all__ = ["Finding", "Score", "Standing", "find", "score_of"]

SURE = 0.05  # the largest p of a difference that is called sure


class Score(NamedTuple):
    """The result by which the runs of a task are compared.

    Attributes:
        key: Its key in ``summary.json``.
        name: What it is.
        unit: What follows a number.
        digits: The number of decimals that are shown.
        higher_is_better: Whether a higher result is a better one.

    Example:
        >>> SCORES["ptb"][0].name
        'test perplexity'
    """

    key: str
    name: str
    unit: str
    digits: int
    higher_is_better: bool

    def text(self, value: float, of: float | None = None) -> str:
        """A result with its unit.

        Args:
            value: The result, or a mean of results.
            of: The largest possible result.

        Example:
            >>> SCORES["toy"][0].text(9.0, of=10), SCORES["cifar10"][0].text(93.761)
            ('9 of 10 edges right', '93.76 % test accuracy')
        """
        shown = number(value) if self.digits == 2 or not math.isfinite(value) else f"{value:.{self.digits}g}"
        unit = f" {self.unit}" if self.unit else ""
        return f"{shown} of {of:.0f}{unit}" if of is not None else f"{shown}{unit}"


SCORES = {
    "toy": (
        Score("argmax/edges_right", "edges of the arg max that equal the teacher's", "edges right", 3, True),
        Score("test/loss", "test loss of the arg max", "test loss", 3, False),
    ),
    "cifar10": (
        Score("argmax/cifar10_test", "test accuracy of the arg max in NAS-Bench-201", "% test accuracy", 2, True),
        Score(
            "argmax/cifar10_valid",
            "validation accuracy of the arg max in NAS-Bench-201",
            "% validation accuracy",
            2,
            True,
        ),
        Score("selected/test/accuracy", "test accuracy with the weights of the search", "test accuracy", 3, True),
    ),
    "ptb": (Score("selected/test/perplexity", "test perplexity", "perplexity", 2, False),),
}
OTHERS = (Score("selected/test/loss", "test loss", "test loss", 4, False), Score("loss", "loss", "loss", 4, False))


def score_of(task: str, runs: Iterable[Run]) -> Score | None:
    """The result by which runs are compared: the first one of the task that any of them has.

    Args:
        task: The task of the runs.
        runs: The runs.
    """
    known = list(runs)
    for score in (*SCORES.get(task, ()), *OTHERS):
        if any(run.number(score.key) is not None for run in known):
            return score
    return None


@dataclass(frozen=True)
class Standing:
    """The results of one strategy in a comparison.

    Attributes:
        strategy: The name of the strategy.
        label: Its title, with the settings of its own that tell it from others.
        values: The results by seed.

    Example:
        >>> Standing("gdas", "GDAS", {0: 1.0, 1: 2.0}).mean
        1.5
    """

    strategy: str
    label: str
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return fmean(self.values.values())


@dataclass(frozen=True)
class Finding:
    """A comparison of strategies under the same settings.

    Attributes:
        title: The task, in words.
        score: The result by which they are compared.
        standings: The strategies, the best one first.
        departures: The settings that are not the paper's, in words.
        of: The largest possible result, if it is known.

    Example:
        >>> standings = (Standing("gdas", "GDAS", {0: 93.0}), Standing("darts", "DARTS", {0: 92.0}))
        >>> finding = Finding("CIFAR-10", SCORES["cifar10"][0], standings, ())
        >>> finding.best
        'GDAS is best with 93.00 % test accuracy. The second is DARTS with 92.00 % test accuracy, which is 1.00 lower.'
        >>> finding.certainty
        ('unknown', 'The two have 1 seed in common. At least 3 are needed to say how sure this is.')
    """

    title: str
    score: Score
    standings: tuple[Standing, ...]
    departures: tuple[str, ...]
    of: float | None = None

    @property
    def compared(self) -> str:
        """What the runs compare, in one sentence."""
        names = [each.label for each in self.standings]
        seeds = sorted({len(each.values) for each in self.standings})
        if len(names) == 1:
            return f"{names[0]}, {counted(seeds[0], 'seed')}."
        counts = counted(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
        return f"{', '.join(names[:-1])} and {names[-1]}, {counts} each, by the {self.score.name}."

    @property
    def best(self) -> str:
        """What was best, and by how much."""
        first, *rest = self.standings
        best = self._shown(first)
        if not rest:
            return f"{first.label}: {best}."
        second = rest[0]
        if first.mean == second.mean:
            alike = [each.label for each in self.standings if each.mean == first.mean]
            return f"{', '.join(alike[:-1])} and {alike[-1]} are equally good with {best}."
        gap = abs(first.mean - second.mean)
        distance = number(gap) if gap >= 0.01 or not gap else f"{gap:.2g}"
        way = "lower" if self.score.higher_is_better else "higher"
        return (
            f"{first.label} is best with {best}. The second is {second.label} with {self._shown(second)}, which is"
            f" {distance} {way}."
        )

    @property
    def certainty(self) -> tuple[str, str] | None:
        """How sure the first place is, in a word and in a sentence; ``None`` if there is nothing to compare."""
        if len(self.standings) < 2 or self.standings[0].mean == self.standings[1].mean:
            return None
        first, second = self.standings[:2]
        compared = paired(first.values, second.values, higher_is_better=self.score.higher_is_better)
        if compared is None:
            return "unknown", f"The two have no seed in common. At least {LEAST} are needed to say how sure this is."
        if compared.interval is None or compared.p is None:
            common = counted(compared.pairs, "seed")
            return (
                "unknown",
                f"The two have {common} in common. At least {LEAST} are needed to say how sure this is.",
            )
        low, high = compared.interval
        measured = (
            f"{first.label} is better on {compared.better} of the {compared.pairs} seeds that both have. The 95 %"
            f" interval of the difference is {bracketed(compared.interval)}, and p = {number(compared.p)}."
        )
        if low <= 0 <= high:
            return "not sure", f"{measured} The difference may be chance."
        if compared.p > SURE:
            least = 2 / 2**compared.pairs
            few = " With so few seeds p cannot be smaller." if math.isclose(compared.p, least) else ""
            return "likely", f"{measured}{few} More seeds would tell."
        return "sure", f"{measured} So large a difference is unlikely to be chance."

    def _shown(self, each: Standing) -> str:
        mean = self.score.text(each.mean, self.of)
        n = len(each.values)
        return mean if n == 1 else f"{mean} on average over {n} seeds"


def find(runs: Sequence[Run], style_of: Mapping[str, Style]) -> list[Finding]:
    """The comparisons of finished runs, by task: strategies under the same settings, those with most runs first.

    Args:
        runs: The runs, of any task.
        style_of: The style of each strategy.
    """
    finished = [run for run in runs if run.state == "finished"]
    retrained = retrainings(finished)
    searches = [run for run in finished if run.strategy != "fixed"]
    parts: list[tuple[str, str, list[Run]]] = []
    spaces = [*TASKS, *sorted({(run.task, run.zero_op) for run in runs} - set(TASKS))]
    for task, zero_op in spaces:
        title = TASKS.get((task, zero_op), task)
        title = title[:1].upper() + title[1:] if (task, zero_op) in TASKS else title
        for suffix, some in ((", trained from scratch", retrained), ("", searches)):
            parts.append((task, title + suffix, [r for r in some if (r.task, r.zero_op) == (task, zero_op)]))
    return [finding for task, title, some in parts for finding in _compare(task, title, some, style_of)]


def _compare(task: str, title: str, runs: Sequence[Run], style_of: Mapping[str, Style]) -> list[Finding]:
    score = score_of(task, runs)
    if score is None:
        return []
    by_conditions: dict[object, list[Group]] = {}
    for each in group([run for run in runs if run.number(score.key) is not None]):
        by_conditions.setdefault(each.conditions, []).append(each)
    found = []
    for groups in by_conditions.values():
        own = {each.strategy: [other.variant for other in groups if other.strategy == each.strategy] for each in groups}
        standings = []
        for each in groups:
            label = style_of[each.strategy].title
            if len(own[each.strategy]) > 1 and each.variant:
                label += f" ({each.variant})"
            values = {run.seed: run.number(score.key) for run in each.runs}
            standings.append(Standing(each.strategy, label, {s: v for s, v in values.items() if v is not None}))
        turn = -1 if score.higher_is_better else 1
        standings.sort(key=lambda each: turn * each.mean if math.isfinite(each.mean) else math.inf)
        shared = set.intersection(*(set(departures(each.runs[0])) for each in groups))
        unlike = tuple(str(each) for each in departures(groups[0].runs[0]) if each in shared)
        sizes = {run.number("edges") for each in groups for run in each.runs}
        of = sizes.pop() if len(sizes) == 1 and score.key == "argmax/edges_right" else None
        found.append(Finding(title, score, tuple(standings), unlike, of))
    if score.key == "argmax/cifar10_test":  # runs that know validation accuracies only are compared with each other
        validated = [run for run in runs if run.number(score.key) is None and run.number("argmax/cifar10_valid")]
        found += _compare(task, title, validated, style_of)
    found.sort(key=lambda finding: (len(finding.standings) == 1, -sum(len(each.values) for each in finding.standings)))
    return found
