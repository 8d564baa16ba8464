"""Prints what a ranking, refinements and searches have found within budgets, beside the cells of NAS-Bench-201.

    advnas rank RUN cost=params budget=1e5,2e5
    advnas cost measure RUN kinds=params
    advnas refine RUN oracle=table cost_budget="{params: 1e5}" output=REFINED/1
    advnas strategy=counterfactual cost=params cost_budget=1e5 hydra.run.dir=SEARCHED/1 …
    python -m benchmarks.budget_table RUN --table TABLE.csv --refined REFINED/* --searched SEARCHED/*

Each budget of the ranking has a line with test accuracies in %: of the best cell of the ranking, of the refinement's
winner, of the search's arg max, the mean of all cells that need at least nine tenths of the budget, and the best one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from advnas_lightning.cost.files import read_costs
from advnas_lightning.cost.table import CostTable
from advnas_lightning.reading import read_json, read_yaml
from advnas_lightning.runs import COSTS, GENOTYPE, RANKING, REFINEMENT, RunFolder
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from benchmarks.refine_oracle import TEST
from benchmarks.rows import markdown

SHARE = 0.9  # of a budget


def budgets_of(content: Mapping[str, Any]) -> list[tuple[str, float, Genotype]]:
    """The kind and the size of each budget of a ranking.json, and the best cell within it.

    Raises:
        ValueError: There is none, or one of several costs.
    """
    found = [(*each["budget"].items(), Genotype(each["genotype"])) for each in content["budgets"]]
    if not found or any(len(each) != 2 for each in found):
        raise ValueError("give a ranking within budgets of one cost each: advnas rank RUN cost=params budget=…")
    return [(kind, limit, best) for (kind, limit), best in found]


def cells_within(table: CostTable, limit: float) -> Iterator[tuple[float, Genotype]]:
    """All cells within a budget, and what each costs."""
    for names in product(*table.edges.values()):
        cell = Genotype(dict(zip(table.edges, names, strict=True)))
        cost = table.fixed + sum(row[name] for row, name in zip(table.edges.values(), names, strict=True))
        if cost <= limit:
            yield cost, cell


def refined_in(folders: Iterable[Path]) -> dict[float, tuple[Genotype, int]]:
    """The winner and the number of trainings of each refinement, by its budget."""
    found = {}
    for folder in folders:
        content = read_json(folder / REFINEMENT)
        (limit,) = content["cost_budget"].values()
        found[limit] = Genotype(read_json(folder / GENOTYPE)), len(content["trials"])
    return found


def searched_in(folders: Iterable[Path]) -> dict[float, Genotype]:
    """The arg max of each search, by its budget."""
    return {
        read_yaml(RunFolder(folder).config)["cost_budget"]: Genotype(read_json(folder / GENOTYPE)["argmax"])
        for folder in folders
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget_table", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a run with a ranking within budgets, and costs.json")
    parser.add_argument("--table", required=True, help="the benchmark's table, as in task.table")
    parser.add_argument("--refined", nargs="*", type=Path, default=[], metavar="FOLDER", help="refinements within them")
    parser.add_argument("--searched", nargs="*", type=Path, default=[], metavar="RUN", help="searches within them")
    options = parser.parse_args(arguments)
    accuracies, costs = open_table(options.table), read_costs(options.run / COSTS)
    refined, searched = refined_in(options.refined), searched_in(options.searched)

    def test(cell: Genotype) -> float:
        return accuracies.scores(cell)[TEST]

    lines = [["budget", "ranked", "refined", "trainings", "searched", "mean of all", "best of all"]]
    for kind, limit, best in budgets_of(read_json(options.run / RANKING)):
        cells = list(cells_within(costs[kind].table, limit))
        near = [test(cell) for cost, cell in cells if cost >= SHARE * limit]
        winner, trainings = refined.get(limit, (None, 0))
        own = searched.get(limit)
        values = [test(best), None if winner is None else test(winner), None if own is None else test(own)]
        ranked, after, alone = ("" if value is None else f"{value:.2f}" for value in values)
        mean = f"{fmean(near):.2f}" if near else ""
        highest = f"{max(test(cell) for _, cell in cells):.2f}"
        lines.append([f"{limit:,.0f}", ranked, after, str(trainings) if trainings else "", alone, mean, highest])
    print(markdown(lines))


if __name__ == "__main__":
    main()
