"""The README is short, sets up what it says, and shows the real difference; test_blocks.py runs what it shows."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from tests.support.pages import blocks

ROOT = Path(__file__).parents[1]
WORDS = (
    "edge",
    "candidates",
    "gate",
    "parameters θ",
    "credit",
    "arg max",
    "process-best",
    "zero operation",
)
README = (ROOT / "README.md").read_text()


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 170


def test_the_first_two_commands_are_set_up_and_test() -> None:
    first = next(block for block in blocks(README) if block.language == "bash")
    lines = first.text.splitlines()
    assert lines == ["pip install -e . && advnas", 'pip install -e ".[test]" && pytest']
    assert lines[1] in (ROOT / ".ci" / "run").read_text()


def test_the_difference_is_that_of_the_examples() -> None:
    files = [(ROOT / "examples" / f"{name}classifier.py").read_text().splitlines() for name in ("", "searchable_")]
    real = [line for line in difflib.unified_diff(*files, n=0, lineterm="")][2:]
    (shown,) = [block for block in blocks(README) if block.language == "diff"]
    assert shown.text.splitlines() == [line for line in real if line != "+" and not line.startswith("@@")]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_explained_where_it_first_occurs(word: str) -> None:
    place = re.search(rf"{word}\*\*", README)
    assert place is not None
    before = re.sub(r"<picture>.*?</picture>", "", README[: place.start()], flags=re.DOTALL)
    assert not re.search(rf"\b{word}\b", before, re.IGNORECASE)


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README) + re.findall(r'src(?:set)?="([^"]+)"', README)
    for link in links:
        assert link.startswith("https://") or (ROOT / link).is_file(), link
