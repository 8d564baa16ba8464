"""Ranks the architectures of a run, and writes and prints what was found."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from advnas_lightning import rng
from advnas_lightning.cli.checks import suggestion
from advnas_lightning.cli.cost_showing import WIDTH
from advnas_lightning.cli.known import keep_found, known_costs, known_of_run, training_line
from advnas_lightning.cli.loading import SavedRun, load
from advnas_lightning.cli.process import keep_memory, quiet
from advnas_lightning.cli.supernet import train_supernet
from advnas_lightning.cost.meters import UNITS
from advnas_lightning.cost.plan_table import plan_table
from advnas_lightning.cost.table import CostTable
from advnas_lightning.folder_lock import FolderLock
from advnas_lightning.ranking.evolution import Evolution
from advnas_lightning.ranking.figure import draw_ranking
from advnas_lightning.ranking.result import Ranking, columns
from advnas_lightning.runs import RANKING, RunFolder, sha256, write_json
from advnas_lightning.space.genotype_file import add_genotype
from advnas_lightning.texts import encodable, listed, plain, writable

FOLDER, SCORES = "ranking", "scores.jsonl"
# Options that decide how a ranking is made, but not what it finds; budgets are a part of the result.
INCIDENTAL = ("RUN", "jobs", "threads", "device", "show", "trust", "budget", "cost_budget", "budgets")


def rank_run(options: Mapping[str, Any]) -> None:
    """Rank as the options of ``advnas rank`` say.

    Args:
        options: The value of each option, as :func:`~advnas_lightning.cli.rank.read_settings` gives them.

    Raises:
        ValueError: The run cannot be loaded, or its architectures cannot be ranked so.
    """
    torch.set_num_threads(options["threads"])
    keep_memory()
    quiet()
    if options["device"] == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: PyTorch finds no GPU here: use device=cpu")
    run = load(options["RUN"], trust=options["trust"])
    folder = run.folder.path / FOLDER
    with _kept_if_used(folder), FolderLock(folder):
        before = sha256(run.checkpoint)
        ranking = _ranking(run, options, folder)
        if sha256(run.checkpoint) != before:
            raise ValueError(
                f"{run.folder.path} has gone on meanwhile, and this ranking is of its old state: rank anew"
            )
        keep_found(run.search, run.folder)
        _write(ranking, run.folder, folder, {**_deciding(options), "checkpoint_sha256": before})
    named = {kind: run.search.space.nesting.canonical(choice) for kind, choice in ranking.named.items()}
    _show(ranking, options, run.folder, named)


@contextmanager
def _kept_if_used(folder: Path) -> Iterator[None]:
    """A context after which a folder is gone if nothing was written into it, as where a ranking is refused."""
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _ranking(run: SavedRun, options: Mapping[str, Any], folder: Path) -> Ranking:
    search = run.search
    if options["supernet_epochs"]:
        train_supernet(run, options["supernet_epochs"], folder, trust=options["trust"], device=options["device"])
    search.to(options["device"])
    evolution = None
    if options["generations"]:
        names = ("generations", "population", "tournament", "mutation")
        evolution = Evolution(**{name: options[name] for name in names})
    known, notes = known_of_run(run.config, run.folder, trust=options["trust"])
    for note in notes:
        print(encodable(f"note: {note}", sys.stderr), file=sys.stderr)
    tables = known_costs(run.search, run.folder, options["costs"])
    budgets = _budgets(options["budgets"], tables)
    wanted = dict.fromkeys([*options["cost"], *(kind for each in budgets for kind in each)])
    for kind in wanted:
        if kind not in (*tables, *UNITS):
            raise ValueError(
                f"cost_budget has {plain(kind)}, which is no cost of this run: {suggestion(kind, [*tables, *UNITS])}"
            )
    to_measure = [kind for kind in wanted if kind not in tables]
    with rng.seeded(0):
        training = training_batches(run, options["calibrate"])
    with _progress() as on_progress:
        return search.rank(
            datamodule=run.data,
            batches=options["batches"],
            top=options["top"],
            sample=options["sample"],
            evolution=evolution,
            seed=options["seed"],
            costs=to_measure,
            tables=tables,
            budgets=budgets,
            training_batches=training,
            jobs=options["jobs"],
            scores=folder / SCORES,
            known=known,
            on_progress=on_progress,
            precision=run.config.trainer.get("precision"),
        )


def _budgets(given: Sequence[Mapping[str | None, float]], tables: Mapping[str, CostTable]) -> list[dict[str, float]]:
    """The budgets with their kinds.

    Raises:
        ValueError: A budget is of no kind, and the known costs do not tell which one is meant.
    """
    if any(None in each for each in given) and len(tables) != 1:
        have = f", and the known ones are {listed(tables)}" if tables else ""
        raise ValueError(f"budget of which cost{have}? Say cost=params, or cost_budget={{KIND: B}}")
    return [{next(iter(tables)) if kind is None else kind: value for kind, value in each.items()} for each in given]


def training_batches(run: SavedRun, count: int | None) -> list[Any]:
    """The first batches of the weight steps, for running statistics.

    Args:
        run: The run.
        count: How many; by default as many as the run's setting ``calibrate`` says.
    """
    loaders = run.data.train_dataloader()
    loaders = getattr(loaders, "iterables", loaders)  # those of a SearchLoader
    loader: Any = loaders.get("weights", loaders.get("architecture")) if isinstance(loaders, dict) else loaders
    wanted = int(getattr(run.search, "calibrate", 0)) if count is None else count
    return list(islice(loader, wanted)) if wanted else []


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on the standard error, if that is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("architectures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _deciding(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide a ranking, as values for JSON."""
    given = {name: value for name, value in options.items() if name not in INCIDENTAL}
    return {**given, "top": "all" if given["top"] is None else given["top"]}


