"""Where a search stands: what it would report now, edge by edge, and how sure it is of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from advnas_lightning.engine.policy import Selection
from advnas_lightning.engine.strategy import SearchStrategy

SETTLED = 0.9  # an edge has settled when its most probable candidate has at least this probability
WORDS: dict[Selection, str] = {"argmax": "arg max", "process_best": "process-best"}


class Edge(NamedTuple):
    """An edge with the candidate that would be reported now.

    Attributes:
        name: The edge's name.
        candidate: The candidate's name.
        probability: The candidate's probability, from 0 to 1.

    Example:
        >>> Edge("0->1", "skip", 0.95).has_settled
        True
    """

    name: str
    candidate: str
    probability: float

    @property
    def has_settled(self) -> bool:
        """Whether the candidate's probability is at least ``SETTLED``."""
        return self.probability >= SETTLED


@dataclass(frozen=True)
class Standing:
    """Where a search stands.

    Attributes:
        kind: The kind of architecture that the search reports, ``"argmax"`` or ``"process_best"``.
        edges: All edges with the candidates of that architecture.
        settled: The number of edges whose most probable candidate has a probability of at least ``SETTLED``.
        entropy: The mean entropy of the edges in nats.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> edge = MixedOp("edge", {"skip": nn.Identity(), "relu": nn.ReLU()})
        >>> found = Standing.of(RandomSearch(edge))
        >>> found.kind, found.settled, found.edges[0].probability
        ('argmax', 0, 0.5)
    """

    kind: Selection
    edges: Sequence[Edge]
    settled: int
    entropy: float

    @classmethod
    def of(cls, search: SearchStrategy) -> Standing:
        """Where a search stands now.

        Args:
            search: The search.
        """
        kind, rows = search.selected, search.probabilities()
        edges = [Edge(name, candidate, rows[name][candidate]) for name, candidate in search.genotype(kind).items()]
        settled = sum(max(row.values()) >= SETTLED for row in rows.values())
        return cls(kind, edges, settled, float(search.entropy))


def short_names(names: Sequence[str]) -> list[str]:
    """The names without what all of them begin with, up to a sign between two words.

    Example:
        >>> short_names(["input->1", "input->2"]), short_names(["0->1", "0->2", "1->2"]), short_names(["net.stem"])
        (['1', '2'], ['0->1', '0->2', '1->2'], ['net.stem'])
    """
    if len(names) < 2:
        return list(names)
    first, last = min(names), max(names)  # what these two begin with, all do
    common = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    common = re.sub(r"\w*$", "", common)
    return [name.removeprefix(common) or name for name in names]
