"""Reads files that something else may have written or damaged. What is wrong with one is a single line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST_FILE = 2**26  # bytes; no file of settings or results comes near
LARGEST_WHOLE_NUMBER = 2**64  # what a seed may be


class Unreadable(ValueError):
    """A file is broken. The message says how, in one line.

    Example:
        >>> read_text(Path("/"))
        Traceback (most recent call last):
            ...
        advnas_lightning.reading.Unreadable: it is a folder
    """


def read_text(path: Path, *, largest: int = LARGEST_FILE) -> str:
    """The text of a file in UTF-8.

    Only regular files are read: to open a pipe would wait for a writer, and a device may have no end.

    Args:
        path: The path of the file.
        largest: The largest size that is read, in bytes.

    Raises:
        FileNotFoundError: If there is no file.
        OSError: If the file cannot be read, for instance because reading it is not permitted.
        Unreadable: If it is no regular file, is too large, or is no text.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "file")
        >>> path.write_text("θ", encoding="utf-8")
        1
        >>> read_text(path)
        'θ'
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        if path.is_symlink():
            raise Unreadable("it is a link to a file that is missing") from None
        raise
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise Unreadable(f"it is {'a folder' if stat.S_ISDIR(state.st_mode) else 'a pipe or a device'}")
    with open(descriptor, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise Unreadable(f"it has {state.st_size} bytes, and at most {largest} are read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is no text: byte {error.start} is not UTF-8") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file, in which no key may occur twice and no whole number may be huge.

    Raises:
        OSError: If the file cannot be read, see :func:`read_text`.
        Unreadable: If it is no such JSON.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "file.json")
        >>> path.write_text('{"seed": 0, "seed": 1}')
        22
        >>> read_json(path)
        Traceback (most recent call last):
            ...
        advnas_lightning.reading.Unreadable: it has the key 'seed' twice
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is no JSON: {error}") from None
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None


def check_size(number: int) -> int:
    """A whole number that is not huge. Python does not turn a huge one into a float or into text.

    Raises:
        Unreadable: If the number is huge.

    Example:
        >>> check_size(-3)
        -3
    """
    if abs(number) > LARGEST_WHOLE_NUMBER:
        raise Unreadable(f"it has a whole number of {number.bit_length()} bits")
    return number


def _whole_number(digits: str) -> int:
    if len(digits) > 1000:  # Python refuses to read the number from some length on
        raise Unreadable(f"it has a whole number of {len(digits)} digits")
    return check_size(int(digits))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Unreadable(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return content
