"""Copies of networks whose modules keep more than parameters and plain values."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import WRAPPER_ASSIGNMENTS, partial
from operator import is_
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)
HOOKS = ("_forward_pre_hooks", "_backward_pre_hooks", "_forward_hooks", "_backward_hooks")  # attributes of all modules
FLAGS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")  # attributes of all tensors; None without a hook


def copy_network(model: Network, memo: Mapping[Any, Any]) -> tuple[Network, Mapping[Any, Any]]:
    """A deep copy of a network, also of one that ``copy.deepcopy`` refuses.

    Parameters keep their hooks and the attributes that were set on them, which ``copy.deepcopy`` drops. Tensors with a
    graph, such as an attention map that a module keeps of its last pass, are copied without it. Hooks and other
    functions that a module keeps refer to the copy where they referred to the network. What cannot be copied, such as a
    lock or an open file, is shared by both networks, and a warning names it.

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
    shared: dict[str, Any] = {}
    # Without inference mode, which Lightning evaluates in: what is made there can never be trained.
    with torch.inference_mode(False), _WithoutGraphs():
        while True:
            given = {**memo, **{id(value): value for value in shared.values()}}
            try:
                copied = copy.deepcopy(model, copies := {**given})
                break
            except Exception:
                more = dict(_uncopyable(model, given, "", {}))
                if not more or any(isinstance(value, nn.Module | nn.Parameter) for value in more.values()):
                    raise
                shared |= more
    names = [name for name, value in shared.items() if not isinstance(value, ModuleType)]
    if names:
        warnings.warn(f"a copied network shares what cannot be copied: {', '.join(names)}", stacklevel=3)
    rebound = Rebound(copies)
    for module in copied.modules():
        rebound.inside(vars(module))
    for parameter in model.parameters():
        if (own := copies.get(id(parameter), parameter)) is not parameter:
            copy_attributes(parameter, own, copies)
            rebound.inside(vars(own))
            for name in TENSOR_HOOKS:
                if getattr(parameter, name):
                    hooks = copy.deepcopy(getattr(parameter, name), copies)  # which copied handles of them know
                    rebound.inside(hooks)
                    setattr(own, name, hooks)
    return copied, copies


def copy_attributes(source: Tensor, target: Tensor, memo: dict[Any, Any]) -> None:
    """Set on a parameter what was set on another, such as a mark that it has no weight decay.

    What cannot be copied is shared.

    Args:
        source: The parameter that has the attributes.
        target: The parameter that gets them.
        memo: What ``copy.deepcopy`` has copied already.

    Example:
        >>> source, target = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        >>> source.no_decay = True
        >>> copy_attributes(source, target, {})
        >>> target.no_decay
        True
    """
    for name, value in vars(source).items():
        try:
            vars(target)[name] = copy.deepcopy(value, memo)
        except Exception:  # as of a group of processes
            vars(target)[name] = value


def copy_hooks(source: nn.Module, target: nn.Module, memo: dict[Any, Any]) -> None:
    """Give a module copies of the hooks of another, which stood around it.

    Args:
        source: The module that has the hooks.
        target: The module that gets them.
        memo: What ``copy.deepcopy`` has copied already.

    Example:
        >>> around, inside = nn.Sequential(nn.Identity()), nn.Identity()
        >>> handle = around.register_forward_hook(lambda module, inputs, output: output + 1)
        >>> copy_hooks(around, inside, {})
        >>> inside(1)
        2
    """
    if not any(vars(source)[name] for name in HOOKS):
        return
    for name in (*HOOKS, *FLAGS):
        own, others = vars(target)[name], copy.deepcopy(vars(source)[name], memo)
        if others:
            pairs = {**others, **own} if "_pre_" in name else {**own, **others}  # the outer ones come first, or last
            others.clear()
            others.update(pairs)
            vars(target)[name] = others  # the dict itself, which copied handles of these hooks know
    if vars(source)["_backward_hooks"]:
        vars(target)["_is_full_backward_hook"] = vars(source)["_is_full_backward_hook"]


class _WithoutGraphs(TorchFunctionMode):
    """Lets ``copy.deepcopy`` copy tensors that have a graph: they lose it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return copy.deepcopy(tensor.detach(), memo)  # which keeps the detached tensor alive, as memo knows it by id
        return func(*args, **(kwargs or {}))


def _uncopyable(
    value: Any, memo: Mapping[Any, Any], name: str, known: dict[int, tuple[Any, bool]]
) -> Iterator[tuple[str, Any]]:
    """Yield the innermost objects in a value that cannot be copied, with their names.

    An object is noted by its id: itself, so that it lives on, and whether it cannot be copied.
    """
    try:
        known[id(value)] = value, False
        copy.deepcopy(value, {**memo})
        return
    except Exception as error:
        known[id(value)], reason = (value, True), error
    inside = list(_inside(value, name))
    for key, item in inside:
        if id(item) not in known:
            yield from _uncopyable(item, memo, key, known)
    if not any(known[id(item)][1] for _, item in inside):
        yield f"{name.removeprefix('.')} ({reason})", value


def _inside(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield what ``copy.deepcopy`` copies of an object, with the names."""
    if isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, MethodType):
        yield name, value.__self__
    elif not isinstance(value, Tensor):
        with suppress(Exception):  # as of a lock, which has no inside
            # Not all that it has: a LightningModule leaves out its trainer.
            _, arguments, *state = value.__reduce_ex__(4)
            yield from ((name, item) for item in arguments)
            for each in state[0] if state and isinstance(state[0], tuple) else state[:1]:
                own = {key: item for key, item in (each or {}).items() if key != "_modules"}
                yield from ((f"{name}.{key}", item) for key, item in own.items())
            if isinstance(value, nn.Module):
                yield from ((f"{name}.{key}", module) for key, module in value.named_children())


