"""The costs of elastic sizes, which are those of whole networks: what a size costs depends on all that has it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import nn

from advnas_lightning.cost.interaction import Interaction
from advnas_lightning.cost.table import CostTable
from advnas_lightning.space.elastic import Elastic, Follower
from advnas_lightning.space.elastic.edge import innermost, with_size
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops
from advnas_lightning.space.search_space import SearchSpace
from advnas_lightning.texts import listed

ROUNDING = 1e-9  # a share of a cost, up to which sums are equal
MOST_NETWORKS = 2000  # that are measured for the interactions,
MOST_COUNTED = 20_000  # and whose parameters are counted
TESTS = 8  # networks that are measured to test a table


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

    A layer whose input and output are both elastic has a product for a cost, and the layers that a ``Depth`` leaves out
    cost nothing. So a table has what each candidate adds to the network of the cheapest candidates, and what the
    candidates of edges cost together beside that: of all edges that are around one parameter. Each of these is measured
    by a network in which all other edges have their cheapest candidates.

    Some networks, drawn by a fixed seed, and the dearest one are measured to test the table. It has sums alone if it is
    off in one of them, if it would take more than ``MOST_NETWORKS`` networks (``MOST_COUNTED`` for parameters), and for
    latency, which no measurement gives exactly. c_ij is then what a candidate adds while the edges before it have their
    cheapest candidates and those after it their dearest ones; a ``Depth``, which has other edges in its layers, is the
    last one. Where sizes multiply, such a sum is never below what a network costs. A warning says how far it is above,
    in the worst of these networks and of those in which one edge is cheapest and all others are dearest.

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
    groups = interacting(model, space)
    networks = sum(math.prod(len(space.candidates[edge]) - 1 for edge in group) for group in groups)
    if kind != "latency" and networks <= (MOST_COUNTED if kind == "params" else MOST_NETWORKS):
        found = _with_interactions(kind, model, space, whole, groups)
        if found is not None:
            return found
    return _sums(kind, model, space, whole)


def _with_interactions(
    kind: str,
    model: nn.Module,
    space: SearchSpace,
    whole: Callable[[list[int]], float],
    groups: Sequence[tuple[int, ...]],
) -> CostTable | None:
    """The table with interactions; ``None`` if it does not tell what networks cost."""
    sizes = [len(row) for row in space.candidates]
    known: dict[tuple[int, ...], float] = {}

    def cost(choice: Sequence[int]) -> float:
        key = tuple(choice)
        if key not in known:
            known[key] = whole([*key])
        return known[key]

    cheapest: list[int] = [0] * len(space)
    before: list[int] | None = None
    while cheapest != before:  # what is cheapest on an edge may depend on the others
        before = list(cheapest)
        for edge in range(len(space)):
            costs = [cost([*cheapest[:edge], index, *cheapest[edge + 1 :]]) for index in range(sizes[edge])]
            cheapest[edge] = costs.index(min(costs))
    fixed = cost(cheapest)
    added: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for group in sorted(groups, key=len):
        values = np.zeros([sizes[edge] for edge in group])
        for indices in np.ndindex(*values.shape):
            choice = list(cheapest)
            for edge, index in zip(group, indices, strict=True):
                choice[edge] = index
            if all(index != cheapest[edge] for edge, index in zip(group, indices, strict=True)):
                parts = (
                    own[tuple(choice[edge] for edge in part)] for part, own in added.items() if set(part) < set(group)
                )
                values[indices] = cost(choice) - math.fsum([fixed, *parts])
        added[group] = values
    table = CostTable(
        kind,
        {
            name: dict(zip(names, added[edge,].tolist(), strict=True))
            for edge, (name, names) in enumerate(zip(space.edges, space.candidates, strict=True))
        },
        fixed,
        tuple(
            Interaction(group, values)
            for group, values in added.items()
            if len(group) > 1 and abs(values).max() > ROUNDING * max(known.values())
        ),
    )
    is_so = all(math.isclose(table.of(choice), cost(choice), rel_tol=ROUNDING) for choice in _tests(model, space))
    return table if is_so else None


def _sums(kind: str, model: nn.Module, space: SearchSpace, whole: Callable[[list[int]], float]) -> CostTable:
    """The table without interactions, and a warning if its sums are not what networks cost."""
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
    table = CostTable(
        kind,
        {
            name: dict(zip(names, values, strict=True))
            for name, names, values in zip(space.edges, space.candidates, rows, strict=True)
        },
        fixed,
    )
    if kind != "latency":
        tests = [*_tests(model, space), *([*top[:edge], choice[edge], *top[edge + 1 :]] for edge in range(len(space)))]
        worst = max((table.of(each) - whole(each) for each in tests), key=abs)
        if abs(worst) > ROUNDING * table.largest:
            several = [name for name, values in zip(space.edges, rows, strict=True) if max(values) > 0]
            rank_zero_warn(
                f"cost={kind}: what candidates of the edges {listed(several)} cost depends on each other, and is not"
                f" measured together. A sum over edges is {'above' if worst > 0 else 'below'} what a network costs, by"
                f" up to {abs(worst) / table.largest:.0%} of the dearest network's cost in those that were measured"
            )
    return table


def _tests(model: nn.Module, space: SearchSpace) -> list[list[int]]:
    """The networks on which a table is tested: the widest one, and some that are drawn by a fixed seed."""
    draws = random.Random(0)
    return [
        _widest(model, space),
        *([draws.randrange(len(row)) for row in space.candidates] for _ in range(TESTS)),
    ]


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


def interacting(model: nn.Module, space: SearchSpace) -> list[tuple[int, ...]]:
    """The groups of edges that cost something together, as they are around one parameter; each edge alone is one, too.

    Args:
        model: The network.
        space: The edges of the network.

    Returns:
        The numbers of the edges of each group in rising order, with each smaller group of the same edges.

    Example:
        >>> from advnas_lightning import elastic
        >>> names = {"in_features": "width", "out_features": "ffn"}
        >>> layer = elastic(nn.Linear(8, 8), in_features=[2, 8], out_features=[4, 8], name=names)
        >>> net = nn.Sequential(elastic(nn.Linear(4, 8), out_features=[2, 8], name="width"), layer)
        >>> interacting(net, SearchSpace(net))
        [(0,), (1,), (0, 1)]
    """
    around: dict[int, frozenset[int]] = {}  # the edges around each parameter, in all places where it is
    waiting: list[tuple[nn.Module, frozenset[int]]] = [(model, frozenset())]
    while waiting:
        module, edges = waiting.pop()
        if isinstance(module, MixedOp | Follower):
            edges |= {space.edges.index(module.name)}
        for parameter in module.parameters(recurse=False):
            around[id(parameter)] = around.get(id(parameter), frozenset()) | edges
        waiting += [(child, edges) for child in module.children()]
    groups: set[tuple[int, ...]] = {(edge,) for edge in range(len(space))}
    for edges in set(around.values()):
        groups |= {group for size in range(1, len(edges) + 1) for group in combinations(sorted(edges), size)}
    return sorted(groups, key=lambda group: (len(group), group))


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
