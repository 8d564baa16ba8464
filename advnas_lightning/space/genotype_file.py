"""Writes a run's ``genotype.json``: what its search has found, and what commands find in it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advnas_lightning.folder_lock import turn_in
from advnas_lightning.reading import Unreadable, read_json
from advnas_lightning.runs import GENOTYPE, in_run, write_json
from advnas_lightning.space.genotype import LATER, Genotype
from advnas_lightning.validate import check_one_of

__all__ = ["add_genotype", "write_found"]

LOCK = ".genotype.lock"  # is there while a process changes the file; the folder's own lock is held by its run


def write_found(path: Path, selected: str, argmax: Genotype, process_best: Genotype | None) -> list[str]:
    """Write what a search has found so far.

    Args:
        path: The file.
        selected: The kind that the search selects.
        argmax: The most probable genotype.
        process_best: The genotype with the lowest loss of an architecture step, if there is one.

    Returns:
        The kinds that commands had added to the file. They are of an earlier state of the search, so that the file has
        them no longer.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "genotype.json")
        >>> write_found(path, "argmax", Genotype({"edge": "skip"}), None)
        []
        >>> add_genotype(path, "ranked", Genotype({"edge": "linear"}))
        >>> write_found(path, "argmax", Genotype({"edge": "skip"}), None)
        ['ranked']
    """
    found = {"argmax": argmax.edges, "process_best": None if process_best is None else process_best.edges}
    with turn_in(path.parent, LOCK):
        try:
            before = read_json(path)
        except (OSError, Unreadable):  # there is none yet, or one that nobody can read, which this one replaces
            before = None
        write_json(path, {"selected": selected, **found})
    return [kind for kind in LATER if isinstance(before, dict) and before.get(kind) is not None]


def add_genotype(path: str | Path, kind: str, genotype: Genotype) -> None:
    """Add a genotype to what a run has found, or replace the one of that kind. All else in the file stays.

    Processes that add to the same file take turns, so that none of them undoes what another has added.

    Args:
        path: The folder of the run, or its ``genotype.json``.
        kind: The kind, ``"ranked"`` or ``"refined"``.
        genotype: The genotype.

    Raises:
        ValueError: There is no such kind, or no file of a run.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "genotype.json")
        >>> _ = write_found(path, "argmax", Genotype({"edge": "skip"}), None)
        >>> add_genotype(path, "refined", Genotype({"edge": "linear"}))
        >>> dict(Genotype.load(path)), dict(Genotype.load(path, select="refined"))
        ({'edge': 'skip'}, {'edge': 'linear'})
    """
    check_one_of("kind", kind, LATER)
    path = in_run(path, GENOTYPE)
    with turn_in(path.parent, LOCK):
        try:
            content: Any = read_json(path)
        except (OSError, Unreadable) as error:
            raise ValueError(f"{path} cannot get a {kind} genotype: {error}") from None
        if not isinstance(content, dict) or "argmax" not in content:
            raise ValueError(f"{path} cannot get a {kind} genotype: it is not what a search has left")
        write_json(path, {**content, kind: genotype.edges})
