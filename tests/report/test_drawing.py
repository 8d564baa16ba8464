"""Drawings of found architectures: a file that is a picture, nodes in order, no label on another."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
def test_no_two_labels_meet(genotype: dict[str, str]) -> None:
    figure = Figure(figsize=(9, 5))
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawing._draw_graph(axes, [(*edge.split("->"), candidate) for edge, candidate in genotype.items()])  # type: ignore[misc]
    canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) >= len(genotype) + 4  # a label for each edge, and the nodes
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_nodes_stand_behind_all_that_lead_to_them() -> None:
    arrows = [("a", "c", ""), ("b", "c", ""), ("a", "b", "")]
    assert drawing._depths(arrows) == {"a": 0, "b": 1, "c": 2}
    assert max(drawing._depths([("a", "b", ""), ("b", "a", "")]).values()) <= 2  # a cycle ends too


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
