"""Sweeps that go on when a job fails, and that can be resumed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from advnas_lightning.runs import CHOICES, RunFolder, decides_result, differences, flatten


class SweepCallback(Callback):
    """Refuses a folder with another sweep's jobs, and at the end prints a table of the jobs that have not finished.

    ``conf/config.yaml`` sets it as ``hydra.callbacks.sweep``, beside the settings that make each job go on from its own
    last checkpoint.

    Example:
        >>> from hydra.utils import instantiate
        >>> callback = instantiate({"_target_": "advnas_lightning.cli.sweeps.SweepCallback"})
        >>> callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": "no_such_folder"}}}))
        0 of 0 jobs have finished: no_such_folder
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare the jobs whose folders are there already with those of this sweep.

        Raises:
            SystemExit: If one of them belongs to another sweep.
        """
        if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
            return  # a sweeper that optimizes does not know its jobs in advance
        saved = sorted(saved_jobs(Path(config.hydra.sweep.dir)))
        expected = jobs(config) if saved else []
        for number, folder in saved:
            difference = "there is no such job"
            if number < len(expected):
                ours, theirs = settings(compose(config, expected[number])), settings(_saved_config(folder))
                difference = ", ".join(differences(theirs, ours)[:3])
            if difference:
                print(
                    f"error: {folder} is of another sweep ({difference}): set another hydra.sweep.dir", file=sys.stderr
                )
                sys.exit(1)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print which jobs have not finished, and why.

        Raises:
            SystemExit: If a job has not finished.
        """
        saved = sorted(saved_jobs(Path(config.hydra.sweep.dir)))
        failed = [(number, folder) for number, folder in saved if not is_finished(folder)]
        console = Console()
        if failed:
            table = Table("job", "folder", "error", title="jobs that have not finished")
            for number, folder in failed:
                table.add_row(str(number), escape(str(folder)), escape(RunFolder(folder).read_error()))
            console.print(table)
        finished = len(saved) - len(failed)
        console.print(f"{finished} of {len(saved)} jobs have finished: {config.hydra.sweep.dir}", soft_wrap=True)
        if failed:
            console.print(f"the others go on with the same line and hydra.sweep.dir={config.hydra.sweep.dir}")
            sys.exit(1)


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, in the order in which Hydra numbers the jobs.

    Args:
        config: The whole configuration of the sweep, Hydra's part included.
    """
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*parameters, *config.hydra.overrides.task])
    (all_jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return all_jobs


def compose(config: DictConfig, overrides: list[str]) -> DictConfig:
    """The configuration of the job that has these overrides, without Hydra's part."""
    job = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
    with flag_override(job, ["struct", "readonly"], False):
        del job["hydra"]
    return job


def settings(config: DictConfig) -> dict[str, Any]:
    """The settings that decide what a job finds, by dotted key.

    Example:
        >>> settings(OmegaConf.create({"seed": 1, "threads": 2, "trainer": {"max_epochs": 3}}))
        {'seed': 1, 'trainer.max_epochs': 3}
    """
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    return {key: value for key, value in flatten(content) if decides_result(key)}


def saved_jobs(sweep: Path) -> Iterator[tuple[int, Path]]:
    """The number and the folder of each job that has been started."""
    for path in sweep.glob(f"**/{CHOICES}"):
        job = OmegaConf.load(path).hydra.job
        if not OmegaConf.is_missing(job, "num"):  # a single run and a retraining have no number
            yield int(job.num), path.parents[1]


def is_finished(folder: Path) -> bool:
    """Whether a job is done, its retraining included."""
    run = RunFolder(folder)
    return run.has_summary and (not _saved_config(folder).get("retrain") or run.retrained.has_summary)


def _saved_config(folder: Path) -> DictConfig:
    config = OmegaConf.load(RunFolder(folder).config)
    assert isinstance(config, DictConfig)
    return config
