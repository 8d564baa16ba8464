"""Reads the files of runs. A run need not be finished, and its files need not be complete."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from advnas_lightning.reading import Unreadable, read_json, read_text, read_yaml
from advnas_lightning.runs import (
    CHECKPOINTS,
    CHOICES,
    CONFIG,
    ERROR,
    GENOTYPE,
    HYDRA,
    METRICS,
    OVERRIDES,
    SUMMARY,
    UNFINISHED,
    decides_result,
    flatten,
)
from advnas_lightning.texts import plain
from advnas_lightning.validate import as_number

__all__ = ["Collection", "Curve", "Run", "collect", "find_folders", "read_run"]

# The column that is the x of each curve. The file counts epochs from 0. Here x is the number of epochs that are done.
CURVES = {
    "test/loss": "step",
    "nasbench201/argmax": "epoch",
    "nasbench201/process_best": "epoch",
    "entropy": "epoch",
    "seconds": "epoch",
}
LONGEST = 10**7  # epochs; a figure has a place for each of them
LARGEST_LOG = 2**30  # bytes of metrics.csv
LARGEST = 1e30  # of a value; the squares of larger ones overflow, and a figure has a gap there

State = Literal["finished", "unfinished", "failed"]
Content = TypeVar("Content")


class Curve(NamedTuple):
    """A logged value as a function of the step or epoch.

    Attributes:
        x: The steps or epochs in ascending order, ``[N]``.
        y: The values, ``[N]``.

    Example:
        >>> Curve(np.array([1.0, 2.0]), np.array([2.3, 2.1])).y.tolist()
        [2.3, 2.1]
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """All that the files of one run say.

    Attributes:
        folder: The run's folder.
        strategy: The name of the strategy in the config group.
        task: The name of the task in the config group.
        seed: The seed of the run.
        state: A run with a summary is finished. One without a summary that has a file ``error…`` has failed.
        settings: The configuration by dotted key. Interpolations are not resolved.
        overrides: The overrides of the command line.
        summary: The content of ``summary.json``; empty if there is no such file.
        genotypes: The genotypes ``argmax`` and ``process_best`` of ``genotype.json``, if they are there.
        curves: The curves by column of ``metrics.csv``, see ``CURVES``.
        files: The names of the files in the folder, with those of the checkpoints and the configuration.
        problems: One line for each broken file.
        changed: The time at which the newest file was written, in seconds since 1970.
        origin: The file from which a retraining took its architecture; ``None`` for other runs.

    Example:
        >>> run = Run(
        ...     folder=Path("run"), strategy="gdas", task="toy", seed=0, state="finished",
        ...     settings={"trainer.max_epochs": "${task.epochs}", "task.epochs": 3}, overrides=(),
        ...     summary={"epochs": 3, "loss": 0.5}, genotypes={}, curves={}, files=(), problems=(), changed=0.0,
        ... )
        >>> run.setting("trainer.max_epochs"), run.number("loss"), run.binding
        (3, 0.5, {'trainer.max_epochs': '${task.epochs}', 'task.epochs': '3'})
    """

    folder: Path
    strategy: str
    task: str
    seed: int
    state: State
    settings: Mapping[str, Any]
    overrides: tuple[str, ...]
    summary: Mapping[str, Any]
    genotypes: Mapping[str, Mapping[str, str]]
    curves: Mapping[str, Curve]
    files: tuple[str, ...]
    problems: tuple[str, ...]
    changed: float
    origin: Path | None = None

    @property
    def zero_op(self) -> bool:
        """Whether an image cell may have no operation on an edge (Appendix F)."""
        return self.settings.get("task.zero_op") is True

    def setting(self, key: str) -> Any:
        """The value of a setting, or of the one that it refers to; ``None`` if it is not set."""
        value = self.settings.get(key)
        for _ in range(10):  # references may go in a circle
            reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
            if reference is None:
                return value
            value = self.settings.get(reference[1])
        return None

    @cached_property
    def binding(self) -> dict[str, str]:
        """The settings, as texts, that decide what a run with this seed finds."""
        return {
            plain(key): plain(str(value))
            for key, value in self.settings.items()
            if decides_result(key, repetitions=True)
        }

    @property
    def epochs(self) -> int:
        """The number of epochs that are done."""
        done = self.summary.get("epochs")
        entropy = self.curves.get("entropy")
        return done if isinstance(done, int) else 0 if entropy is None else int(entropy.x[-1])

    def number(self, name: str) -> float | None:
        """A number of the summary; ``None`` if the summary does not have it. A huge one is infinite.

        Args:
            name: The key. Summaries of version 0.1 have no ``selected/…``: there ``test/…`` is the selected one's.
        """
        value = as_number(self.summary.get(name, self.summary.get(name.removeprefix("selected/"))))
        return value if value is None or not abs(value) > LARGEST else math.copysign(math.inf, value)


