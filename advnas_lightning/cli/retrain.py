"""Trains the result of a search from scratch, as a run of its own in the search's folder."""

from __future__ import annotations

import re
from pathlib import Path

from hydra._internal.callbacks import Callbacks  # Hydra has no public way to run a job within a job
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from advnas_lightning.cli.run import run
from advnas_lightning.runs import RunFolder


def retrain(folder: Path, command: str, select: str | None = None) -> None:
    """Train the result of a search from scratch, as the same command line with ``strategy=fixed`` would.

    Args:
        folder: The folder of the search. The training is a run of its own in the folder ``retrained`` in it.
        command: What to type to go on, should the training be interrupted.
        select: Which of the architectures in ``genotype.json``; by default as the command line says.
    """
    files = RunFolder(folder)
    training = files.retrained.path
    search = HydraConfig.instance().cfg
    assert isinstance(search, DictConfig)
    # strategy=fixed does not take the options of the search.
    in_steps = "beta_decay|sampling|sandwich_draws|warmup_sizes|teacher|calibrate"
    of_search = rf"[+~]*(strategy|retrain|refine(_\w+)?|cost(_\w+)?|{in_steps})\b"
    line = [each for each in search.hydra.overrides.task if not re.match(of_search, each)]
    genotype = str(files.genotype).replace("'", r"\'")
    line += ["strategy=fixed", f"strategy.genotype='{genotype}'", "ckpt_path=last"]
    if select is not None:
        line = [*(each for each in line if not each.startswith("select=")), f"select={select}"]
    loader = GlobalHydra.instance().config_loader()
    config = loader.load_sweep_config(search, line)
    with open_dict(config):
        config.hydra.run.dir = str(training)
    job = run_job(
        task_function=lambda config: run(config, training, command),
        config=config,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=HydraContext(loader, Callbacks()),
        configure_logging=False,
    )
    _ = job.return_value  # raises the error of the training, if there was one
