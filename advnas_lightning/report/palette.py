"""The title, colour and marker of each strategy, which are the same in all figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["STRATEGIES", "Style", "rank", "styles"]


class Style(NamedTuple):
    """How a strategy is named and drawn.

    Attributes:
        title: The name as the paper writes it.
        colour: A colour on white that is distinct from all others with any kind of colour vision.
        dark: The same on the page's dark background.
        marker: The marker in matplotlib's notation, for prints without colour.
        dense: Whether the strategy's architecture step runs all candidates.

    Example:
        >>> STRATEGIES["darts"]
        Style(title='DARTS', colour='#0A0A0A', dark='#F4F6F8', marker='<', dense=True)
    """

    title: str
    colour: str
    dark: str
    marker: str
    dense: bool = False


# DARTS is not quite black, which an SVG's reader takes for granted, and which a dark page could then not replace.
# No two of these colours are close to each other, with normal sight or with one kind of cone missing (see the test).
STRATEGIES = {
    "advantage": Style("AdvantageNAS", "#D55E00", "#F0500F", "o"),
    "reinforce": Style("REINFORCE", "#0077BB", "#5B77E2", "s"),
    "enas": Style("ENAS", "#33BBEE", "#98BED3", "D"),
    "parsec": Style("PARSEC", "#117733", "#20E16E", "^"),
    "proxylessnas": Style("ProxylessNAS", "#E69F00", "#EDDC00", "v"),
    "gdas": Style("GDAS", "#882255", "#BD3A9D", "P"),
    "random": Style("random search", "#888888", "#8E7979", "X"),
    "darts": Style("DARTS", "#0A0A0A", "#F4F6F8", "<", dense=True),
    "snas": Style("SNAS", "#332288", "#8444FF", ">", dense=True),
    "nasp": Style("NASP", "#661100", "#9D6543", "h", dense=True),
    "drnas": Style("DrNAS", "#EC0D42", "#D9A49D", "d", dense=True),
    "counterfactual": Style("counterfactual", "#961EF0", "#C3A5FF", "*"),
    "fixed": Style("fixed", "#B8B8B8", "#747C85", "."),
}
OTHERS = (("#CC79A7", "#F2B3D3"), ("#44AA99", "#5FD3C1"), ("#B09BE0", "#BDB2E8"), ("#7A7A00", "#BDBD3A"))


def rank(strategy: str) -> tuple[int, str]:
    """A key to sort strategies by: those of the package come first, in a fixed order, and then others by name.

    Example:
        >>> sorted(["mine", "gdas", "advantage"], key=rank)
        ['advantage', 'gdas', 'mine']
    """
    known = list(STRATEGIES)
    return (known.index(strategy) if strategy in known else len(known), strategy)


def styles(strategies: Iterable[str]) -> dict[str, Style]:
    """The style of each strategy, in order. Strategies that are not the package's get the remaining colours.

    Example:
        >>> {name: style.colour for name, style in styles(["mine", "advantage"]).items()}
        {'advantage': '#D55E00', 'mine': '#CC79A7'}
    """
    ordered = sorted(set(strategies), key=rank)
    others = [name for name in ordered if name not in STRATEGIES]
    own = {name: Style(name, *OTHERS[index % len(OTHERS)], "p") for index, name in enumerate(others)}
    return {name: STRATEGIES.get(name) or own[name] for name in ordered}
