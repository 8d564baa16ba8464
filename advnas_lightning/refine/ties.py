"""Further trainings of the best architectures with other seeds, and the choice between those that are tied."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from advnas_lightning.refine.ladder import Ladder, Trial
from advnas_lightning.space.genotype import Genotype

__all__ = ["Decision", "decide", "epochs_of_repeats", "next_repeat"]

FINALS = 3  # architectures that are trained again


@dataclass(frozen=True)
class Decision:
    """Which architecture wins, and why.

    Attributes:
        winner: The first training of the architecture that wins, which may have no training but repeats.
        means: The mean score of each architecture that was trained several times.
        deviation: The standard deviation of the scores of one architecture with different seeds; ``None`` without them.
        tied: The architectures whose mean is within one standard error of the best one.

    Example:
        >>> trial = Trial(0, Genotype({"edge": "skip"}), "complete", {1: 0.5}, "argmax", 0, 1.0, 1)
        >>> decide(Ladder([trial], (1,), maximize=True)).winner.number
        0
    """

    winner: Trial
    means: Mapping[Genotype, float]
    deviation: float | None
    tied: tuple[Genotype, ...]

    def content(self) -> dict[str, Any]:
        """The decision in plain values, for JSON."""
        return {
            "winner": self.winner.number,
            "deviation": self.deviation,
            "means": [
                {"genotype": dict(each), "mean": mean, "tied": each in self.tied} for each, mean in self.means.items()
            ],
        }


def next_repeat(ladder: Ladder, repeats: int) -> tuple[Trial, int] | None:
    """Which of the three best architectures is to be trained next with another seed, and with which one.

    Args:
        ladder: The trainings so far.
        repeats: The number of further trainings of each of them.

    Returns:
        The architecture's first training, and the number of its seed, from 1; ``None`` if all are trained, or if no two
        architectures were trained to the end.

    Example:
        >>> edges = [Genotype({"edge": name}) for name in "ab"]
        >>> trials = [Trial(n, g, "complete", {1: n + 0.5}, "draw", 0, 1.0, 1) for n, g in enumerate(edges)]
        >>> found, repeat = next_repeat(Ladder(trials, (1,), maximize=True), repeats=1)
        >>> found.number, repeat
        (1, 1)
    """
    finals = ladder.best(FINALS)
    begun = {(trial.genotype, trial.repeat) for trial in ladder.trials}
    for repeat in range(1, repeats + 1) if len(finals) > 1 else ():
        for trial in finals:
            if (trial.genotype, repeat) not in begun:
                return trial, repeat
    return None


def epochs_of_repeats(ladder: Ladder, repeats: int, *, further: int = 0) -> int:
    """The epochs that the repeats still take.

    Args:
        ladder: The trainings so far.
        repeats: The number of further trainings of each of the best architectures.
        further: How many more first trainings are thought to be complete and to be the best ones.

    Example:
        >>> trial = Trial(0, Genotype({"edge": "a"}), "complete", {4: 0.5}, "draw", 0, 1.0, 4)
        >>> ladder = Ladder([trial], (4,), maximize=True)
        >>> epochs_of_repeats(ladder, repeats=2), epochs_of_repeats(ladder, repeats=2, further=1)
        (0, 16)
    """
    last, finals = ladder.rungs[-1], ladder.best(FINALS - further)
    if len(finals) + further < 2:
        return 0
    begun = {(trial.genotype, trial.repeat): trial.begun for trial in ladder.trials}
    left = [last - begun.get((trial.genotype, repeat), 0) for trial in finals for repeat in range(1, repeats + 1)]
    return sum(left) + further * repeats * last


def decide(ladder: Ladder, prior: Callable[[Genotype], float] | None = None) -> Decision | None:
    """Choose the architecture that wins.

    The scores of one training are chance in part. The standard deviation σ over seeds is pooled over all architectures
    that were trained several times. Those whose mean is below the best one by no more than one standard error of the
    difference, σ √(1/n + 1/m) for n and m trainings, are as good as tied. Of them, the one with the highest prior wins,
    as in the one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3). Without
    a prior the best mean wins. Where fewer than two architectures were trained several times, the best first training
    wins.

    Args:
        ladder: The trainings.
        prior: What is known of an architecture beside its scores, the highest of the best; such as the logarithm of the
            probability that a search gives to it.

    Returns:
        The decision; ``None`` if no training is complete.

    Example:
        >>> edges = [Genotype({"edge": name}) for name in "ab"]
        >>> scores = [(edges[0], 0.50, 0), (edges[1], 0.55, 0), (edges[0], 0.56, 1), (edges[1], 0.53, 1)]
        >>> rows = enumerate(scores)
        >>> trials = [Trial(n, g, "complete", {1: s}, "draw", 0, 1.0, 1, repeat=r) for n, (g, s, r) in rows]
        >>> ladder = Ladder(trials, (1,), maximize=True)
        >>> decide(ladder).winner.number, decide(ladder, lambda genotype: genotype["edge"] == "a").winner.number
        (1, 0)
    """
    best = ladder.winner
    if best is None:
        return None
    scores: dict[Genotype, list[float]] = defaultdict(list)
    for trial in ladder.trials:
        if trial.state == "complete":
            scores[trial.genotype].append(trial.scores[ladder.rungs[-1]])
    several = {genotype: values for genotype, values in scores.items() if len(values) > 1}
    if len(several) < 2:
        return Decision(best, {}, None, (best.genotype,))
    means = {genotype: fmean(values) for genotype, values in several.items()}
    deviation = ladder.deviations()[ladder.rungs[-1]]
    top = max(means, key=lambda genotype: ladder.sign * means[genotype])

    def error(genotype: Genotype) -> float:
        return deviation * math.sqrt(1 / len(several[top]) + 1 / len(several[genotype]))

    tied = tuple(each for each, mean in means.items() if ladder.sign * (means[top] - mean) <= error(each))
    chosen = top if prior is None else max(tied, key=prior)
    return Decision(next(trial for trial in ladder.trials if trial.genotype == chosen), means, deviation, tied)
