"""Lets modules follow the edges whose names they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from torch import nn

from advnas_lightning.space.elastic.edge import Elastic, Follower, innermost
from advnas_lightning.space.elastic.kinds import refuse_other_computation, told
from advnas_lightning.space.elastic.recurrent import HiddenSize
from advnas_lightning.space.mixed_op import MixedOp
from advnas_lightning.texts import listed


def follow(model: nn.Module, edges: Mapping[str, MixedOp]) -> None:
    """Let each module that follows an edge know what it runs.

    Args:
        model: The network.
        edges: The first module of each edge, by the edge's name.

    Raises:
        ValueError: An edge is missing, two modules of one name have different sizes, two are made of one module, one
            computes otherwise than its kind does, or one has twice the sizes of a recurrent layer in two directions.

    Example:
        >>> from advnas_lightning.space.elastic import elastic
        >>> follow(nn.Sequential(elastic(nn.Linear(8, 2), in_features=[4, 8], name="ffn")), {})
        Traceback (most recent call last):
            ...
        ValueError: '0' follows edge 'ffn', and the network has no such edge: let what comes before it be elastic with \
the name 'ffn'
    """
    orders: dict[str, tuple[str, list[int]]] = {}
    _refuse_two(model)
    _refuse_twice(model)
    for place, module in model.named_modules():
        if isinstance(module, Elastic | Follower):
            inner = innermost(module)
            refuse_other_computation(f"{place!r}, a {told(inner)}", inner, [module.axis])
        if isinstance(module, Follower):
            edge = edges.get(module.name)
            if edge is None:
                raise ValueError(
                    f"{place!r} follows edge {module.name!r}, and the network has no such edge: let what comes before"
                    f" it be elastic with the name {module.name!r}"
                )
            if edge.names != module.names:
                raise ValueError(
                    f"{place!r} follows edge {module.name!r} with the sizes {listed(module.names)}, and the edge has"
                    f" {listed(edge.names)}: give both the same sizes, or a dict"
                    f" {module.axis.name}={{{edge.names[0]!r}: …}} of sizes by these names"
                )
            module.edge_state = edge.edge_state
        if isinstance(module, Follower) or (isinstance(module, Elastic) and (module.axis.reads or module.axis.gives)):
            order = sorted(range(len(module.sizes)), key=module.sizes.__getitem__)
            first, known = orders.setdefault(module.name, (place, order))
            if order != known:
                raise ValueError(
                    f"{first!r} and {place!r} belong to edge {module.name!r}, and their sizes grow in different orders:"
                    " give the candidates of both the same order"
                )


def _refuse_two(model: nn.Module) -> None:
    """Refuse a module of which two elastic ones were made, as each would have sizes of its own."""
    around = {place: module for place, module in model.named_modules() if isinstance(module, Elastic | Follower)}
    inner = {id(module.widest) for module in around.values()}
    found: dict[int, str] = {}
    for place, module in around.items():
        if id(module) not in inner:
            first = found.setdefault(id(innermost(module)), place)
            if first != place:
                raise ValueError(
                    f"{first!r} and {place!r} were made elastic of one module: make it elastic once, and put the result"
                    " in both places"
                )


def _refuse_twice(model: nn.Module) -> None:
    """Refuse a module of twice the sizes of a layer in two directions, whose outputs are two halves."""
    both = {module.name: module.sizes for module in model.modules() if _has_two_directions(module)}
    for place, module in model.named_modules():
        if isinstance(module, Elastic | Follower) and module.name in both:
            sizes = both[module.name]
            if module.sizes == tuple(2 * size for size in sizes):
                raise ValueError(
                    f"{place!r} has twice the sizes of edge {module.name!r}, whose layer gives two halves, one for each"
                    f" direction: give a Linear or a convolution in_halves={list(sizes)}, or a recurrent layer"
                    " input_halves; other modules cannot follow it"
                )


def _has_two_directions(module: nn.Module) -> TypeGuard[Elastic]:
    return (
        isinstance(module, Elastic)
        and isinstance(module.axis, HiddenSize)
        and bool(getattr(innermost(module.widest), "bidirectional", False))
    )
