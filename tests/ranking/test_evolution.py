"""Evolution finds good architectures within budgets, and draws the same ones again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest

from advnas_lightning.cost.plan import Choice
from advnas_lightning.ranking.evolution import Evolution, random_choices

COUNTS = [4] * 6


def landscape(seed: int) -> dict[Choice, float]:
    """A value of each of 4096 architectures: a sum over edges and over pairs of neighbours."""
    draws = random.Random(seed)
    own = [[draws.gauss(0, 1) for _ in range(4)] for _ in range(6)]
    pairs = [[[draws.gauss(0, 0.5) for _ in range(4)] for _ in range(4)] for _ in range(5)]
    return {
        choice: sum(own[e][choice[e]] for e in range(6)) + sum(pairs[e][choice[e]][choice[e + 1]] for e in range(5))
        for choice in product(range(4), repeat=6)
    }


def test_the_best_of_a_small_space_is_found_by_a_tenth_of_all_evaluations() -> None:
    for seed in range(10):
        values = landscape(seed)

        def rate(choices: Sequence[Choice], values: dict[Choice, float] = values) -> list[float]:
            return [values[choice] for choice in choices]

        start = random_choices(40, COUNTS, seed=seed)
        found = Evolution(generations=9, population=40, mutation=0.2).run(start, COUNTS, rate, seed=seed)
        assert len(set(found)) == len(found) <= 400
        best = sorted(values.values(), reverse=True)
        assert max(map(values.__getitem__, found)) >= best[3]
        assert found == Evolution(generations=9, population=40, mutation=0.2).run(start, COUNTS, rate, seed=seed)


def test_no_child_is_over_the_budget() -> None:
    values = landscape(1)

    def allows(choice: Choice) -> bool:
        return sum(choice) <= 7

    start = random_choices(20, COUNTS, allows=allows, seed=0)
    found = Evolution(generations=15, population=30).run(
        start, COUNTS, lambda choices: [values[choice] for choice in choices], allows=allows, seed=0
    )
    assert all(map(allows, found))
    within = sorted((value for choice, value in values.items() if allows(choice)), reverse=True)
    assert max(map(values.__getitem__, found)) >= within[2]


def test_an_edge_with_one_candidate_keeps_it_and_a_small_space_ends() -> None:
    counts = [1, 2, 1]
    found = Evolution(generations=5, population=4).run([(0, 0, 0)], counts, lambda choices: [0.0] * len(choices))
    assert sorted(found) == [(0, 0, 0), (0, 1, 0)]


def test_random_architectures_are_uniform_and_different() -> None:
    drawn = Counter(choice for seed in range(3000) for choice in random_choices(1, [2, 3], seed=seed))
    assert set(drawn) == set(product(range(2), range(3)))
    assert all(abs(count - 500) < 100 for count in drawn.values())  # five standard deviations
    assert sorted(random_choices(99, [2, 3])) == sorted(drawn)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"generations": -1}, "generations=-1"),
        ({"generations": 1, "population": 1}, "population=1"),
        ({"generations": 1, "tournament": 0}, "tournament=0"),
        ({"generations": 1, "mutation": 2.0}, "mutation=2.0"),
    ],
)
def test_numbers_out_of_range_are_named(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Evolution(**options)  # type: ignore[arg-type]
