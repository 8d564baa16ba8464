"""Runs jobs within a lease: several at a time, in order, until they are done or the time is over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from advnas_lightning.runs import RunFolder
from benchmarks.lease_files import ROOT, Results


@dataclass(frozen=True)
class Job:
    """Something to run in a lease.

    Attributes:
        name: The name, which is also the folder for its files.
        command: The command line.
        needs: The files that must be there.
        parts: The folders of its runs by the name of each part, in order. Such a job goes on from its checkpoints.
        minutes: The longest time that a job without parts may take.
        alone: Whether nothing may run beside it.
        passes: The exit statuses with which a job without parts has finished.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    minutes: float = 0.0
    alone: bool = False
    passes: tuple[int, ...] = (0,)


@dataclass
class Running:
    """A job that runs.

    Attributes:
        job: The job.
        process: Its process, which is ``timeout`` and has the job's as a child.
        started: When it was started, by the monotonic clock.
        stops: When it is stopped, if it has not ended by then.
    """

    job: Job
    process: subprocess.Popen[bytes]
    started: float
    stops: float


class Lease:
    """Runs jobs until they are done or the time is over, and writes each result when it is there.

    Each job is a child of ``timeout``, which asks it to end with SIGTERM and kills it later. So a job ends in time also
    if this process does not live as long.

    Args:
        folder: The folder for results, logs and checkpoints.
        seconds: The length of the lease from now on.
        grace: The seconds before its end at which all jobs are asked to end. They have this long for a checkpoint.
        least: The seconds which a search needs until it has a checkpoint. None is started with less.
        at_a_time: The number of jobs at a time.
        environment: The environment of the jobs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float,
        grace: float,
        least: float,
        at_a_time: int,
        environment: Mapping[str, str],
    ) -> None:
        self.folder, self.results, self.environment = folder, Results(folder), environment
        self.grace, self.least, self.at_a_time = grace, least, at_a_time
        self.end = time.monotonic() + seconds
        self.signal: int | None = None  # that was sent to this process

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the lease is over."""
        self.signal = number

    def run(self, jobs: Sequence[Job]) -> bool:
        """Run what has not finished; what had failed comes last.

        Returns:
            Whether no job has failed.
        """
        waiting = [job for job in jobs if not self.is_done(job)]
        waiting.sort(key=lambda job: self.results.state(job.name) == "failed")
        running: list[Running] = []
        went_well, is_over, late = True, False, 0
        while waiting or running:
            if self.signal is not None and not is_over:
                waiting, is_over = [], True
                for each in running:
                    each.process.terminate()  # timeout, which passes it on and kills later
            for each in [*running]:
                status = each.process.poll()
                self._record_parts(each)
                if status is not None:
                    running.remove(each)
                    went_well &= self._record_end(each, status)
            while waiting:
                job = waiting[0]
                if not self._fits(job):
                    late += 1
                elif len(running) < self.at_a_time and not (running and (job.alone or running[0].job.alone)):
                    running.append(self._start(job))
                else:
                    break
                waiting.pop(0)
            time.sleep(0.2)
        if late:
            say(f"too little time was left to start {late} of the jobs")
        return went_well

    def is_done(self, job: Job) -> bool:
        """Whether all parts of a job have finished."""
        return all(self.results.has(job.name, part) for part in job.parts or ["output"])

    def _fits(self, job: Job) -> bool:
        """Whether a job that is started now can finish, or save a checkpoint, in time."""
        return time.monotonic() + (60 * job.minutes or self.least) + self.grace <= self.end

    def _start(self, job: Job) -> Running:
        now = time.monotonic()
        stops = min(self.end - self.grace, now + 60 * job.minutes if job.minutes else self.end)
        log = self._log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        kill = max(self.grace - 2, 1)
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["timeout", f"--kill-after={kill}", f"{stops - now:.2f}", *job.command],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process alone
            )
        say(f"{job.name} has started")
        return Running(job, process, now, stops)

    def _log(self, job: Job) -> Path:
        return self.folder / job.name / "log.txt"

    def _record_parts(self, each: Running) -> None:
        """Write the results of the parts that are there."""
        for part, place in each.job.parts.items():
            run = RunFolder(self.folder / each.job.name / place)
            if run.has_summary and not self.results.has(each.job.name, part):
                content = {
                    "summary": json.loads(run.summary.read_text()),
                    "found": json.loads(run.genotype.read_text()),
                }
                self._record(each, part, "finished", **content)

    def _record_end(self, each: Running, status: int) -> bool:
        """Write what became of a job, unless its parts are written; ``False`` if it has failed."""
        job = each.job
        if job.parts and self.is_done(job):
            return True
        lines = self._log(job).read_text(errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "it has printed nothing")
        is_late = time.monotonic() >= each.stops
        content: dict[str, Any]
        if job.parts:
            part = next(part for part in job.parts if not self.results.has(job.name, part))
            reached = RunFolder(self.folder / job.name / job.parts[part]).results()
            stopped, content = is_late or self.signal is not None, {"reached": reached}
        else:
            part, stopped, content = "output", self.signal is not None, {"lines": lines[-60:]}
            if is_late:
                last = f"it has not ended after {job.minutes:g} minutes"
        state = "finished" if not job.parts and status in job.passes else "stopped" if stopped else "failed"
        if state == "failed":
            content["error"] = last
        self._record(each, part, state, status=status, **content)
        return state != "failed"

    def _record(self, each: Running, part: str, state: str, **content: Any) -> None:
        seconds = round(time.monotonic() - each.started, 1)
        self.results.add(job=each.job.name, part=part, state=state, seconds=seconds, **content)
        say(f"{each.job.name}: {part} {state}" + (f": {content['error']}" if "error" in content else ""))


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def gpu_name() -> str | None:
    """The name of the first GPU of NVIDIA's; ``None`` if there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = answer.stdout.splitlines()
    return lines[0] if answer.returncode == 0 and lines else None


@contextmanager
def sharing(folder: Path, *, gpu: bool) -> Iterator[dict[str, str]]:
    """A context in which processes can share a GPU by NVIDIA's MPS.

    Args:
        folder: A folder of a short path, for MPS's own files.
        gpu: Whether there is a GPU.

    Yields:
        What such a process needs in its environment; nothing where there is no MPS.
    """
    control = shutil.which("nvidia-cuda-mps-control") if gpu else None
    places = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    environment = {**os.environ, **places}
    started = control and subprocess.run([control, "-d"], env=environment, check=False).returncode == 0
    if gpu and not started:
        say("there is no MPS: processes take turns on the GPU")
    try:
        yield places if started else {}
    finally:
        if control and started:
            subprocess.run([control], input="quit\n", text=True, env=environment, check=False)
