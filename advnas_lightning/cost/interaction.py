"""What edges cost together beside the sum of what each costs: where sizes multiply, or a depth leaves layers out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advnas_lightning.texts import shortened

MOST_WAYS = 256  # to choose the candidates of hubs


@dataclass(frozen=True, eq=False)
class Interaction:
    """What each combination of some edges' candidates costs beside the sum of the candidates' costs.

    Args:
        edges: The numbers of the edges, two or more, in rising order.
        costs: The costs, with a dimension for each of the edges and an entry for each of its candidates. They may be
            below 0.

    Raises:
        ValueError: A cost is not finite.

    Example:
        >>> area = Interaction((0, 2), np.array([[0.0, 0.0], [0.0, 6.0]]))
        >>> area.of((1, 0, 1)), area.of((0, 0, 1))
        (6.0, 0.0)
    """

    edges: tuple[int, ...]
    costs: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not np.isfinite(self.costs).all():
            raise ValueError("what edges cost together is not finite")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Interaction):
            return NotImplemented
        return self.edges == other.edges and np.array_equal(self.costs, other.costs)

    def of(self, choice: Sequence[int]) -> float:
        """The cost of an architecture's combination.

        Args:
            choice: The index of the candidate of each edge of the network.
        """
        return float(self.costs[tuple(choice[edge] for edge in self.edges)])

    def given(self, candidates: Mapping[int, int]) -> tuple[tuple[int, ...], NDArray[np.float64]]:
        """The edges that are left when the candidates of some are given, and the costs of their combinations.

        Args:
            candidates: The index of each given candidate by the number of its edge.

        Example:
            >>> Interaction((0, 2), np.array([[0.0, 0.0], [0.0, 6.0]])).given({2: 1})
            ((0,), array([0., 6.]))
        """
        left = tuple(edge for edge in self.edges if edge not in candidates)
        return left, self.costs[tuple(candidates.get(edge, slice(None)) for edge in self.edges)]

    def bound(self, extreme: Callable[..., NDArray[np.float64]]) -> NDArray[np.float64]:
        """For each candidate of the first edge the least or the largest cost of its combinations.

        Args:
            extreme: ``numpy.min`` or ``numpy.max``.
        """
        return extreme(self.costs, axis=tuple(range(1, len(self.edges))))

    def content(self, names: Sequence[str]) -> dict[str, Any]:
        """The values for a file.

        Args:
            names: The names of the network's edges.
        """
        return {"edges": [names[edge] for edge in self.edges], "costs": self.costs.tolist()}

    @classmethod
    def read(cls, content: Any, there: Mapping[str, Sequence[str]], here: Mapping[str, Sequence[str]]) -> Interaction:
        """The interaction in the content of a file, for the edges and candidates of a network.

        Args:
            content: What :meth:`content` has given.
            there: The candidates by edge in the file.
            here: The candidates by edge in the network; each is in the file too.

        Raises:
            ValueError: The content is no interaction of the file's edges, or one of an edge that the network has not.

        Example:
            >>> edges = {"a": ["1", "2"], "b": ["1", "3"]}
            >>> area = Interaction((0, 1), np.array([[0.0, 0.0], [0.0, 2.0]]))
            >>> other = {"b": ["3", "1"], "a": ["1", "2"]}
            >>> Interaction.read(area.content(["a", "b"]), edges, other)
            Interaction(edges=(0, 1), costs=array([[0., 2.],
                   [0., 0.]]))
        """
        try:
            names, costs = content["edges"], np.array(content["costs"], dtype=np.float64)
            shape = tuple(len(there[name]) for name in names)
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"what edges cost together is {shortened(repr(content), 60)}") from None
        if len(shape) < 2 or costs.shape != shape:
            raise ValueError(f"what {' and '.join(names)} cost together has the shape {costs.shape}, and not {shape}")
        missing = [name for name in names if name not in here]
        if missing:
            raise ValueError(f"what edges cost depends on the edge {missing[0]!r}, which the network has not")
        numbers = list(here)
        order = sorted(range(len(names)), key=lambda place: numbers.index(names[place]))
        taken = np.ix_(*([list(there[name]).index(each) for each in here[name]] for name in names))
        edges = tuple(numbers.index(names[place]) for place in order)
        return cls(edges, costs[taken].transpose(order))


def ways(groups: Collection[Sequence[int]], sizes: Sequence[int]) -> list[Mapping[int, int]]:
    """The ways to choose the candidates of hubs: with these given, costs are sums over the other edges.

    Hubs are chosen until each group of edges has at most one edge that is none. With more ways than ``MOST_WAYS`` some
    groups keep several.

    Args:
        groups: The groups of edges that cost something together, by the edges' numbers.
        sizes: The number of candidates of each edge.

    Returns:
        For each way the index of the candidate by the number of the edge.

    Example:
        >>> ways([(0, 1), (0, 2)], [2, 3, 3])
        [{0: 0}, {0: 1}]
        >>> ways([], [2, 3])
        [{}]
    """
    hubs = sorted(_hubs(groups, sizes))
    indices = product(*(range(sizes[edge]) for edge in hubs))
    return [dict(zip(hubs, each, strict=True)) for each in indices]


def _hubs(groups: Collection[Sequence[int]], sizes: Sequence[int]) -> Iterator[int]:
    """Yield the edge of the most groups, and so on until no group has two edges left, or there are too many ways."""
    left, count = [set(group) for group in groups], 1
    while left := [group for group in left if len(group) > 1]:
        members = Counter(edge for group in left for edge in group)
        edge = min(members, key=lambda each: (-members[each], each))
        count *= sizes[edge]
        if count > MOST_WAYS:
            return
        yield edge
        left = [group - {edge} for group in left]
