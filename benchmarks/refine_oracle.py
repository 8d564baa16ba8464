"""Compares refinement with other searches at equal epochs, on NAS-Bench-201's table in the place of trainings.

    python -m benchmarks.refine_oracle TABLE.csv --output FOLDER

Each search starts at the same random cells. A training is 12 epochs, and its score is the validation accuracy on
CIFAR-10 after them, from the table. What is compared is the test accuracy after 200 epochs of the cell with the best
score so far. The command prints a table of the means over all starts, and writes FOLDER/refine_oracle.png and .svg.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from advnas_lightning.refine.book import TrialBook
from advnas_lightning.refine.climb import climb
from advnas_lightning.refine.neighbours import neighbours
from advnas_lightning.refine.oracle import COLUMN, EPOCHS, table_oracle
from advnas_lightning.refine.proposals import Scope
from advnas_lightning.report.plots import RC_PARAMS, SOFT, save_figure
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.model import EDGES
from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from advnas_lightning.tasks.cifar10.tables import OPERATIONS
from benchmarks.rows import markdown

TEST = "cifar10_test"
SHOWN = (20, 40, 60, 80, 120)  # trainings, in the table
POPULATION, TOURNAMENT = 10, 3  # of regularised evolution
COLOURS = {
    "refine": "#D55E00",
    "steepest ascent": "#0077BB",
    "regularised evolution": "#117733",
    "random search": "#888888",
}

Candidates = dict[str, tuple[str, ...]]
Score = Callable[[Genotype], float]
Search = Callable[[Genotype, Candidates, Score, random.Random], Iterator[Genotype]]


class Result(NamedTuple):
    """What a search has found: the test accuracy after each training, and the number of trainings that it took."""

    accuracies: list[float]
    trainings: int


def refine(start: Genotype, candidates: Candidates, score: Score, draws: random.Random) -> Iterator[Genotype]:
    """The procedure of the command advnas refine, with the random cell as its one finalist."""
    book = TrialBook(None, candidates, (EPOCHS,), maximize=True)
    ladder, _ = climb(book, Scope({start: "start"}, candidates), lambda genotype, *_: score(genotype))
    yield from (trial.genotype for trial in ladder.trials)


def steepest(start: Genotype, candidates: Candidates, score: Score, draws: random.Random) -> Iterator[Genotype]:
    """Train all neighbours, and move to the best of them, until none is better."""
    known = {start: score(start)}
    yield start
    while True:
        around = neighbours(start, candidates)
        for each in around:
            if each not in known:
                known[each] = score(each)
                yield each
        best = max(around, key=known.__getitem__)
        if known[best] <= known[start]:
            return
        start = best


def draw_cell(candidates: Candidates, draws: random.Random) -> Genotype:
    """A cell, all of them with equal chances."""
    return Genotype({edge: draws.choice(row) for edge, row in candidates.items()})


def random_search(start: Genotype, candidates: Candidates, score: Score, draws: random.Random) -> Iterator[Genotype]:
    """Train cells that are drawn with equal chances, each once."""
    known = {start}
    yield start
    while True:
        cell = draw_cell(candidates, draws)
        if cell not in known:
            known.add(cell)
            yield cell


def evolution(start: Genotype, candidates: Candidates, score: Score, draws: random.Random) -> Iterator[Genotype]:
    """Regularised evolution (Real et al. 2019): a mutation of a tournament's winner takes the place of the oldest."""
    population = [start]
    known = {start}
    yield start
    while len(population) < POPULATION:
        population.append(draw_cell(candidates, draws))
    for cell in population[1:]:
        if cell not in known:
            known.add(cell)
            yield cell
    while True:
        parent = max(draws.sample(population, TOURNAMENT), key=score)
        child = draws.choice(neighbours(parent, candidates))
        population = [*population[1:], child]
        if child not in known:  # nothing is trained twice
            known.add(child)
            yield child


SEARCHES: dict[str, Search] = {
    "refine": refine,
    "steepest ascent": steepest,
    "regularised evolution": evolution,
    "random search": random_search,
}


def follow(search: Iterator[Genotype], score: Score, test: Score, most: int) -> Result:
    """The test accuracy of the cell with the best score, after each of so many trainings."""
    accuracies: list[float] = []
    best: Genotype | None = None
    trainings = 0
    for cell in search:
        trainings += 1
        if best is None or score(cell) > score(best):
            best = cell
        accuracies.append(test(best))
        if trainings == most:
            break
    return Result(accuracies + accuracies[-1:] * (most - trainings), trainings)


