"""Evolution over discrete architectures: mutation and crossover of the best ones so far."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from advnas_lightning.cost.plan import Choice
from advnas_lightning.validate import check_int, check_positive

__all__ = ["Evolution", "random_choices"]

TRIES = 50  # to find a child that is new and within the budgets


@dataclass(frozen=True)
class Evolution:
    """How new architectures are made of good ones.

    Each generation has as many children as the population has members. The parents of a child win tournaments: each is
    the best of some members that are drawn with equal chances. Half of the children are mutations, in which each edge
    gets another candidate with a small probability, and one edge at least. The other half take each edge's candidate
    from one of two parents. The best of all architectures so far are the next population.

    Attributes:
        generations: The number of generations.
        population: The number of members, and of children in a generation.
        tournament: The number of members of which the best one is a parent.
        mutation: The probability with which a mutation changes an edge.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> evolution = Evolution(generations=20, population=20, tournament=5)
        >>> counts = [4] * 6
        >>> found = evolution.run([(0,) * 6], counts, lambda choices: [sum(choice) for choice in choices], seed=0)
        >>> max(found, key=sum)
        (3, 3, 3, 3, 3, 3)
    """

    generations: int
    population: int = 50
    tournament: int = 5
    mutation: float = 0.1

    def __post_init__(self) -> None:
        check_int("generations", self.generations, least=0)
        check_int("population", self.population, least=2)
        check_int("tournament", self.tournament, least=1)
        check_positive("mutation", self.mutation, most=1)

    def run(
        self,
        start: Sequence[Choice],
        counts: Sequence[int],
        rate: Callable[[Sequence[Choice]], Sequence[float]],
        *,
        allows: Callable[[Choice], bool] = lambda choice: True,
        canonical: Callable[[Choice], Choice] = lambda choice: choice,
        seed: int = 0,
    ) -> list[Choice]:
        """Let generations follow each other.

        Args:
            start: The first architectures. All of them are rated.
            counts: The number of candidates of each edge.
            rate: Gives the value of each architecture, the highest of the best. It is called with all architectures so
                far in each generation, and may remember what it knows of them.
            allows: Whether an architecture is within the budgets.
            canonical: Gives the choice that stands for all those that are one network, see
                :meth:`~advnas_lightning.space.nesting.Nesting.canonical`. The first architectures are such choices.
            seed: The seed of the draws.

        Returns:
            All architectures that were rated, each once, in the order in which they were made.
        """
        draws = random.Random(seed)
        made = list(dict.fromkeys(start))
        known = set(made)
        for _ in range(self.generations):
            values = dict(zip(made, rate(made), strict=True))
            members = sorted(made, key=lambda choice: -values[choice])[: self.population]
            for child in range(self.population):
                for _ in range(TRIES):
                    new = canonical(self._child(members, values, counts, draws, mutates=child % 2 == 0))
                    if new not in known and allows(new):
                        made.append(new)
                        known.add(new)
                        break
        return made

    def _child(
        self,
        members: Sequence[Choice],
        values: Mapping[Choice, float],
        counts: Sequence[int],
        draws: random.Random,
        *,
        mutates: bool,
    ) -> Choice:
        first, second = (max(draws.choices(members, k=self.tournament), key=values.__getitem__) for _ in range(2))
        if not mutates:
            return tuple(draws.choice(pair) for pair in zip(first, second, strict=True))
        changeable = [edge for edge, count in enumerate(counts) if count > 1]
        changed = {edge for edge in changeable if draws.random() < self.mutation} or {draws.choice(changeable)}
        return tuple(
            draws.choice([other for other in range(counts[edge]) if other != index]) if edge in changed else index
            for edge, index in enumerate(first)
        )


def random_choices(
    number: int,
    counts: Sequence[int],
    *,
    allows: Callable[[Choice], bool] = lambda choice: True,
    canonical: Callable[[Choice], Choice] = lambda choice: choice,
    seed: int = 0,
) -> list[Choice]:
    """Different architectures that are drawn with equal chances; fewer where the space or the budgets have no more.

    Args:
        number: How many.
        counts: The number of candidates of each edge.
        allows: Whether an architecture is within the budgets. What is not is drawn again.
        canonical: Gives the choice that stands for all those that are one network, which is drawn once.
        seed: The seed of the draws.

    Example:
        >>> random_choices(9, [2, 1], seed=0)
        [(1, 0), (0, 0)]
    """
    draws = random.Random(seed)
    found: dict[Choice, None] = {}
    for _ in range(TRIES * min(number, math.prod(counts))):
        if len(found) == number:
            break
        choice = canonical(tuple(draws.randrange(count) for count in counts))
        if choice not in found and allows(choice):
            found[choice] = None
    return list(found)
