"""The most probable architectures of independent edges, one after the other, also within budgets."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from advnas_lightning.cost.plan import Choice, CostPlan
from advnas_lightning.cost.table import within

__all__ = ["most_probable"]

Rows = Sequence[Sequence[float]]
SLACK = 1e-9  # of a bound, which is a difference of sums; log p itself is a sum that is rounded once
SWEEPS, THIRDS = 8, 60  # over all multipliers, and of the interval of one
MOST = 500_000  # partial choices that are continued
MOST_COUNTED = 20_000  # networks that are counted and over a budget


def most_probable(log_probs: Rows, plan: CostPlan | None = None, *, most: int = MOST) -> Iterator[tuple[float, Choice]]:
    """Yield all architectures in the order of their probability, those over a budget left out.

    Edges are independent, so that log p(a) = Σ_e log p_e(a_e). The search over partial choices is best-first (A*):
    the next one is continued whose best completion may be most probable. Without budgets that is known exactly. With
    budgets c_k(a) ≤ B_k, the Lagrangian bound Σ_e max_j (log p_ej − Σ_k λ_k c_kej) + Σ_k λ_k B_k holds for any λ ≥ 0.
    It is used where it is lower, with the λ that minimise it over all architectures. So the order is exact, and
    architectures that do not fit are rarely looked at, even where the budgets leave only improbable ones.

    Where costs are counted in whole networks, there is a bound for each way to choose the candidates of the edges that
    multiply others, and the count decides of each architecture that a bound lets through.

    Architectures of equal probability come in the order of their candidates, the most probable candidate of the first
    edge first, and of equal candidates the first one.

    Args:
        log_probs: The logarithm of p by edge and candidate.
        plan: The costs and the budgets of the same edges and candidates; ``None`` for none.
        most: The number of partial choices that are continued at most. Several tight budgets may need many.

    Yields:
        The logarithm of the probability, and the candidate of each edge.

    Raises:
        ValueError: ``most`` partial choices were continued, or ``MOST_COUNTED`` networks over a budget were counted,
            and there may be more architectures.

    Example:
        >>> from math import log
        >>> rows = [[log(0.6), log(0.4)], [log(0.9), log(0.1)]]
        >>> [(round(math.exp(log_p), 2), choice) for log_p, choice in most_probable(rows)]
        [(0.54, (0, 0)), (0.36, (1, 0)), (0.06, (0, 1)), (0.04, (1, 1))]
    """
    order = [sorted(range(len(row)), key=row.__getitem__, reverse=True) for row in log_probs]  # which is stable
    places = [{index: place for place, index in enumerate(own)} for own in order]

    def key(found: tuple[float, Choice]) -> tuple[float, Choice]:
        return -found[0], tuple(own[index] for own, index in zip(places, found[1], strict=True))

    if plan is None:
        yield from _in_order(log_probs, order, None, most)
        return
    parts = (
        _in_order(log_probs, [[given[edge]] if edge in given else own for edge, own in enumerate(order)], part, most)
        for given, part in plan.parts
    )
    found = over = 0
    for each in heapq.merge(*parts, key=key):
        if plan.whole and not plan.allows(each[1]):
            over += 1
            if over == MOST_COUNTED:
                raise _too_long(found, f"{over} networks that were counted")
            continue
        found += 1
        yield each


def _in_order(
    log_probs: Rows, order: Sequence[Sequence[int]], plan: CostPlan | None, most: int
) -> Iterator[tuple[float, Choice]]:
    """Yield the architectures of the candidates in an order, where costs are sums over edges."""
    rows = [[row[index] for index in places] for row, places in zip(log_probs, order, strict=True)]
    best = [row[0] for row in rows]
    bound = None if plan is None else _bound(rows, order, plan)
    # The negative bound of the completions, the place of each decided edge's candidate in its row, and their gains.
    waiting: list[tuple[float, Choice, float]] = [(-math.fsum(best), (), 0.0)]
    found = continued = 0
    while waiting:
        negative, places, gain = heapq.heappop(waiting)
        choice = tuple(own[place] for own, place in zip(order, places, strict=False))
        edge = len(places)
        if edge == len(rows):
            found += 1
            yield -negative, choice
            continue
        continued += 1
        if continued > most:
            raise _too_long(found, f"{most} partial choices")
        chosen = [row[place] for row, place in zip(rows, places, strict=False)]
        for place, index in enumerate(order[edge]):
            if plan is not None and not plan.may_fit((*choice, index)):
                continue
            largest, own_gain = math.fsum([*chosen, rows[edge][place], *best[edge + 1 :]]), gain
            if bound is not None:
                own_gain += bound.gains[edge][place]
                if edge + 1 < len(rows):  # log p itself is known of a complete choice
                    largest = min(largest, bound.after(edge + 1, own_gain))
            heapq.heappush(waiting, (-largest, (*places, place), own_gain))


def _too_long(found: int, among: str) -> ValueError:
    return ValueError(
        f"the budgets leave so few of the probable architectures that only {found} were found among {among}: ask for"
        f" top={max(found, 1)}, or raise a budget"
    )


@dataclass(frozen=True)
class _Bound:
    """The Lagrangian bound of completions: what the decided edges gain, and the most that the others can.

    Attributes:
        gains: log p_ej − Σ_k λ_k c_kej, by edge and place.
        rest: The sum of the largest gains from each edge on.
        constant: Σ_k λ_k (B_k − c_k0).
    """

    gains: Rows
    rest: Sequence[float]
    constant: float

    def after(self, edges: int, gain: float) -> float:
        bound = gain + self.rest[edges] + self.constant
        return bound if math.isinf(bound) else bound + SLACK * (1 + abs(bound))  # a candidate may be impossible


def _bound(rows: Rows, order: Sequence[Sequence[int]], plan: CostPlan) -> _Bound | None:
    """The bound with the multipliers that minimise it over all architectures; ``None`` if they are 0."""
    kinds = [kind for kind in plan.budgets if plan.tables[kind].makes_a_difference]
    costs, rooms = [], []
    for kind in kinds:
        table = plan.tables[kind]
        costs.append([[own[i] / table.largest for i in places] for own, places in zip(table.rows, order, strict=True)])
        rooms.append((within(plan.budgets[kind]) - table.fixed) / table.largest)

    def make(multipliers: Sequence[float]) -> _Bound:
        gains = [
            [
                value - math.fsum(m * cost[edge][place] for m, cost in zip(multipliers, costs, strict=True))
                for place, value in enumerate(row)
            ]
            for edge, row in enumerate(rows)
        ]
        rest = [*accumulate((max(row) for row in reversed(gains)), initial=0.0)][::-1]
        return _Bound(gains, rest, math.fsum(m * room for m, room in zip(multipliers, rooms, strict=True)))

    multipliers = [0.0] * len(kinds)
    for _ in range(SWEEPS if len(kinds) > 1 else 1):
        for k in range(len(kinds)):

            def at(value: float, k: int = k) -> float:
                return make([*multipliers[:k], value, *multipliers[k + 1 :]]).after(0, 0.0)

            multipliers[k] = _least(at)
    return make(multipliers) if any(multipliers) else None


def _least(function: Callable[[float], float]) -> float:
    """About where a convex function of numbers from 0 on is least."""
    low, high = 0.0, 1.0
    while high < 1e9 and function(2 * high) < function(high):
        high *= 2
    high *= 2
    for _ in range(THIRDS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if function(left) <= function(right) else (left, high)
    return low
