"""Modules that compute with slices of their parameters for a while, and copies that have only the slices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

View = Callable[[Tensor], Tensor]
CUT = "the parameters that were cut"  # a key of deepcopy's memo


@dataclass(frozen=True)
class Change:
    """What a module of a smaller size has in place of the widest one's.

    Attributes:
        attributes: Its attributes by name.
        views: By the name of a parameter or buffer: the function that returns the part of it that is used.
        derived: A function that returns further attributes, given those and the parts by name.

    Example:
        >>> linear = nn.Linear(4, 8)
        >>> with narrowed(linear, Change({"out_features": 2}, {"weight": first(2), "bias": first(2)})):
        ...     linear.out_features, linear(torch.ones(3, 4)).shape
        (2, torch.Size([3, 2]))
    """

    attributes: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    derived: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda inside: {}


def first(size: int, dim: int = 0) -> View:
    """The function that returns the first entries of a tensor, as a view.

    Args:
        size: The number of entries.
        dim: The dimension that is cut.

    Example:
        >>> first(2)(torch.arange(4))
        tensor([0, 1])
    """
    return lambda tensor: tensor.narrow(dim, 0, size)


@contextmanager
def narrowed(module: nn.Module, change: Change) -> Iterator[None]:
    """A context in which a module has a smaller size. Its parameters stay what they are, and their views are used.

    An attribute hides the parameter or buffer of the same name. What a forward pass writes to a view of a buffer, such
    as a running mean, is in the buffer itself. Contexts can be nested: the inner one takes views of the outer one's.

    Args:
        module: The module.
        change: What it has meanwhile.

    Example:
        >>> norm = nn.BatchNorm1d(3, momentum=1.0)
        >>> views = dict.fromkeys(["weight", "bias", "running_mean", "running_var"], first(1))
        >>> with narrowed(norm, Change({"num_features": 1}, views)):
        ...     _ = norm(torch.tensor([[1.0], [3.0]]))
        >>> norm.num_features, norm.running_mean
        (3, tensor([2., 0., 0.]))
    """
    attributes = vars(module)
    inside = dict(change.attributes)
    for name, view in change.views.items():
        tensor = getattr(module, name)
        if tensor is not None:
            inside[name] = view(tensor)
    inside |= change.derived(inside)
    before = {name: attributes[name] for name in inside if name in attributes}
    attributes.update(inside)
    try:
        yield
    finally:
        attributes.update(before)  # in the order that they had
        for name in inside.keys() - before.keys():
            del attributes[name]


def cut(module: nn.Module, memo: dict[Any, Any]) -> Any:
    """A deep copy of a module, in which slices that are used in place of parameters have become parameters.

    Equal slices of one parameter, such as those of tied embeddings, become one parameter.

    Args:
        module: The module, which may be narrowed.
        memo: What ``copy.deepcopy`` has copied already.

    Example:
        >>> linear = nn.Linear(4, 8)
        >>> with narrowed(linear, Change({"out_features": 2}, {"weight": first(2), "bias": first(2)})):
        ...     small = cut(linear, {})
        >>> small, small.weight.shape, linear.weight.shape
        (Linear(in_features=4, out_features=2, bias=True), torch.Size([2, 4]), torch.Size([8, 4]))
    """
    copied = memo[id(module)] = copy.deepcopy(_settled(module, memo.setdefault(CUT, {})), memo)
    return copied


def _settled(module: nn.Module, made: dict[Any, Tensor]) -> nn.Module:
    """A module of which no attribute hides a parameter or buffer. It shares everything else with the given one."""
    attributes = dict(vars(module))
    held = {kind: dict(attributes[kind]) for kind in ("_parameters", "_buffers")}
    hidden = [(kind, name) for kind, tensors in held.items() for name in tensors if name in attributes]
    if not hidden:
        return module
    for kind, name in hidden:
        part, whole = attributes.pop(name).detach(), held[kind][name]
        place = (id(whole), part.storage_offset(), part.shape, part.stride())  # equal slices of a parameter are one
        if place not in made:
            copied = part.clone(memory_format=torch.contiguous_format)
            made[place] = nn.Parameter(copied, whole.requires_grad) if kind == "_parameters" else copied
        held[kind][name] = made[place]
    settled = type(module).__new__(type(module))
    vars(settled).update(attributes, **held)
    return settled
