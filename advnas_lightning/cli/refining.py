"""Refines what a run has found, and writes and prints what came of it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import LightningDataModule

from advnas_lightning.cli.known import keep_found, known_costs, known_of_run, training_line
from advnas_lightning.cli.loading import build_saved_data, saved_state
from advnas_lightning.cli.process import keep_memory, quiet
from advnas_lightning.cli.refine_jobs import end_with_first, is_further, sharing
from advnas_lightning.cli.refine_settings import Plan, read_plan
from advnas_lightning.cli.run import build_strategy, data_arguments
from advnas_lightning.cost.plan import CostPlan
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.folder_lock import turn_in
from advnas_lightning.ranking.of_search import distribution_of
from advnas_lightning.ranking.result import columns
from advnas_lightning.reading import Unreadable, read_json
from advnas_lightning.refine.book import TrialBook
from advnas_lightning.refine.climb import Budget, End, Train, climb
from advnas_lightning.refine.figure import draw_ladder
from advnas_lightning.refine.finalists import finalists_in, finalists_of
from advnas_lightning.refine.going_on import keep_settings
from advnas_lightning.refine.ladder import WIDTHS, Ladder, Trial
from advnas_lightning.refine.oracle import table_oracle
from advnas_lightning.refine.proposals import Scope
from advnas_lightning.refine.table import ladder_table
from advnas_lightning.refine.ties import decide
from advnas_lightning.refine.training import RungTraining
from advnas_lightning.runs import GENOTYPE, RANKING, REFINEMENT, RunFolder, sha256, write_json
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.genotype_file import add_genotype
from advnas_lightning.strategies import Fixed
from advnas_lightning.tasks.cifar10.nasbench201 import open_table
from advnas_lightning.texts import counted, encodable, writable

TOP = 5  # finalists of a ranking
PROBABLE = 200  # architectures of which those that are more probable than the winner are tried at last
ENDS = {
    "optimum": "no neighbour of the best architectures and no exchange is better",
    "finalists": "all finalists have been trained",
    "budget": "the budget is spent; the same line with more of it goes on",
}
ENDED = {"pruned": ", ended early", "failed": ", failed"}


def refine_run(options: Mapping[str, Any], arguments: Sequence[str] = (), *, shows: bool = True) -> None:
    """Refine as the options of ``advnas refine`` say.

    Args:
        options: The value of each option, as :func:`~advnas_lightning.cli.refine.read_settings` gives them.
        arguments: The command line, for further processes.
        shows: Whether the trainings and the table are shown.

    Raises:
        ValueError: The run cannot be loaded, or what it has found cannot be refined so.
    """
    plan = read_plan(options)
    threads = _threads(options, plan)
    if threads is not None:
        torch.set_num_threads(threads)
    keep_memory()
    quiet()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if is_further():
        end_with_first()
    written = plan.checkpoint.stat().st_mtime_ns
    data = build_saved_data(plan.training, plan.run)
    search = build_strategy(plan.config, data)
    search.load_state_dict(saved_state(plan.checkpoint))
    candidates = dict(zip(search.space.edges, map(list, search.space.candidates), strict=True))
    costs = _costs(plan, search, options)

    def allows(genotype: Genotype) -> bool:
        return costs is None or costs.allows(search.space.nesting.canonical(search.space.choice(genotype)))

    if options["finalists"] is not None:
        finalists = {genotype: by for genotype, by in finalists_in(options["finalists"]).items() if allows(genotype)}
    else:
        ranked = _ranked(plan.run, plan.checkpoint, options["top"], allows)
        finalists = finalists_of(search, ranked=ranked, draws=options["draws"], seed=options["seed"], plan=costs)
    if costs is not None and not finalists:
        raise ValueError("no finalist is within cost_budget=")
    budget = Budget(options["minutes"], options["epochs"], options["jobs"])
    budget.check(plan.rungs)
    train = _training(plan, search, data, next(iter(finalists)))

    def prior(genotype: Genotype) -> float:
        return search.log_prob([search.space.choice(genotype)])[0]

    distribution = distribution_of(search)
    probable = map(search.space.genotype, distribution.probable(PROBABLE, costs, plan.seed))
    scope = Scope(
        finalists,
        candidates,
        around=WIDTHS if options["neighbours"] else (),
        allows=allows,
        repeats=0 if plan.oracle else options["repeats"],  # a table has no seeds
        probable=list(probable) if options["neighbours"] else [],
        prior=prior,
        canonical=distribution.canonical_genotype,
    )
    with turn_in(plan.folder):
        keep_settings(plan.folder, {**plan.decided, "candidates": candidates})
    book = TrialBook(plan.folder, candidates, plan.rungs, maximize=plan.maximize, metric=plan.metric)
    task = partial(climb, book, scope, train, budget=budget)
    if is_further():
        task(on_change=_Progress())
        return
    with sharing(arguments, options["jobs"], threads or 1):
        task(on_change=_Progress() if shows else lambda ladder: None)
    ladder, end = task()  # with what the other processes have found
    if options["output"] is None:
        keep_found(search, plan.run)
    _finish(ladder, end, plan, options, written, prior, shows=shows)


def _ranked(run: RunFolder, checkpoint: Path, top: int | None, allows: Callable[[Genotype], bool]) -> list[Genotype]:
    """The architectures on top of the run's ranking, if there is one, of those that are allowed.

    Raises:
        ValueError: There is none, although some of its architectures are asked for; it cannot be read; or it is of
            another state of the search.
    """
    path = run.path / RANKING
    if not path.exists():
        if top:
            raise ValueError(f"top={top}: there is no {path}: run advnas rank first, or leave top= out")
        return []
    if top == 0:
        return []
    try:
        content = read_json(path)
        rows, ranked = content["architectures"], content["settings"]["checkpoint_sha256"]
        if ranked != sha256(checkpoint):
            raise ValueError(f"{path} is of another state of the search: run advnas rank again, or give top=0")
        found = [genotype for row in rows if allows(genotype := Genotype(row["genotype"]))]
        return found[: TOP if top is None else top]
    except (KeyError, TypeError, Unreadable) as error:
        raise ValueError(f"{path} is no ranking ({error}): run advnas rank again, or give top=0") from None


def _costs(plan: Plan, search: SearchStrategy, options: Mapping[str, Any]) -> CostPlan | None:
    """The costs and the budgets, if there are any.

    Raises:
        ValueError: A cost is not known, or no architecture is within the budgets.
    """
    if not plan.budgets:
        return None
    tables = known_costs(search, plan.run, options["costs"])
    for kind in plan.budgets:
        if kind not in tables:
            where = os.path.relpath(plan.run.costs)
            raise ValueError(
                f"cost_budget has {kind}, whose costs are not in {where}: advnas cost measure RUN kinds={kind}"
            )
    costs = CostPlan(tables, plan.budgets)
    costs.refuse()
    return costs


def _training(plan: Plan, search: SearchStrategy, data: LightningDataModule, first: Genotype) -> Train:
    """What trains an architecture, checked on the first one; or what looks it up."""
    if plan.oracle:
        source = plan.config.task.get("table")
        if source is None:
            raise ValueError("oracle=table needs the run's task.table: this run has none")
        return table_oracle(open_table(source), str(source))
    config, arguments = plan.training, data_arguments(data)

    def make(genotype: Genotype) -> Fixed:
        return Fixed(
            search.model if plan.inherited else instantiate(config.task.model, **arguments["model_arguments"]),
            genotype=genotype,
            objective=instantiate(config.task.get("objective"), **arguments["objective_arguments"]),
            seed=config.seed,
            **instantiate(config.task.optimization, _convert_="all"),
        )

    train = RungTraining(
        make,
        epochs=plan.rungs[-1],
        metric=plan.metric,
        anneal=plan.rungs if plan.anneal else (),
        datamodule=data,
        seed=plan.seed,
        trainer=plan.trainer,
    )
    train.check(first)
    return train


def _threads(options: Mapping[str, Any], plan: Plan) -> int | None:
    """The number of threads of this process; ``None`` for PyTorch's own choice."""
    if options["threads"] is not None:
        return int(options["threads"])
    if options["jobs"] > 1:
        return max((os.cpu_count() or 1) // int(options["jobs"]), 1)
    return None if plan.config.threads is None else int(plan.config.threads)


class _Progress:
    """Shows on the standard error what each training reaches, in a line of its own."""

    def __init__(self) -> None:
        self._shown: dict[int, tuple[int, str]] | None = None  # the epochs and the words of each training

    def __call__(self, ladder: Ladder) -> None:
        """Show the trainings that have changed, but not those that had ended before this process began."""
        now = {trial.number: (trial.last, ENDED.get(trial.state, "")) for trial in ladder.trials}
        if self._shown is None:
            self._shown = {trial.number: now[trial.number] for trial in ladder.trials if trial.state != "unfinished"}
        for trial in ladder.trials:
            if self._shown.get(trial.number) != now[trial.number]:
                print(encodable(_progress(trial, ladder), sys.stderr), file=sys.stderr, flush=True)
        self._shown = now


def _progress(trial: Trial, ladder: Ladder) -> str:
    reached = f"{trial.scores[trial.last]:.4g} after {trial.last} of {ladder.rungs[-1]}" if trial.last else "begins"
    best = "" if ladder.winner is None else f"; best {ladder.winner.scores[ladder.rungs[-1]]:.4g}"
    spent = f"{counted(ladder.epochs, 'epoch')}, {ladder.seconds / 60:.1f} minutes"
    return (
        f"… training {trial.number} ({trial.proposed_by}): {reached}{ENDED.get(trial.state, '')}{best}; in all {spent}"
    )


def _finish(
    ladder: Ladder,
    end: End,
    plan: Plan,
    options: Mapping[str, Any],
    written: int,
    prior: Callable[[Genotype], float],
    *,
    shows: bool,
) -> None:
    """Write the files, the genotype last, and print the table and what to do next."""
    decision = decide(ladder, prior)
    if decision is None:
        failed = sum(trial.state == "failed" for trial in ladder.trials)
        why = f"{failed} trainings failed" if failed else "the budget was spent before one was complete"
        raise ValueError(f"there is no winner, because {why}: go on with a larger budget, or see {plan.folder}")
    if plan.checkpoint.stat().st_mtime_ns != written:
        raise ValueError(f"{plan.run.path} has gone on meanwhile, and these finalists are old: refine anew")
    place, best = plan.run.path if options["output"] is None else plan.folder, decision.winner
    known, notes = known_of_run(plan.config.copy(), plan.run, trust=plan.trust)
    for note in notes:
        print(encodable(f"note: {note}", sys.stderr), file=sys.stderr)
    content = ladder.content()
    for row, trial in zip(content["trials"], ladder.trials, strict=True):
        row["known"] = dict(known(trial.genotype))
    write_json(place / REFINEMENT, {"end": end, **plan.decided, **content, **decision.content()})
    draw_ladder(ladder, place)
    if options["output"] is None:
        add_genotype(plan.run.path, "refined", best.genotype)
        following = training_line(plan.run, "refined")
    else:
        write_json(place / GENOTYPE, dict(best.genotype))
        following = training_line(plan.run, genotype=place / GENOTYPE)
    if not shows:
        return
    print(writable(columns(ladder_table(ladder, most=options["show"], winner=best, known=known))))
    print()
    spent = f"{counted(len(ladder.trials), 'training')}, {counted(ladder.epochs, 'epoch')}"
    print(f"{spent}, {ladder.seconds / 60:.1f} minutes: {ENDS[end]}")
    if decision.deviation is not None:
        tied = f"{len(decision.tied)} of {len(decision.means)}"
        print(
            f"with other seeds the score of an architecture deviates by {decision.deviation:.2g}; {tied} are within one"
            " standard error of the best mean, and the one of them that the search finds most probable is taken"
        )
    print(f"files: {os.path.relpath(place / REFINEMENT)}, refine.png, refine.svg")
    print(f"next: {following}")