def _write(ranking: Ranking, run: RunFolder, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the files. The genotype comes last, so that it is there only with all others."""
    write_json(run.path / RANKING, {"settings": dict(settings), **ranking.content()})
    draw_ranking(ranking, run.path)
    for budgets in ranking.budgets:
        write_json(folder / best_file(budgets), dict(ranking.within(budgets).rows[0].genotype))
    add_genotype(run.path, "ranked", ranking.best.genotype)


def best_file(budgets: Mapping[str, float]) -> str:
    """The name of the file that has the best genotype within a budget alone.

    Example:
        >>> best_file({"macs": 2e7, "params": 4e5})
        'best-macs-20000000-params-400000.json'
    """
    return f"best-{'-'.join(f'{kind}-{value:.12g}' for kind, value in budgets.items())}.json"


def _show(ranking: Ranking, options: Mapping[str, Any], run: RunFolder, named: Mapping[str, Sequence[int]]) -> None:
    """Print what the costs allow, the table, the best of each budget, how far to trust them, and what to do next.

    Args:
        ranking: The ranking.
        options: The options of the command.
        run: The run.
        named: What the search itself has found, by kind, as the choices whose costs are those of the networks.
    """
    if ranking.tables:
        console = Console()
        console = console if console.is_terminal else Console(width=WIDTH)
        for budgets in ranking.budgets or ({},):
            console.print(plan_table(ranking.plan(budgets), named))
            print()
    best = {ranking.within(each).rows[0].rank for each in ranking.budgets}
    print(writable(columns(ranking.table(options["show"], also=best))))
    print()
    for budgets in ranking.budgets:
        row = ranking.within(budgets).rows[0]
        words = ", ".join(f"{kind} {value:.6g}" for kind, value in budgets.items())
        print(f"best within {words}: rank {row.rank}, in {os.path.relpath(run.path / FOLDER / best_file(budgets))}")
    print("The score is log p and the loss in one number; the highest is the best.")
    for line in ranking.trust.lines():
        print(line)
    for line in ranking.trust.warnings():
        print(f"warning: {line}")
    print(f"files: {os.path.relpath(run.path / RANKING)}, ranking.png, ranking.svg")
    print(f"next: {training_line(run, 'ranked')}")
