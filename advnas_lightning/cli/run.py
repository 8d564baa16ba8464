"""A run: it is built from a configuration, it fits, and it writes its results into its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf

from advnas_lightning.callbacks.batch_file import BatchFile
from advnas_lightning.callbacks.checkpoint import LastCheckpoint
from advnas_lightning.callbacks.pictures import ProbabilityPictures
from advnas_lightning.callbacks.progress import progress_display
from advnas_lightning.callbacks.run_log import run_loggers
from advnas_lightning.callbacks.summary import GenotypeFile, Stopwatch, SummaryCallback
from advnas_lightning.cli.checks import function_at
from advnas_lightning.cli.ending import draw, show, strategy_title
from advnas_lightning.cli.going_on import find_checkpoint, settings_to_keep
from advnas_lightning.cli.process import end_with_first_rank, keep_memory, quiet
from advnas_lightning.cli.summary import summarize
from advnas_lightning.cost.budget import ArchitectureCost
from advnas_lightning.cost.files import keep_measured
from advnas_lightning.cost.meters import UNITS
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.runs import RunFolder, flatten, write_json
from advnas_lightning.validate import check_workers


def run(config: DictConfig, folder: Path, line: str) -> dict[str, Any]:
    """Search, or retrain, as a configuration says, and write the files of the run.

    Args:
        config: The composed configuration, see ``conf/config.yaml``.
        folder: The folder for the run's files.
        line: What to type to go on, should the run be interrupted.

    Returns:
        The content of ``summary.json``.
    """
    if config.threads is not None:
        torch.set_num_threads(check_workers("threads", config.threads))
    quiet(says_where_it_is=speaks())
    keep_memory()
    end_with_first_rank()
    seed_everything(config.seed, verbose=False)
    files = RunFolder(folder)
    kept = settings_to_keep(config)
    saving = LastCheckpoint(files.checkpoints, **config.checkpoint, settings=kept, go_on=line)
    checkpoint = find_checkpoint(config.ckpt_path, saving)
    data = build_data(config)
    strategy = build_strategy(config, data)
    watch = Stopwatch()
    callbacks = [watch, saving, GenotypeFile(files.genotype), BatchFile(files.batch, data_arguments(data))]
    callbacks += [instantiate(callback) for callback in (config.task.get("callbacks") or {}).values()]
    settings = OmegaConf.to_container(config.trainer, resolve=True)
    assert isinstance(settings, dict)
    callbacks.append(ProbabilityPictures())
    own = instantiate(config.trainer.callbacks) or []
    for callback in own:
        if not isinstance(callback, Callback):
            raise ValueError(f"trainer.callbacks has {callback!r}, which is no callback: give {{_target_: CLASS, …}}")
    if not any(isinstance(callback, ProgressBar) for callback in own):  # which takes the place of ours
        if not speaks():
            settings["enable_progress_bar"] = False
        if settings["enable_progress_bar"] is not False:
            callbacks.append(progress_display(parallel_job(folder), run_title()))
    callbacks += own
    with run_loggers(instantiate(config.logger), folder) as loggers:
        trainer: Trainer = instantiate({**settings, "callbacks": None}, callbacks=callbacks, logger=loggers)
        for each in loggers:
            each.log_hyperparams(hyperparameters(config))
        trainer.fit(strategy, datamodule=data, ckpt_path=checkpoint)
        summary_callbacks = [callback for callback in callbacks if isinstance(callback, SummaryCallback)]
        summary = summarize(config, strategy, trainer, data, watch.seconds, summary_callbacks)
        if trainer.is_global_zero:
            if strategy.cost is not None and strategy.cost.is_measured:
                keep_measured(files.costs, strategy.cost.result())
            draw(summary, strategy, summary_callbacks, files.picture)
            write_json(files.summary, summary)  # this file comes last: a run that has it is finished
            if speaks():
                show(summary, strategy, summary_callbacks, folder)
    return summary


def speaks() -> bool:
    """Whether a run has an output of its own: not a job whose sweep shows it. A job of submitit writes to a file."""
    settings = HydraConfig.get()
    return settings.mode != RunMode.MULTIRUN or "submitit" in settings.launcher._target_


def run_title() -> str:
    """What runs, for the live display."""
    choices = HydraConfig.get().runtime.choices
    what = "found network" if choices["strategy"] == "fixed" else strategy_title(choices["strategy"])
    return f"{what} on {choices['task']}"


def hyperparameters(config: DictConfig) -> dict[str, Any]:
    """The configuration as loggers take it: each setting with its dotted key and without its interpolations.

    Example:
        >>> hyperparameters(OmegaConf.create({"seed": 1, "task": {"size": "${seed}"}, "logger": {"save_dir": "runs"}}))
        {'seed': 1, 'task.size': 1}
    """
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return {key: value for key, value in flatten(content) if not key.startswith("logger")}


def parallel_job(folder: Path) -> str:
    """The name of a job that runs beside others, which is its folder within the sweep's; otherwise an empty text."""
    settings = HydraConfig.get()
    alone = settings.mode != RunMode.MULTIRUN or settings.launcher._target_.endswith(".BasicLauncher")
    return "" if alone else os.path.relpath(folder, settings.sweep.dir)


