"""A file is read, or what is wrong with it is one line; nothing waits, and nothing takes all memory."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from advnas_lightning.reading import Unreadable, read_json, read_text, read_yaml

READERS = (read_text, read_json, read_yaml)
LAUGHS = "a: &a [x, x]\n" + "".join(f"{y}: &{y} [{','.join(9 * [f'*{x}'])}]\n" for x, y in pairwise("abcdefghi"))


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises((Unreadable, OSError)) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_regular_file_is_refused_at_once(
    read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe")
    os.mkdir("folder")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        assert "No such device" in refusal(read, Path("socket"))
    assert refusal(read, Path("pipe")) == "it is a pipe or a device"
    assert refusal(read, Path("/dev/zero")) == "it is a pipe or a device"
    assert refusal(read, Path("folder")) == "it is a folder"
    assert refusal(read, Path("dangling")) == "it is a link to a file that is missing"
    assert "symbolic links" in refusal(read, Path("loop"))
    with pytest.raises(FileNotFoundError):
        read(Path("missing"))


@pytest.mark.parametrize("read", READERS)
def test_a_huge_file_is_not_read(read: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, 2**40)
    assert refusal(read, path) == f"it has {2**40} bytes, and at most {2**26} are read"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is no JSON: Expecting value"),
        (b"{", "it is no JSON: "),
        (b"\x00\x00", "it is no JSON: "),
        (b"\xff\xfe{\x00}\x00", "it is no text: byte 0 is not UTF-8"),
        (100_000 * b"[", "it is nested too deeply"),
        (100_000 * b'{"a":', "it is nested too deeply"),
        (500 * b"[" + 500 * b"]", "it is nested too deeply"),
        (b"1" + 400 * b"0", "it has a whole number of 1329 bits"),
        (b'{"a": [-1' + 400 * b"0" + b"]}", "it has a whole number of 1329 bits"),
        (5000 * b"9", "it is no JSON: Exceeds the limit (4300 digits)"),
        (b'{"a": {"b": 1, "b": 2}}', "it has the key 'b' twice"),
        (b'{"two\\nlines": 1, "two\\nlines": 2}', r"it has the key 'two\nlines' twice"),
    ],
)
def test_what_is_no_json_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert refusal(read_json, path).startswith(says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [", "it is no YAML: "),
        (b"\t\ta: b", "it is no YAML: "),
        (b"\x00", "it is no YAML: "),
        (b"--- a\n--- b", "it is no YAML: "),
        (b"!!python/object/apply:os.mkdir [HACKED]", "it is no YAML: "),
        (b"a: !!int ''", "it is no YAML: "),
        (b"a: !!bool x", "it is no YAML: "),
        (b"a: !!timestamp x", "it is no YAML: "),
        (b"a: 9999-99-99", "it is no YAML: "),
        (b"? [1, 2]\n: 3", "it is no YAML: "),
        (b"a: " + 5000 * b"9", "it is no YAML: Exceeds the limit"),
        (b"a: 0x" + 5000 * b"f", "it has a whole number of 20000 bits"),
        (b"a: " + 200 * b"[" + 200 * b"]", "it is nested too deeply"),
        (100_000 * b"- ", "it is nested too deeply"),
        (100_000 * b"{a: ", "it is nested too deeply"),
        (LAUGHS.encode(), "it has aliases, as in line 2"),
        (b"a: &a [*a]", "it has aliases, as in line 1"),
        (b"a: &a {b: 1}\nc:\n  <<: *a", "it has aliases, as in line 3"),
        (b"a: 1\nb: {c: 1, c: 2}", "it has the key 'c' twice"),
        (b"a: \xff", "it is no text: byte 3 is not UTF-8"),
    ],
)
def test_what_is_no_yaml_is_named(content: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(content)
    assert refusal(read_yaml, path).startswith(says)
    assert os.listdir(tmp_path) == ["file"]


def test_what_can_be_read_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('\ufeff{"θ": [1, 18446744073709551616, 1.5e300, null, true], "*": {"a": {}}}', encoding="utf-8")
    content = {"θ": [1, 2**64, 1.5e300, None, True], "*": {"a": {}}}
    assert read_json(path) == content
    path.write_text('"*": {a: {}}\nθ: [1, 18446744073709551616, 1.5e+300, null, true]\n', encoding="utf-8")
    assert read_yaml(path) == content
    path.write_bytes(b"a\r\n\xce\xb8\n")
    assert read_text(path) == "a\r\nθ\n"
