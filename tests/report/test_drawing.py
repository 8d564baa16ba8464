"""Drawings of found architectures: a file that is a picture, nodes in order, no label on another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from advnas_lightning.report import drawing
from tests.support.speed import slow_but

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


ENDS = {"left": "a_very_long_candidate_with_a_name_of_its_own", "right": "skip"}
LEVELS = (("input", "a"), ("input", "b"), ("a left", "c"), ("b right", "c"))
TREE = {f"{source}->{node} {side}": name for source, node in LEVELS for side, name in ENDS.items()}
MANY = {f"encoder.layers.{layer}.attention": "multi_head" for layer in range(41)}
GENOTYPES = [MANY, CELL, FAN, OWN, TREE, {"in->out": "relu"}, {"choice": "relu"}]


@pytest.mark.parametrize("genotype", slow_but(GENOTYPES, GENOTYPES[1:]))
@pytest.mark.parametrize("known", [False, True])
def test_nothing_is_cut_off_and_no_two_texts_meet(genotype: dict[str, str], known: bool) -> None:
    options: dict[str, Any] = {
        "probabilities": {edge: place / len(genotype) for place, edge in enumerate(genotype)},
        "right": {edge: place % 2 == 0 for place, edge in enumerate(genotype)},
    }
    figure = drawing.genotype_figure(genotype, title="AdvantageNAS on toy: a title", **(options if known else {}))
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sum("%" in text for text in texts) == (len(genotype) if known else 0)
    assert sum(text.startswith("✗ ") for text in texts) == (len(genotype) // 2 if known else 0)


@pytest.mark.parametrize("genotype", [CELL, FAN, TREE], ids=["cell", "fan", "tree"])
def test_arrows_reach_their_nodes(genotype: dict[str, str], drawn: Callable[[dict[str, str]], Axes]) -> None:
    axes = drawn(genotype)
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    nodes = [patch.get_bbox() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(arrows) == len(genotype)
    for arrow in arrows:
        path = arrow._path_original  # as it was given, without the shape of the head
        for x, y in (path.vertices[0], path.vertices[-1]):
            assert any(
                min(abs(x - box.x0), abs(x - box.x1), abs(y - box.y0), abs(y - box.y1)) < 1e-6
                and box.x0 - 1e-6 <= x <= box.x1 + 1e-6
                and box.y0 - 1e-6 <= y <= box.y1 + 1e-6
                for box in nodes
            )


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
