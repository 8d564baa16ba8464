"""What a search finds more probable than the winner of the short trainings, and they have not ruled out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from advnas_lightning.refine.ladder import Ladder, Trial
from advnas_lightning.refine.ties import decide
from advnas_lightning.space.genotype import Genotype

__all__ = ["is_ruled_out", "next_probable"]

CLEARLY_WORSE = -2.0  # standard errors


def next_probable(
    ladder: Ladder, probable: Sequence[Genotype], prior: Callable[[Genotype], float] | None, repeats: int
) -> tuple[Genotype, int] | None:
    """The most probable architecture that may be as good as the winner, and which of its trainings comes next.

    The scores of the last few architectures are within the chance of a training, and a short training favours what is
    trained fast. Of architectures that are tied, the most probable one wins (:func:`~advnas_lightning.refine.decide`).
    So those that are more probable than the winner are tried too, the most probable one first, unless the trainings so
    far have ruled them out. Clearly worse is a difference from the winner of more than two standard errors. An
    architecture is ruled out if it was clearly worse itself, if its loss was not finite, or if it has a candidate on an
    edge with which every architecture so far was clearly worse.

    Args:
        ladder: The trainings so far.
        probable: Architectures of the search, the most probable one first.
        prior: The logarithm of the probability of an architecture.
        repeats: The number of further trainings of each of the best architectures.

    Returns:
        The architecture and the number of its training, from 1, since it has no first one that could be ended early;
        ``None`` if nothing that is more probable is left, or if the deviation over seeds is not known or is 0.

    Example:
        >>> next_probable(Ladder([], (1,), maximize=True), [Genotype({"edge": "a"})], None, 1) is None
        True
    """
    decision, deviations = decide(ladder, prior), ladder.deviations()
    if decision is None or not decision.deviation or not all(deviations.values()):
        return None
    winner = decision.winner.genotype
    known = differences(ladder, winner)
    best: dict[tuple[str, str], float] = {}  # of the architectures with a candidate on an edge
    for genotype, value in known.items():
        for pair in genotype.items():
            best[pair] = max(value, best.get(pair, value))
    for genotype in probable:
        if genotype == winner:
            return None
        own = [trial for trial in ladder.trials if trial.genotype == genotype]
        whole = [trial for trial in own if trial.state == "complete"]
        begun = [trial for trial in own if trial.state == "unfinished"]
        if any(trial.state == "failed" for trial in own):
            continue
        least = min(known.get(genotype, 0.0), *(best.get(pair, 0.0) for pair in genotype.items()))
        if genotype in decision.means or least < CLEARLY_WORSE:
            continue
        if begun and not whole and not any(trial.scores for trial in begun):
            continue  # another process will soon know whether it is ruled out
        if len(whole) + len(begun) > repeats:
            return None  # it is decided when these are complete
        return genotype, 1 + max((trial.repeat for trial in own), default=0)
    return None


def is_ruled_out(ladder: Ladder, trial: Trial, prior: Callable[[Genotype], float] | None) -> bool:
    """Whether a training of a more probable architecture is clearly worse than the winner at its last rung.

    It is said of no architecture that was trained to the end.

    Args:
        ladder: The trainings so far.
        trial: The training.
        prior: The logarithm of the probability of an architecture.

    Example:
        >>> rows = [("a", {1: 0.50, 2: 0.60}, 0), ("a", {1: 0.52, 2: 0.61}, 1), ("b", {1: 0.51, 2: 0.61}, 0)]
        >>> rows += [("b", {1: 0.49, 2: 0.62}, 1), ("c", {1: 0.3}, 1), ("d", {1: 0.5}, 1)]
        >>> edges = [Genotype({"edge": name}) for name, *_ in rows]
        >>> states = ["complete"] * 4 + ["unfinished"] * 2
        >>> every = enumerate(zip(edges, states, rows, strict=True))
        >>> trials = [Trial(n, edge, state, s, "", 0, 1.0, 1, r) for n, (edge, state, (_, s, r)) in every]
        >>> ladder = Ladder(trials, (1, 2), maximize=True)
        >>> [is_ruled_out(ladder, trial, None) for trial in trials[4:]]
        [True, False]
    """
    decision = decide(ladder, prior)
    if decision is None or not decision.deviation or not all(ladder.deviations().values()):
        return False
    if any(each.genotype == trial.genotype and each.state == "complete" for each in ladder.trials):
        return False
    return differences(ladder, decision.winner.genotype)[trial.genotype] < CLEARLY_WORSE


def differences(ladder: Ladder, winner: Genotype) -> dict[Genotype, float]:
    """How much better than the winner each architecture was, in standard errors of the difference.

    The scores of an architecture are those at the last rung that it has reached, and of several trainings their mean.

    Args:
        ladder: The trainings, of which some are repeats.
        winner: The architecture that wins.

    Example:
        >>> from advnas_lightning.refine.ladder import Trial
        >>> rows = [("a", 0.50, 0), ("a", 0.56, 1), ("b", 0.55, 0), ("b", 0.57, 1), ("c", 0.5, 0)]
        >>> edges = [(Genotype({"edge": name}), score, repeat) for name, score, repeat in rows]
        >>> trials = [Trial(0, each, "complete", {1: s}, "draw", 0, 1.0, 1, r) for each, s, r in edges]
        >>> found = differences(Ladder(trials, (1,), maximize=True), Genotype({"edge": "b"}))
        >>> [round(value, 2) for value in found.values()]
        [-0.95, 0.0, -1.55]
    """
    deviations, found = ladder.deviations(), {}
    scores: dict[Genotype, dict[int, list[float]]] = {}
    for trial in ladder.trials:
        for rung, score in trial.scores.items():
            scores.setdefault(trial.genotype, {}).setdefault(rung, []).append(score)
    for genotype, own in scores.items():
        rung = max(set(own) & set(scores[winner]))
        error = deviations[rung] * math.sqrt(1 / len(own[rung]) + 1 / len(scores[winner][rung]))
        found[genotype] = ladder.sign * (fmean(own[rung]) - fmean(scores[winner][rung])) / error
    return found