def build_data(config: DictConfig) -> LightningDataModule:
    """Build the data module of the task, set up for a fit.

    Args:
        config: The composed configuration.
    """
    data: LightningDataModule = instantiate(config.task.data)
    data.prepare_data()
    data.setup("fit")
    return data


def data_arguments(data: Any) -> dict[str, dict[str, Any]]:
    """What the data say about the network and the objective that they need, such as the number of classes.

    Example:
        >>> data_arguments(LightningDataModule())
        {'model_arguments': {}, 'objective_arguments': {}}
    """
    return {name: dict(getattr(data, name, {})) for name in ("model_arguments", "objective_arguments")}


def build_strategy(config: DictConfig, data: Any) -> SearchStrategy:
    """Build the strategy, with the task's network, objective and optimizers.

    Args:
        config: The composed configuration.
        data: The data module, or another object with what :func:`data_arguments` reads.
    """
    arguments = data_arguments(data)
    model = instantiate(config.task.model, **arguments["model_arguments"])
    strategy: SearchStrategy = instantiate(
        config.strategy,
        model=model,
        objective=instantiate(config.task.get("objective"), **arguments["objective_arguments"]),
        cost=build_cost(config),
        beta_decay=config.beta_decay,
        sampling=config.sampling,
        sandwich_draws=config.sandwich_draws,
        warmup_sizes=config.warmup_sizes,
        teacher=config.teacher if isinstance(config.teacher, str) else instantiate(config.teacher, _convert_="all"),
        calibrate=config.calibrate,
        offload=config.offload,
        select=config.select,
        seed=config.seed,
        **instantiate(config.task.optimization, _convert_="all"),
    )
    return strategy


def build_cost(config: DictConfig) -> ArchitectureCost | None:
    """Build the cost of architectures; ``None`` if the configuration sets no cost.

    Raises:
        ValueError: If a penalty or a budget is set without a cost, or a cost without either; or if the cost is neither
            a file nor a function.
    """
    options = {"penalty": config.cost_penalty, "budget": config.cost_budget}
    if config.cost is None and config.cost_file is not None:
        raise ValueError(f"cost_file={config.cost_file} may have several costs: say which, as in cost=latency")
    if config.cost is None:
        given = [f"cost_{name}={value}" for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"{' and '.join(given)} of what? Say cost={' or '.join(UNITS)}")
        return None
    kind = config.cost
    if all(value is None for value in options.values()):
        raise ValueError(f"cost={kind} alone changes nothing: add cost_penalty=0.1, or cost_budget=B in its unit")
    if config.cost_file is None and kind not in UNITS and not Path(kind).exists() and "." in kind:
        kind = function_at(kind, f"cost={kind} is neither a file nor a function")
    return ArchitectureCost(kind, rate=config.cost_rate, damping=config.cost_damping, file=config.cost_file, **options)
