"""How a strategy looks, the same in every figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["STRATEGIES", "Look", "looks", "rank"]


class Look(NamedTuple):
    """A strategy's name and marks.

    Attributes:
        title: as the paper writes it.
        colour: told from all others with any kind of colour vision.
        marker: matplotlib's, for prints without colour.
        dense: whether its architecture step runs all candidates.
    """

    title: str
    colour: str
    marker: str
    dense: bool = False


# Chosen so that, seen with normal sight or with one kind of cone missing, no two come near each other (see the test).
STRATEGIES = {
    "advantage": Look("AdvantageNAS", "#D55E00", "o"),
    "reinforce": Look("REINFORCE", "#0077BB", "s"),
    "enas": Look("ENAS", "#33BBEE", "D"),
    "parsec": Look("PARSEC", "#117733", "^"),
    "proxylessnas": Look("ProxylessNAS", "#E69F00", "v"),
    "gdas": Look("GDAS", "#882255", "P"),
    "random": Look("random search", "#888888", "X"),
    "darts": Look("DARTS", "#000000", "<", dense=True),
    "snas": Look("SNAS", "#332288", ">", dense=True),
    "nasp": Look("NASP", "#661100", "h", dense=True),
    "counterfactual": Look("counterfactual", "#961EF0", "*"),
    "fixed": Look("fixed", "#B8B8B8", "."),
}
OTHERS = ("#CC79A7", "#44AA99", "#B09BE0", "#7A7A00")


def rank(strategy: str) -> tuple[int, str]:
    """Where it stands in a list: the strategies of the paper in its order, then others by name.

    Example:
        >>> sorted(["mine", "gdas", "advantage"], key=rank)
        ['advantage', 'gdas', 'mine']
    """
    known = list(STRATEGIES)
    return (known.index(strategy) if strategy in known else len(known), strategy)


def looks(strategies: Iterable[str]) -> dict[str, Look]:
    """The look of each, in order; strategies that are not the package's get the colours that are left.

    Example:
        >>> {name: look.colour for name, look in looks(["mine", "advantage"]).items()}
        {'advantage': '#D55E00', 'mine': '#CC79A7'}
    """
    ordered = sorted(set(strategies), key=rank)
    others = [name for name in ordered if name not in STRATEGIES]
    own = {name: Look(name, OTHERS[index % len(OTHERS)], "p") for index, name in enumerate(others)}
    return {name: STRATEGIES.get(name) or own[name] for name in ordered}
