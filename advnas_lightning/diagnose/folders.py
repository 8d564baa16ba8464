"""The folders that diagnoses write to."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["RESULT", "free_folder", "new_folder"]

FOLDER, RESULT = "diagnosis", "diagnosis.json"


def free_folder(output: Path | None, place: Path) -> Path:
    """The folder for a diagnosis. No other diagnosis is in it.

    Args:
        output: The folder that was asked for, if there was one.
        place: The folder in which there will be a new one otherwise: ``diagnosis``, ``diagnosis_2`` and so on.

    Raises:
        ValueError: If the folder that was asked for has a diagnosis, or if nothing can be written in ``place``.

    Example:
        >>> from tempfile import mkdtemp
        >>> place = Path(mkdtemp())
        >>> (place / "diagnosis").mkdir()
        >>> free_folder(None, place).name
        'diagnosis_2'
    """
    if output is not None:
        if (output / RESULT).exists():
            raise ValueError(f"output={output} holds another diagnosis: name a new folder")
        return output
    if place.is_dir() and not os.access(place, os.W_OK):
        raise ValueError(f"{place} cannot be written to: name another folder, output=DIR")
    number = 1
    while (place / (name := FOLDER if number == 1 else f"{FOLDER}_{number}")).exists():
        number += 1
    return place / name


def new_folder(output: Path | None, place: Path) -> Path:
    """Make the folder for a diagnosis, see :func:`free_folder`.

    Raises:
        ValueError: If the folder that was asked for has a diagnosis.

    Example:
        >>> from tempfile import mkdtemp
        >>> place = Path(mkdtemp())
        >>> [new_folder(None, place).name for _ in range(2)]
        ['diagnosis', 'diagnosis_2']
    """
    while True:
        folder = free_folder(output, place)
        try:
            folder.mkdir(parents=True, exist_ok=output is not None)
        except FileExistsError:  # somebody else has just made it
            if output is not None:
                raise
            continue
        return folder
