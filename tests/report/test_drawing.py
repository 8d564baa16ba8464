"""Drawings of found architectures: a file that is a picture, nodes in order, no label on another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from advnas_lightning.report import drawing

CELL = {"0->1": "relu", "0->2": "identity", "1->2": "tanh", "0->3": "sigmoid", "1->3": "zero", "2->3": "relu"}
FAN = {f"input->{node}": f"filter{node % 4}" for node in range(1, 11)}
OWN = {"stem": "conv3x3", "head": "linear"}


@pytest.mark.parametrize("genotype", [CELL, FAN, OWN], ids=["cell", "fan", "own"])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_genotype_becomes_a_picture(tmp_path: Path, genotype: dict[str, str], ending: str) -> None:
    path = tmp_path / f"architecture.{ending}"
    drawing.draw_genotype(genotype, path, title="found")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if ending == "png" else b"<svg" in content


@pytest.mark.parametrize("genotype", [CELL, FAN], ids=["cell", "fan"])
def test_no_two_labels_meet(genotype: dict[str, str], drawn: Callable[[dict[str, str]], Axes]) -> None:
    axes = drawn(genotype)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) >= len(genotype) + 4  # a label for each edge, and the nodes
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_nodes_stand_behind_all_that_lead_to_them(drawn: Callable[[dict[str, str]], Axes]) -> None:
    genotype = {"a->c": "relu", "b->c": "relu", "a->b": "relu"}
    places = {text.get_text(): text.get_position() for text in drawn(genotype).texts}
    (a, _), (b, _), (c, _) = (places[node] for node in "abc")
    assert a < b < c
    assert c - b == pytest.approx(b - a)


def test_a_cycle_is_drawn_too(drawn: Callable[[dict[str, str]], Axes]) -> None:
    names = [text.get_text() for text in drawn({"a->b": "relu", "b->a": "tanh"}).texts]
    assert sorted(names) == ["a", "b", "relu", "tanh"]


def test_no_two_labels_meet_among_many_cells() -> None:
    image = {edge: name for edge, name in zip(CELL, ["nor_conv_3x3"] * 5 + ["none"], strict=True)}
    for columns, genotype in ((1, CELL), (3, image)):
        figure = drawing.draw_cells([drawing.Cell(genotype, "found", "#000000", "3 of 3 seeds", "mine")] * columns)
        FigureCanvasAgg(figure).draw()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            assert len(boxes) == len(genotype) + 4 + 1  # edges, nodes, and the note
            for index, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[index + 1 :])
                assert figure.bbox.x0 <= box.x0
                assert box.x1 <= figure.bbox.x1
