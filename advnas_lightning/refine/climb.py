"""The procedure: train the finalists, and then the neighbours of the best one, until none of them is better."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from advnas_lightning.refine.book import TrialBook, is_pruned
from advnas_lightning.refine.ladder import Ladder, Trial
from advnas_lightning.refine.neighbours import Candidates, most_promising, neighbours
from advnas_lightning.refine.ties import epochs_of_repeats, next_repeat
from advnas_lightning.space.genotype import Genotype, check_genotype
from advnas_lightning.validate import check_int, check_positive

__all__ = ["Budget", "Proposal", "Train", "check_task", "climb", "next_proposal"]

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
        check_int("jobs", self.jobs, least=1)

    def allows(self, ladder: Ladder, more: int) -> bool:
        """Whether some more epochs may be trained. Their time is expected from the epochs so far."""
        if self.epochs is not None and ladder.epochs + more > self.epochs:
            return False
        done = sum(trial.last for trial in ladder.trials)
        expected = ladder.seconds * more / done if done else 0.0
        return self.minutes is None or ladder.seconds + expected <= 60 * self.minutes * self.jobs


class Proposal(NamedTuple):
    """An architecture to train next, and why.

    Attributes:
        genotype: The architecture.
        by: Who proposes it.
        round: The round that it belongs to, see :class:`~advnas_lightning.refine.ladder.Trial`.
        repeat: Which of the architecture's trainings it is, from 0.

    Example:
        >>> Proposal(Genotype({"edge": "skip"}), "argmax", 0).round
        0
    """

    genotype: Genotype
    by: str
    round: int
    repeat: int = 0


def check_task(
    finalists: Mapping[Genotype, str], candidates: Candidates, budget: Budget, rungs: tuple[int, ...]
) -> None:
    """Check that there is something to train, and that the budget is enough for one training.

    Args:
        finalists: Who proposes each finalist.
        candidates: The names of the candidates of each edge.
        budget: How much may be trained.
        rungs: The numbers of epochs after which a training is scored.

    Raises:
        ValueError: There is no finalist, or one of them does not fit the candidates; or the budget is too small.

    Example:
        >>> check_task({Genotype({"edge": "skip"}): "argmax"}, {"edge": ["skip"]}, Budget(epochs=3), (1, 2, 4))
        Traceback (most recent call last):
            ...
        ValueError: epochs=3 is less than one whole training: give at least 4
    """
    if not finalists:
        raise ValueError("there is no finalist: give at least one architecture")
    for genotype in finalists:
        check_genotype(genotype, candidates)
    if budget.epochs is not None and budget.epochs < rungs[-1]:
        raise ValueError(f"epochs={budget.epochs} is less than one whole training: give at least {rungs[-1]}")


def next_proposal(
    ladder: Ladder,
    finalists: Mapping[Genotype, str],
    candidates: Candidates,
    *,
    around: bool = True,
    allows: Callable[[Genotype], bool] = lambda genotype: True,
    repeats: int = 0,
) -> Proposal | None:
    """The architecture to train next: the next finalist, or the leader's most promising neighbour, or one once more.

    Args:
        ladder: The trainings so far.
        finalists: Who proposes each finalist, in order.
        candidates: The names of the candidates of each edge.
        around: Whether neighbours are tried.
        allows: Whether an architecture may be proposed as a neighbour.
        repeats: How often the best architectures are trained again, see
            :func:`~advnas_lightning.refine.ties.next_repeat`.

    Returns:
        The proposal; ``None`` if there is nothing to train as long as there is no other winner.

    Example:
        >>> finalists, candidates = {Genotype({"edge": "skip"}): "argmax"}, {"edge": ["skip", "tanh"]}
        >>> next_proposal(Ladder([], (1,), maximize=True), finalists, candidates).by
        'argmax'
        >>> trial = Trial(0, Genotype({"edge": "skip"}), "complete", {1: 0.5}, "argmax", 0, 1.0, 1)
        >>> next_proposal(Ladder([trial], (1,), maximize=True), finalists, candidates)
        Proposal(genotype=Genotype(edges={'edge': 'tanh'}), by='neighbour of 0', round=1, repeat=0)
    """
    tried = {trial.genotype for trial in ladder.trials}
    for genotype, by in finalists.items():
        if genotype not in tried:
            return Proposal(genotype, by, 0)
    best = ladder.leader
    if around and best is not None:
        left = [each for each in neighbours(best.genotype, candidates) if each not in tried and allows(each)]
        if left:
            return Proposal(most_promising(ladder.gaps(), left), f"neighbour of {best.number}", best.round + 1)
    return proposal_of_repeat(ladder, repeats)


def proposal_of_repeat(ladder: Ladder, repeats: int) -> Proposal | None:
    """The repeat to train next, see :func:`~advnas_lightning.refine.ties.next_repeat`; ``None`` if all are trained.

    Example:
        >>> proposal_of_repeat(Ladder([], (1,), maximize=True), repeats=1) is None
        True
    """
    found = next_repeat(ladder, repeats)
    if found is None:
        return None
    trial, repeat = found
    return Proposal(trial.genotype, f"repeat of {trial.number}", trial.round, repeat)


def climb(
    book: TrialBook,
    finalists: Mapping[Genotype, str],
    candidates: Candidates,
    train: Train,
    *,
    around: bool = True,
    allows: Callable[[Genotype], bool] = lambda genotype: True,
    repeats: int = 0,
    budget: Budget | None = None,
    on_change: Callable[[Ladder], None] = lambda ladder: None,
) -> tuple[Ladder, End]:
    """Train the finalists, and then neighbours of the best one, until none of them is better or the budget is spent.

    As soon as a neighbour is better than the winner it is the winner, and its neighbours are tried. Successive halving
    ends trainings early that are worse than others were at the same rung. So this is first-improvement hill climbing,
    in which a regression over all trainings so far chooses the next neighbour. At last the best architectures are
    trained again, with other seeds. A budget that is large enough keeps what that needs.

    What the book has already is not trained again. A training that a killed process has left is gone on with first.

    Args:
        book: The book of the trainings.
        finalists: Who proposes each finalist, in order. The first ones are trained first.
        candidates: The names of the candidates of each edge.
        train: Trains an architecture to a rung, and gives its score.
        around: Whether neighbours are tried.
        allows: Whether an architecture may be tried as a neighbour, such as whether it is within a budget.
        repeats: How often each of the best architectures is trained again.
        budget: How much may be trained.
        on_change: Is called with the ladder when a training begins or has a new score.

    Returns:
        The ladder, and why it has ended.

    Raises:
        ValueError: There is no finalist, or one of them does not fit the candidates; or the budget is not enough for
            one training.

    Example:
        >>> candidates = {"first": ["a", "b", "c"], "second": ["a", "b", "c"]}
        >>> book = TrialBook(None, candidates, (1,), maximize=True)
        >>> value = lambda genotype, *_: sum(map(ord, genotype.values()))
        >>> ladder, end = climb(book, {Genotype({"first": "a", "second": "a"}): "argmax"}, candidates, value)
        >>> dict(ladder.winner.genotype), end
        ({'first': 'c', 'second': 'c'}, 'optimum')
    """
    budget = budget or Budget()
    check_task(finalists, candidates, budget, book.rungs)
    while True:
        with book.turn():
            ladder = book.ladder()
            wanted = next_proposal(ladder, finalists, candidates, around=around, allows=allows, repeats=repeats)
            number = _take(book, ladder, wanted, repeats, budget)
            ladder = book.ladder()
        on_change(ladder)
        if number == "wait":
            time.sleep(POLL)
        elif number == "nothing":
            return ladder, "optimum" if around and ladder.winner is not None else "finalists"
        elif number == "budget":
            return ladder, number
        else:
            try:
                _work(book, number, train, repeats, budget, on_change)
            finally:
                with book.turn():
                    book.let_go(number)


def _take(
    book: TrialBook, ladder: Ladder, wanted: Proposal | None, repeats: int, budget: Budget
) -> int | Literal["wait", "budget", "nothing"]:
    """Hold a training to work on: one that nobody works on, or else the wanted one. Otherwise say why there is none."""
    busy = is_short = False
    for trial in ladder.trials:
        if trial.state != "unfinished":
            continue
        if not book.hold(trial.number):
            busy = True
            continue
        rung = _next_rung(trial, book.rungs)
        if rung is None or _allows(budget, ladder, _more(trial, book.rungs), trial.repeat, repeats):
            return trial.number
        book.let_go(trial.number)
        is_short = True
    if is_short or (wanted is not None and not _allows(budget, ladder, book.rungs[0], wanted.repeat, repeats)):
        is_short = True
        wanted = proposal_of_repeat(ladder, repeats)
    if wanted is not None and _allows(budget, ladder, book.rungs[0], wanted.repeat, repeats):
        number = book.add(*wanted)
        book.hold(number)
        return number
    return "wait" if busy else "budget" if is_short else "nothing"


def _allows(budget: Budget, ladder: Ladder, more: int, repeat: int, repeats: int) -> bool:
    """Whether some more epochs may be trained. First trainings leave enough for the repeats, if there is enough."""
    if repeat or not repeats:
        return budget.allows(ladder, more)
    if budget.allows(ladder, more + epochs_of_repeats(ladder, repeats, further=1)):
        return True
    begun = any(trial.repeat for trial in ladder.trials)
    now = epochs_of_repeats(ladder, repeats)
    return not begun and not (now and budget.allows(ladder, now)) and budget.allows(ladder, more)


def _work(
    book: TrialBook,
    number: int,
    train: Train,
    repeats: int,
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
            if is_scored and trial.repeat == 0 and is_pruned(trial, ladder):
                book.finish(number, "pruned")
                return
            if not _allows(budget, ladder, _more(trial, book.rungs), trial.repeat, repeats):
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


def _next_rung(trial: Trial, rungs: tuple[int, ...]) -> int | None:
    return next((rung for rung in rungs if rung > trial.last), None)


def _more(trial: Trial, rungs: tuple[int, ...]) -> int:
    """The epochs to the next rung that have not been begun yet."""
    return max((_next_rung(trial, rungs) or 0) - max(trial.begun, trial.last), 0)
