"""What the page on strategies says of them is so."""

from __future__ import annotations

import re

import pytest
import yaml

import advnas_lightning
from advnas_lightning import SearchStrategy
from tests.support.pages import DOCS, ROOT
from tests.support.passes import CANDIDATES, EDGES, passes

PAGE = (DOCS / "concepts/strategies.md").read_text()
CONF = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf/strategy").glob("*.yaml")}
SAMPLES = 8  # of PARSEC
NUMBERS = {
    "0": 0,
    "1": 1,
    "2": 2,
    "J": CANDIDATES,
    "K": SAMPLES,
    "1 + E": 1 + EDGES,
    "1 + E (J − 1)": 1 + EDGES * (CANDIDATES - 1),
}
ROW = r"\| `(\w+)`(?: with `\w+=(\w+)`)? \| ([\dJ]) \| ([\dJKE+() −]+?) \| ([\dJ]) \|"
ROWS = re.findall(ROW, PAGE)


def section(name: str) -> str:
    """The part of the page on a strategy."""
    (found,) = (part for part in PAGE.split("\n### ") if f"strategy={name} <" in part)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row))
def test_a_step_runs_and_keeps_so_many_candidates(row: tuple[str, ...]) -> None:
    name, option, *counts = row
    weights, runs, keeps = (NUMBERS[count] for count in counts)
    options = {"samples": SAMPLES} if name == "parsec" else {}
    assert passes(f"{name}-{option}" if option else name, **options) == {
        "weights": (weights, weights),
        "architecture": (runs, keeps),
    }


def test_the_table_has_every_search() -> None:
    assert {row[0] for row in ROWS} == CONF.keys() - {"random", "fixed"}


@pytest.mark.parametrize("name", CONF)
def test_every_option_is_described(name: str) -> None:
    options = CONF[name].keys() - {"_target_"}
    assert [option for option in options if f"`{option}`" not in section(name)] == []


@pytest.mark.parametrize("name", CONF)
def test_the_defaults_are_those_of_the_configuration(name: str) -> None:
    for row in re.findall(r"^\| `(\w+)` \| `([^`]+)`", section(name), re.MULTILINE):
        assert yaml.safe_load(row[1]) == CONF[name][row[0]]


@pytest.mark.parametrize("name", sorted(CONF.keys() - {"fixed"}))
def test_the_selection_is_that_of_the_class(name: str) -> None:
    kind: type[SearchStrategy] = getattr(advnas_lightning, CONF[name]["_target_"].rpartition(".")[2])
    words = re.search(r"selects\s+(arg max|process-best)", section(name))
    assert words is not None
    assert words[1] == {"argmax": "arg max", "process_best": "process-best"}[kind.default_select]


def test_the_papers_are_linked() -> None:
    assert all(re.search(r"\(https://\S+\)", section(name)) for name in CONF.keys() - {"counterfactual", "fixed"})
