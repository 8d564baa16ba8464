"""Uniformly scaled architectures are those that one would try without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from advnas_lightning.space.elastic.scaling import MOST_PLACES, uniformly_scaled


def test_all_widths_shrink_together_and_each_depth_comes_with_each_width() -> None:
    sizes = {0: [4, 8, 12], 1: [64, 32, 16], 2: [2, 1]}  # heads, a width whose widest size is first, a depth
    orders = {0: (2, 1, 0), 1: (0, 1, 2), 2: (0, 1)}
    found = uniformly_scaled(orders, [2], [0, 0, 0, 7])
    named = [(*(sizes[edge][index] for edge, index in enumerate(choice[:3])), choice[3]) for choice in found]
    assert named == [
        (12, 64, 2, 7), (8, 32, 2, 7), (4, 16, 2, 7), (12, 64, 1, 7), (8, 32, 1, 7), (4, 16, 1, 7),
    ]  # fmt: skip


def test_fewer_sizes_keep_their_ends() -> None:
    found = uniformly_scaled({0: tuple(range(5)), 1: (0, 1, 2), 2: (0, 1)}, [], [0, 0, 0])
    assert [choice[0] for choice in found] == [0, 1, 2, 3, 4]
    assert [choice[1] for choice in found][::2] == [0, 1, 2]
    assert found[0] == (0, 0, 0)
    assert found[-1] == (4, 2, 1)


def test_of_many_sizes_some_are_taken_and_both_ends() -> None:
    found = uniformly_scaled({0: tuple(range(64)), 1: tuple(range(20))}, [1], [0, 0])
    for edge, last in ((0, 63), (1, 19)):
        sizes = sorted({choice[edge] for choice in found})
        assert len(sizes) == MOST_PLACES
        assert (sizes[0], sizes[-1]) == (0, last)
    assert len(found) == MOST_PLACES**2


@pytest.mark.parametrize(("orders", "deciders"), [({}, []), ({}, [0])])
def test_without_sizes_there_are_none(orders: Mapping[int, Sequence[int]], deciders: Sequence[int]) -> None:
    assert uniformly_scaled(orders, deciders, [0, 1]) == []
