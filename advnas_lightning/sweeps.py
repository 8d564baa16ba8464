"""Sweeps that outlive the failures of their jobs, and that go on where they were."""

from __future__ import annotations

import json
import sys
import traceback
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

SUMMARY, ERROR = "summary.json", "error.txt"
RETRAINED = "retrained"  # a folder below a search's: the training of what it found
# Of these settings, none changes what a job finds.
INDIFFERENT = ("checkpoint", "ckpt_path", "logger", "offload", "threads", "trainer.enable_progress_bar")


class SweepCallback(Callback):
    """Refuses a folder with the jobs of another sweep, and ends with a table of the jobs that have not finished.

    Example, with the settings in ``conf/config.yaml`` that make each job go on from its own last checkpoint::

        hydra.callbacks.sweep._target_=advnas_lightning.sweeps.SweepCallback
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
                table.add_row(str(number), escape(str(folder)), escape(saved_error(folder)))
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
    flat = dict(_flatten(OmegaConf.to_container(config, resolve=False)))
    return {key: value for key, value in flat.items() if not f"{key}.".startswith(tuple(f"{i}." for i in INDIFFERENT))}


def compare(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, the first three settings that differ; nothing where none does.

    Example:
        >>> compare({"seed": 0, "which": None}, {"seed": 1, "which": None})
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
    return has_summary(folder) and (not _saved_config(folder).get("retrain") or has_summary(folder / RETRAINED))


def has_summary(folder: Path) -> bool:
    """Whether a run has left a whole summary, which it writes last."""
    try:
        return isinstance(json.loads((folder / SUMMARY).read_text()), dict)
    except (FileNotFoundError, ValueError):
        return False


def save_error(folder: Path, line: str, error: Exception) -> None:
    """Leave an error in a job's folder: one line, and below it where it came from."""
    (folder / ERROR).write_text(f"{line}\n\n{''.join(traceback.format_exception(error))}")


def saved_error(folder: Path) -> str:
    """The line that a job has left."""
    path = folder / ERROR
    return path.read_text().splitlines()[0] if path.exists() else "interrupted"


def _saved_config(folder: Path) -> DictConfig:
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert isinstance(config, DictConfig)
    return config


def _flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node
