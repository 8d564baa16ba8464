"""Sweeps that go on when a job fails, and that can be resumed."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from advnas_lightning.cli.errors import fail
from advnas_lightning.cli.process import go_on_line, program, quoted
from advnas_lightning.cli.sweep_display import SweepDisplay
from advnas_lightning.cli.sweep_jobs import Jobs, ranking
from advnas_lightning.export.formats import check_formats
from advnas_lightning.reading import Unreadable, read_json, read_yaml
from advnas_lightning.runs import CHOICES, CONFIG, RunFolder, decides_result, differences, flatten, is_retrained
from advnas_lightning.texts import rich, shortened, writable

_running: list[SweepCallback] = []  # at most one


@contextmanager
def interruptible() -> Iterator[None]:
    """A context for the command line, at whose end an interrupted sweep says how to go on.

    A sweep that an error has ended says it only if a job has begun.

    Example:
        >>> with interruptible():
        ...     print("running")
        running
    """
    is_error = False
    try:
        yield
    except Exception:
        is_error = True
        raise
    finally:
        while _running:
            _running.pop().interrupt(is_error=is_error)


class SweepCallback(Callback):
    """Refuses a folder with another sweep's jobs, shows the jobs while they run, and at the end ranks their results.

    ``conf/config.yaml`` sets it as ``hydra.callbacks.sweep``, beside the settings that make each job go on from its own
    last checkpoint.

    Example:
        >>> from hydra.utils import instantiate
        >>> callback = instantiate({"_target_": "advnas_lightning.cli.sweeps.SweepCallback"})
        >>> callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": "no_such_folder"}}}))
        0 of 0 jobs have finished: no_such_folder
    """

    def __init__(self) -> None:
        self._jobs: Jobs | None = None
        self._display: SweepDisplay | None = None
        self._go_on = ""

    def __getstate__(self) -> dict[str, Any]:
        """The state without what the sweep's own process shows, for launchers that send it to other processes."""
        return {"_jobs": None, "_display": None, "_go_on": ""}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare the jobs whose folders are there already with those of this sweep.

        Raises:
            SystemExit: If one of them belongs to another sweep, or if that cannot be told.
        """
        # A sweeper that optimizes does not know its jobs in advance.
        is_grid = config.hydra.sweeper._target_.endswith(".BasicSweeper")
        try:
            expected = jobs(config) if is_grid else []
            _refuse_others(config, expected, is_grid=is_grid)
        except Exception as error:  # Hydra would only warn of it
            fail(error, sys.argv[1:])

        if "optuna" in config.hydra.sweeper._target_:  # the sweep's own lines say what it logs
            import_module("optuna").logging.set_verbosity(logging.WARNING)
        self._jobs = Jobs(
            Path(config.hydra.sweep.dir),
            expected,
            count=OmegaConf.select(config, "hydra.sweeper.n_trials") or 0,
            metric=config.optimized_metric,
            maximize="maximize" in str(OmegaConf.select(config, "hydra.sweeper.direction")),
        )
        self._go_on = go_on_line(sys.argv, config.hydra, is_job=False)
        _running.append(self)
        if config.trainer.enable_progress_bar is not False:
            self._display = SweepDisplay(self._jobs)
            self._display.start()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Rank what the jobs have found, and say which of them have not finished, and why.

        Raises:
            SystemExit: If a job has not finished.
        """
        sweep = config.hydra.sweep.dir
        _running.clear()
        if self._display is not None:
            self._display.stop()
        if self._jobs is None:
            self._jobs = Jobs(Path(sweep))
        self._jobs.poll()
        show_end(self._jobs, sweep)
        if any(not is_finished(folder) for _, folder in saved_jobs(Path(sweep))):
            sys.exit(1)

    def interrupt(self, *, is_error: bool) -> None:
        """Leave the display, and say how to go on.

        Args:
            is_error: Whether an error has ended the sweep; then there is something to go on with only if a job has
                begun.
        """
        if self._display is not None:
            self._display.stop()
        if self._jobs is not None:
            self._jobs.poll()
            if is_error and all(job.folder is None for job in self._jobs.all):
                return
            done = sum(job.state == "finished" for job in self._jobs.all)
            text = f"interrupted: {done} of {self._jobs.count} jobs have finished; go on with: {self._go_on}"
            Console(stderr=True).print(rich(text, sys.stderr), soft_wrap=True)


