"""The costs of elastic sizes, which are those of whole networks: what a size costs depends on all that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from advnas_lightning.cost.table import CostTable
from advnas_lightning.space.elastic import Elastic, Follower
from advnas_lightning.space.elastic.edge import innermost, with_size
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.texts import listed

ROUNDING = 1e-9  # a share of a cost, up to which sums are equal


def is_elastic(model: nn.Module) -> bool:
    """Whether a network has elastic sizes.

    Args:
        model: The network.

    Example:
        >>> is_elastic(nn.Linear(4, 8))
        False
    """
    return any(isinstance(module, Elastic | Follower) for module in model.modules())


def measure_sizes(kind: str, model: nn.Module, space: SearchSpace, whole: Callable[[list[int]], float]) -> CostTable:
    """The cost of each candidate of a network with elastic sizes, by measuring whole networks.

    A layer whose input and output are both elastic has a product for a cost, and a table has sums. c_0 is the cost of
    the network of the cheapest candidates. c_ij is what a candidate adds while the edges before it have their cheapest
    candidates and those after it their dearest ones. A ``Depth``, which has other edges in its layers, is the last one.

    The sum is exact where no two edges are of one layer, and for the network of the dearest candidates. Where sizes
    multiply it is never below what a network costs, so that a found network is within its budget. A warning then says
    how far it is above, in the worst of the networks in which one edge is cheapest and all others are dearest. With a
    ``Depth`` over layers whose edges do not multiply each other, it is exact where the layers that are left out have
    their cheapest candidates.

    Args:
        kind: The kind of the cost.
        model: The network.
        space: The edges of the network.
        whole: The cost of the network of a choice.

    Example:
        >>> from advnas_lightning import elastic
        >>> net = nn.Sequential(
        ...     elastic(nn.Linear(4, 8), out_features=[2, 8], name="ffn"),
        ...     elastic(nn.Linear(8, 3), in_features=[2, 8], name="ffn"),
        ... )
        >>> table = measure_sizes("params", net, space := SearchSpace(net), lambda choice: count(net, space, choice))
        >>> table.edges, table.fixed  # 2 · (4 + 1 + 3) + 3, and 6 · 8 more
        ({'ffn': {'2': 0.0, '8': 48.0}}, 19.0)
    """
    top = _widest(model, space)

    def row(edge: int, others: list[int]) -> list[float]:
        return [whole([*others[:edge], index, *others[edge + 1 :]]) for index in range(len(space.candidates[edge]))]

    elastic_edges, outer = _elastic_edges(model), _outer_edges(model)
    for edge, name in enumerate(space.edges):
        if name not in elastic_edges:  # the dearest of modules that differ is not known before
            values = row(edge, top)
            top[edge] = values.index(max(values))
    rows = [[0.0]] * len(space)
    fixed, choice = 0.0, list(top)
    for edge in sorted(range(len(space)), key=lambda edge: space.edges[edge] in outer):
        values = row(edge, choice)
        fixed = min(values)
        choice[edge] = values.index(fixed)
        rows[edge] = [value - fixed for value in values]
    if kind != "latency":
        dearest = fixed + sum(map(max, rows))
        off = [
            dearest - max(values) - whole([*top[:edge], choice[edge], *top[edge + 1 :]])
            for edge, values in enumerate(rows)
        ]
        worst = max(off, key=abs, default=0.0)
        if abs(worst) > ROUNDING * dearest:
            several = [name for name, values in zip(space.edges, rows, strict=True) if max(values) > 0]
            rank_zero_warn(
                f"cost={kind}: sizes of the edges {listed(several)} multiply each other, and a sum over edges is"
                f" {'above' if worst > 0 else 'below'} what a network costs, by up to {abs(worst) / dearest:.0%} of the"
                " dearest network's cost in those that were measured"
            )
    table = {
        name: dict(zip(names, values, strict=True))
        for name, names, values in zip(space.edges, space.candidates, rows, strict=True)
    }
    return CostTable(kind, table, fixed)


def count(model: nn.Module, space: SearchSpace, choice: Sequence[int]) -> float:
    """The number of parameters of the network of a choice.

    Args:
        model: The network.
        space: The edges of the network.
        choice: The index of the candidate of each edge.

    Example:
        >>> from advnas_lightning import elastic
        >>> net = elastic(nn.Linear(4, 8), out_features=[2, 8], name="ffn")
        >>> count(net, SearchSpace(net), [0])
        10.0
    """
    sizes: dict[tuple[object, ...], int] = {}
    chosen = dict(zip(space.edges, choice, strict=True))
    with _chosen(model, chosen):
        for module in _used(model, chosen):
            for name, weight in module.named_parameters(recurse=False):
                part = getattr(module, name)
                sizes[id(weight), part.storage_offset(), part.shape, part.stride()] = part.numel()  # equal ones are one
    return float(sum(sizes.values()))


def multiplied_edges(model: nn.Module) -> set[frozenset[str]]:
    """The pairs of edges whose sizes multiply each other in the cost of a layer: both are around its parameters.

    Args:
        model: The network.

    Example:
        >>> from advnas_lightning import elastic
        >>> names = {"in_features": "width", "out_features": "ffn"}
        >>> layer = elastic(nn.Linear(8, 8), in_features=[2, 8], out_features=[4, 8], name=names)
        >>> [sorted(pair) for pair in multiplied_edges(layer)]
        [['ffn', 'width']]
    """
    pairs: set[frozenset[str]] = set()
    waiting: list[tuple[nn.Module, frozenset[str]]] = [(model, frozenset())]
    while waiting:
        module, around = waiting.pop()
        if isinstance(module, MixedOp | Follower):
            around |= {module.name}
        if any(True for _ in module.parameters(recurse=False)):
            pairs |= {frozenset(pair) for pair in combinations(around, 2)}
        waiting += [(child, around) for child in module.children()]
    return pairs


@contextmanager
def _chosen(model: nn.Module, choice: Mapping[str, int]) -> Iterator[None]:
    """A context in which all elastic modules have the sizes of a choice."""
    with ExitStack() as stack:
        for module in list(model.modules()):
            if isinstance(module, Elastic | Follower):
                size = module.sizes[choice[module.name]]
                stack.enter_context(with_size(innermost(module), module.axis, size))
        yield


def _used(model: nn.Module, choice: Mapping[str, int]) -> Iterator[nn.Module]:
    """Yield the modules of the network of a choice, each once."""
    seen, waiting = {id(model)}, [model]
    while waiting:
        module = waiting.pop()
        yield module
        children = list(module.children())
        if isinstance(module, MixedOp) and not isinstance(module, Elastic):
            children = [module.candidate_at(choice[module.name])]
        waiting += [child for child in children if id(child) not in seen]
        seen |= {id(child) for child in children}


def _elastic_edges(model: nn.Module) -> set[str]:
    return {module.name for module in model.modules() if isinstance(module, Elastic)}


def _outer_edges(model: nn.Module) -> set[str]:
    """The edges that have other edges in their candidates."""
    return {
        module.name
        for module in model.modules()
        if isinstance(module, Elastic) and any(inner.name != module.name for inner in mixed_ops(module.widest))
    }


def _widest(model: nn.Module, space: SearchSpace) -> list[int]:
    """The index of the largest size of each edge; of an edge of modules that differ the first one."""
    top = {
        module.name: module.sizes.index(max(module.sizes)) for module in model.modules() if isinstance(module, Elastic)
    }
    return [top.get(name, 0) for name in space.edges]