class Rebound:
    """Lets what a module keeps refer to others in place of certain objects.

    It reaches dicts, lists and tuples; weak references; methods; and functions, which ``copy.deepcopy`` takes as they
    are, with what they have of the scope in which they were written.

    Args:
        others: The others by the ids of those objects.

    Example:
        >>> old, new = nn.ReLU(), nn.Tanh()
        >>> values = {"deep": [(old, 1)], "function": lambda layer=old: layer}
        >>> Rebound({id(old): new}).inside(values)
        >>> values["deep"], values["function"]()
        ([(Tanh(), 1)], Tanh())
    """

    def __init__(self, others: Mapping[Any, Any]) -> None:
        self._others = others
        self._made: dict[int, tuple[Any, Any]] = {}  # functions, and containers in their scopes, by the ids of the old
        self._seen: dict[int, Any] = {}

    def inside(self, values: dict[Any, Any] | list[Any]) -> None:
        """Replace what must refer to another in a dict or list, and in the dicts and lists in it."""
        self._seen[id(values)] = values
        for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
            rebound = self.of(value)
            if rebound is not value:
                values[key] = rebound
            elif isinstance(value, dict | list) and id(value) not in self._seen:
                self.inside(value)

    def of(self, value: Any) -> Any:
        """The other of a value, or one like it that refers to others; a value that refers to none as it is."""
        if id(value) in self._others:
            return self._others[id(value)]
        if type(value) is weakref.ref and id(value()) in self._others:
            return weakref.ref(self._others[id(value())])
        if isinstance(value, MethodType) and id(value.__self__) in self._others:
            other = self._others[id(value.__self__)]
            if isinstance(other, type(value.__self__)):
                return MethodType(value.__func__, other)
            return other if value.__name__ == "forward" else value  # a choice, to be called
        if type(value) is tuple:
            items = tuple(map(self.of, value))
            return value if all(map(is_, items, value)) else items
        if type(value) is partial:
            old = value.func, *value.args, *value.keywords.values()
            new = tuple(map(self.of, old))
            arguments, rest = new[1 : 1 + len(value.args)], new[1 + len(value.args) :]
            keywords = dict(zip(value.keywords, rest, strict=True))
            return value if all(map(is_, new, old)) else partial(new[0], *arguments, **keywords)
        if isinstance(value, FunctionType) and self._refers(value, set()):
            return self._function(value)
        return value

    def _refers(self, value: Any, seen: set[int]) -> bool:
        """Whether a value has another, or one that it refers to does."""
        if id(value) in self._others:
            return True
        if id(value) in seen:
            return False
        seen.add(id(value))
        return any(self._refers(each, seen) for each in _reached(value))

    def _scoped(self, value: Any) -> Any:
        """The other of a value in a function's scope, where a list or dict that refers to others has one of its own."""
        if type(value) not in (list, dict) or id(value) in self._others or not self._refers(value, set()):
            return self.of(value)
        if id(value) not in self._made:
            made = value.copy()
            self._made[id(value)] = value, made
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                made[key] = self._scoped(item)
        return self._made[id(value)][1]

    def _function(self, function: FunctionType) -> Any:
        if id(function) in self._made:
            return self._made[id(function)][1]
        cells = tuple(CellType() for _ in function.__closure__ or ())
        made = FunctionType(function.__code__, function.__globals__, closure=cells)
        self._made[id(function)] = function, made
        for cell, own in zip(cells, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # one of a name that has no value yet is empty
                cell.cell_contents = self._scoped(own.cell_contents)
        made.__defaults__ = function.__defaults__ and tuple(map(self.of, function.__defaults__))
        made.__kwdefaults__ = {key: self.of(value) for key, value in (function.__kwdefaults__ or {}).items()}
        for each in WRAPPER_ASSIGNMENTS:  # its name, its text, and what it says of its types
            setattr(made, each, getattr(function, each))
        vars(made).update(vars(function))
        return made


def _reached(value: Any) -> list[Any]:
    """What a value refers to, as far as it may have to refer to others."""
    if isinstance(value, FunctionType):
        return _scope(value)
    if isinstance(value, MethodType):
        return [value.__self__]
    if type(value) is partial:
        return [value.func, *value.args, *value.keywords.values()]
    if type(value) is weakref.ref:
        return [value()]
    return list(value.values() if type(value) is dict else value) if type(value) in (dict, list, tuple) else []


def _scope(function: FunctionType) -> list[Any]:
    """The values that a function brings with it."""
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            values.append(cell.cell_contents)
    return values
