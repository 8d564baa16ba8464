"""What a network may read of a choice as if it were one module: plain values, and never weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves  # torch has no public name for it

PLAIN = (Number, str, bytes, type(None), Enum, torch.dtype, torch.device, torch.layout, torch.memory_format)
FLATTEN = "flatten_parameters"  # a method of recurrent layers, which moves their weights and computes nothing


def read(edge: str, modules: Mapping[str, Any], name: str, *, running: bool = True) -> Any:
    """The attribute that some modules have in common.

    A number, a text or a tuple of such is given, and so is an object that holds nothing else, such as a config. For
    modules within the modules, weights and methods it is a :class:`PartOfChoice`, of which such values can be read. To
    compute with it would bypass the choice, and is refused. ``flatten_parameters`` of recurrent layers can be called,
    as networks do before each pass.

    Args:
        edge: The edge that the modules are candidates of, for the message.
        modules: The modules that are asked, by the names of their candidates.
        name: The attribute.
        running: Whether the network runs. Outside of that a loop over all modules may ask each for its weight or for
            a method, and finds the candidates themselves: there are no parts for these.

    Raises:
        AttributeError: A module has no such attribute; it is a plain value and differs between them; or it is none of
            these things.

    Example:
        >>> modules = {"one": nn.Linear(4, 8), "other": nn.Linear(4, 8, bias=False)}
        >>> read("edge", modules, "in_features"), read("edge", modules, "weight").dtype
        (4, torch.float32)
    """
    values = {}
    for candidate, module in modules.items():
        try:
            values[candidate] = getattr(module, name)
        except AttributeError:
            raise AttributeError(
                f"edge {edge!r} has no {name!r}, as its candidate {candidate!r} has none: give it one if the network"
                " reads it"
            ) from None
    first, *others = values.values()
    if name == FLATTEN and all(map(callable, values.values())):
        return lambda: [flatten() for flatten in values.values()][-1]
    kinds = (nn.Module, PartOfChoice, Tensor) if running else (nn.Module, PartOfChoice)
    if all(isinstance(value, kinds) or (running and callable(value)) for value in values.values()):
        return PartOfChoice(edge, values)
    if not all(map(is_constant, values.values())):
        raise AttributeError(
            f"edge {edge!r} has no {name!r}: a choice is called, and a candidate's {name} would bypass it; make a"
            " choice of the module that reads it, or read it from edge.candidates[…]"
        )
    if any(other is not first and other != first for other in others):
        listed = ", ".join(f"{candidate}: {value!r}" for candidate, value in values.items())
        raise AttributeError(
            f"edge {edge!r} has no {name!r} of its own, and its candidates differ in it ({listed}): make it equal if"
            " the network reads it"
        )
    return first


def write(edge: str, modules: Mapping[str, nn.Module], name: str, value: Any) -> bool:
    """Set an attribute of those modules that have it.

    Args:
        edge: The edge that the modules are candidates of, for the message.
        modules: The candidates by name.
        name: The attribute.
        value: Its new value.

    Returns:
        Whether there is one that has it.

    Raises:
        AttributeError: The value is a tensor or a module, which would be the same for all.

    Example:
        >>> candidates = {"drop": nn.Dropout(0.1), "skip": nn.Identity()}
        >>> write("edge", candidates, "p", 0.5), candidates["drop"].p, write("edge", candidates, "q", 0.5)
        (True, 0.5, False)
    """
    having = {candidate: module for candidate, module in modules.items() if hasattr(module, name)}
    if having and isinstance(value, Tensor | nn.Module):
        raise AttributeError(
            f"edge {edge!r} cannot be given a {name!r}, which its candidates {', '.join(having)} have: set that of the"
            " candidate you mean, in edge.candidates[…]"
        )
    for module in having.values():
        setattr(module, name, value)
    return bool(having)


def is_plain(value: Any) -> bool:
    """Whether a value is constant, and computes nothing.

    Example:
        >>> is_plain((3, 3)), is_plain(torch.float32), is_plain(torch.zeros(1)), is_plain([3]), is_plain(print)
        (True, True, False, False, False)
    """
    return isinstance(value, PLAIN) or (isinstance(value, tuple | frozenset) and all(map(is_plain, value)))


def is_constant(value: Any, depth: int = 6) -> bool:
    """Whether a value is plain, or an object or container that holds constants alone, such as a config.

    Args:
        value: The value.
        depth: How many levels of objects and containers it may have.

    Example:
        >>> from types import SimpleNamespace
        >>> is_constant(SimpleNamespace(size=4, layers=["a"])), is_constant(SimpleNamespace(activation=nn.ReLU()))
        (True, False)
    """
    if is_plain(value):
        return True
    if depth == 0 or callable(value) or isinstance(value, Tensor):
        return False
    held = getattr(value, "__dict__", value)
    held = held.values() if isinstance(held, Mapping) else held
    return isinstance(held, Collection) and all(is_constant(each, depth - 1) for each in held)


class PartOfChoice:
    """The modules, tensors or methods at one place in the candidates of an edge: a shape can be read, for instance.

    Args:
        edge: The edge's name.
        values: The modules, tensors or methods by the names of their candidates.

    Example:
        >>> part = PartOfChoice("edge", {"one": nn.Linear(4, 8), "other": nn.Linear(4, 8, bias=False)})
        >>> part.out_features, part.weight.shape
        (8, torch.Size([8, 4]))
        >>> part.weight * torch.ones(4)
        Traceback (most recent call last):
            ...
        ValueError: a part of a candidate of edge 'edge' is used past the choice: call the edge itself, make a \
choice of the module that uses it, or leave out MixedOps in a loop over all modules
    """

    __slots__ = ("_edge", "_values")

    def __init__(self, edge: str, values: Mapping[str, Any]) -> None:
        for name, value in zip(self.__slots__, (edge, values), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise self.misuse()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copy, pickle and others ask for
            raise AttributeError(name)
        return read(self._edge, self._values, name)

    def __getitem__(self, key: Any) -> PartOfChoice:
        return PartOfChoice(self._edge, {candidate: value[key] for candidate, value in self._values.items()})

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Refuse the call of a module inside a candidate."""
        raise self.misuse()

    def __bool__(self) -> bool:
        raise self.misuse()

    def __eq__(self, other: object) -> bool:
        raise self.misuse()

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse a computation with a weight of a candidate."""
        leaves = tree_leaves((args, kwargs))
        raise next(leaf.misuse() for leaf in leaves if isinstance(leaf, PartOfChoice))

    def misuse(self) -> ValueError:
        """The error of a use that would bypass the choice."""
        return ValueError(
            f"a part of a candidate of edge {self._edge!r} is used past the choice: call the edge itself, make a choice"
            " of the module that uses it, or leave out MixedOps in a loop over all modules"
        )
