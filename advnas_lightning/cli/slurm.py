"""The jobs of a sweep in SLURM: they are submitted, and each is waited for until SLURM is done with it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from advnas_lightning.cli.sweeps import saved_jobs
from advnas_lightning.runs import RunFolder
from advnas_lightning.texts import plain

PERIOD = 2.0  # seconds between two looks for results
QUEUE_PERIOD = 20.0  # seconds between two questions to SLURM
ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
)
GONE = "no longer in the queue"


class EndedBySlurm(RuntimeError):
    """A job has ended without a result."""


def submit(function: Callable[..., JobReturn], calls: Sequence[tuple[Any, ...]], settings: Mapping[str, Any]) -> Any:
    """Submit calls of a function as one array of jobs.

    Args:
        function: The function.
        calls: The arguments of each call.
        settings: ``hydra.launcher``, as Hydra's plugin for submitit names what submitit takes.

    Returns:
        A job of submitit for each call.
    """
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit import AutoExecutor

    shared = {each.name for each in fields(BaseQueueConf)}  # of all kinds of clusters
    options = {name if name in shared else f"slurm_{name}": value for name, value in settings.items()}
    executor = AutoExecutor(
        options.pop("submitit_folder"), cluster="slurm", slurm_max_num_timeout=options.pop("slurm_max_num_timeout")
    )
    executor.update_parameters(**options)
    return executor.map_array(function, *zip(*calls, strict=True))


def wait_for_all(jobs: Mapping[int, Any], sweep: str | Path) -> list[JobReturn]:
    """Wait until each job has a result, or has ended without one. The latter leaves ``error.txt`` in its folder.

    SLURM is asked by ``squeue``, since ``sacct`` has no answer where no accounting is set up.

    Args:
        jobs: Submitit's jobs by Hydra's number.
        sweep: The sweep's folder.

    Returns:
        What each job returns, in order. A job without a result returns ``None``, as one that fails does.
    """
    array = str(next(iter(jobs.values())).job_id).partition("_")[0]
    waiting, found, suspects = dict(jobs), dict[int, JobReturn](), dict[int, str]()
    asked_at = time.monotonic()
    try:
        while waiting:
            time.sleep(PERIOD)
            for number in [number for number, job in waiting.items() if _has_result(job)]:
                found[number] = _result(number, waiting.pop(number), sweep)
            if time.monotonic() - asked_at < QUEUE_PERIOD:
                continue
            asked_at, states = time.monotonic(), queue(array)
            if states is None:
                continue
            now = {number: states.get(job.job_id, GONE) for number, job in waiting.items()}
            now = {number: state for number, state in now.items() if state == GONE or state in ENDED}
            for number in now.keys() & suspects.keys():  # twice, since a shared file system may show a file late
                found[number] = _lost(number, waiting.pop(number), now.pop(number), sweep)
            suspects = now
    except KeyboardInterrupt:
        print(f"the jobs go on in SLURM; to end them: scancel {array}", file=sys.stderr)
        raise
    return [found[number] for number in jobs]


def queue(array: str) -> dict[str, str] | None:
    """The state of each job of an array that SLURM still knows, by the job's id; ``None`` if there is no answer.

    Args:
        array: The id of the array, or of a single job.
    """
    command = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={array}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return {} if "Invalid job id" in done.stderr else None
    return dict(line.strip().split("|", 1) for line in done.stdout.splitlines() if "|" in line)  # type: ignore[misc]


def _has_result(job: Any) -> bool:
    return all(job.task(task).paths.result_pickle.exists() for task in range(job.num_tasks))


def _result(number: int, job: Any, sweep: str | Path) -> JobReturn:
    try:
        result: JobReturn = job.results()[0]
    except RuntimeError:  # before or after what the command line does, which has results for all errors
        return _lost(number, job, "it has raised an error", sweep)
    return result


def _lost(number: int, job: Any, why: str, sweep: str | Path) -> JobReturn:
    """Say that a job has ended without a result, in its folder if it has one."""
    message = plain(f"SLURM has ended job {job.job_id} without a result ({why}): see {job.paths.stderr}")
    folder = next((each for saved, each in saved_jobs(Path(sweep)) if saved == number), None)
    if folder is None:  # or the sweep shows it
        print(f"error: job {number}: {message}", file=sys.stderr)
    else:
        RunFolder(folder).save_error(message, EndedBySlurm(message))
    ended = JobReturn(overrides=[], status=JobStatus.COMPLETED)
    ended.return_value = None
    return ended
