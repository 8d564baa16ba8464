"""The ladder of a refinement: which architectures were trained, how far, and with which scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from advnas_lightning.space.genotype import Genotype

__all__ = ["WIDTHS", "Ladder", "State", "Trial"]

#: Around how many best architectures neighbours are tried, one after the other.
WIDTHS = (2, 3, 5)

State = Literal["complete", "pruned", "failed", "unfinished"]


@dataclass(frozen=True)
class Trial:
    """The training of one architecture.

    Attributes:
        number: Its place among all trainings, from 0.
        genotype: The architecture.
        state: Whether it is ``complete``, was ``pruned`` before its end because others were better and may go on later,
            has ``failed`` because a loss was not finite, or is ``unfinished``.
        scores: The score at each rung that it has reached, by the number of epochs.
        proposed_by: Who has proposed the architecture, such as ``argmax``, ``neighbour of 3`` or ``exchange in 3``.
        round: 0 for a finalist. A neighbour or an exchange has that of the architecture that it is made of, plus 1.
        seconds: How long it has trained.
        begun: The number of epochs to which it has been or is being trained.
        repeat: 0 for the first training of its architecture; further ones have other seeds.
        among: It ends early where it is no better than any of so many best architectures.

    Example:
        >>> trial = Trial(0, Genotype({"edge": "skip"}), "pruned", {1: 0.5, 2: 0.6}, "argmax", 0, 9.0, 2)
        >>> trial.last
        2
    """

    number: int
    genotype: Genotype
    state: State
    scores: Mapping[int, float]
    proposed_by: str
    round: int
    seconds: float
    begun: int
    repeat: int = 0
    among: int = WIDTHS[0]

    @property
    def last(self) -> int:
        """The number of epochs of the last rung that it has reached; 0 for none."""
        return max(self.scores, default=0)


@dataclass(frozen=True)
class Ladder:
    """All trainings of a refinement.

    Attributes:
        trials: The trainings in the order in which they began.
        rungs: The numbers of epochs after which each training is scored.
        maximize: Whether the highest score is the best one, and not the lowest.
        metric: The name of the score.

    Example:
        >>> edges = [Genotype({"edge": name}) for name in ("skip", "tanh", "relu")]
        >>> scores = [{1: 0.2, 2: 0.3}, {1: 0.3, 2: 0.5}, {1: 0.1}]
        >>> states = ["complete", "complete", "pruned"]
        >>> rows = zip(range(3), edges, states, scores, strict=True)
        >>> ladder = Ladder([Trial(*row, "draw", 0, 1.0, 2) for row in rows], (1, 2), maximize=True)
        >>> dict(ladder.winner.genotype), [trial.number for trial in ladder.path]
        ({'edge': 'tanh'}, [0, 1])
        >>> {trial.number: round(gap, 6) for trial, gap in zip(ladder.trials, ladder.gaps().values())}
        {0: -0.2, 1: 0.0, 2: -0.2}
    """

    trials: Sequence[Trial]
    rungs: tuple[int, ...]
    maximize: bool
    metric: str = "score"

    @property
    def first(self) -> list[Trial]:
        """The first training of each architecture."""
        return [trial for trial in self.trials if trial.repeat == 0]

    @property
    def path(self) -> list[Trial]:
        """The first trainings that were the best complete one, in the order in which they were proposed."""
        path: list[Trial] = []
        for trial in self.first:
            if trial.state == "complete" and (not path or self.is_better(trial, path[-1])):
                path.append(trial)
        return path

    @property
    def winner(self) -> Trial | None:
        """The best complete first training, and of equal ones the first; ``None`` if none is complete.

        Its neighbours are tried. Which architecture wins in the end, :func:`~advnas_lightning.refine.decide` says.
        """
        return self.path[-1] if self.path else None

    @property
    def leader(self) -> Trial | None:
        """The winner; as long as there is none, the best of the trainings that have got furthest.

        Several processes share the trainings. While one of them trains the first architecture to the end, the others
        have the leader's neighbours to train.
        """
        return self.winner or next(iter(self.begun), None)

    @property
    def begun(self) -> list[Trial]:
        """The first trainings that have a score and are not over, those first that have got furthest and are best."""
        begun = [trial for trial in self.first if trial.scores and trial.state == "unfinished"]
        return sorted(begun, key=lambda trial: (-trial.last, -self.sign * trial.scores[trial.last]))

    def best(self, number: int) -> list[Trial]:
        """The best complete first trainings, the best one first.

        Args:
            number: How many of them at most.
        """
        complete = [trial for trial in self.first if trial.state == "complete"]
        return sorted(complete, key=lambda trial: -self.sign * trial.scores[self.rungs[-1]])[:number]

    def is_better(self, one: Trial, other: Trial) -> bool:
        """Whether a complete training has a better score than another one."""
        last = self.rungs[-1]
        return self.sign * one.scores[last] > self.sign * other.scores[last]

    @property
    def sign(self) -> int:
        """1 where the highest score is the best one, otherwise −1."""
        return 1 if self.maximize else -1

    def is_behind(self, trial: Trial) -> bool:
        """Whether a neighbour is no better than any of the best others was at the last rung that it has reached.

        Early scores are chance in part: what one of the best had at a rung does not rule a neighbour out. How many
        best ones these are, the training says itself. It is said of no finalist, and of nothing at the last rung, which
        decides by itself.

        Args:
            trial: The training.

        Example:
            >>> rows = [("a", {1: 0.4, 2: 0.6}, 0), ("b", {1: 0.3}, 1), ("c", {1: 0.5}, 1)]
            >>> trials = [Trial(0, Genotype({"e": g}), "unfinished", s, "", r, 1.0, 1) for g, s, r in rows]
            >>> [Ladder(trials, (1, 2), maximize=True).is_behind(trial) for trial in trials]
            [False, True, False]
        """
        if self.leader is None or trial.round == 0 or trial.last == self.rungs[-1]:
            return False
        best = self.best(trial.among) or [self.leader]
        bars = [each.scores[trial.last] for each in best if each != trial and trial.last in each.scores]
        return bool(bars) and all(self.sign * (trial.scores[trial.last] - bar) <= 0 for bar in bars)

    def is_ahead(self, trial: Trial) -> bool:
        """Whether a training was better than all other first ones at the last rung that it has reached.

        Args:
            trial: The training.

        Example:
            >>> rows = [("a", {1: 0.4, 2: 0.6}), ("b", {1: 0.5}), ("c", {})]
            >>> edges = [(Genotype({"edge": name}), scores) for name, scores in rows]
            >>> trials = [Trial(n, each, "unfinished", s, "", 1, 1.0, 1) for n, (each, s) in enumerate(edges)]
            >>> [Ladder(trials, (1, 2, 4), maximize=True).is_ahead(trial) for trial in trials]
            [True, True, False]
        """
        others = [each.scores[trial.last] for each in self.first if each != trial and trial.last in each.scores]
        return trial.last > 0 and all(self.sign * (trial.scores[trial.last] - other) > 0 for other in others)

    def gaps(self) -> dict[Genotype, float]:
        """How much better than the leader each architecture was at the last rung that it has reached.

        Scores of different rungs are not comparable, but these differences are. An architecture without a score is left
        out, and so is one that has got further than the leader.
        """
        best = self.leader
        return {
            trial.genotype: self.sign * (trial.scores[trial.last] - best.scores[trial.last])
            for trial in self.first
            if best is not None and trial.last in best.scores
        }

    def deviations(self) -> dict[int, float]:
        """The standard deviation over seeds of the scores at each rung, pooled over what was trained several times.

        A rung at which no architecture has several scores is left out.

        Example:
            >>> rows = enumerate([("a", 0.50), ("a", 0.56), ("b", 0.53)])
            >>> trials = [Trial(n, Genotype({"e": g}), "complete", {1: s}, "draw", 0, 1.0, 1, n) for n, (g, s) in rows]
            >>> {rung: round(value, 4) for rung, value in Ladder(trials, (1,), maximize=True).deviations().items()}
            {1: 0.0424}
        """
        found: dict[int, float] = {}
        for rung in self.rungs:
            scores: dict[Genotype, list[float]] = defaultdict(list)
            for trial in self.trials:
                if rung in trial.scores:
                    scores[trial.genotype].append(trial.scores[rung])
            several = [values for values in scores.values() if len(values) > 1]
            if several:
                squares = [(value - fmean(values)) ** 2 for values in several for value in values]
                found[rung] = math.sqrt(math.fsum(squares) / sum(len(values) - 1 for values in several))
        return found

    @property
    def epochs(self) -> int:
        """The number of epochs that all trainings together have taken, or have begun."""
        return sum(trial.begun for trial in self.trials)

    @property
    def seconds(self) -> float:
        """The seconds that all trainings together have taken."""
        return math.fsum(trial.seconds for trial in self.trials)

    def content(self) -> dict[str, Any]:
        """The ladder in plain values, for JSON."""
        best = self.winner
        return {
            "metric": self.metric,
            "best": "highest" if self.maximize else "lowest",
            "rungs": list(self.rungs),
            "epochs": self.epochs,
            "seconds": round(self.seconds, 3),
            "winner": None if best is None else best.number,
            "path": [trial.number for trial in self.path],
            "trials": [
                {**asdict(trial), "genotype": trial.genotype.edges, "seconds": round(trial.seconds, 3)}
                for trial in self.trials
            ],
        }
