"""The results of a run: the content of its summary file, and a table in the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import LightningDataModule, Trainer
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from advnas_lightning.callbacks.summary import SummaryCallback
from advnas_lightning.cost.meters import count_parameters
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.texts import rich


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
    for callback in callbacks:
        summary |= callback.summary(strategy)
    return summary


def evaluate(strategy: SearchStrategy, trainer: Trainer, data: LightningDataModule) -> dict[str, float]:
    """Validate and test what a run has found, and log the results.

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
    for run in (trainer.validate, trainer.test):
        for result in run(strategy, datamodule=data, verbose=False):
            metrics |= result
    return metrics


def show(summary: dict[str, Any], strategy: SearchStrategy, callbacks: Sequence[SummaryCallback], folder: Path) -> None:
    """Print the found architecture as a small table, and below it the results of the run."""
    console = Console()
    genotype = strategy.genotype(strategy.selected)
    columns = {"edge": list(genotype), "found": list(genotype.values())}
    lines: dict[str, str] = {}
    for callback in callbacks:
        columns |= callback.columns(strategy)
        lines |= callback.lines(strategy)
    title = f"{summary['strategy']} on {summary['task']}: {summary['selected']} architecture"
    table = Table(title=rich(title))
    for column in columns:
        table.add_column(rich(column))
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(rich, row))
    console.print(table)
    lines |= {
        name.removeprefix("selected/"): f"{value:.6g}"
        for name, value in summary.items()
        if name.startswith("selected/")
    }
    if strategy.cost is not None and "cost" in summary:
        lines["cost"] = f"{summary['cost']:.6g} {strategy.cost.unit}, at a penalty of {summary['cost_penalty']:.4g}"
        lines["expected cost"] = f"{summary['expected_cost']:.6g}"
        if strategy.cost.budget is not None:
            lines["expected cost"] += f", of a budget of {strategy.cost.budget:.6g}"
    elif strategy.cost is not None:
        lines["cost"] = "not known, because no architecture step was taken"
    lines["entropy"] = f"{summary['entropy']:.4f}"
    lines["parameters"] = f"{summary['params_millions']:.6g} M"
    lines["time"] = f"{summary['seconds']:.1f} s"
    lines["files"] = os.path.relpath(folder)
    width = max(map(len, lines))
    for name, value in lines.items():
        console.print(rich(f"{name:<{width}}  {value}"), highlight=False, soft_wrap=True)
