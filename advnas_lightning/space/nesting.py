"""Edges inside candidates of other edges, which only the networks of some architectures have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

from advnas_lightning.space.elastic.edge import Elastic, Follower, innermost
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops

Choice = tuple[int, ...]


class Nesting:
    """Which edges the network of an architecture leaves out, as they lie inside candidates that were not chosen.

    No choice matters in the layers that a ``Depth`` leaves out, for instance, so that several architectures are one
    network. An edge is left out where all of its modules are, and all that follow it. What counts is where modules
    stand: as modules of others, or in lists, tuples and dicts that others keep.

    Args:
        model: The network.
        edges: The names of its edges.

    Attributes:
        conditional: The edges that some architectures leave out; mostly there are none.
        deciders: The edges whose candidates decide that.
        fewest: The candidate of each conditional edge that has the fewest parameters; of equal ones, and of all other
            edges, the first one.

    Example:
        >>> from advnas_lightning import Depth
        >>> layers = [MixedOp(name, {"linear": nn.Linear(8, 8), "skip": nn.Identity()}) for name in "abc"]
        >>> nesting = Nesting(nn.Sequential(Depth(layers, [1, 3], name="depth")), ("depth", "a", "b", "c"))
        >>> nesting.conditional, nesting.deciders, nesting.fewest
        ((2, 3), (0,), (0, 0, 1, 1))
        >>> sorted(nesting.left_out((0, 1, 0, 1))), sorted(nesting.left_out((1, 1, 0, 1)))
        ([2, 3], [])
    """

    def __init__(self, model: nn.Module, edges: Sequence[str]) -> None:
        ops = mixed_ops(model)
        self._nodes = _nodes(model, edges) if any(map(_has_edges, ops)) else []
        certain = self._reached(lambda node: frozenset.intersection(*node.parts))
        self.conditional: Choice = tuple(edge for edge in range(len(edges)) if self._nodes and edge not in certain)
        deciding = {node.edge for node in self._nodes if self.conditional and len(set(node.parts)) > 1}
        self.deciders: Choice = tuple(sorted(deciding))
        self.fewest: Choice = tuple(
            _fewest([op for op in ops if op.name == name]) if edge in self.conditional else 0
            for edge, name in enumerate(edges)
        )
        self._known: dict[Choice, frozenset[int]] = {}

    def left_out(self, choice: Sequence[int]) -> frozenset[int]:
        """The edges that the network of a choice does not have.

        Args:
            choice: The candidate of each edge.
        """
        return self.given([choice[edge] for edge in self.deciders])

    def given(self, candidates: Iterable[int]) -> frozenset[int]:
        """The edges that are left out with certain candidates of the deciders.

        Args:
            candidates: The candidate of each decider.
        """
        key = tuple(candidates)
        if key not in self._known:
            chosen = dict(zip(self.deciders, key, strict=True))
            reached = self._reached(lambda node: node.parts[chosen.get(node.edge, 0)])
            self._known[key] = frozenset(edge for edge in self.conditional if edge not in reached)
        return self._known[key]

    def canonical(self, choice: Sequence[int], like: Sequence[int] | None = None) -> Choice:
        """The choice that stands for all those that are one network.

        Args:
            choice: The candidate of each edge.
            like: The candidates that edges have in it which are left out; by default those of :attr:`fewest`, so that
                they add nothing to a sum of costs that the network does not cost.
        """
        if not self.deciders:
            return tuple(choice)
        out, others = self.left_out(choice), self.fewest if like is None else like
        return tuple(others[edge] if edge in out else index for edge, index in enumerate(choice))

    def _reached(self, part: Callable[[_Node], frozenset[int]]) -> set[int]:
        """The edges in the network, given the part of each module of an edge that is in it."""
        seen, waiting = set(), list(range(1 if self._nodes else 0))
        while waiting:
            number = waiting.pop()
            if number not in seen:
                seen.add(number)
                waiting += part(self._nodes[number])
        return {self._nodes[number].edge for number in seen}


class _Node(NamedTuple):
    """A module of an edge, or one that follows it: the edge, and by candidate the nodes that lie directly inside it."""

    edge: int
    parts: tuple[frozenset[int], ...]


def _nodes(model: nn.Module, edges: Sequence[str]) -> list[_Node]:
    """All nodes of a network. The first one is the network itself, which is of no edge."""
    numbers = {name: number for number, name in enumerate(edges)}
    modules: list[nn.Module] = [nn.ModuleList([model])]
    places: dict[int, int] = {}
    nodes: list[_Node] = []
    for module in modules:  # which grows
        parts = _parts(module)
        for inner in chain(*parts):
            if id(inner) not in places:
                places[id(inner)] = len(modules)
                modules.append(inner)
        inside = tuple(frozenset(places[id(inner)] for inner in part) for part in parts)
        nodes.append(_Node(-1 if module is modules[0] else numbers[module.name], inside))  # type: ignore[index]
    return nodes


def _parts(module: nn.Module) -> list[list[nn.Module]]:
    """By candidate, the modules of edges that lie directly inside a module of an edge."""
    if isinstance(module, Elastic) and _has_edges(module):
        found = []
        for index in range(len(module.names)):
            with module.candidate_at(index).narrowed():
                found.append(list(_nearest(module.widest)))
        return found
    if isinstance(module, MixedOp) and not isinstance(module, Elastic):
        return [list(_nearest(module.candidate_at(index))) for index in range(len(module.names))]
    if isinstance(module, Elastic | Follower):
        return [list(_nearest(module.widest))] * len(module.names)
    return [list(_nearest(vars(module)))]


def _nearest(value: Any) -> Iterator[nn.Module]:
    """Yield the modules of edges that lie directly inside a value, which are in no other one of them."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, MixedOp | Follower):
            yield each
        elif isinstance(each, nn.Module):
            waiting += vars(each).values()
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list | tuple | set):
            waiting += each


def _has_edges(op: MixedOp) -> bool:
    """Whether other edges lie in what an edge runs. The sizes of one module are no others."""
    inner = innermost(op)
    return any(isinstance(module, MixedOp | Follower) and module is not inner for module in inner.modules())


def _fewest(ops: Sequence[MixedOp]) -> int:
    """The candidate of an edge with the fewest parameters, given the edge's modules."""

    def count(index: int) -> int:
        weights = (part for op in ops for part in op.parameter_slices(index).values())
        return sum(0 if is_lazy(weight) else weight.numel() for weight in weights)

    return min(range(len(ops[0].names)), key=count)
