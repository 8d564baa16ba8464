"""Small drawings of found networks, for the page's list of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from advnas_lightning.report.runs import Run
from advnas_lightning.texts import plain, shortened

__all__ = ["Networks", "listed_edges"]

MOST_NETWORKS, MOST_EDGES = 300, 40  # that are drawn: different ones in a report, and edges of one
MOST_NODES = 7  # of a graph; larger ones are drawn as a row of squares
COLOURS = 10  # classes c0, c1, … of the page
CUT = {"none", "zero"}
WIDTH, HEIGHT, SQUARE, IN_ROW = 96, 34, 8, 10  # in the units of the drawing

Genotype = Mapping[str, str]


@dataclass
class Networks:
    """The drawings of a report. Each network is drawn once, however many runs have found it.

    Attributes:
        colours: The colour of each candidate by task.
        symbols: The drawings.

    Example:
        >>> networks = Networks({"toy": {"tanh": 0, "skip": 1}})
        >>> networks.add("toy", {"0->1": "tanh", "0->2": "skip", "1->2": "tanh"})
        'net0'
        >>> networks.add("toy", {"0->1": "tanh", "0->2": "skip", "1->2": "tanh"}), len(networks.symbols)
        ('net0', 1)
    """

    colours: Mapping[str, Mapping[str, int]]
    symbols: list[Markup] = field(default_factory=list)
    _names: dict[tuple[str, tuple[tuple[str, str], ...]], str] = field(default_factory=dict)

    @classmethod
    def of(cls, runs: Iterable[Run]) -> Networks:
        """Nothing drawn yet, and a colour for each candidate that occurs in the runs.

        Args:
            runs: The runs.
        """
        names: dict[str, set[str]] = {}
        for run in runs:
            for genotype in run.genotypes.values():
                names.setdefault(run.task, set()).update(genotype.values())
        return cls({task: _coloured(found) for task, found in names.items()})

    def add(self, task: str, genotype: Genotype) -> str | None:
        """Draw a network, unless it has been drawn before.

        Args:
            task: The task, whose candidates have colours.
            genotype: The candidate of each edge.

        Returns:
            The id of its drawing; ``None`` if there are too many already.
        """
        key = task, tuple(genotype.items())
        if key not in self._names:
            if len(self.symbols) >= MOST_NETWORKS:
                return None
            self._names[key] = f"net{len(self.symbols)}"
            self.symbols.append(_symbol(self._names[key], genotype, self.colours[task]))
        return self._names[key]

    def legend(self, task: str) -> list[tuple[str, str]]:
        """The candidates of a task, each with the class of its colour; empty if there are more than colours.

        Args:
            task: The task.
        """
        colours = self.colours[task]
        if len([name for name in colours if name not in CUT]) > COLOURS:
            return []
        return [(plain(name), _class(name, colours)) for name in colours]


def _coloured(names: Iterable[str]) -> dict[str, int]:
    drawn = sorted(names, key=lambda name: (name in CUT, len(name), name))
    return {name: place % COLOURS for place, name in enumerate(drawn)}


def _class(candidate: str, colours: Mapping[str, int]) -> str:
    return "cut" if candidate in CUT else f"c{colours[candidate]}"


def _symbol(name: str, genotype: Genotype, colours: Mapping[str, int]) -> Markup:
    edges = [edge.partition("->") for edge in genotype]
    nodes = _chain([(source, target) for source, arrow, target in edges if arrow])
    if nodes and all(arrow for _, arrow, _ in edges):
        pairs = [(nodes.index(source), nodes.index(target)) for source, _, target in edges]
        shape = _graph(pairs, list(genotype.values()), len(nodes), colours)
    else:
        shape = _squares(list(genotype.values()), colours)
    return Markup('<symbol id="{}" viewBox="0 0 {} {}">{}</symbol>').format(name, WIDTH, HEIGHT, shape)


def _chain(edges: Sequence[tuple[str, str]]) -> list[str]:
    """The nodes in an order in which all edges lead forward, if they are few and one follows the other."""
    nodes = list(dict.fromkeys(node for edge in edges for node in edge))
    if not 2 <= len(nodes) <= MOST_NODES:
        return []
    order: list[str] = []
    while len(order) < len(nodes):
        ready = [
            node
            for node in nodes
            if node not in order and all(source in order for source, target in edges if target == node)
        ]
        if len(ready) != 1:  # a fan, or a cycle
            return []
        order.append(ready[0])
    return order


def _graph(
    pairs: Sequence[tuple[int, int]], candidates: Sequence[str], nodes: int, colours: Mapping[str, int]
) -> Markup:
    """Nodes in a row. An edge that skips nodes is an arc, above or below."""
    step, middle = (WIDTH - 12) / (nodes - 1), HEIGHT / 2
    shapes = []
    for (source, target), candidate in zip(pairs, candidates, strict=True):
        x0, x1 = 6 + step * source, 6 + step * target
        bend = 0.0 if target - source == 1 else (middle - 3) * (target - source) / (nodes - 1)
        bend *= -1 if source % 2 == 0 else 1
        shapes.append(
            Markup('<path class="{}" d="M{:.4g} {:.4g}Q{:.4g} {:.4g} {:.4g} {:.4g}"/>').format(
                _class(candidate, colours), x0, middle, (x0 + x1) / 2, middle + 2 * bend, x1, middle
            )
        )
    dots = [Markup('<circle cx="{:.4g}" cy="{:.4g}" r="3"/>').format(6 + step * at, middle) for at in range(nodes)]
    return Markup("").join([*shapes, *dots])


def _squares(candidates: Sequence[str], colours: Mapping[str, int]) -> Markup:
    """A square for each edge, in rows."""
    shapes = []
    for place, candidate in enumerate(candidates[:MOST_EDGES]):
        x, y = (SQUARE + 1) * (place % IN_ROW) + 3, (SQUARE + 1) * (place // IN_ROW) + 1
        if len(candidates) <= IN_ROW:
            y = (HEIGHT - SQUARE) // 2
        square = '<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>'
        shapes.append(Markup(square).format(_class(candidate, colours), x, y, SQUARE, SQUARE))
    return Markup("").join(shapes)


def listed_edges(genotype: Genotype) -> str:
    """The edges and their candidates in one line, for those who do not see the drawing.

    Args:
        genotype: The candidate of each edge. At most ``MOST_EDGES`` of them are listed.

    Example:
        >>> listed_edges({"0->1": "tanh", "0->2": "skip"})
        '0→1 tanh, 0→2 skip'
    """
    shown = [
        f"{shortened(edge, 40).replace('->', '→')} {shortened(candidate, 40)}"
        for edge, candidate in list(genotype.items())[:MOST_EDGES]
    ]
    more = len(genotype) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
