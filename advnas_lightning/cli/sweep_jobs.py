"""The jobs of a sweep as their files show them, and a ranking of what they have found."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

from advnas_lightning.reading import Unreadable, read_json, read_yaml
from advnas_lightning.runs import CHOICES, CONFIG, OVERRIDES, RunFolder, flatten, is_retrained
from advnas_lightning.validate import as_number

State = Literal["waiting", "running", "finished", "failed"]
TAIL = 4096  # bytes at the end of a log, which have its last row


class Measure(NamedTuple):
    """What the jobs of a sweep are ranked by.

    Attributes:
        title: Its name, with the unit.
        value: The value of a job.
        higher_is_better: Whether a higher value is a better one.

    Example:
        >>> Measure.of({"selected": "argmax", "loss": 0.25, "edges_right": 9})
        Measure(title='test loss', value=0.25, higher_is_better=False)
    """

    title: str
    value: float
    higher_is_better: bool

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Measure | None:
        """The most telling result of a summary; ``None`` if it has none.

        Args:
            summary: The content of ``summary.json``.
        """
        kinds = (
            (f"{summary.get('selected')}/cifar10_test", "benchmark test accuracy, %", True),
            (f"{summary.get('selected')}/cifar10_valid", "benchmark validation accuracy, %", True),
            ("selected/test/perplexity", "test perplexity", False),
            ("selected/test/accuracy", "test accuracy", True),
            ("loss", "test loss", False),
        )
        for key, title, higher in kinds:
            value = as_number(summary.get(key))
            if value is not None:
                return cls(title, value, higher)
        return None


@dataclass
class Job:
    """A job of a sweep.

    Attributes:
        number: The number that Hydra gave it.
        overrides: Its overrides.
        folder: Its folder, once it has one.
        state: Whether it waits, runs, has finished or has failed.
        epochs: The number of epochs that are done.
        planned: The number of epochs of its training; 0 if that is not known.
        summary: The content of its ``summary.json``, or of that of its retraining.
        error: The line that says why it failed.
        was_before: Whether it had finished before this sweep began.
        retrains: Whether what it finds is trained from scratch afterwards.
        log_size: The size of its log when that was read last, in bytes; -1 before the first time.

    Example:
        >>> Job(3, ["seed=1"]).share
        0.0
    """

    number: int
    overrides: list[str]
    folder: Path | None = None
    state: State = "waiting"
    epochs: int = 0
    planned: int = 0
    summary: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    was_before: bool = False
    retrains: bool = False
    log_size: int = -1

    @property
    def share(self) -> float:
        """The share of the job that is done."""
        if self.state in ("finished", "failed"):
            return 1.0
        return min(self.epochs / self.planned, 1.0) if self.planned else 0.0


class Jobs:
    """The jobs of a sweep, read from their folders: they may run in other processes, and on other machines.

    Args:
        sweep: The folder of the sweep.
        overrides: The overrides of each job; none if the sweeper decides on them as it goes on.
        count: The number of jobs in all, if the sweeper decides on them as it goes on.
        metric: The result by which the jobs are ranked; by default the most telling one that they have.
        maximize: Whether a higher value of it is a better one.

    Example:
        >>> [job.state for job in Jobs(Path("no_such_folder"), [["seed=0"], ["seed=1"]]).all]
        ['waiting', 'waiting']
    """

    def __init__(
        self,
        sweep: Path,
        overrides: Sequence[list[str]] = (),
        *,
        count: int = 0,
        metric: str | None = None,
        maximize: bool = False,
    ) -> None:
        self.sweep, self.metric, self.maximize = sweep, metric, maximize
        self._count = count
        self.all = [Job(number, list(each)) for number, each in enumerate(overrides)]
        self._is_grid = bool(self.all)
        self._began = time.time() - 1  # clocks of files are coarse
        self._known: set[Path] = set()

    @property
    def count(self) -> int:
        """The number of jobs that the sweep has in all."""
        return max(self._count, len(self.all))

    def measure(self, job: Job) -> Measure | None:
        """The result of a job by which it is ranked; ``None`` if it has none.

        Args:
            job: The job.
        """
        value = None if self.metric is None else as_number(job.summary.get(self.metric))
        if self.metric is not None and value is not None:
            return Measure(self.metric, value, self.maximize)
        return Measure.of(job.summary)

    def poll(self) -> None:
        """Read what has changed since the last call."""
        if not self._is_grid or any(job.folder is None or job.state == "waiting" for job in self.all):
            self._find_folders()
        for job in self.all:
            if job.folder is not None and job.state in ("waiting", "running"):
                self._update(job, job.folder)

    def differing(self, job: Job, *, seed: bool = True) -> str:
        """The overrides of a job that not all jobs have, in short.

        Args:
            job: The job.
            seed: Whether to name its seed.
        """
        common = set.intersection(*(set(each.overrides) for each in self.all)) if len(self.all) > 1 else set()
        own = [each for each in job.overrides if each not in common and not each.startswith("ckpt_path=")]
        own = [each for each in own if len(self.all) > 1 or each.startswith(("strategy=", "seed="))]
        return ", ".join(_short(each) for each in own if seed or not each.startswith("seed="))

    def _find_folders(self) -> None:
        for path in self.sweep.glob(f"**/{CHOICES}"):
            folder = path.parents[1]
            if folder in self._known:
                continue
            try:
                number = read_yaml(path)["hydra"]["job"].get("num")
                overrides = read_yaml(folder / OVERRIDES) or []
            except (OSError, Unreadable, KeyError, TypeError):  # it is being written
                continue
            self._known.add(folder)
            if not isinstance(number, int):  # of a retraining
                continue
            while not self._is_grid and len(self.all) <= number:
                self.all.append(Job(len(self.all), []))
            if number < len(self.all):
                job = self.all[number]
                job.folder, job.overrides = folder, job.overrides or overrides

    def _update(self, job: Job, folder: Path) -> None:
        files = RunFolder(folder)
        if job.state == "waiting":
            was_before = self._finished(job, files) and _changed(files.summary) < self._began
            if not was_before and _changed(folder / CHOICES) < self._began:
                return  # a part of an earlier sweep, whose turn has not come yet
            self._read_settings(job, folder)
            job.state, job.was_before = ("finished" if was_before else "running"), was_before
        if job.state == "running":
            current = files.retrained if job.retrains and files.has_summary else files
            self._read_log(job, current.metrics)
            if _changed(files.error) >= self._began:
                try:
                    job.state, job.error = "failed", files.read_error()
                except (IndexError, OSError):  # it is being written
                    job.state = "running"
            elif self._finished(job, files):
                job.state = "finished"

    def _finished(self, job: Job, files: RunFolder) -> bool:
        if not files.summary.exists():
            return False
        self._read_settings(job, files.path)
        last = files.retrained if job.retrains else files
        try:
            content = read_json(last.summary)
        except (OSError, Unreadable):
            return False
        job.summary = content if isinstance(content, dict) else {}
        if self.metric is not None:
            job.summary = {**last.results(), **job.summary}
        return isinstance(content, dict)

    def _read_settings(self, job: Job, folder: Path) -> None:
        try:
            settings = dict(flatten(read_yaml(folder / CONFIG)))
        except (OSError, Unreadable, AttributeError):
            return
        planned = settings.get("trainer.max_epochs")
        planned = settings.get("task.epochs") if planned == "${task.epochs}" else planned
        job.planned = planned if isinstance(planned, int) else 0
        job.retrains = is_retrained(settings)

    def _read_log(self, job: Job, path: Path) -> None:
        """The number of epochs that the last rows of a log have."""
        try:
            size = path.stat().st_size
            if size == job.log_size:
                return
            with path.open("rb") as file:
                header = file.readline().decode().strip().split(",")
                file.seek(max(size - TAIL, file.tell()))
                rows = file.read().decode(errors="replace").split("\n")[:-1]
            epochs = [row[header.index("epoch")] for row in csv.reader(rows[-10:]) if len(row) == len(header)]
            job.epochs = max(int(epoch) for epoch in epochs if epoch)
            job.log_size = size
        except (OSError, ValueError):  # there is none yet, or it is being written
            return


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _short(override: str) -> str:
    """An override without its groups: ``strategy=gdas`` is ``gdas``, and ``strategy.gamma=1`` is ``gamma=1``."""
    key, _, value = override.lstrip("+~").partition("=")
    if key in ("strategy", "task", "experiment"):
        return value
    if re.fullmatch(r"-?\d*\.\d{5,}(e-?\d+)?", value):  # an optimizer's, with all its digits
        value = f"{float(value):.4g}"
    return f"seed {value}" if key == "seed" else f"{key.rpartition('.')[2]}={value}"


@dataclass(frozen=True)
class Rank:
    """The results of the jobs that differ in nothing but their seed.

    Attributes:
        setting: What they have in common, in short.
        values: Their results.
        edges_right: Their numbers of right edges, on a task where those are known.

    Example:
        >>> Rank("gdas", [1.0, 2.0], []).text
        '1.5 ± 0.71'
    """

    setting: str
    values: Sequence[float]
    edges_right: Sequence[float]

    @property
    def text(self) -> str:
        """The mean, and where there are several seeds the sample standard deviation."""
        return f"{mean(self.values):.4g}" + (f" ± {stdev(self.values):.2g}" if len(self.values) > 1 else "")


def ranking(jobs: Jobs) -> tuple[str, list[Rank]]:
    """The settings of a sweep, the best one first, by the mean result over their seeds.

    Args:
        jobs: The jobs. Only those that have finished count.

    Returns:
        The title of the result, and the settings; none if no job has a result.
    """
    found: dict[str, list[Job]] = {}
    measures: dict[int, Measure] = {}
    for job in jobs.all:
        measure = jobs.measure(job) if job.state == "finished" else None
        if measure is not None:
            measures[job.number] = measure
            found.setdefault(jobs.differing(job, seed=False), []).append(job)
    if not measures:
        return "", []
    first = next(iter(measures.values()))
    ranks = []
    for setting, members in found.items():
        values = [measures[job.number].value for job in members if measures[job.number].title == first.title]
        right = [job.summary["edges_right"] for job in members if "edges_right" in job.summary]
        if values:
            ranks.append(Rank(setting or str(members[0].summary.get("strategy", "all jobs")), values, right))
    ranks.sort(key=lambda rank: mean(rank.values), reverse=first.higher_is_better)
    return first.title, ranks
