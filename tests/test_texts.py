"""A name is shown as it is, and read as nothing else, by each of the outputs."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from advnas_lightning import texts
from tests.support.names import NAMES, OBEYED

each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())


@each_name
def test_a_plain_text_is_one_line_without_signs_that_do_something(name: str) -> None:
    shown = texts.plain(name)
    assert len(shown.splitlines()) == 1
    assert not OBEYED.search(shown)
    shown.encode()  # has no half of a pair
    assert texts.plain(shown) == shown
    if name.isprintable():
        assert shown == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("two\nlines", r"two\nlines"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b", r"\x9b"),
        ("\u202e", r"\u202e"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("θ→\U0001f600é", "θ→\U0001f600é"),
        ("e\u0301", "e\u0301"),
    ],
)
def test_hidden_signs_are_shown_as_python_would_write_them(name: str, shown: str) -> None:
    assert texts.plain(name) == shown


@each_name
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_stream_can_write_each_name(name: str, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    print(texts.encodable(name, stream), file=stream, flush=True)
    assert not OBEYED.search(texts.encodable(name, stream))


@each_name
def test_rich_shows_a_name_as_it_is(name: str) -> None:
    console = Console(file=io.StringIO(), width=2000, force_terminal=True, color_system="truecolor")
    table = Table(box=None, show_header=False, padding=0)
    table.add_row(texts.rich(name))
    console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.rstrip("\n").rstrip() == texts.plain(name).rstrip()


@each_name
def test_a_name_is_one_place_of_a_markdown_table(name: str) -> None:
    shown = texts.markdown(name)
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", f"| {shown} |")) == 2
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>$~&!]", shown)  # all that could begin something is escaped
    assert re.sub(r"\\([\\`*_\[\]<>|~$&#!])", r"\1", shown) == texts.plain(name)


@each_name
def test_a_spreadsheet_computes_no_name(name: str) -> None:
    shown = texts.csv_field(name)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert shown.removeprefix("'") == texts.plain(name).removeprefix("'")
    text = io.StringIO()
    csv.writer(text).writerow([shown, "next"])
    assert next(csv.reader(io.StringIO(text.getvalue(), newline=""))) == [shown, "next"]


@each_name
def test_latex_takes_no_name_for_a_command(name: str) -> None:
    shown = texts.latex(name)
    assert shown[:1] not in ("[", "*")  # an option of the end of the row before
    rest = shown
    for command in sorted(texts.TEX.values(), key=len, reverse=True):
        rest = rest.replace(command, "")
    rest = re.sub(r"^\{([\[*])\}", r"\1", rest)
    assert not re.search(r"[\\{}$&#^_~%<>|]", rest)
    assert max(rest, default="a") <= "ſ"


def test_a_long_text_loses_its_middle() -> None:
    assert texts.shortened("abcdefghij", 10) == "abcdefghij"
    assert texts.shortened("abcdefghijk", 10) == "abcde…hijk"
    assert texts.shortened("a\nb", 10) == r"a\nb"
    assert all(len(texts.shortened("x" * 50, most)) == most for most in range(1, 50))