def compare(table: Path | str, starts: int, seed: int, most: int, *, zero_op: bool) -> dict[str, list[Result]]:
    """The results of all searches from the same random cells."""
    opened = open_table(table)
    train = table_oracle(opened, str(table))
    known: dict[Genotype, dict[str, float]] = {}

    def look(cell: Genotype, column: str) -> float:
        if cell not in known:
            known[cell] = {COLUMN: train(cell, Path(), EPOCHS), TEST: opened.scores(cell)[TEST]}
        return known[cell][column]

    names = OPERATIONS if zero_op else OPERATIONS[1:]
    candidates = dict.fromkeys(EDGES, names)
    draws = random.Random(seed)
    cells = [draw_cell(candidates, draws) for _ in range(starts)]
    return {
        name: [
            follow(
                search(cell, candidates, lambda each: look(each, COLUMN), random.Random(seed + number)),
                lambda each: look(each, COLUMN),
                lambda each: look(each, TEST),
                most,
            )
            for number, cell in enumerate(cells)
        ]
        for name, search in SEARCHES.items()
    }


def rows(results: dict[str, list[Result]], best: float) -> Iterator[list[str]]:
    """The lines of the table."""
    for name, found in results.items():
        ends = [each.accuracies[-1] for each in found]
        means = [fmean(each.accuracies[count - 1] for each in found) for count in SHOWN]
        took = fmean(each.trainings for each in found)
        most = len(found[0].accuracies)
        yield [
            name,
            *(f"{mean:.2f}" for mean in means),
            f"{fmean(ends):.2f} ± {stdev(ends):.2f}" if len(ends) > 1 else f"{ends[0]:.2f}",
            f"{took:.1f}" if took < most else f"all {most}",
            f"{sum(end >= best for end in ends)} of {len(ends)}",
        ]


def plot(spaces: dict[str, dict[str, list[Result]]], best: float) -> Figure:
    """The mean test accuracy against the epochs that were spent, one panel for each space."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    panels = figure.subplots(1, len(spaces), sharey=True, squeeze=False)[0]
    for axes, (title, results) in zip(panels, spaces.items(), strict=True):
        for name, found in results.items():
            means = [fmean(column) for column in zip(*(each.accuracies for each in found), strict=True)]
            epochs = [EPOCHS * (count + 1) for count in range(len(means))]
            axes.plot(epochs, means, color=COLOURS[name], label=name, linewidth=2 if name == "refine" else 1.3)
        axes.axhline(best, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_title(title, loc="left")
        axes.set_xlabel("epochs of all trainings")
        axes.set_ylim(90, best + 0.35)
    panels[0].set_ylabel("test accuracy of the best cell so far (%)")
    panels[0].annotate(
        f"the best cell, {best:.2f}", (1, best), xycoords=("axes fraction", "data"), xytext=(0, 3),
        textcoords="offset points", ha="right", fontsize=7.5, color=SOFT,
    )  # fmt: skip
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def main() -> None:
    """Compare the searches, print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="NAS-Bench-201 as a CSV file with the column cifar10_valid_12ep")
    parser.add_argument("--starts", type=int, default=100, help="the number of random cells")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path())
    arguments = parser.parse_args()
    try:
        table = open_table(arguments.table)
        cells = [scores[TEST] for _, scores in table.cells()]  # type: ignore[attr-defined]
        best, most = max(cells), max(SHOWN)
        spaces = {
            f"{'five' if zero_op else 'four'} operations": compare(
                arguments.table, arguments.starts, arguments.seed, most, zero_op=zero_op
            )
            for zero_op in (False, True)
        }
    except (KeyError, ValueError) as error:
        parser.error(str(error))
    for title, results in spaces.items():
        print(f"\n{title}, {arguments.starts} random cells, seed {arguments.seed}: mean test accuracy in %\n")
        shown = [f"{count} trainings" for count in SHOWN]
        print(markdown([["search", *shown, "at the end", "trainings", "found the best"], *rows(results, best)]))
    with mpl.rc_context(RC_PARAMS):
        save_figure(plot(spaces, best), arguments.output / "refine_oracle")


if __name__ == "__main__":
    main()
