"""The pictures of the README and of the documentation are what their command draws."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

from benchmarks.pictures import IMAGES, PALETTES, Search, draw_search, draw_two_steps, search_toy


@pytest.mark.parametrize("palette", PALETTES)
def test_the_two_steps_are_as_drawn(palette: str) -> None:
    drawn = draw_two_steps(PALETTES[palette]).svg()
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert (IMAGES / f"two_steps-{palette}.svg").read_text() == drawn


def test_a_wrong_edge_is_drawn_in_another_colour() -> None:
    probs = torch.full((3, 10, 10), 0.1)
    probs[-1, :, 4] = 0.9
    colours = PALETTES["light"]
    right = draw_search(Search(2, probs, [4] * 10), colours).svg()
    wrong = draw_search(Search(2, probs, [4] * 9 + [5]), colours).svg()
    assert ("10 of 10 found" in right, "9 of 10 found" in wrong) == (True, True)
    assert ("✗" in right, "✗" in wrong) == (False, True)


@pytest.mark.slow
def test_the_search_is_as_drawn() -> None:
    drawn = draw_search(search_toy(), PALETTES["light"]).svg()
    assert "10 of 10 found" in drawn
    committed = (IMAGES / "search-light.svg").read_text()
    assert [line for line in drawn.splitlines() if "<text" in line] == [
        line for line in committed.splitlines() if "<text" in line
    ]
