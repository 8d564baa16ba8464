"""Reads the files of runs. A run need not be finished, and its files need not be complete."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
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

__all__ = ["Curve", "Run", "described", "read_run", "resolved"]

# The column that is the x of each curve. The file counts epochs from 0. Here x is the number of epochs that are done.
CURVES = {
    "test/loss": "step",
    "nasbench201/argmax": "epoch",
    "nasbench201/process_best": "epoch",
    "nasbench201_valid/argmax": "epoch",
    "nasbench201_valid/process_best": "epoch",
    "entropy": "epoch",
    "seconds": "epoch",
}
LONGEST = 10**7  # epochs; a figure has a place for each of them
LARGEST_LOG = 2**30  # bytes of metrics.csv
LARGEST = 1e30  # of a value; the squares of larger ones overflow, and a figure has a gap there

LENGTH, EPOCHS = "trainer.max_epochs", ("task.epochs", "task.retrain_epochs")

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
        (3, 0.5, {'trainer.max_epochs': '3'})
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
        return resolved(self.settings, key)

    @cached_property
    def binding(self) -> dict[str, str]:
        """The settings, as texts, that decide what a run with this seed finds.

        The number of epochs is that of the Trainer. The task's own number, to which it may refer, does not count.
        """
        found = {
            plain(key): plain(str(value))
            for key, value in self.settings.items()
            if decides_result(key, repetitions=True) and key not in EPOCHS
        }
        if LENGTH in self.settings:
            found[LENGTH] = plain(str(self.setting(LENGTH)))
        else:
            found |= {key: plain(str(self.settings[key])) for key in EPOCHS if key in self.settings}
        return found

    @property
    def epochs(self) -> int:
        """The number of epochs that are done."""
        done = self.summary.get("epochs")
        entropy = self.curves.get("entropy")
        return done if isinstance(done, int) else 0 if entropy is None else int(entropy.x[-1])

    def number(self, name: str) -> float | None:
        """A number of the summary; ``None`` if the summary does not have it. A huge one is infinite, and null is nan.

        Args:
            name: The key. Summaries of version 0.1 have no ``selected/…``: there ``test/…`` is the selected one's.
        """
        key = name if name in self.summary else name.removeprefix("selected/")
        if key != "loss" and self.summary.get(key, 0) is None:
            return math.nan  # where there is no test, the loss is null, too
        value = as_number(self.summary.get(key))
        return value if value is None or not abs(value) > LARGEST else math.copysign(math.inf, value)


def resolved(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a setting, or of the one that it refers to; ``None`` if it is not set.

    Args:
        settings: The settings by dotted key. Interpolations are not resolved.
        key: The key of the setting.

    Example:
        >>> resolved({"trainer.max_epochs": "${task.epochs}", "task.epochs": 3}, "trainer.max_epochs")
        3
    """
    value = settings.get(key)
    for _ in range(10):  # references may go in a circle
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if reference is None:
            return value
        value = settings.get(reference[1])
    return None


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
            problems.append(f"{name}: {described(error)}")
            return default
        except Unreadable as error:
            problems.append(f"{name}: {plain(str(error))}")
            return default

    try:
        settings = _by_dotted_key(read_yaml(folder / CONFIG))
    except FileNotFoundError:
        raise Unreadable(f"{CONFIG} is missing") from None
    except OSError as error:
        raise Unreadable(f"{CONFIG}: {described(error)}") from None
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


def described(error: OSError) -> str:
    """What an error of the file system is, in words, without the path.

    Example:
        >>> described(FileNotFoundError(2, "No such file or directory"))
        'No such file or directory'
    """
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
