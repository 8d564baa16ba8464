"""Sweeps that outlive the failures of their jobs, and that go on where they were."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
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

from advnas_lightning.runs import RunFolder, decides_result


class SweepCallback(Callback):
    """Refuses a folder with the jobs of another sweep, and ends with a table of the jobs that have not finished.

    Example, with the settings in ``conf/config.yaml`` that make each job go on from its own last checkpoint::

        hydra.callbacks.sweep._target_=advnas_lightning.cli.sweeps.SweepCallback
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare the jobs that are in the folder with the sweep's own.

        Raises:
            SystemExit: there are others.
        """
        if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
            return  # an optimizer's jobs are not known before
        saved = sorted(saved_jobs(Path(config.hydra.sweep.dir)))
        expected = jobs(config) if saved else []
        for number, folder in saved:
            difference = "there is no such job"
            if number < len(expected):
                ours, theirs = settings(compose(config, expected[number])), settings(_saved_config(folder))
                difference = compare(theirs, ours)
            if difference:
                print(
                    f"error: {folder} is of another sweep ({difference}): set another hydra.sweep.dir", file=sys.stderr
                )
                sys.exit(1)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say what failed.

        Raises:
            SystemExit: a job has not finished.
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
    """Each job's overrides, in the order in which Hydra numbers them.

    Args:
        config: the sweep's whole configuration, Hydra's part included.
    """
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*parameters, *config.hydra.overrides.task])
    (all_jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return all_jobs


def compose(config: DictConfig, overrides: list[str]) -> DictConfig:
    """A job's configuration."""
    job = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
    with flag_override(job, ["struct", "readonly"], False):
        del job["hydra"]
    return job


def settings(config: DictConfig) -> dict[str, Any]:
    """What a job's results depend on, by dotted key.

    Example:
        >>> settings(OmegaConf.create({"seed": 1, "threads": 2, "trainer": {"max_epochs": 3}}))
        {'seed': 1, 'trainer.max_epochs': 3}
    """
    flat = dict(flatten(OmegaConf.to_container(config, resolve=False)))
    return {key: value for key, value in flat.items() if decides_result(key)}


def compare(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, the first three settings that differ; nothing where none does.

    Example:
        >>> compare({"seed": 0, "select": None}, {"seed": 1, "select": None})
        'seed is 0, not 1'
    """
    keys = [key for key in sorted({*saved, *wanted}) if saved.get(key) != wanted.get(key)]
    return ", ".join(f"{key} is {saved.get(key)}, not {wanted.get(key)}" for key in keys[:3])


def saved_jobs(sweep: Path) -> Iterator[tuple[int, Path]]:
    """The number and the folder of each job that has begun."""
    for path in sweep.glob("**/.hydra/hydra.yaml"):
        job = OmegaConf.load(path).hydra.job
        if not OmegaConf.is_missing(job, "num"):  # neither a single run nor a search's retraining
            yield int(job.num), path.parents[1]


def is_finished(folder: Path) -> bool:
    """Whether nothing of a job is left to do."""
    run = RunFolder(folder)
    return run.has_summary and (not _saved_config(folder).get("retrain") or run.retrained.has_summary)


def _saved_config(folder: Path) -> DictConfig:
    config = OmegaConf.load(RunFolder(folder).config)
    assert isinstance(config, DictConfig)
    return config


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested configuration by dotted key."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flatten(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node
