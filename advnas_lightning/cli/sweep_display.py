"""Shows a sweep while it runs: a table in a terminal, and elsewhere a line when a job starts and when it ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from advnas_lightning.cli.sweep_jobs import Job, Jobs
from advnas_lightning.pace import Pace, as_clock
from advnas_lightning.texts import rich, shortened, writable

PERIOD = 1.0  # seconds between two looks at the jobs' files
RUNNING, ENDED = 16, 5  # jobs in the table


class SweepDisplay:
    """Shows the jobs of a sweep, from a thread that reads their files now and then.

    Args:
        jobs: The jobs.
        console: Where they are shown; by default the standard output.

    Example:
        >>> from pathlib import Path
        >>> display = SweepDisplay(Jobs(Path("no_such_folder"), [["seed=0"]]))
        >>> display.start()
        >>> display.stop()
    """

    def __init__(self, jobs: Jobs, console: Console | None = None) -> None:
        self.jobs = jobs
        self.console = console or Console(soft_wrap=True)
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._pace = Pace()
        self._began = time.monotonic()
        self._starts: dict[int, float] = {}  # the time at which each job started
        self._seconds: dict[int, float] = {}  # that each job took
        self._ended: list[Job] = []  # in this order
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look at the jobs."""
        self.jobs.poll()
        self._ended = [job for job in self.jobs.all if job.state == "finished"]
        self._pace.note(self._share(), time.monotonic())
        if self._ended and self._live is None:
            self._print(f"{len(self._ended)} of {len(self.jobs.all)} jobs had finished before")
        if self._live is not None:
            self._live.start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        atexit.register(self.stop)  # a sweep that is interrupted leaves the terminal as it was

    def stop(self) -> None:
        """Look a last time, and leave what is shown."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        atexit.unregister(self.stop)
        self._look()
        if self._live is not None:
            self._live.stop()

    def _watch(self) -> None:
        while not self._stopping.wait(PERIOD):
            self._look()

    def _look(self) -> None:
        self.jobs.poll()
        now = time.monotonic()
        for job in self.jobs.all:
            if job.state != "waiting" and job.number not in self._starts and not job.was_before:
                self._starts[job.number] = now
                if self._live is None:
                    self._print(f"{self._name(job)} starts: {_relative(job)}")
            if job.state in ("finished", "failed") and job not in self._ended:
                self._ended.append(job)
                self._seconds[job.number] = now - self._starts.get(job.number, now)
                if self._live is None:
                    self._print(f"{self._name(job)} {self._outcome(job)}  ({self._counts()})")
        if self._live is not None:
            self._live.update(self.table(), refresh=True)

    def table(self) -> RenderableType:
        """The whole display: a bar over all jobs, the jobs that run, and those that have ended last."""
        jobs, now = self.jobs.all, time.monotonic()
        width = self.console.width
        share = self._share()
        head = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for ratio in (None, 1, None):
            head.add_column(no_wrap=True, ratio=ratio)
        head.add_row(
            Text(f"sweep of {self.jobs.count} jobs", style="bold"), ProgressBar(1, share), Text(self._counts())
        )
        body = Table.grid(padding=(0, 2, 0, 0))
        for justify in ("right", "left", "left", "left"):
            body.add_column(no_wrap=True, justify=justify)
        running = [job for job in jobs if job.state == "running"]
        longest = max(width - 44, 12)
        for job in running[:RUNNING]:
            of = f"/{job.planned}" if job.planned else ""
            passed = as_clock(now - self._starts.get(job.number, now))
            row = (str(job.number), rich(writable(shortened(self.jobs.differing(job), longest))))
            body.add_row(*row, f"epoch {min(job.epochs + 1, job.planned or job.epochs + 1)}{of}", passed)
        if len(running) > RUNNING:
            body.add_row("", f"and {len(running) - RUNNING} more that run")
        lines: list[RenderableType] = [head, body]
        for job in self._ended[-ENDED:]:
            style = "red" if job.state == "failed" else "green"
            text = f"{self._name(job)} {self._outcome(job)}"
            lines.append(Text(rich(writable(shortened(text, width))).plain, style=style, no_wrap=True, overflow="crop"))
        return Group(*lines)

    def _share(self) -> float:
        return sum(job.share for job in self.jobs.all) / max(self.jobs.count, 1)

    def _counts(self) -> str:
        """How many jobs are done, and how long the others will take."""
        total = self.jobs.count
        done = sum(job.state in ("finished", "failed") for job in self.jobs.all)
        failed = sum(job.state == "failed" for job in self.jobs.all)
        left = self._pace.left(self._share(), time.monotonic())
        parts = [f"{done} of {total} done", f"{failed} failed" if failed else ""]
        parts.append(f"in {as_clock(time.monotonic() - self._began)}" if done == total else "")
        parts.append(f"{as_clock(left)} left" if left is not None and done < total else "")
        return ", ".join(filter(None, parts))

    def _name(self, job: Job) -> str:
        differing = self.jobs.differing(job)
        return f"job {job.number}" + (f" ({differing})" if differing else "")

    def _outcome(self, job: Job) -> str:
        if job.state == "failed":
            return f"failed: {job.error} ({_relative(job)})"
        measure = self.jobs.measure(job)
        parts = [] if measure is None else [f"{measure.title} {measure.value:.4g}"]
        if {"edges", "edges_right"} <= job.summary.keys():
            parts.append(f"{job.summary['edges_right']}/{job.summary['edges']} right")
        passed = "before" if job.was_before else f"in {as_clock(self._seconds[job.number])}"
        return f"finished {passed}" + (": " if parts else "") + ", ".join(parts)

    def _print(self, text: str) -> None:
        self.console.print(rich(text), soft_wrap=True)
        sys.stdout.flush()


def _relative(job: Job) -> str:
    return "" if job.folder is None else os.path.relpath(job.folder)
