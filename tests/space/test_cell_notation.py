"""Genotypes in NAS-Bench-201's notation, and whatever else a user would write."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from advnas_lightning import Genotype
from tests.support.scaled_space import write

OPERATIONS = ("avg_pool_3x3", "none", "nor_conv_1x1", "nor_conv_3x3", "skip_connect")
CELL_EDGES = ("0->1", "0->2", "1->2", "0->3", "1->3", "2->3")


def test_all_nasbench201_cells_round_trip() -> None:
    texts = set()
    for ops in itertools.product(OPERATIONS, repeat=6):
        text = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*ops)
        cell = Genotype.from_nasbench201(text)
        assert list(cell.items()) == list(zip(CELL_EDGES, ops, strict=True))
        assert cell.to_nasbench201() == text
        texts.add(text)
    assert len(texts) == 15_625


def test_a_cells_edges_may_come_in_any_order() -> None:
    text = "|none~0|+|skip_connect~0|nor_conv_1x1~1|"
    cell = Genotype.from_nasbench201(text)
    assert Genotype(dict(reversed(list(cell.items())))).to_nasbench201() == text


@pytest.mark.parametrize("text", ["|a~0|", "|a~0|+|b~0|c~1|", "|a~0|+|b~0|c~1|+|d~0|e~1|f~2|+|g~0|h~1|i~2|j~3|"])
def test_cells_of_other_sizes_round_trip(text: str) -> None:
    assert Genotype.from_nasbench201(text).to_nasbench201() == text
    assert Genotype.from_nasbench201(f" {text}\n").to_nasbench201() == text


@pytest.mark.parametrize(
    ("text", "part", "place"),
    [
        ("", "", "node 1"),
        ("none~0", "none~0", "node 1"),
        ("|none~0", "|none~0", "node 1"),
        ("none~0|", "none~0|", "node 1"),
        ("||none~0|", "||none~0|", "node 1"),
        ("|none~0|none~1|", "|none~0|none~1|", "node 1"),
        ("|none~0|+|none~0|", "|none~0|", "node 2"),
        ("|none~0|+|none~0|none~1|none~2|", "|none~0|none~1|none~2|", "node 2"),
        ("|none~0|+", "", "node 2"),
        ("|none~0|++|none~0|none~1|", "", "node 2"),
        ("|none~0| + |none~0|none~1|", "|none~0| ", "node 1"),
        ("|none~0|none~0|none~1|", "|none~0|none~0|none~1|", "node 1"),
        ("||", "", "edge 0->1"),
        ("|none|", "none", "edge 0->1"),
        ("|~0|", "~0", "edge 0->1"),
        ("|none~|", "none~", "edge 0->1"),
        ("|none~x|", "none~x", "edge 0->1"),
        ("|none~00|", "none~00", "edge 0->1"),
        ("|none~-0|", "none~-0", "edge 0->1"),
        ("|none~0~0|", "none~0~0", "edge 0->1"),
        ("|no ne~0|", "no ne~0", "edge 0->1"),
        ("| none~0|", " none~0", "edge 0->1"),
        ("|3x3~0|", "3x3~0", "edge 0->1"),
        ("|none~1|", "none~1", "edge 0->1"),
        ("|none~0|+|none~1|none~0|", "none~1", "edge 0->2"),
        ("|none~0|+|none~0|none~0|", "none~0", "edge 1->2"),
        ("|none~0|+|none~0|none~1|+|none~0|skip-connect~1|none~2|", "skip-connect~1", "edge 1->3"),
    ],
)
def test_what_is_wrong_with_a_cell_is_named(text: str, part: str, place: str) -> None:
    with pytest.raises(ValueError, match="no NAS-Bench-201 cell") as caught:
        Genotype.from_nasbench201(text)
    message = str(caught.value)
    assert f"because of {part!r}" in message
    assert place in message
    assert repr(text) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "edges",
    [
        {"a": "x"},
        {"0->1": "x", "a": "y"},
        {"0->2": "x", "1->2": "y"},
        {"0->1": "x", "0->2": "y"},
        {"0->1": "x", "1->2": "y"},
        {"0->1": "x", "0->3": "y", "1->3": "z"},
        {"0->1": "x", "0->2": "y", "1->2": "z", "2->2": "w"},
        {"0->1": "x", "0->2": "y", "1->2": "z", "2->1": "w"},
        {"0 -> 1": "x"},
        {"00->1": "x"},
    ],
    ids=lambda edges: ",".join(edges),
)
def test_a_genotype_that_is_no_cell_is_not_written_as_one(edges: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not those of a cell") as caught:
        Genotype(edges).to_nasbench201()
    for edge in edges:
        assert edge in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a|b", "a~0", "a+b", "3x3"])
def test_an_operation_that_could_not_be_read_back_is_not_written(name: str) -> None:
    with pytest.raises(ValueError, match="0->1"):
        Genotype({"0->1": name}).to_nasbench201()


def test_read_takes_what_a_user_would_write(tmp_path: Path) -> None:
    cell = Genotype({"0->1": "none", "0->2": "skip_connect", "1->2": "none"})
    content = {"selected": "argmax", "argmax": dict(cell), "process_best": {"a": "b"}}
    run = write(tmp_path / "genotype.json", content)
    lone = write(tmp_path / "cell.json", dict(cell))
    text = "|none~0|+|skip_connect~0|none~1|"
    for source in (text, f" {text}\n", cell.to_json(), f"\n{cell.to_json()}", run, str(run), lone, str(lone)):
        assert Genotype.read(source) == cell
    assert Genotype.read(run, "process_best") == Genotype({"a": "b"})
    assert Genotype.read(str(run), select="argmax") == cell


@pytest.mark.parametrize("source", ["|none~0|", '{"0->1": "none"}'])
def test_read_has_nothing_to_choose_in_one_genotype(source: str) -> None:
    with pytest.raises(ValueError, match="select='argmax'") as caught:
        Genotype.read(source, "argmax")
    assert source in str(caught.value)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("|none~1|", "'none~1'"),
        ('{"0->1": 3}', "'0->1' to 3"),
        ("{0->1: none}", "not a genotype"),
        ("none~0", "no genotype file at none~0"),
        ("", "no genotype file"),
    ],
)
def test_read_says_what_is_wrong(source: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"genotype|cell") as caught:
        Genotype.read(source)
    assert named in str(caught.value)
