"""Finds the folders of runs, and reads all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from advnas_lightning.reading import Unreadable
from advnas_lightning.report.runs import Run, described, read_run
from advnas_lightning.runs import CHECKPOINTS, CONFIG, GENOTYPE, HYDRA, METRICS, SUMMARY

__all__ = ["Collection", "collect", "find_folders"]


@dataclass(frozen=True)
class Collection:
    """The runs in some folders.

    Attributes:
        runs: The runs in the order of their folders.
        skipped: The folders that could not be read, each with the reason.
        refused: The folders of starts that were refused or have just begun: they hold nothing but a configuration.

    Example:
        >>> [(place.name, reason) for place, reason in collect(["no_such_folder"]).broken]
        [('no_such_folder', 'there is no such folder')]
    """

    runs: tuple[Run, ...]
    skipped: tuple[tuple[Path, str], ...]
    refused: tuple[Path, ...] = ()

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
    refused: list[Path] = []
    seen = set()

    def skip(error: OSError) -> None:
        skipped.append((Path(error.filename), described(error)))

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
                if _has_only_settings(folder):
                    refused.append(folder)
                    continue
                runs.append(read_run(folder))
            except OSError as error:
                skipped.append((folder, described(error)))
            except Unreadable as error:
                skipped.append((folder, str(error)))
    return Collection(tuple(sorted(runs, key=lambda run: str(run.folder))), tuple(skipped), tuple(refused))


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


def _has_only_settings(folder: Path) -> bool:
    """Whether a folder has Hydra's own one and nothing else: no log, no checkpoint, no result, no error and no lock."""
    names = set(os.listdir(folder)) - {HYDRA}
    if names == {CHECKPOINTS}:
        return not os.listdir(folder / CHECKPOINTS)
    return not names