@dataclass(frozen=True)
class Collection:
    """The runs in some folders.

    Attributes:
        runs: The runs in the order of their folders.
        skipped: The folders that could not be read, each with the reason.

    Example:
        >>> [(place.name, reason) for place, reason in collect(["no_such_folder"]).broken]
        [('no_such_folder', 'there is no such folder')]
    """

    runs: tuple[Run, ...]
    skipped: tuple[tuple[Path, str], ...]

    @property
    def broken(self) -> tuple[tuple[Path, str], ...]:
        """All that could not be read: the skipped folders, and the broken files of the other ones."""
        return (*self.skipped, *((run.folder, problem) for run in self.runs for problem in run.problems))


def collect(places: Iterable[str | Path]) -> Collection:
    """Read all runs in and below some folders.

    Args:
        places: The runs' folders, or folders that contain some at any depth. A file stands for its folder.
    """
    runs: list[Run] = []
    skipped: list[tuple[Path, str]] = []
    seen = set()

    def skip(error: OSError) -> None:
        skipped.append((Path(error.filename), _described(error)))

    for place in map(Path, places):
        try:
            if not place.exists():
                skipped.append((place, "there is no such folder"))
                continue
        except OSError as error:
            skip(error)
            continue
        for folder in find_folders(place if place.is_dir() else place.parent, skip):
            real = folder.resolve()
            if real in seen:
                continue
            seen.add(real)
            try:
                runs.append(read_run(folder))
            except OSError as error:
                skipped.append((folder, _described(error)))
            except Unreadable as error:
                skipped.append((folder, str(error)))
    return Collection(tuple(sorted(runs, key=lambda run: str(run.folder))), tuple(skipped))


