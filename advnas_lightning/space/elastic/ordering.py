"""Which candidates of an edge are wider than others, and architectures that are changed to such sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import nn

from advnas_lightning.space.elastic.edge import Elastic
from advnas_lightning.space.search_space import Architecture


def widest_first(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The candidates of each edge that has an order, from the widest to the narrowest.

    An elastic edge has the order of its sizes. Of two kernels one is wider if it is not smaller in any dimension. An
    edge of which two sizes cannot be compared has no order, and neither have the edges whose candidates are modules of
    their own.

    Args:
        model: The network.

    Returns:
        The indices of the candidates, by the edge's name.

    Raises:
        ValueError: Two modules of one name grow in different orders.

    Example:
        >>> from advnas_lightning import MixedOp, elastic
        >>> width = elastic(nn.Linear(4, 8), out_features=[4, 8, 2], name="width")
        >>> widest_first(nn.Sequential(width, MixedOp("edge", {"relu": nn.ReLU(), "tanh": nn.Tanh()})))
        {'width': (1, 0, 2)}
    """
    orders: dict[str, tuple[int, ...] | None] = {}
    for place, module in model.named_modules():
        if not isinstance(module, Elastic) or len(module.names) == 1:
            continue
        order = _order(module.sizes)
        if orders.setdefault(module.name, order) != order:
            raise ValueError(
                f"{place!r} belongs to edge {module.name!r}, and its sizes grow in another order than those of the"
                " modules of that name before it: give the candidates of all of them the same order"
            )
    return {edge: order for edge, order in orders.items() if order is not None}


def with_candidates(architecture: Architecture, chosen: Mapping[int, int]) -> Architecture:
    """An architecture that runs one candidate alone on some edges, and on the others what it ran before.

    It is for weight steps: it has no graph to θ.

    Args:
        architecture: The architecture.
        chosen: The candidate's index by the edge's index.

    Example:
        >>> import torch
        >>> drawn = Architecture(torch.tensor([[0.0, 1.0], [0.5, 0.5]]), paths=((1,), (0, 1)))
        >>> changed = with_candidates(drawn, {0: 0})
        >>> changed.gates, changed.paths
        (tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]]), ((0,), (0, 1)))
    """
    gates = architecture.gates.clone()  # [E, J]
    for edge, candidate in chosen.items():
        gates[edge] = 0
        gates[edge, candidate] = 1
    paths = tuple((chosen[edge],) if edge in chosen else path for edge, path in enumerate(architecture.paths))
    choice = architecture.choice
    if choice is not None:
        choice = tuple(chosen.get(edge, own) for edge, own in enumerate(choice))
    return replace(architecture, gates=gates, paths=paths, choice=choice, relaxed=None, inactive="none")


def _order(sizes: tuple[Any, ...]) -> tuple[int, ...] | None:
    """The indices from the widest size on; ``None`` where two sizes cannot be compared."""
    parts = [size if isinstance(size, tuple) else (size,) for size in sizes]
    order = sorted(range(len(parts)), key=lambda index: sum(parts[index]), reverse=True)
    for wider, narrower in pairwise(order):
        if any(less > more for less, more in zip(parts[narrower], parts[wider], strict=True)):
            return None
    return tuple(order)
