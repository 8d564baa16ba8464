"""Architectures that are scaled uniformly: all edges have the same share of their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

Choice = tuple[int, ...]
MOST_PLACES = 8  # between the widest and the narrowest size, both included


def uniformly_scaled(
    orders: Mapping[int, Sequence[int]], deciders: Sequence[int], others: Sequence[int]
) -> list[Choice]:
    """The architectures whose edges all have the same place between their widest and their narrowest size.

    Edges that decide which layers there are have a place of their own, so that each depth comes with each width. These
    are the architectures that one tries without a search. Of long lists of sizes ``MOST_PLACES`` places are taken.

    Args:
        orders: The candidates of each edge that has an order, from the widest on, by the edge's number.
        deciders: The edges that decide which other edges the network has.
        others: The candidate of each edge, which those without an order keep.

    Returns:
        Each architecture once; none where no edge has an order.

    Example:
        >>> orders = {0: (2, 1, 0), 1: (1, 0), 2: (0, 1, 2)}  # a depth, and two widths
        >>> uniformly_scaled({0: orders[0]}, (), (0, 5)), len(uniformly_scaled(orders, (0,), (0, 0, 0)))
        ([(2, 5), (1, 5), (0, 5)], 9)
    """
    if not orders:
        return []
    kinds = [{edge: own for edge, own in orders.items() if (edge in deciders) == decides} for decides in (True, False)]
    steps = [min(max((len(own) for own in kind.values()), default=1), MOST_PLACES) for kind in kinds]
    found: dict[Choice, None] = {}
    for places in product(*map(range, steps)):
        choice = list(others)
        for kind, step, place in zip(kinds, steps, places, strict=True):
            for edge, own in kind.items():
                choice[edge] = own[round(place / max(step - 1, 1) * (len(own) - 1))]
        found[tuple(choice)] = None
    return list(found)