def find_folders(place: Path, skip: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """The folders in and below ``place`` that have the files of a run, in order.

    Args:
        place: The folder to look in.
        skip: A function that is called with the error of each folder that cannot be looked into.
    """
    for folder, inside, files in os.walk(place, onerror=skip):
        inside[:] = sorted(name for name in inside if not name.startswith(".") and name != CHECKPOINTS)
        if {SUMMARY, GENOTYPE, METRICS} & set(files) or os.path.lexists(os.path.join(folder, CONFIG)):
            yield Path(folder)


def read_run(folder: Path) -> Run:
    """Read the folder of a run.

    A file may be missing because the run is not finished. A broken file is left out, and the run's problems name it.

    Raises:
        Unreadable: If the configuration, or the name of the strategy or the task, is missing.
    """
    problems: list[str] = []

    def attempt(read: Callable[[Path], Content], name: str, default: Content) -> Content:
        try:
            return read(folder / name)
        except FileNotFoundError:
            return default
        except OSError as error:
            problems.append(f"{name}: {_described(error)}")
            return default
        except Unreadable as error:
            problems.append(f"{name}: {plain(str(error))}")
            return default

    try:
        settings = _by_dotted_key(read_yaml(folder / CONFIG))
    except FileNotFoundError:
        raise Unreadable(f"{CONFIG} is missing") from None
    except OSError as error:
        raise Unreadable(f"{CONFIG}: {_described(error)}") from None
    except Unreadable as error:
        raise Unreadable(f"{CONFIG}: {plain(str(error))}") from None
    nothing: dict[str, Any] = {}
    summary = attempt(_summary, SUMMARY, nothing)
    found = attempt(_object, GENOTYPE, nothing)
    genotypes = {kind: found[kind] for kind in ("argmax", "process_best") if _is_genotype(found.get(kind))}
    if found and "argmax" not in genotypes:
        problems.append(f"{GENOTYPE}: it has no architecture under 'argmax'")
    no_curves: dict[str, Curve] = {}
    curves = attempt(lambda path: _read_curves(path, problems), METRICS, no_curves)
    files = tuple(_files(folder))
    if summary and METRICS not in files and not any(problem.startswith(METRICS) for problem in problems):
        problems.append(f"{METRICS} is missing")
    origin = settings.get("strategy.genotype")
    retrained = isinstance(origin, str) and not origin.strip().startswith(("|", "{"))
    choices: dict[str, Any] = {}
    if retrained or not {"strategy", "task"} <= summary.keys():
        choices = attempt(lambda path: _by_dotted_key(read_yaml(path)), CHOICES, choices)
    names = {name: summary.get(name) or choices.get(f"hydra.runtime.choices.{name}") for name in ("strategy", "task")}
    for name, value in names.items():
        if not isinstance(value, str):
            reason = "; ".join(problems) or f"{SUMMARY} and {CHOICES} are missing"
            raise Unreadable(f"which {name} it was cannot be told: {reason}")
    seed = summary.get("seed", settings.get("seed"))
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise Unreadable(f"{CONFIG}: seed={seed!r} is no whole number")
    overrides: Any = attempt(read_yaml, OVERRIDES, None)
    errors = [name for name in files if name.startswith(Path(ERROR).stem)]
    return Run(
        folder=folder,
        strategy=plain(str(names["strategy"])),
        task=plain(str(names["task"])),
        seed=seed,
        state="finished" if summary else "failed" if errors else "unfinished",
        settings=settings,
        overrides=tuple(plain(str(each)) for each in overrides) if isinstance(overrides, list) else (),
        summary=summary,
        genotypes=genotypes,
        curves=curves,
        files=files,
        problems=tuple(problems),
        changed=max(((folder / name).stat().st_mtime for name in files if (folder / name).exists()), default=0.0),
        origin=Path(str(choices.get("hydra.runtime.cwd", "")), str(origin)) if retrained else None,
    )


# -- files ---------------------------------------------------------------------------------------------------------


def _described(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise Unreadable("it is no JSON object")
    return content


def _summary(path: Path) -> dict[str, Any]:
    content = _object(path)
    epochs = content.get("epochs", 0)
    if not isinstance(epochs, int) or not 0 <= epochs <= LONGEST:
        raise Unreadable(f"epochs={epochs!r} is no number of epochs")
    return content


def _by_dotted_key(content: Any) -> dict[str, Any]:
    """A nested configuration by dotted key, without its empty mappings."""
    if not isinstance(content, dict):
        raise Unreadable("it is no mapping")
    return {key: value for key, value in flatten(content) if value != {}}


def _read_curves(path: Path, problems: list[str]) -> dict[str, Curve]:
    text = read_text(path, largest=LARGEST_LOG)
    rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))  # the last line may still be being written
    points: dict[str, dict[float, float]] = {}
    try:
        header = next(rows, [])
        places = {name: (header.index(name), header.index(x)) for name, x in CURVES.items() if {name, x} <= set(header)}
        points = {name: {} for name in places}
        for row in rows:
            for name, (at, x_at) in places.items():
                if row[at]:
                    x, y = float(row[x_at]) + (CURVES[name] == "epoch"), float(row[at])
                    if not 0 <= x <= (LONGEST if CURVES[name] == "epoch" else LARGEST):
                        raise ValueError
                    # The evaluation at the end of a run logs the last step a second time. The first value counts.
                    points[name].setdefault(x, y if abs(y) <= LARGEST else np.nan)
    except (IndexError, ValueError, csv.Error):
        problems.append(f"{METRICS}: line {rows.line_num} is broken, and what follows is left out")
    return {
        name: Curve(np.array(sorted(curve)), np.array([curve[x] for x in sorted(curve)]))
        for name, curve in points.items()
        if curve
    }


def _is_genotype(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(isinstance(name, str) for name in value.values())


def _files(folder: Path) -> Iterator[str]:
    for place in ("", HYDRA, CHECKPOINTS):
        inside = folder / place
        if inside.is_dir():
            with os.scandir(inside) as entries:
                names = sorted(entry.name for entry in entries if _is_file(entry))
            yield from (f"{place}/{name}" if place else name for name in names)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() and not entry.name.endswith(UNFINISHED)
    except OSError:  # links in a circle
        return False
