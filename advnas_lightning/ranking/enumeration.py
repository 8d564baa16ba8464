"""The most probable architectures of independent edges, one after the other, also within budgets."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from advnas_lightning.cost.plan import Choice, CostPlan
from advnas_lightning.cost.table import within
from advnas_lightning.space.nesting import Nesting

__all__ = ["most_probable"]

Rows = Sequence[Sequence[float]]
SLACK = 1e-9  # of a bound, which is a difference of sums; log p itself is a sum that is rounded once
SWEEPS, THIRDS = 8, 60  # over all multipliers, and of the interval of one
MOST = 500_000  # partial choices that are continued
MOST_OVER = 20_000  # architectures that a bound lets through, and that are over a budget


def most_probable(
    log_probs: Rows, plan: CostPlan | None = None, *, nesting: Nesting | None = None, most: int = MOST
) -> Iterator[tuple[float, Choice]]:
    """Yield all architectures in the order of their probability, those over a budget left out.

    Edges are independent, so that log p(a) = Σ_e log p_e(a_e). The search over partial choices is best-first (A*):
    the next one is continued whose best completion may be most probable. Without budgets that is known exactly. With
    budgets c_k(a) ≤ B_k, the Lagrangian bound Σ_e max_j (log p_ej − Σ_k λ_k c_kej) + Σ_k λ_k B_k holds for any λ ≥ 0.
    It is used where it is lower, with the λ that minimise it over all architectures. So the order is exact, and
    architectures that do not fit are rarely looked at, even where the budgets leave only improbable ones.

    Where edges cost something together, there is a bound for each of the plan's parts, and the cost itself decides of
    each architecture that a bound lets through.

    Architectures of equal probability come in the order of their candidates, the most probable candidate of the first
    edge first, and of equal candidates the first one.

    Of architectures that are one network, as they differ in edges alone that it leaves out, one is yielded. Its
    probability is that of the most probable one of them, and its costs are those of the one with the fewest parameters,
    which is yielded.

    Args:
        log_probs: The logarithm of p by edge and candidate.
        plan: The costs and the budgets of the same edges and candidates; ``None`` for none.
        nesting: Which edges the network of an architecture leaves out; ``None`` where each has all of them.
        most: The number of partial choices that are continued at most within budgets. Several tight ones may need many.

    Yields:
        The logarithm of the probability, and the candidate of each edge.

    Raises:
        ValueError: Within budgets ``most`` partial choices were continued, or ``MOST_OVER`` architectures were over
            one, and there may be more architectures.

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
        yield from _in_order(log_probs, order, None, nesting, most)
        return
    orders = (
        ([[given[edge]] if edge in given else own for edge, own in enumerate(order)], part)
        for given, part in plan.parts
    )
    parts = (_in_order(log_probs, own, part, nesting, most) for own, part in orders)
    found = over = 0
    for each in heapq.merge(*parts, key=key):
        if not plan.is_sum and not plan.allows(each[1]):
            over += 1
            if over == MOST_OVER:
                raise _too_long(found, f"{over} that are over them")
            continue
        found += 1
        yield each


def _in_order(
    log_probs: Rows, given: Sequence[Sequence[int]], plan: CostPlan | None, nesting: Nesting | None, most: int
) -> Iterator[tuple[float, Choice]]:
    """Yield the architectures of the candidates in an order, where costs are sums over edges; of each network one."""
    deciders: Choice = () if nesting is None else nesting.deciders
    conditional = set() if nesting is None else set(nesting.conditional)
    # The deciders come first, so that it is known of all others whether they are left out.
    edges = [*deciders, *(edge for edge in range(len(log_probs)) if edge not in deciders)]
    order = [list(given[edge]) for edge in edges]
    rows = [[log_probs[edge][index] for index in own] for edge, own in zip(edges, order, strict=True)]
    absent = [False] * len(edges)  # whether the first place of a row is for where the edge is left out
    for number, edge in enumerate(edges):
        if nesting is not None and edge in conditional and nesting.fewest[edge] in given[edge]:
            order[number].insert(0, nesting.fewest[edge])
            rows[number].insert(0, max(log_probs[edge]))
            absent[number] = True
    best = [row[0] for row in rows]
    plan = _permuted(plan, edges) if plan is not None and deciders else plan
    bound = None if plan is None else _bound(rows, order, plan)

    def is_so(out: frozenset[int], number: int, place: int) -> bool:
        """Whether the edge with a number has that first place if it is left out, and another one if not."""
        return edges[number] not in conditional or (absent[number] and place == 0) == (edges[number] in out)

    # The negative bound of the completions, the place of each decided edge's candidate in its row, and their gains.
    waiting: list[tuple[float, Choice, float]] = [(-math.fsum(best), (), 0.0)]
    found = continued = 0
    while waiting:
        negative, places, gain = heapq.heappop(waiting)
        choice = tuple(own[place] for own, place in zip(order, places, strict=False))
        number, out = len(places), None
        if nesting is not None and deciders and number >= len(deciders):
            out = nesting.given(choice[: len(deciders)])
            if number == len(deciders) and not all(is_so(out, *pair) for pair in enumerate(places)):
                continue
        if number == len(rows):
            found += 1
            yield -negative, tuple(index for _, index in sorted(zip(edges, choice, strict=True)))
            continue
        continued += 1
        if plan is not None and continued > most:
            raise _too_long(found, f"{most} partial choices")
        chosen = [row[place] for row, place in zip(rows, places, strict=False)]
        for place, index in enumerate(order[number]):
            if out is not None and not is_so(out, number, place):
                continue
            if plan is not None and not plan.may_fit((*choice, index)):
                continue
            largest, own_gain = math.fsum([*chosen, rows[number][place], *best[number + 1 :]]), gain
            if bound is not None:
                own_gain += bound.gains[number][place]
                if number + 1 < len(rows):  # log p itself is known of a complete choice
                    largest = min(largest, bound.after(number + 1, own_gain))
            heapq.heappush(waiting, (-largest, (*places, place), own_gain))


def _too_long(found: int, among: str) -> ValueError:
    return ValueError(
        f"the budgets leave so few of the probable architectures that only {found} were found among {among}: ask for"
        f" top={max(found, 1)}, or raise a budget"
    )


def _permuted(plan: CostPlan, edges: Sequence[int]) -> CostPlan:
    """A plan of the same costs and budgets, whose edges are in another order."""
    tables = {}
    for kind, table in plan.tables.items():
        names = list(table.edges)
        tables[kind] = replace(table, edges={names[edge]: table.edges[names[edge]] for edge in edges})
    return CostPlan(tables, plan.budgets)


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
