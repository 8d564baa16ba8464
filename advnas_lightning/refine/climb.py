"""The procedure: train the finalists, and then what is near the first and the best one, until none is better."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from advnas_lightning.refine.book import TrialBook, is_pruned
from advnas_lightning.refine.ladder import Ladder, Trial
from advnas_lightning.refine.probable import is_ruled_out
from advnas_lightning.refine.proposals import Proposal, Scope, last_proposal, next_proposal
from advnas_lightning.refine.ties import epochs_of_repeats
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.validate import check_int, check_positive, check_workers

__all__ = ["Budget", "Train", "climb"]

#: Trains an architecture up to a number of epochs in all, going on from what it has left in a folder before, and gives
#: its score. The scores of one training are asked for in the order of the rungs. The last argument says which of the
#: architecture's trainings it is, from 0: each has a seed of its own.
Train = Callable[[Genotype, Path, int, int], float]
POLL = 0.5  # seconds between two looks at what other processes have found
End = Literal["optimum", "budget", "finalists"]


@dataclass(frozen=True)
class Budget:
    """How much may be trained.

    Attributes:
        minutes: The minutes of training in each of the jobs; ``None`` for no limit.
        epochs: The number of epochs of all trainings together; ``None`` for no limit.
        jobs: The number of processes that share the work.

    Raises:
        ValueError: A number is not above 0.

    Example:
        >>> Budget(epochs=8).allows(Ladder([], (1, 2), maximize=True), 2)
        True
    """

    minutes: float | None = None
    epochs: int | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.minutes is not None:
            check_positive("minutes", self.minutes)
        if self.epochs is not None:
            check_int("epochs", self.epochs, least=1)
        check_workers("jobs", self.jobs)

    def check(self, rungs: Sequence[int]) -> None:
        """Check that it is enough for one training.

        Args:
            rungs: The numbers of epochs after which a training is scored.

        Raises:
            ValueError: It is not.
        """
        if self.epochs is not None and self.epochs < rungs[-1]:
            raise ValueError(f"epochs={self.epochs} is less than one whole training: give at least {rungs[-1]}")

    def allows(self, ladder: Ladder, more: int) -> bool:
        """Whether some more epochs may be trained. Their time is expected from the epochs so far."""
        if self.epochs is not None and ladder.epochs + more > self.epochs:
            return False
        done = sum(trial.last for trial in ladder.trials)
        expected = ladder.seconds * more / done if done else 0.0
        return self.minutes is None or ladder.seconds + expected <= 60 * self.minutes * self.jobs


def climb(
    book: TrialBook,
    scope: Scope,
    train: Train,
    *,
    budget: Budget | None = None,
    on_change: Callable[[Ladder], None] = lambda ladder: None,
) -> tuple[Ladder, End]:
    """Train the finalists, and then neighbours of the best one, until none of them is better or the budget is spent.

    The neighbours of the first finalist are tried before those of the best one. As soon as a neighbour is better than
    the winner it is the winner, and its neighbours are tried. Successive halving ends trainings early that are worse
    than others were at the same rung, and a neighbour has to be better than one of the two best was there. So this is
    first-improvement hill climbing, in which a regression over all trainings so far chooses the next neighbour. Where
    no neighbour is better, two edges of the winner exchange their candidates.

    Then the neighbours of the two best ones are tried, after them those of the three best ones, and then those of the
    five best ones. A neighbour then has to be better than one of these. Each time a training that was ended early goes
    on if it would not be ended now.

    At last the best architectures are trained again with other seeds, and then those that the search finds more
    probable than the winner, unless they are ruled out. A budget that is large enough keeps what these need.

    What the book has already is not trained again. A training that a killed process has left is gone on with first.

    Args:
        book: The book of the trainings.
        scope: What may be trained.
        train: Trains an architecture to a rung, and gives its score.
        budget: How much may be trained.
        on_change: Is called with the ladder when a training begins or has a new score.

    Returns:
        The ladder, and why it has ended.

    Raises:
        ValueError: The budget is not enough for one training.

    Example:
        >>> candidates = {"first": ["a", "b", "c"], "second": ["a", "b", "c"]}
        >>> book = TrialBook(None, candidates, (1,), maximize=True)
        >>> value = lambda genotype, *_: sum(map(ord, genotype.values()))
        >>> scope = Scope({Genotype({"first": "a", "second": "a"}): "argmax"}, candidates)
        >>> ladder, end = climb(book, scope, value)
        >>> dict(ladder.winner.genotype), end
        ({'first': 'c', 'second': 'c'}, 'optimum')
    """
    budget = budget or Budget()
    budget.check(book.rungs)
    while True:
        with book.turn():
            ladder = book.ladder()
            number = _take(book, ladder, scope, budget)
            ladder = book.ladder()
        on_change(ladder)
        if number == "wait":
            time.sleep(POLL)
        elif number == "nothing":
            book.clear()
            return ladder, "optimum" if scope.around and ladder.winner is not None else "finalists"
        elif number == "budget":
            return ladder, number
        else:
            try:
                _work(book, number, train, scope, budget, on_change)
            finally:
                with book.turn():
                    book.let_go(number)


def _take(book: TrialBook, ladder: Ladder, scope: Scope, budget: Budget) -> int | Literal["wait", "budget", "nothing"]:
    """Hold a training to work on: one that nobody works on, or else the next one. Otherwise say why there is none."""
    busy: list[Trial] = []
    is_short = False
    for trial in ladder.trials:
        if trial.state != "unfinished":
            continue
        if not book.hold(trial.number):
            busy.append(trial)
            continue
        rung = _next_rung(trial, book.rungs)
        if rung is None or _may_go_on(trial, ladder, scope, budget):
            return trial.number
        book.let_go(trial.number)
        is_short = True
    wanted = next_proposal(ladder, scope)
    if is_short or (wanted is not None and not _may_begin(wanted, ladder, scope, budget)):
        is_short = True
        wanted = last_proposal(ladder, scope)
    if wanted is not None and wanted.repeat and any(trial.repeat == 0 for trial in busy):
        return "wait"  # what comes last depends on the winner, which one of these may become
    if wanted is not None and _may_begin(wanted, ladder, scope, budget):
        return _begin(wanted, book)
    return "wait" if busy else "budget" if is_short else "nothing"


def _may_begin(wanted: Proposal, ladder: Ladder, scope: Scope, budget: Budget) -> bool:
    """Whether a proposal may be trained to its next rung."""
    more = ladder.rungs[0] if wanted.pruned is None else _more(ladder.trials[wanted.pruned], ladder.rungs)
    return _allows(budget, ladder, more, wanted.repeat, scope)


def _begin(wanted: Proposal, book: TrialBook) -> int | Literal["wait"]:
    """Hold the training of a proposal, a new one or one that was pruned."""
    if wanted.pruned is None:
        number = book.add(wanted.genotype, wanted.by, wanted.round, wanted.repeat, wanted.among)
        book.hold(number)
        return number
    if not book.hold(wanted.pruned):
        return "wait"  # the process that has pruned it is about to let it go
    book.take_up(wanted.pruned, wanted.among)
    return wanted.pruned


def _may_go_on(trial: Trial, ladder: Ladder, scope: Scope, budget: Budget) -> bool:
    """Whether a training may go on to its next rung. The best one at its rung may, whatever comes last needs."""
    more = _more(trial, ladder.rungs)
    if ladder.is_ahead(trial):
        return budget.allows(ladder, more)
    return _allows(budget, ladder, more, trial.repeat, scope)


def _allows(budget: Budget, ladder: Ladder, more: int, repeat: int, scope: Scope) -> bool:
    """Whether some more epochs may be trained. First trainings leave enough for what comes last, if there is enough."""
    if repeat or not scope.repeats:
        return budget.allows(ladder, more)
    repeats = epochs_of_repeats(ladder, scope.repeats, further=1)
    one_more = (1 + scope.repeats) * ladder.rungs[-1] if repeats and scope.probable else 0  # that is more probable
    if budget.allows(ladder, more + repeats + one_more):
        return True
    begun = any(trial.repeat for trial in ladder.trials)
    now = epochs_of_repeats(ladder, scope.repeats)
    return not begun and not (now and budget.allows(ladder, now)) and budget.allows(ladder, more)


def _work(
    book: TrialBook,
    number: int,
    train: Train,
    scope: Scope,
    budget: Budget,
    on_change: Callable[[Ladder], None],
) -> None:
    """Train to one rung after the other, until the training is complete, pruned or failed, or the budget is spent."""
    while True:
        with book.turn():
            ladder = book.ladder()
            trial = ladder.trials[number]
            rung = _next_rung(trial, book.rungs)
            if rung is None:
                book.finish(number, "complete")
                return
            is_scored = trial.last and trial.begun <= trial.last
            if is_scored and _is_over(trial, ladder, scope):
                book.finish(number, "pruned")
                return
            if not _may_go_on(trial, ladder, scope, budget):
                return
            book.begin(number, rung)
        started = time.monotonic()
        try:
            score = float(train(trial.genotype, book.place(number), rung, trial.repeat))
        except FloatingPointError:  # a loss was not finite
            score = math.nan
        seconds = time.monotonic() - started
        with book.turn():
            if not math.isfinite(score):
                book.finish(number, "failed")
                return
            book.report(number, rung, score, seconds=seconds)
            ladder = book.ladder()
        on_change(ladder)


def _is_over(trial: Trial, ladder: Ladder, scope: Scope) -> bool:
    """Whether a training ends at the last rung that it has reached."""
    if trial.repeat:
        return is_ruled_out(ladder, trial, scope.prior)
    return ladder.is_behind(trial) or is_pruned(trial, ladder)


def _next_rung(trial: Trial, rungs: tuple[int, ...]) -> int | None:
    return next((rung for rung in rungs if rung > trial.last), None)


def _more(trial: Trial, rungs: tuple[int, ...]) -> int:
    """The epochs to the next rung that have not been begun yet."""
    return max((_next_rung(trial, rungs) or 0) - max(trial.begun, trial.last), 0)
