"""Statistics of a few runs: means, intervals, comparisons by seed, and quartiles of curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST", "Paired", "bootstrap_interval", "mean_and_deviation", "paired", "quartiles"]

RESAMPLES = 10_000
LEAST = 3  # values; from fewer, neither an interval nor a p says anything
Interval = tuple[float, float]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the sample standard deviation (n − 1). A single value has no deviation: it is ``None``.

    Example:
        >>> mean_and_deviation([1.0, 2.0, 3.0]), mean_and_deviation([1.0])
        ((2.0, 1.0), (1.0, None))
    """
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():  # an evaluation that overflowed reports infinity
        return float(np.mean(array)), None
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def bootstrap_interval(values: Sequence[float]) -> Interval | None:
    """The percentile bootstrap's 95 % interval of the mean.

    It is ``None`` for fewer than three values, and if one is not finite. The resamples are drawn with a fixed seed, so
    equal values have equal intervals.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0])
        >>> 1 <= low < 2.5 < high <= 4
        True
        >>> bootstrap_interval([1.0, 2.0])
    """
    array = np.asarray(values, dtype=float)
    if len(array) < LEAST or not np.isfinite(array).all():
        return None
    drawn = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))  # [resamples, n]
    low, high = np.quantile(array[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


class Paired(NamedTuple):
    """The comparison of two sets of results, seed by seed.

    Attributes:
        difference: The mean of ours − theirs.
        interval: The bootstrap interval of that mean; ``None`` for fewer than three seeds.
        better: The number of seeds on which ours is better.
        worse: The number of seeds on which ours is worse.
        pairs: The number of seeds that both have.
        p: The probability of a difference at least as far from 0 if the sign of each seed's difference were random;
            ``None`` for fewer than three seeds.

    Example:
        >>> paired({0: 1.0}, {0: 3.0})
        Paired(difference=-2.0, interval=None, better=0, worse=1, pairs=1, p=None)
    """

    difference: float
    interval: Interval | None
    better: int
    worse: int
    pairs: int
    p: float | None


def paired(ours: Mapping[int, float], theirs: Mapping[int, float], *, higher_is_better: bool = True) -> Paired | None:
    """Compare two sets of results on the seeds on which both are finite; ``None`` if there is no such seed.

    Example:
        >>> paired({0: 1.0, 1: 2.0, 2: 9.0}, {0: 2.0, 1: 2.5}, higher_is_better=False)
        Paired(difference=-0.75, interval=None, better=2, worse=0, pairs=2, p=None)
    """
    both = [seed for seed in ours if seed in theirs and math.isfinite(ours[seed] - theirs[seed])]
    if not both:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in both])
    gains = differences if higher_is_better else -differences
    return Paired(
        float(differences.mean()),
        bootstrap_interval(list(differences)),
        int((gains > 0).sum()),
        int((gains < 0).sum()),
        len(both),
        _sign_flip_p(differences) if len(both) >= LEAST else None,
    )


def _sign_flip_p(differences: NDArray[np.float64]) -> float:
    n = len(differences)
    if n <= 13:  # all combinations of signs
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    else:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(RESAMPLES, n))
        signs[0] = 1  # the observed one
    means = np.abs(signs @ differences) / n
    return float((means >= abs(differences.mean()) - 1e-12).mean())


def quartiles(
    curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each x ``[N]``, and the lower quartile, median and upper quartile ``[3, N]`` of the curves that have this x.

    Example:
        >>> x, bands = quartiles([(np.array([1.0, 2.0]), np.array([0.0, 4.0])), (np.array([1.0]), np.array([2.0]))])
        >>> x.tolist(), bands.tolist()
        ([1.0, 2.0], [[0.5, 4.0], [1.0, 4.0], [1.5, 4.0]])
    """
    xs = np.unique(np.concatenate([x for x, _ in curves]))
    table = np.full((len(curves), len(xs)), np.nan)  # [curves, N]
    for row, (x, y) in zip(table, curves, strict=True):
        row[np.searchsorted(xs, x)] = y
    missing = np.isnan(table)
    known = ~missing.all(axis=0)
    quantile = np.nanquantile if missing.any() else np.quantile  # which takes a tenth of the time
    return xs[known], quantile(table[:, known], [0.25, 0.5, 0.75], axis=0)
