"""Which architecture is trained next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from advnas_lightning.refine.book import is_pruned
from advnas_lightning.refine.ladder import WIDTHS, Ladder, Trial
from advnas_lightning.refine.neighbours import Candidates, exchanges, most_promising, neighbours
from advnas_lightning.refine.probable import next_probable
from advnas_lightning.refine.ties import next_repeat
from advnas_lightning.space.genotype import Genotype, check_genotype

__all__ = ["Proposal", "Scope", "last_proposal", "next_proposal"]


class Proposal(NamedTuple):
    """An architecture to train next, and why.

    Attributes:
        genotype: The architecture.
        by: Who proposes it.
        round: The round that it belongs to, see :class:`~advnas_lightning.refine.ladder.Trial`.
        repeat: Which of the architecture's trainings it is, from 0.
        among: Of how many best architectures it must be better than one.
        pruned: The number of the training that was pruned and is to go on; ``None`` for a new one.

    Example:
        >>> Proposal(Genotype({"edge": "skip"}), "argmax", 0).round
        0
    """

    genotype: Genotype
    by: str
    round: int
    repeat: int = 0
    among: int = WIDTHS[0]
    pruned: int | None = None


@dataclass(frozen=True)
class Scope:
    """What a refinement may train.

    Attributes:
        finalists: Who proposes each finalist. The first ones are trained first.
        candidates: The names of the candidates of each edge.
        around: The numbers of best architectures around which neighbours are tried, one after the other; without any,
            the finalists alone are trained.
        allows: Whether an architecture may be tried as one of these, such as whether it is within a budget.
        repeats: How often each of the best architectures is trained again.
        probable: Architectures of the search, the most probable one first, of which those that are more probable than
            the winner are tried at last.
        prior: The logarithm of the probability of an architecture, which decides between those that are tied.
        canonical: Gives the architecture that is trained in the place of all those that are one network.

    Raises:
        ValueError: There is no finalist, or one of them does not fit the candidates.

    Example:
        >>> Scope({}, {"edge": ["skip"]})
        Traceback (most recent call last):
            ...
        ValueError: there is no finalist: give at least one architecture
    """

    finalists: Mapping[Genotype, str]
    candidates: Candidates
    around: Sequence[int] = WIDTHS
    allows: Callable[[Genotype], bool] = lambda genotype: True
    repeats: int = 0
    probable: Sequence[Genotype] = ()
    prior: Callable[[Genotype], float] | None = None
    canonical: Callable[[Genotype], Genotype] = lambda genotype: genotype

    def __post_init__(self) -> None:
        if not self.finalists:
            raise ValueError("there is no finalist: give at least one architecture")
        for genotype in self.finalists:
            check_genotype(genotype, self.candidates)


def next_proposal(ladder: Ladder, scope: Scope) -> Proposal | None:
    """The architecture to train next: a finalist, a neighbour, an exchange, or one of those that come last.

    Neighbours are first all those of the first finalist, which is what the search itself has chosen. A climb from the
    best finalist alone may end soon. Then come those of the leader, and where none of them is left, those of what other
    processes are training, since it may become the winner. Where no neighbour is left, two edges of the leader exchange
    their candidates, at most as often as it has neighbours. The most promising neighbour or exchange comes first.

    So that the climb does not end on the first hill, it then looks around the two best architectures, after them around
    the three best, and then around the five best. First a training that was ended early goes on if it would not be
    ended now. Then come the neighbours of these best ones. A neighbour has to be better than one of them.

    Args:
        ladder: The trainings so far.
        scope: What may be trained.

    Returns:
        The proposal; ``None`` if there is nothing to train as long as there is no other winner.

    Example:
        >>> scope = Scope({Genotype({"edge": "skip"}): "argmax"}, {"edge": ["skip", "tanh"]})
        >>> next_proposal(Ladder([], (1,), maximize=True), scope).by
        'argmax'
        >>> from advnas_lightning.refine.ladder import Trial
        >>> trial = Trial(0, Genotype({"edge": "skip"}), "complete", {1: 0.5}, "argmax", 0, 1.0, 1)
        >>> found = next_proposal(Ladder([trial], (1,), maximize=True), scope)
        >>> found.genotype, found.by, found.round
        (Genotype(edges={'edge': 'tanh'}), 'neighbour of 0', 1)
    """
    tried = {scope.canonical(trial.genotype) for trial in ladder.trials}
    for finalist, by in scope.finalists.items():
        genotype = scope.canonical(finalist)
        if genotype not in tried:
            return Proposal(genotype, by, 0)
    own = scope.canonical(next(iter(scope.finalists)))
    firsts = [trial for trial in ladder.first if trial.genotype == own]

    def promising(changed: Sequence[Genotype]) -> Genotype | None:
        left = [each for each in map(scope.canonical, changed) if each not in tried and scope.allows(each)]
        return most_promising(ladder.gaps(), left) if left else None

    best = [] if ladder.leader is None or not scope.around else [ladder.leader, *ladder.begun]
    for start in [*firsts, *best] if best else []:
        found = promising(neighbours(start.genotype, scope.candidates))
        if found is not None:
            return Proposal(found, f"neighbour of {start.number}", start.round + 1)
    for start in best:
        by = f"exchange in {start.number}"
        tried_of_it = sum(trial.proposed_by == by for trial in ladder.trials)
        if tried_of_it < len(neighbours(start.genotype, scope.candidates)):
            found = promising(exchanges(start.genotype, scope.candidates))
            if found is not None:
                return Proposal(found, by, start.round + 1)
    for width in scope.around:
        ended = _ended_too_early(ladder, width)
        if ended is not None:
            return Proposal(ended.genotype, ended.proposed_by, ended.round, among=width, pruned=ended.number)
        for start in ladder.best(width)[1:]:
            found = promising(neighbours(start.genotype, scope.candidates))
            if found is not None:
                return Proposal(found, f"neighbour of {start.number}", start.round + 1, among=width)
    return last_proposal(ladder, scope)


def _ended_too_early(ladder: Ladder, among: int) -> Trial | None:
    """The best training that was ended early and would not be ended now; ``None`` if there is none."""
    gaps = ladder.gaps()
    ended = [replace(trial, among=among) for trial in ladder.first if trial.state == "pruned"]
    best = [  # of each rung: if it would be ended, all others would be
        max(those, key=lambda trial: ladder.sign * trial.scores[trial.last])
        for rung in ladder.rungs[:-1]
        if (those := [trial for trial in ended if trial.last == rung])
    ]
    left = [trial for trial in best if not ladder.is_behind(trial) and not is_pruned(trial, ladder)]
    return max(left, key=lambda trial: gaps.get(trial.genotype, -math.inf), default=None)


def last_proposal(ladder: Ladder, scope: Scope) -> Proposal | None:
    """What to train at last: the best architectures again, and then what the search finds more probable.

    See :func:`~advnas_lightning.refine.ties.next_repeat` and
    :func:`~advnas_lightning.refine.probable.next_probable`.

    Args:
        ladder: The trainings so far.
        scope: What may be trained.

    Returns:
        The proposal; ``None`` if all of it is trained, or is being trained.

    Example:
        >>> last_proposal(Ladder([], (1,), maximize=True), Scope({Genotype({"edge": "a"}): "argmax"}, {"edge": "a"}))
    """
    found = next_repeat(ladder, scope.repeats)
    if found is not None:
        trial, repeat = found
        return Proposal(trial.genotype, f"repeat of {trial.number}", trial.round, repeat)
    more = next_probable(ladder, scope.probable, scope.prior, scope.repeats)
    return None if more is None else Proposal(more[0], "more probable", 0, more[1])
