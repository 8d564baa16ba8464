"""Reading what runs leave in their folders, finished or not, whole or not."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from advnas_lightning.runs import CHOICES, CONFIG, GENOTYPE, METRICS, OVERRIDES, SUMMARY, decides_result

__all__ = ["Collection", "Curve", "Run", "collect", "find_folders", "read_run"]

# What each curve is a function of. Epochs are counted from 0 in the file, and from 1 here: after so many epochs.
CURVES = {
    "test/loss": "step",
    "nasbench201/argmax": "epoch",
    "nasbench201/process_best": "epoch",
    "entropy": "epoch",
    "seconds": "epoch",
}
# libyaml's is ten times as fast, but not in every build of PyYAML.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

State = Literal["finished", "unfinished", "failed"]
Content = TypeVar("Content")


class Unreadable(ValueError):
    """A file that is broken; the message names it."""


class Curve(NamedTuple):
    """A logged value as a function of the step or epoch.

    Attributes:
        x: ascending, ``[N]``.
        y: ``[N]``.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """What is known of one run.

    Attributes:
        folder: where it is.
        strategy: its config group's name, as for all below.
        task: likewise.
        seed: of the run.
        state: finished: it has a summary; failed: it has none, but a file that is called ``error…``.
        settings: the configuration by dotted key, its interpolations as they are written.
        overrides: the command line's.
        summary: ``summary.json``; empty without one.
        genotypes: ``genotype.json``'s ``argmax`` and ``process_best``, as far as they are there.
        curves: by column of ``metrics.csv``, see ``CURVES``.
        files: names of the files in the folder, those of checkpoints and configuration included.
        problems: what is broken, one line for each file.
        changed: when its newest file was written, in seconds since 1970.
        origin: of a retraining, the file that it took its architecture from.
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
        """A setting's value, a reference to another one followed; ``None`` without one."""
        value = self.settings.get(key)
        for _ in range(10):  # references may go in a circle
            reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
            if reference is None:
                return value
            value = self.settings.get(reference[1])
        return None

    @cached_property
    def binding(self) -> dict[str, str]:
        """The settings that decide what a run with this seed finds, as texts."""
        return {key: str(value) for key, value in self.settings.items() if decides_result(key, repetitions=True)}

    @property
    def epochs(self) -> int:
        """How many are done."""
        done = self.summary.get("epochs")
        entropy = self.curves.get("entropy")
        return done if isinstance(done, int) else 0 if entropy is None else int(entropy.x[-1])

    def number(self, name: str) -> float | None:
        """A number of the summary; ``None`` without one."""
        value = self.summary.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Collection:
    """All that was found.

    Attributes:
        runs: in the order of their folders.
        skipped: folders that are no use, with the reason.
    """

    runs: tuple[Run, ...]
    skipped: tuple[tuple[Path, str], ...]

    @property
    def broken(self) -> tuple[tuple[Path, str], ...]:
        """Everything that could not be read: the skipped folders, and the broken files of the others."""
        return (*self.skipped, *((run.folder, problem) for run in self.runs for problem in run.problems))


def collect(places: Iterable[str | Path]) -> Collection:
    """Read all runs in and below some folders.

    Args:
        places: run folders, or folders that have them somewhere inside; a file stands for its folder.
    """
    runs, skipped, seen = [], [], set()
    for place in map(Path, places):
        if not place.exists():
            skipped.append((place, "there is no such folder"))
            continue
        for folder in find_folders(place if place.is_dir() else place.parent):
            real = folder.resolve()
            if real in seen:
                continue
            seen.add(real)
            try:
                runs.append(read_run(folder))
            except (OSError, Unreadable) as error:
                skipped.append((folder, str(error)))
    return Collection(tuple(sorted(runs, key=lambda run: str(run.folder))), tuple(skipped))


