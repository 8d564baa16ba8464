"""Whether one candidate per edge can be chosen so that several sums of costs stay within their bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from advnas_lightning.cost.table import ROUNDING, Rows

Numbers = NDArray[np.float64]
ROUNDS = 60  # of the search for weights
MOST_PARTIAL = 2000  # partial choices of as many edges that are continued at most
SLACK = 1 + 4 * ROUNDING  # of the bound of a sum, which is rounded here otherwise than where the result is checked
CLEAR = 1 + 1e-9  # a weighted sum above this proves that no choice is within the bounds


def find_within(
    costs: Sequence[Rows], fixed: Sequence[float], most: Sequence[float], *, most_partial: int = MOST_PARTIAL
) -> tuple[tuple[int, ...] | None, bool]:
    """Find a choice of which each cost is within its bound: the feasibility of a multi-dimensional knapsack.

    First each cost is divided by its bound, and weights w ≥ 0 with Σ w_k = 1 are looked for. The choice with the lowest
    weighted cost is found edge by edge. If it is within all bounds, it is the answer. If its weighted cost is above 1,
    no choice is within all bounds, since one that is would have a weighted cost of at most 1.

    Where neither happens, partial choices are continued edge by edge. Two kinds of them are dropped, neither of which
    can be the only one that leads to an answer. Those of the first kind exceed a bound, or the weighted one, with the
    cheapest completion. Those of the second kind cost at least as much as another one in all costs. So the answer is
    exact, unless more than ``most_partial`` of them are left after an edge. Then only the cheapest of them by the
    weighted cost are continued. A choice that is found is right even then, but that none was found proves nothing.

    Args:
        costs: The costs by kind, edge and candidate, which are at least 0.
        fixed: The cost by kind that every choice has.
        most: The bounds by kind, above 0.
        most_partial: The number of partial choices that are continued.

    Returns:
        The index of each edge's candidate, or ``None`` if there is no such choice or none was found; and whether this
        answer is certain.

    Example:
        >>> macs, latency = [[0.0, 5.0], [0.0, 5.0]], [[4.0, 1.0], [4.0, 1.0]]
        >>> find_within([macs, latency], [0.0, 0.0], [5.0, 5.0])
        ((0, 1), True)
        >>> find_within([macs, latency], [0.0, 0.0], [4.0, 7.0])
        (None, True)
    """
    bounds = np.array(most, dtype=np.float64)
    start = np.array(fixed, dtype=np.float64) / bounds  # [K]
    rows = [np.array(kinds, dtype=np.float64).T / bounds for kinds in zip(*costs, strict=True)]  # E times [J, K]
    weights, found, is_impossible = _weigh(rows, start)
    if found is not None or is_impossible:
        return found, True
    return _continue(rows, start, weights, most_partial)


def _weigh(rows: Sequence[Numbers], start: Numbers) -> tuple[Numbers, tuple[int, ...] | None, bool]:
    """Look for the weights of the highest lower bound, by multiplicative updates, until they decide the question."""
    weights = best = np.full(len(start), 1 / len(start))
    highest = 0.0
    for turn in range(1, ROUNDS + 1):
        choice = tuple(int((row @ weights).argmin()) for row in rows)
        total = start + sum(row[index] for row, index in zip(rows, choice, strict=True))  # [K]
        if (total <= 1).all():
            return weights, choice, False
        bound = float(weights @ total)
        if bound > CLEAR:
            return weights, None, True
        if bound > highest:
            highest, best = bound, weights
        weights = weights * np.exp((total - 1) / np.abs(total - 1).max() / np.sqrt(turn))
        weights = weights / weights.sum()
    return best, None, False


def _continue(
    rows: Sequence[Numbers], start: Numbers, weights: Numbers, most_partial: int
) -> tuple[tuple[int, ...] | None, bool]:
    """Continue partial choices edge by edge, and drop those that are of no use."""
    rest = np.array([row.min(0) for row in rows])  # [E, K], the least that each edge costs
    weighted_rest = np.array([(row @ weights).min() for row in rows])  # [E]
    sums, choices, is_certain = start[None], np.zeros((1, 0), dtype=np.int64), True  # [n, K], [n, e]
    for edge, row in enumerate(rows):
        sums = (sums[:, None] + row).reshape(-1, len(start))
        choices = np.column_stack([choices.repeat(len(row), 0), np.tile(np.arange(len(row)), len(choices))])
        left, weighted_left = rest[edge + 1 :].sum(0), weighted_rest[edge + 1 :].sum()
        fits = (sums + left <= SLACK).all(1) & (sums @ weights + weighted_left <= SLACK)
        sums, choices = sums[fits], choices[fits]
        order = np.argsort(sums @ weights, kind="stable")
        kept = _undominated(sums[order], most_partial)
        is_certain = is_certain and kept is not None
        order = order[kept] if kept is not None else order[:most_partial]
        sums, choices = sums[order], choices[order]
    right = (sums <= 1).all(1)
    if right.any():
        return tuple(choices[right.argmax()].tolist()), True
    return None, is_certain and not len(sums)


def _undominated(sums: Numbers, most: int) -> list[int] | None:
    """The indices of the sums that no other one undercuts or equals in all costs; ``None`` if there are too many.

    Args:
        sums: The sums, ``[n, K]``, sorted by a weighted sum of them, so that one that is undercut comes later.
        most: How many indices there may be.
    """
    kept: list[int] = []
    best = np.empty((0, sums.shape[1]))
    for index, each in enumerate(sums):
        if not (best <= each).all(1).any():
            if len(kept) == most:
                return None
            kept.append(index)
            best = np.concatenate([best, each[None]])
    return kept
