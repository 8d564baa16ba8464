"""A refinement as a table: the trainings, the best first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from advnas_lightning.refine.ladder import Ladder, Trial
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.texts import counted, plain, shortened

__all__ = ["difference", "ladder_table", "ordered"]

WIDEST = 60  # signs of the column that says how an architecture differs


def ordered(ladder: Ladder) -> list[Trial]:
    """The trainings in the order of how good they are: first those that have reached the highest rung.

    Args:
        ladder: The trainings.
    """

    def key(trial: Trial) -> tuple[float, ...]:
        score = ladder.sign * trial.scores[trial.last] if trial.scores else -math.inf
        return -trial.last, -score, trial.number

    return sorted(ladder.trials, key=key)


def difference(genotype: Genotype, reference: Genotype) -> str:
    """How an architecture differs from another one, in words; empty if it does not.

    Args:
        genotype: The architecture.
        reference: The other one.

    Example:
        >>> difference(Genotype({"a": "x", "b": "y"}), Genotype({"a": "x", "b": "z"}))
        'b: y'
    """
    text = ", ".join(plain(f"{edge}: {name}") for edge, name in genotype.items() if reference[edge] != name)
    return shortened(text, WIDEST)


def ladder_table(
    ladder: Ladder,
    *,
    most: int,
    winner: Trial | None = None,
    known: Callable[[Genotype], Mapping[str, float]] = lambda genotype: {},
) -> list[list[str]]:
    """The rows of the table as texts, the titles first. The best trainings come first, and all finalists are there.

    Args:
        ladder: The trainings.
        most: The largest number of rows beside the finalists.
        winner: The first training of the architecture that wins; by default the best one.
        known: What is known of an architecture from elsewhere, such as its accuracy in a benchmark.

    Example:
        >>> edges = [Genotype({"edge": name}) for name in ("skip", "tanh")]
        >>> trials = [Trial(0, edges[0], "complete", {1: 0.5, 2: 0.6}, "argmax", 0, 60.0, 2)]
        >>> trials += [Trial(1, edges[1], "pruned", {1: 0.4}, "neighbour of 0", 1, 30.0, 1)]
        >>> for row in ladder_table(Ladder(trials, (1, 2), maximize=True), most=10):
        ...     print(row)
        ['training', 'proposed by', '1 epoch', '2 epochs', 'state', 'minutes', 'architecture']
        ['0', 'argmax', '0.5', '0.6', 'winner', '1.0', 'edge: skip']
        ['1', 'neighbour of 0', '0.4', '', 'pruned', '0.5', 'edge: tanh']
    """
    trials, best = ordered(ladder), winner or ladder.winner
    shown = [trial for place, trial in enumerate(trials) if place < most or trial.round == 0 or trial == best]
    values = {trial.number: known(trial.genotype) for trial in shown}
    names = list(dict.fromkeys(name for each in values.values() for name in each))
    rungs = [counted(rung, "epoch") for rung in ladder.rungs]
    lines = [["training", "proposed by", *rungs, "state", "minutes", *names, "architecture"]]
    reference = ladder.trials[0].genotype if ladder.trials else None
    for trial in shown:
        lines.append(
            [
                str(trial.number),
                trial.proposed_by,
                *(f"{trial.scores[rung]:.4g}" if rung in trial.scores else "" for rung in ladder.rungs),
                "winner" if trial == best else trial.state,
                f"{trial.seconds / 60:.1f}",
                *(f"{values[trial.number][name]:.4g}" if name in values[trial.number] else "" for name in names),
                "" if reference is None else _words(trial.genotype, reference),
            ]
        )
    return lines


def _words(genotype: Genotype, reference: Genotype) -> str:
    """The first architecture in full, and of the others what differs from it."""
    if genotype == reference:
        return shortened(", ".join(plain(f"{edge}: {name}") for edge, name in genotype.items()), WIDEST)
    return difference(genotype, reference)