def find_folders(place: Path) -> Iterator[Path]:
    """The folders in and below ``place`` that have a run's files, in order."""
    for folder, inside, files in os.walk(place):
        inside[:] = sorted(name for name in inside if not name.startswith(".") and name != "checkpoints")
        if {SUMMARY, GENOTYPE, METRICS} & set(files) or os.path.exists(os.path.join(folder, CONFIG)):
            yield Path(folder)


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Files that are missing because the run is not over are no problem; those that are broken are left out, and named in
    the run's problems.

    Raises:
        Unreadable: it cannot be told what was run: the configuration, or the name of strategy or task, is missing.
    """
    problems: list[str] = []

    def attempt(read: Callable[[Path], Content], name: str, default: Content) -> Content:
        try:
            return read(folder / name)
        except FileNotFoundError:
            return default
        except (OSError, Unreadable) as error:
            problems.append(f"{name}: {error}")
            return default

    if not (folder / CONFIG).exists():
        raise Unreadable(f"{CONFIG} is missing")
    try:
        settings = dict(_flat(_read_yaml(folder / CONFIG)))
    except Unreadable as error:
        raise Unreadable(f"{CONFIG}: {error}") from None
    nothing: dict[str, Any] = {}
    summary = attempt(_read_json, SUMMARY, nothing)
    found = attempt(_read_json, GENOTYPE, nothing)
    genotypes = {kind: found[kind] for kind in ("argmax", "process_best") if _is_genotype(found.get(kind))}
    if found and "argmax" not in genotypes:
        problems.append(f"{GENOTYPE}: it has no architecture under 'argmax'")
    no_curves: dict[str, Curve] = {}
    curves = attempt(lambda path: _read_curves(path, problems), METRICS, no_curves)
    files = tuple(_files(folder))
    if summary and METRICS not in files:
        problems.append(f"{METRICS} is missing")
    origin = settings.get("strategy.genotype")
    retrained = isinstance(origin, str) and not origin.strip().startswith(("|", "{"))
    choices: dict[str, Any] = {}
    if retrained or not {"strategy", "task"} <= summary.keys():
        choices = dict(_flat(attempt(_read_yaml, CHOICES, {})))
    names = {name: summary.get(name) or choices.get(f"hydra.runtime.choices.{name}") for name in ("strategy", "task")}
    for name, value in names.items():
        if not isinstance(value, str):
            reason = "; ".join(problems) or f"{SUMMARY} and {CHOICES} are missing"
            raise Unreadable(f"which {name} it was cannot be told: {reason}")
    seed = summary.get("seed", settings.get("seed"))
    if not isinstance(seed, int):
        raise Unreadable(f"{CONFIG}: seed={seed!r} is no whole number")
    overrides: Any = attempt(_read_yaml, OVERRIDES, None)
    errors = [name for name in files if name.startswith("error")]
    return Run(
        folder=folder,
        strategy=str(names["strategy"]),
        task=str(names["task"]),
        seed=seed,
        state="finished" if summary else "failed" if errors else "unfinished",
        settings=settings,
        overrides=tuple(map(str, overrides)) if isinstance(overrides, list) else (),
        summary=summary,
        genotypes=genotypes,
        curves=curves,
        files=files,
        problems=tuple(problems),
        changed=max(((folder / name).stat().st_mtime for name in files if (folder / name).exists()), default=0.0),
        origin=Path(choices.get("hydra.runtime.cwd", ""), str(origin)) if retrained else None,
    )


# -- files ---------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise Unreadable("it is no text") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise Unreadable("it is no JSON object")
    return content


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(_text(path), Loader)  # a safe one
    except yaml.YAMLError as error:
        raise Unreadable(f"it is no YAML: {' '.join(str(error).split())}") from None


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested configuration by dotted key; lists are values."""
    if not isinstance(content, dict):
        if prefix:
            yield prefix.removesuffix("."), content
            return
        raise Unreadable("it is no mapping")
    for key, value in content.items():
        yield from _flat(value, f"{prefix}{key}.")


def _read_curves(path: Path, problems: list[str]) -> dict[str, Curve]:
    lines = _text(path).splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()  # it is being written
    rows = csv.reader(lines)
    header = next(rows, [])
    places = {name: (header.index(name), header.index(x)) for name, x in CURVES.items() if {name, x} <= set(header)}
    points: dict[str, dict[float, float]] = {name: {} for name in places}
    for number, row in enumerate(rows, start=2):
        try:
            for name, (at, x_at) in places.items():
                if row[at]:
                    # The evaluation at a run's end is logged at the last step once more: the first one counts.
                    points[name].setdefault(float(row[x_at]) + (CURVES[name] == "epoch"), float(row[at]))
        except (IndexError, ValueError):
            problems.append(f"{METRICS}: line {number} is broken, and what follows is left out")
            break
    return {
        name: Curve(np.array(sorted(curve)), np.array([curve[x] for x in sorted(curve)]))
        for name, curve in points.items()
        if curve
    }


def _is_genotype(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(isinstance(name, str) for name in value.values())


def _files(folder: Path) -> Iterator[str]:
    for place in ("", ".hydra", "checkpoints"):
        inside = folder / place
        if inside.is_dir():
            with os.scandir(inside) as entries:
                names = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.endswith(".part"))
            yield from (f"{place}/{name}" if place else name for name in names)
