"""Training what a search found from scratch: a run of its own, below the search's."""

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
from advnas_lightning.runs import RETRAINED


def retrain(folder: Path) -> None:
    """Train what a search found from scratch, as the same line with ``strategy=fixed`` does.

    Args:
        folder: the search's; the training is a run of its own in ``retrained`` below it.
    """
    search = HydraConfig.instance().cfg
    assert isinstance(search, DictConfig)
    # The search's own options mean nothing to strategy=fixed.
    line = [
        each for each in search.hydra.overrides.task if not re.match(r"[+~]*(strategy|retrain|cost(_\w+)?)\b", each)
    ]
    genotype = str(folder / "genotype.json").replace("'", r"\'")
    line += ["strategy=fixed", f"strategy.genotype='{genotype}'", "ckpt_path=last"]
    loader = GlobalHydra.instance().config_loader()
    config = loader.load_sweep_config(search, line)
    with open_dict(config):
        config.hydra.run.dir = str(folder / RETRAINED)
    job = run_job(
        task_function=lambda config: run(config, folder / RETRAINED),
        config=config,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=HydraContext(loader, Callbacks()),
        configure_logging=False,
    )
    _ = job.return_value  # raises what the training raised
