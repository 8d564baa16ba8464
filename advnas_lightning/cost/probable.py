"""The most probable architecture whose cost lies between two bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from advnas_lightning import functional
from advnas_lightning.cost.plan import CostPlan
from advnas_lightning.cost.table import CostTable


def most_probable_within(
    log_probs: Sequence[Sequence[float]], table: CostTable, least: float, most: float
) -> list[int]:
    """The most probable architecture that costs from ``least`` to ``most``.

    If none costs as much as ``least``, those that cost the most are considered; and if none costs as little as
    ``most``, the cheapest one is returned. For each part of the costs, in which they are sums over edges, it is the
    solution of a knapsack problem, see :func:`~advnas_lightning.functional.knapsack_argmax`. Where there are too many
    parts, sums are used that are not below what architectures cost.

    Args:
        log_probs: The logarithm of p by edge and candidate. Rows may be padded.
        table: The costs.
        least: The lower bound.
        most: The upper bound.

    Returns:
        The index of each edge's candidate.

    Example:
        >>> table = CostTable("params", {"a": {"x": 5.0, "y": 1.0}, "b": {"x": 2.0, "y": 4.0}}, 10.0)
        >>> most_probable_within([[-0.1, -2.0], [-0.1, -3.0]], table, least=0, most=16)
        [1, 0]
    """
    ways = []
    for given, _ in table.parts:
        rows = [
            {given[edge]: row[given[edge]]} if edge in given else dict(enumerate(row[: len(own)]))
            for edge, (row, own) in enumerate(zip(log_probs, table.rows, strict=True))
        ]
        ways.append((math.fsum(max(row.values()) for row in rows), given, rows))
    # Whether it costs enough; log p or else its cost, and the other one of them; the architecture itself.
    best: tuple[bool, float, float, list[int]] | None = None
    for bound, given, rows in sorted(ways, key=lambda way: -way[0]):
        if best is not None and best[0] and bound <= best[1]:
            break
        sums = table.given(given).bounded(np.max)
        costs = [[own[index] for index in row] for row, own in zip(rows, sums.rows, strict=True)]
        scores = [[*row.values()] for row in rows]
        found = functional.knapsack_argmax(scores, costs, least - sums.fixed, most - sums.fixed)
        if found is not None:
            choice = [[*row][place] for row, place in zip(rows, found, strict=True)]
            score, cost = math.fsum(log_probs[edge][index] for edge, index in enumerate(choice)), table.of(choice)
            each = (True, score, cost, choice) if cost >= least else (False, cost, score, choice)
            best = each if best is None else max(best, each)
    # The knapsack keeps few of the partial choices, and may lose all that end within the bounds.
    return list(CostPlan({table.kind: table}).cheapest(table.kind)) if best is None else best[3]
