"""Ranks the architectures of a search that has been trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from advnas_lightning.cost.measuring import measure_costs
from advnas_lightning.cost.meters import Meter
from advnas_lightning.cost.plan import Choice
from advnas_lightning.cost.table import CostTable
from advnas_lightning.engine.lightning_private import attached_trainer
from advnas_lightning.engine.trace import Trace
from advnas_lightning.modes import modes_kept
from advnas_lightning.ranking.batches import with_validation_batches
from advnas_lightning.ranking.evolution import Evolution
from advnas_lightning.ranking.procedure import Distribution, Settings, rank_architectures
from advnas_lightning.ranking.result import Ranking
from advnas_lightning.ranking.scores_file import ScoresFile, content_key
from advnas_lightning.ranking.scoring import Score, Scorer
from advnas_lightning.ranking.workers import Workers
from advnas_lightning.space.elastic.ordering import widest_first
from advnas_lightning.space.elastic.scaling import uniformly_scaled
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_int

__all__ = ["BATCHES", "rank"]

BATCHES = 16
Budgets = Mapping[str, float] | Sequence[Mapping[str, float]]


def rank(
    search: Any,
    dataloaders: Any = None,
    *,
    datamodule: Any = None,
    batches: int = BATCHES,
    top: int | None = 100,
    sample: int = 50,
    evolution: Evolution | None = None,
    seed: int = 0,
    costs: Sequence[str | Meter] = (),
    tables: Mapping[str, CostTable] | None = None,
    budgets: Budgets = (),
    training_batches: Any = None,
    jobs: int = 1,
    scores: str | Path | None = None,
    known: Callable[[Genotype], Mapping[str, float]] = lambda genotype: {},
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    precision: Any = None,
) -> Ranking:
    """Rank architectures of a search by their losses with the shared weights and by their probabilities.

    Of elastic sizes, the uniformly scaled architectures are ranked, too. Each network is evaluated once, on the same
    validation batches, in eval mode or in the modes that a module's own ``on_validation_model_eval`` sets. Where the
    network keeps running statistics, as BatchNorm does, they are those of this architecture on training batches. The
    search stays as it is, and so does a loader's own generator.

    The loss is the objective's, or what ``training_step`` of an adapted module returns in eval mode, where dropout is
    off. The metrics are the objective's. What a module's own ``validation_step`` logs is not read.

    Args:
        search: The search, after its fit.
        dataloaders: The validation loader, as in ``Trainer.validate``; or a list of batches; or the loaders of a
            search, of which that of its architecture steps is taken.
        datamodule: The data module, as in ``Trainer.validate``.
        batches: The number of batches at most; at least 2, since the losses on two halves of them are compared.
        top: The number of the most probable architectures; ``None`` for all. ENAS draws its candidates instead. Where
            all architectures are equally probable, they are drawn.
        sample: The number of architectures that are drawn with equal chances, to judge how far to trust the losses.
        evolution: How new architectures are made of the best ones, if they are to be.
        seed: The seed of these draws.
        costs: The kinds of costs to measure, on the first batch.
        tables: Costs that are known, by name. What the cost of the search has measured is known too.
        budgets: The largest costs that are allowed, by the name of the cost; or several such budgets.
        training_batches: Training batches for the running statistics; by default those that the search has kept.
        jobs: The number of processes. Each of several uses one thread; one process gives the same digits with
            ``torch.set_num_threads(1)``.
        scores: A file to which each score is appended, so that a ranking that was interrupted goes on where it was.
        known: Gives what is known of an architecture from elsewhere, such as a benchmark.
        on_progress: Is called with the number of scored architectures and of all that are to be scored as far as known.
        precision: The precision of the Trainer that validates, as in ``Trainer``; by default that of the fit.

    Raises:
        ValueError: An argument is invalid, there is no choice or no batch, or no architecture is within a budget.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> from advnas_lightning.objectives import Regression
        >>> edge = MixedOp("edge", {"tanh": nn.Tanh(), "skip": nn.Identity()})
        >>> batches = [(torch.full((4, 2), 2.0), torch.full((4, 2), 2.0))] * 2
        >>> print(rank(RandomSearch(edge, objective=Regression()), batches))
        rank   score   loss  log p  architecture
           1   1.000      0  -0.69  argmax
           2  -1.000  1.073  -0.69  edge: tanh
    """
    if not mixed_ops(search.model):
        raise ValueError(f"{type(search).__name__} has one architecture, so there is nothing to rank: give a search")
    if search.ranks.count > 1:
        raise ValueError("architectures are ranked in one process, and here are several ranks: use jobs=")
    check_int("batches", batches, least=2)
    trainer = attached_trainer(search)
    if precision is None and trainer is not None:
        precision = trainer.precision  # the weights may be of its type
    if training_batches is not None and not isinstance(training_batches, Iterable):
        raise ValueError(f"training_batches={training_batches!r} must be a loader, a list or the loaders of a search")
    if not isinstance(tables or {}, Mapping):
        raise ValueError(f"tables={tables!r} must have each table by its name, as in tables={{'latency': table}}")
    settings = Settings(top, sample, evolution, seed)
    each = _listed(budgets)

    def use(found: list[Any]) -> Ranking:
        calibrating = _training_batches(search, training_batches)
        measured = measure_costs(costs, search.model, search.evaluator, found[0]) if costs else {}
        every = {**_own_cost(search), **(tables or {}), **measured}
        key = content_key(
            search.space.edges, search.space.candidates, search.model.state_dict(), found, calibrating, str(precision)
        )
        canonical = search.space.nesting.canonical  # whatever the search finds probable
        file = ScoresFile(None if scores is None else Path(scores), key, search.space.candidates, canonical)
        scorer = Scorer(found, search.outcome, search.objective, _Readiness(search, calibrating))
        with Workers(scorer, jobs) as workers:
            return rank_architectures(
                distribution_of(search),
                lambda choices: _scores([*map(canonical, choices)], file, workers, on_progress),
                settings,
                tables=every,
                budgets=each,
                named=_found(search),
                known=known,
            )

    return with_validation_batches(
        search, use, dataloaders, datamodule=datamodule, batches=batches, precision=precision
    )


class _Readiness:
    """Makes the network ready for the evaluation of an architecture, and leaves it as it was.

    Args:
        search: The search.
        training_batches: What running statistics are computed on; none to leave them as they are.
    """

    def __init__(self, search: Any, training_batches: Sequence[Any]) -> None:
        self._search, self._batches = search, training_batches
        self._objective = Trace(search.objective)

    @contextmanager
    def __call__(self, choice: Choice) -> Iterator[None]:
        architecture = self._search.one_hot(choice)
        with ExitStack() as stack:
            stack.enter_context(modes_kept(self._search))
            stack.enter_context(self._search.evaluator.no_trace(architecture))
            stack.enter_context(self._objective.removed())
            stack.enter_context(self._bound(architecture))
            stack.enter_context(self._precision())
            yield
            self._search.space.refuse_left_out(choice)

    def _bound(self, architecture: Architecture) -> AbstractContextManager[None]:
        if not self._batches:
            bound: AbstractContextManager[None] = self._search.space.bind(architecture)
        else:
            bound = self._search.calibrated(architecture, self._batches)
        return bound

    def _precision(self) -> AbstractContextManager[Any]:
        trainer = attached_trainer(self._search)
        return nullcontext() if trainer is None else trainer.precision_plugin.val_step_context()


def _training_batches(search: Any, given: Any) -> list[Any]:
    """The batches for running statistics; none where no layer has any, or where they are to stay as they are."""
    calibration = getattr(search, "calibration", None)
    if calibration is None or not calibration.is_on:
        return []
    if given is not None:
        return list(calibration.take(given))
    batches: list[Any] = calibration.kept()
    if not batches:
        rank_zero_warn(
            "the architectures are ranked with the running statistics of all of them together, because there are no"
            " training batches to compute those of each: give training_batches=loader"
        )
    return batches


def _listed(budgets: Any) -> list[Mapping[str, float]]:
    each = [budgets] * bool(budgets) if isinstance(budgets, Mapping) else budgets
    if not isinstance(each, Sequence) or not all(isinstance(one, Mapping) for one in each):
        raise ValueError(f"budgets={budgets!r} must say which cost is bounded, as in budgets={{'params': 1e6}}")
    return list(each)


def _own_cost(search: Any) -> dict[str, CostTable]:
    if search.cost is None or not search.cost.is_measured:
        return {}
    table: CostTable = search.cost.result()
    return {table.kind: table}


def distribution_of(search: Any) -> Distribution:
    """The architectures of a search, and how probable they are.

    Args:
        search: The search.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> search = RandomSearch(MixedOp("edge", {"skip": nn.Identity(), "relu": nn.ReLU()}))
        >>> sorted(distribution_of(search).probable(2, None, 0))
        [(0,), (1,)]
    """
    space, mode = search.space, tuple(search.most_probable_choice())
    rows = _rows(search) if search.has_independent_edges else None
    orders = {space.edges.index(edge): order for edge, order in widest_first(search.model).items()}
    scaled = uniformly_scaled(orders, space.nesting.deciders, mode)
    return Distribution(space, search.log_prob, search.draw_choices, rows, mode, scaled)


def _rows(search: Any) -> list[list[float]]:
    rows: list[list[float]] = search.log_probs.detach().double().tolist()
    return [row[: len(names)] for row, names in zip(rows, search.space.candidates, strict=True)]


def _found(search: Any) -> dict[str, Choice]:
    """What the search itself has found, by kind."""
    found = {"argmax": tuple(search.argmax_choice())}
    if search.best.found is not None:
        found["process_best"] = tuple(search.best.found)
    return found


def _scores(
    choices: Sequence[Choice],
    file: ScoresFile,
    workers: Workers[Choice, Score],
    on_progress: Callable[[int, int], None],
) -> list[Score]:
    """The scores of choices: those that are known, and the others as they become known."""
    missing = [choice for choice in dict.fromkeys(choices) if choice not in file.known]
    done = len(choices) - len(missing)
    on_progress(done, len(choices))
    for choice, score in zip(missing, workers.map(missing), strict=True):
        file.add(choice, score)
        done += 1
        on_progress(done, len(choices))
    return [file.known[choice] for choice in choices]
