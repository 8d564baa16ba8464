"""A refinement whose scores are known in advance, in this process or in one of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

from advnas_lightning.refine.book import TrialBook
from advnas_lightning.refine.climb import Budget, Train, climb
from advnas_lightning.refine.ladder import WIDTHS, Ladder, Trial
from advnas_lightning.refine.proposals import Scope
from advnas_lightning.space.genotype import Genotype

CANDIDATES = {"first": ["a", "b", "c"], "second": ["a", "b", "c"], "third": ["a", "b"]}
RUNGS = (1, 2, 4)
FINALISTS = {
    Genotype({"first": "a", "second": "c", "third": "a"}): "argmax",
    Genotype({"first": "b", "second": "a", "third": "a"}): "draw 1",
}
# A made-up value of every architecture, with two local optima.
VALUES = {
    Genotype(dict(zip(CANDIDATES, names, strict=True))): float((31 * place * place + 7 * place) % 101)
    for place, names in enumerate(product(*CANDIDATES.values()))
}


def score(genotype: Genotype, folder: Path, epochs: int, repeat: int = 0) -> float:
    """A score that gets better with the epochs."""
    return VALUES[genotype] - 10 / epochs


def neighbours_of(genotype: Genotype) -> Iterator[Genotype]:
    """The architectures of the table that differ in one edge, by a search through the whole table."""
    for other in VALUES:
        if sum(other[edge] != genotype[edge] for edge in CANDIDATES) == 1:
            yield other


def is_local_optimum(genotype: Genotype) -> bool:
    return all(VALUES[other] <= VALUES[genotype] for other in neighbours_of(genotype))


def facts(ladder: Ladder) -> list[tuple[object, ...]]:
    """All of the trainings but the time that they have taken."""
    return [
        (each.number, each.genotype, each.state, dict(each.scores), each.proposed_by, each.round, each.begun)
        for each in ladder.trials
    ]


def refined(
    folder: Path | None,
    train: Train = score,
    *,
    rungs: tuple[int, ...] = RUNGS,
    around: Sequence[int] = WIDTHS,
    repeats: int = 0,
    probable: Sequence[Genotype] = (),
    prior: Callable[[Genotype], float] | None = None,
    budget: Budget | None = None,
    on_change: Callable[[Ladder], None] = lambda ladder: None,
) -> tuple[Ladder, str]:
    book = TrialBook(folder, CANDIDATES, rungs, maximize=True)
    scope = Scope(FINALISTS, CANDIDATES, around=around, repeats=repeats, probable=probable, prior=prior)
    return climb(book, scope, train, budget=budget, on_change=on_change)


def unfinished(ladder: Ladder) -> list[Trial]:
    return [trial for trial in ladder.trials if trial.state == "unfinished"]


if __name__ == "__main__":  # FOLDER SECONDS NAME PROCESSES: every rung takes some time, and notes who has trained it

    def slow(genotype: Genotype, folder: Path, epochs: int, repeat: int) -> float:
        time.sleep(float(sys.argv[2]))
        with Path(sys.argv[1]).with_name("calls.txt").open("a") as file:
            file.write(f"{sys.argv[3]} {''.join(genotype.values())} {epochs}\n")
        return score(genotype, folder, epochs)

    Path(sys.argv[1]).with_name(f"ready-{sys.argv[3]}").touch()
    while len(list(Path(sys.argv[1]).parent.glob("ready-*"))) < int(sys.argv[4]):  # they begin together
        time.sleep(0.01)
    refined(Path(sys.argv[1]), slow)
