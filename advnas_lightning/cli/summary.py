"""The results of a run: the content of its summary file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from advnas_lightning.callbacks.summary import SummaryCallback
from advnas_lightning.cost.meters import count_parameters
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.runs import RunFolder


def summarize(
    config: DictConfig,
    strategy: SearchStrategy,
    trainer: Trainer,
    data: LightningDataModule,
    seconds: float,
    callbacks: Sequence[SummaryCallback],
) -> dict[str, Any]:
    """Evaluate what a run has found.

    Returns:
        The content of ``summary.json``, which is one flat object.
    """
    metrics = evaluate(strategy, trainer, data)
    choices = HydraConfig.get().runtime.choices
    summary = {
        "strategy": choices["strategy"],
        "task": choices["task"],
        "seed": config.seed,
        "preset": config.preset,
        "selected": strategy.selected,
        "epochs": trainer.current_epoch,
        "weight_steps": strategy.weight_steps,
        "architecture_steps": strategy.architecture_steps,
        "seconds": round(seconds, 3),
        "entropy": float(strategy.entropy),
        "loss": metrics.get("selected/test/loss"),
        **metrics,
        "params_millions": count_parameters(strategy.derive()) / 1e6,
    }
    if strategy.cost is not None and strategy.cost.is_measured:
        selected = strategy.one_hot(strategy.selected_choice()).gates
        costs = {"cost": selected, "expected_cost": strategy.expected_gates}
        summary |= {name: float(strategy.cost.expected(gates)) for name, gates in costs.items()}
        summary["cost_penalty"] = float(strategy.cost.penalty)
    finder = found_by(config.strategy.get("genotype"))
    if finder is not None:
        summary["found_by"] = finder
    for callback in callbacks:
        summary |= callback.summary(strategy)
    return summary


def evaluate(strategy: SearchStrategy, trainer: Trainer, data: LightningDataModule) -> dict[str, float]:
    """Validate and test what a run has found, as far as there are steps and data for it, and log the results.

    Returns:
        The metrics of the arg max by name, such as ``test/loss``, as in every row of ``metrics.csv``; and those of the
        selected architecture with ``selected/`` before the name. The two are equal if the arg max is selected.
    """
    select, loggers = strategy.select, trainer.loggers
    try:
        strategy.select = "argmax"
        found = _evaluate(strategy, trainer, data)
        strategy.select = select
        selected = found
        if strategy.selected_choice() != strategy.argmax_choice():
            trainer.loggers = []  # which would log these metrics under the names of the arg max's
            selected = _evaluate(strategy, trainer, data)
    finally:
        strategy.select, trainer.loggers = select, loggers
    named = {f"selected/{name}": value for name, value in selected.items()}
    for logger in loggers if named else []:
        logger.log_metrics({**named, "epoch": trainer.current_epoch}, strategy.clock.batches)
    return {**found, **named}


def _evaluate(strategy: SearchStrategy, trainer: Trainer, data: LightningDataModule) -> dict[str, float]:
    metrics: dict[str, float] = {}
    stages = ("validation_step", "val_dataloader", trainer.validate), ("test_step", "test_dataloader", trainer.test)
    for step, loader, run in stages:
        if is_overridden(step, strategy) and is_overridden(loader, data):  # a module or data of a user may have none
            for result in run(strategy, datamodule=data, verbose=False):
                metrics |= result
    return metrics


def found_by(genotype: Any) -> str | None:
    """The strategy of the search that has found an architecture, if the search's folder says it.

    Args:
        genotype: The folder of a search, or its ``genotype.json``; of anything else nobody knows who has found it.

    Example:
        >>> found_by("no_such_folder/genotype.json") is None
        True
    """
    try:
        path = Path(genotype)
        found = RunFolder(path if path.is_dir() else path.parent).choices.get("strategy")
    except (OSError, TypeError, ValueError):  # it is no path
        return None
    return None if found is None else str(found)
