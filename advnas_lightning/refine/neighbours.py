"""The neighbours of an architecture, and which of them is the most promising one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from advnas_lightning.space.genotype import Genotype

__all__ = ["exchanges", "most_promising", "neighbours", "predict"]

Candidates = Mapping[str, Sequence[str]]
RIDGE = 0.1  # of 0.1 and 1, the one with which a climb on NAS-Bench-201's table took fewer trainings


def neighbours(genotype: Genotype, candidates: Candidates) -> list[Genotype]:
    """All architectures that differ from one in a single edge.

    Args:
        genotype: The architecture.
        candidates: The names of the candidates of each edge.

    Example:
        >>> [dict(each) for each in neighbours(Genotype({"a": "x", "b": "y"}), {"a": ["x", "y", "z"], "b": ["y"]})]
        [{'a': 'y', 'b': 'y'}, {'a': 'z', 'b': 'y'}]
    """
    return [
        Genotype({**genotype, edge: name}) for edge, row in candidates.items() for name in row if name != genotype[edge]
    ]


def exchanges(genotype: Genotype, candidates: Candidates) -> list[Genotype]:
    """All architectures in which two edges of one have exchanged their candidates.

    Where a candidate costs the same on both edges, the costs stay as they are. So there is a way on where a budget
    rules out one of the two changes alone.

    Args:
        genotype: The architecture.
        candidates: The names of the candidates of each edge.

    Example:
        >>> [dict(each) for each in exchanges(Genotype({"a": "x", "b": "y"}), {"a": ["x", "y"], "b": ["x", "y", "z"]})]
        [{'a': 'y', 'b': 'x'}]
        >>> exchanges(Genotype({"a": "x", "b": "z"}), {"a": ["x", "y"], "b": ["x", "y", "z"]})
        []
    """
    return [
        Genotype({**genotype, one: genotype[other], other: genotype[one]})
        for one, other in combinations(candidates, 2)
        if genotype[one] != genotype[other]
        and genotype[one] in candidates[other]
        and genotype[other] in candidates[one]
    ]


def predict(known: Mapping[Genotype, float], wanted: Sequence[Genotype]) -> list[float]:
    """Predict the values of architectures from those of others, by ridge regression.

    The features are the indicators of each edge's candidate and of the candidates of each pair of edges. Two
    architectures that are equal in m edges have m + m (m − 1) / 2 of them in common, so that the regression is done
    with this kernel, and never with the features themselves. The values are centred first.

    Args:
        known: The values of architectures.
        wanted: The architectures to predict.

    Returns:
        The prediction for each of ``wanted``.

    Example:
        >>> known = {Genotype({"a": "x", "b": "x"}): 0.0, Genotype({"a": "y", "b": "x"}): 1.0}
        >>> wanted = [Genotype({"a": "y", "b": "y"}), Genotype({"a": "x", "b": "y"})]
        >>> [round(value, 2) for value in predict(known, wanted)]
        [0.74, 0.26]
    """
    edges = list(next(iter(known)))
    rows, others = (np.array([[each[edge] for edge in edges] for each in some]) for some in (known, wanted))  # [N, E]
    values = np.array(list(known.values()))
    weights = np.linalg.solve(_common(rows, rows) + RIDGE * np.eye(len(rows)), values - values.mean())
    return [float(value) for value in values.mean() + _common(others, rows) @ weights]


def most_promising(known: Mapping[Genotype, float], wanted: Sequence[Genotype]) -> Genotype:
    """The architecture of which the regression predicts the most; of equal ones the first.

    Args:
        known: The values of architectures, the highest of the best.
        wanted: The architectures to choose from.

    Example:
        >>> known = {Genotype({"a": "x", "b": "x"}): 0.0, Genotype({"a": "y", "b": "x"}): 1.0}
        >>> dict(most_promising(known, [Genotype({"a": "x", "b": "y"}), Genotype({"a": "y", "b": "y"})]))
        {'a': 'y', 'b': 'y'}
    """
    if len(known) < 2:  # which says nothing about any of them
        return wanted[0]
    predictions = predict(known, wanted)
    best = max(predictions)
    close = 1e-9 * (1 + abs(best))  # rounding must not decide
    return next(each for each, value in zip(wanted, predictions, strict=True) if value >= best - close)


def _common(some: NDArray[np.str_], others: NDArray[np.str_]) -> NDArray[np.int_]:
    """The numbers of features that architectures ``[M, E]`` and ``[N, E]`` have in common, ``[M, N]``."""
    same: NDArray[np.int_] = (some[:, None] == others).sum(2)
    return same * (same + 1) // 2
