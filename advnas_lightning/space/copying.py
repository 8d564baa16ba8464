"""Copies of networks whose modules keep more than parameters and plain values."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator, Mapping
from types import CellType, FunctionType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)


def copy_network(model: Network, memo: Mapping[Any, Any]) -> tuple[Network, Mapping[Any, Any]]:
    """A deep copy of a network, also of one that ``copy.deepcopy`` refuses.

    Tensors with a graph, such as an attention map that a module keeps of its last pass, are copied without it. Hooks
    and other functions that a module keeps refer to the copy where they referred to the network. What cannot be copied,
    such as a lock or an open file, is shared by both networks, and a warning names it.

    Args:
        model: The network.
        memo: What ``copy.deepcopy`` starts from.

    Returns:
        The copy, and the copies of the network's objects by their ids.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> layer.last = layer(torch.ones(2))
        >>> copied, copies = copy_network(nn.Sequential(layer), {})
        >>> torch.equal(copied[0].last, layer.last), copied[0].last.requires_grad, copies[id(layer)] is copied[0]
        (True, False, True)
    """
    with _WithoutGraphs():
        try:
            copies = {**memo}
            copied = copy.deepcopy(model, copies)
        except Exception:
            named = dict(_uncopyable(model, memo, type(model).__name__, set()))
            if any(isinstance(value, nn.Module | Tensor) for value in named.values()):
                raise
            copies = {**memo, **{id(value): value for value in named.values()}}
            copied = copy.deepcopy(model, copies)
            warnings.warn(f"the copy shares with the network what cannot be copied: {', '.join(named)}", stacklevel=3)
    for module in copied.modules():
        _rebind(vars(module), copies)
    return copied, copies


class _WithoutGraphs(TorchFunctionMode):
    """Lets ``copy.deepcopy`` copy tensors that have a graph: they lose it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return copy.deepcopy(tensor.detach(), memo)  # which keeps the detached tensor alive, as memo knows it by id
        return func(*args, **(kwargs or {}))


def _uncopyable(value: Any, memo: Mapping[Any, Any], name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield the innermost objects in a value that cannot be copied, by their names."""
    if id(value) in seen:
        return
    seen.add(id(value))
    try:
        copy.deepcopy(value, {**memo})
        return
    except Exception as error:
        reason = error
    if isinstance(value, Mapping):
        inner = [(f"{name}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    else:
        inner = [(f"{name}.{key}", item) for key, item in getattr(value, "__dict__", {}).items()]
    found = [pair for key, item in inner for pair in _uncopyable(item, memo, key, seen)]
    yield from found or [(f"{name} ({reason})", value)]


def _rebind(values: dict[str, Any], copies: Mapping[int, Any]) -> None:
    """Let functions and weak references in a module's attributes, dicts and lists refer to the copies."""
    for container in (values, *values.values()):
        if isinstance(container, dict | list):
            for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
                rebound = _rebound(value, copies)
                if rebound is not value:
                    container[key] = rebound


def _rebound(value: Any, copies: Mapping[int, Any], around: tuple[Any, ...] = ()) -> Any:
    """A function or weak reference that refers to the copy of what it refers to; any other value as it is."""
    if id(value) in copies:
        return copies[id(value)]
    if type(value) is weakref.ref:
        return weakref.ref(copies[id(value())]) if id(value()) in copies else value
    if not isinstance(value, FunctionType) or not value.__closure__ or value in around:
        return value
    cells = []
    for cell in value.__closure__:
        try:
            content = cell.cell_contents
        except ValueError:  # an empty one, of a name that has no value yet
            cells.append(cell)
            continue
        copied = _rebound(content, copies, (*around, value))
        cells.append(cell if copied is content else CellType(copied))
    if all(new is old for new, old in zip(cells, value.__closure__, strict=True)):
        return value
    function = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells))
    function.__kwdefaults__ = value.__kwdefaults__
    function.__qualname__ = value.__qualname__
    vars(function).update(vars(value))
    return function
