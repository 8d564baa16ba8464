"""Reads files that something else may have written or damaged. What is wrong with one is a single line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

LARGEST_FILE = 2**26  # bytes; no file of settings or results comes near
LARGEST_WHOLE_NUMBER = 2**64  # seeds are smaller
DEEPEST = 100  # levels of nesting
# libyaml's loader is ten times as fast, but not every build of PyYAML has it.
YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
        content = file.read(largest + 1) if state.st_size <= largest else b""
    if max(state.st_size, len(content)) > largest:  # it may have grown
        raise Unreadable(f"it has {state.st_size} bytes, and at most {largest} are read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is no text: byte {error.start} is not UTF-8") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file, in which no key occurs twice, no whole number is huge, and little is nested.

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
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """The content of a JSON text, see :func:`read_json`.

    Raises:
        Unreadable: If it is no such JSON.

    Example:
        >>> parse_json('{"seed": 0}')
        {'seed': 0}
    """
    try:
        return _checked(json.loads(text, object_pairs_hook=_unique))
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"it is no JSON: {error}") from None


def read_yaml(path: Path) -> Any:
    r"""The content of a YAML file as :func:`read_json` gives that of JSON. Aliases are refused: few can stand for much.

    Raises:
        OSError: If the file cannot be read, see :func:`read_text`.
        Unreadable: If it is no such YAML.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "file.yaml")
        >>> path.write_text("a: &a [1, 2]\nb: [*a, *a]")
        24
        >>> read_yaml(path)
        Traceback (most recent call last):
            ...
        advnas_lightning.reading.Unreadable: it has aliases, as in line 2
    """
    text = read_text(path)
    try:
        depth = 0
        for event in yaml.parse(text, YamlLoader):
            if isinstance(event, yaml.AliasEvent):
                raise Unreadable(f"it has aliases, as in line {event.start_mark.line + 1}")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:  # some versions of libyaml's loader end the process there
                raise Unreadable("it is nested too deeply")
        return _checked(yaml.load(text, _UniqueKeys))  # this loader is a safe one
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    # The constructors of dates, numbers and truth values have errors of all these kinds.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise Unreadable(f"it is no YAML: {' '.join(str(error).split())}") from None


class _UniqueKeys(YamlLoader):  # type: ignore[misc, valid-type]
    """A safe loader that refuses a key that occurs twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        _refuse_twice(keys)
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice([key for key, _ in pairs])
    return dict(pairs)


def _refuse_twice(keys: list[str]) -> None:
    if len(set(keys)) < len(keys):
        raise Unreadable(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")


def _checked(content: Any, depth: int = 0) -> Any:
    """The content, unless it has what this package could not go through, or what Python cannot write as text."""
    if depth > DEEPEST:
        raise Unreadable("it is nested too deeply")
    if isinstance(content, int) and abs(content) > LARGEST_WHOLE_NUMBER:
        raise Unreadable(f"it has a whole number of {content.bit_length()} bits")
    inner = [*content, *content.values()] if isinstance(content, dict) else content if isinstance(content, list) else ()
    for each in inner:
        _checked(each, depth + 1)
    return content
