"""Refinement in Python, for networks and modules of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from advnas_lightning.folder_lock import turn_in
from advnas_lightning.refine.book import TrialBook
from advnas_lightning.refine.climb import Budget, climb
from advnas_lightning.refine.finalists import check_finalists
from advnas_lightning.refine.going_on import keep_settings
from advnas_lightning.refine.ladder import WIDTHS, Ladder
from advnas_lightning.refine.packages import missing_package
from advnas_lightning.refine.proposals import Scope
from advnas_lightning.refine.rungs import check_rungs
from advnas_lightning.refine.training import RungTraining
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.strategies import Fixed
from advnas_lightning.validate import check_int

__all__ = ["refine"]


def refine(
    make_model: Callable[[], nn.Module],
    finalists: Mapping[Genotype, str] | Iterable[Genotype],
    *,
    folder: str | Path,
    metric: str = "val/loss",
    maximize: bool = False,
    rungs: Sequence[int] = (1, 2, 4),
    anneal: bool = False,
    neighbours: bool = True,
    allows: Callable[[Genotype], bool] = lambda genotype: True,
    repeats: int = 0,
    minutes: float | None = None,
    epochs: int | None = None,
    datamodule: Any = None,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    trainer: Mapping[str, Any] | None = None,
    seed: int = 0,
    on_change: Callable[[Ladder], None] = lambda ladder: None,
    **training: Any,
) -> Ladder:
    """Train the finalists of a search by themselves, and then neighbours of the first and the best one.

    The neighbours of the first finalist are trained first, and then those of the best one until none is better. Then
    two edges of the best one exchange their candidates, and the neighbours of the five best ones are trained.

    Each architecture is trained as :class:`~advnas_lightning.Fixed` trains it, with fresh weights, and is scored on
    validation data after each rung. Successive halving ends trainings early that are worse than others were at the same
    rung. Test data are never asked for.

    Architectures that are one network, as they differ in layers alone that a depth leaves out, are trained once. A
    neighbour with more layers has the choices of the first finalist in them.

    The folder keeps all scores in an Optuna study. The same call goes on where a killed one was, and what is trained is
    not trained again. Calls in several processes with the same folder share the work.

    Args:
        make_model: Makes the searchable network, or the LightningModule with one, with fresh weights. It may be smaller
            than the one that will be used in the end, but should keep its depth.
        finalists: The architectures, in the order in which they are trained; or who proposes each of them, as
            :func:`~advnas_lightning.refine.finalists_of` gives it.
        folder: The folder of this refinement.
        metric: The name of the score among the validation metrics.
        maximize: Whether the highest score is the best one.
        rungs: The numbers of epochs after which a training is scored, each the same factor times the one before.
        anneal: Whether the learning rates fall to 0 by a cosine up to each rung, whatever the module's schedules say.
        neighbours: Whether architectures that differ in one edge from the first finalist, and then from the best one,
            are trained too, exchanges between two edges of the best one, and the neighbours of the five best ones.
        allows: Whether an architecture may be trained, such as whether it is within a budget. Finalists always may.
        repeats: How often each of the three best architectures is trained again, with other seeds. Then
            :func:`~advnas_lightning.refine.decide` chooses between those that are as good as tied.
        minutes: The largest number of minutes of training.
        epochs: The largest number of epochs of all trainings together.
        datamodule: The data module, as in ``Trainer.fit``. Its data are those of a search.
        train_dataloaders: The training loaders, as in ``Trainer.fit``.
        val_dataloaders: The validation loaders, as in ``Trainer.fit``.
        trainer: Arguments of the Trainer, such as ``{"accelerator": "gpu"}``. Each training gets copies of callbacks.
        seed: The seed of the initial weights and of the data's order, which is the same for all architectures.
        on_change: Is called with the ladder when a training begins or has a new score.
        training: Arguments of :class:`~advnas_lightning.Fixed`, such as ``objective`` and ``weight_optimizer``. A
            LightningModule has what it needs for itself.

    Returns:
        All trainings, of which ``winner`` is the best first one, or ``None`` where the budget ended before one was
        complete.

    Raises:
        ValueError: Optuna is missing, an argument is invalid, a training would run in several processes, or the folder
            was begun with other settings.
    """
    missing = missing_package()
    if missing is not None:
        raise ValueError(missing)
    steps = check_rungs(rungs)
    names = check_finalists(finalists)
    given = finalists if isinstance(finalists, Mapping) else dict.fromkeys(names, "finalist")
    check_int("repeats", repeats, least=0)
    space = SearchSpace(make_model())
    candidates = dict(zip(space.edges, map(list, space.candidates), strict=True))
    train = RungTraining(
        lambda genotype: Fixed(make_model(), genotype=genotype, **training),
        epochs=steps[-1],
        metric=metric,
        anneal=steps if anneal else (),
        datamodule=datamodule,
        train_dataloaders=train_dataloaders,
        val_dataloaders=val_dataloaders,
        trainer=trainer,
        seed=seed,
    )
    budget = Budget(minutes, epochs)
    budget.check(steps)

    def canonical(genotype: Genotype) -> Genotype:
        like = space.choice(next(iter(given)))
        return space.genotype(space.nesting.canonical(space.choice(genotype), like))

    around = WIDTHS if neighbours else ()
    scope = Scope(given, candidates, around=around, allows=allows, repeats=repeats, canonical=canonical)
    train.check(next(iter(given)))  # before anything is written
    with turn_in(Path(folder)):
        decided = {"metric": metric, "maximize": maximize, "rungs": list(steps), "anneal": anneal, "seed": seed}
        keep_settings(Path(folder), {**decided, "candidates": candidates})
    book = TrialBook(Path(folder), candidates, steps, maximize=maximize, metric=metric)
    ladder, _ = climb(book, scope, train, budget=budget, on_change=on_change)
    return ladder