def show_end(found: Jobs, sweep: str) -> None:
    """Print the ranking of a sweep, the jobs that have not finished, and what to type next.

    Args:
        found: The jobs.
        sweep: The sweep's folder, as it was given.
    """
    console = Console()
    title, ranks = ranking(found)
    if ranks:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
        has_edges = any(rank.edges_right for rank in ranks)
        for column in ("", "setting", "seeds", title, *(["edges right"] if has_edges else [])):
            table.add_column(column, no_wrap=True, justify="left" if column == "setting" else "right")
        for place, rank in enumerate(ranks, start=1):
            right = f"{mean(rank.edges_right):.1f}" if rank.edges_right else ""
            setting = rich(writable(shortened(rank.setting, max(console.width - 50, 16))))
            row = (str(place), setting, str(len(rank.values)), writable(rank.text))
            table.add_row(*row, *([right] if has_edges else []))
        console.print()
        console.print(table)
        console.print()
    unfinished = [job for job in found.all if job.state != "finished"]
    for job in unfinished:
        where = "" if job.folder is None else f" ({os.path.relpath(job.folder)})"
        reason = f"failed: {job.error}" if job.state == "failed" else "has not finished: interrupted"
        console.print(rich(f"job {job.number} {reason}{where}"), style="red", soft_wrap=True)
    done = len(found.all) - len(unfinished)
    console.print(rich(f"{done} of {len(found.all)} jobs have finished: {sweep}"), soft_wrap=True)
    if unfinished:
        target = shlex.quote(f"hydra.sweep.dir={quoted(sweep)}")
        console.print(rich(f"the others go on with the same line and {target}"), soft_wrap=True)
    if ranks:
        line = shlex.join([*program(sys.argv), "report", os.path.relpath(sweep)])
        console.print("\nnext", style="bold")
        console.print(rich(f"  report  {line}"), soft_wrap=True)


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


def compose(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """The configuration of the job that has these overrides, without Hydra's part and in plain values."""
    content: Any = OmegaConf.to_container(GlobalHydra.instance().config_loader().load_sweep_config(config, overrides))
    del content["hydra"]
    return dict(content)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a job finds, by dotted key.

    Example:
        >>> settings({"seed": 1, "threads": 2, "trainer": {"max_epochs": 3}})
        {'seed': 1, 'trainer.max_epochs': 3}
    """
    return {key: value for key, value in flatten(config) if decides_result(key)}


def saved_jobs(sweep: Path) -> Iterator[tuple[int, Path]]:
    """The number and the folder of each job that has been started. Those whose settings are damaged are left out."""
    for folder in _job_folders(sweep):
        try:
            number, _ = _saved(folder)
        except ValueError:
            continue
        if number is not None:
            yield number, folder


def is_finished(folder: Path) -> bool:
    """Whether a job is done, its refinement, its retraining and its export included."""
    run = RunFolder(folder)
    if not run.has_summary:
        return False
    config = read_yaml(run.config) or {}
    is_refined = not config.get("refine") or run.refinement.exists()
    last = run.retrained if is_retrained(config) else run
    if not (is_refined and last.has_summary):
        return False
    formats = check_formats("export", config.get("export") or [])
    return all(f"exported/{kind}" in read_json(last.summary) for kind in formats)


def _refuse_others(config: DictConfig, expected: list[list[str]], *, is_grid: bool) -> None:
    """Compare the jobs whose folders are there already with those of this sweep.

    Raises:
        ValueError: One of them is of another sweep; or it has results, and its settings cannot be read.
    """
    sweep = Path(config.hydra.sweep.dir)
    for folder in _job_folders(sweep):
        try:
            number, config_there = _saved(folder)
        except ValueError as error:
            run = RunFolder(folder)
            if run.has_summary or any(run.checkpoints.glob("*.ckpt")):  # otherwise it had hardly begun
                raise ValueError(
                    f"whether {folder} is of this sweep cannot be told ({error}): remove that folder, or set another"
                    " hydra.sweep.dir"
                ) from None
            continue
        if number is None:
            continue
        if not is_grid:
            raise ValueError(
                f"{sweep} has jobs already, and a sweeper that optimizes cannot go on with them: set another"
                " hydra.sweep.dir"
            )
        difference = "there is no such job"
        if number < len(expected):
            ours, theirs = settings(compose(config, expected[number])), settings(config_there)
            difference = ", ".join(differences(theirs, ours)[:3])
        if difference:
            raise ValueError(f"{folder} is of another sweep ({difference}): set another hydra.sweep.dir")


def _job_folders(sweep: Path) -> Iterator[Path]:
    """The folders in which a job, or a run of another kind, has been started."""
    for path in sorted(sweep.glob(f"**/{CHOICES}")):
        yield path.parents[1]


def _saved(folder: Path) -> tuple[int | None, Mapping[str, Any]]:
    """The number of the job that has a folder, and its configuration.

    A single run and a retraining have no number: it is ``None``.

    Raises:
        ValueError: Its settings cannot be read, as where the disk was full when they were written.
    """
    contents = []
    for path in (folder / CHOICES, folder / CONFIG):
        try:
            content = read_yaml(path)
        except (OSError, Unreadable) as error:
            raise ValueError(f"{path}: {error}") from None
        if not isinstance(content, dict) or not content:
            raise ValueError(f"{path}: it is {'no mapping' if content else 'empty'}")
        contents.append(content)
    choices, config = contents
    number = dict(flatten(choices)).get("hydra.job.num")
    return number if isinstance(number, int) else None, config
