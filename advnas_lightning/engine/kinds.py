"""How a value can change while a name still refers to it, and how it gets back what it had."""

from __future__ import annotations

import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum, auto
from operator import is_
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

# Objects of these packages are part of the framework, or are shared with other threads.
OPAQUE = {
    *("advnas_lightning", "lightning", "pytorch_lightning", "lightning_fabric", "torch", "logging", "omegaconf"),
    *("threading", "multiprocessing", "concurrent", "asyncio"),
    *("tensorboard", "tensorboardX", "wandb", "mlflow", "comet_ml", "neptune", "clearml"),
}


class Kind(Enum):
    """How a value can change while a name still refers to it.

    Example:
        >>> kind_of(float).name, kind_of(dict).name, kind_of(nn.Linear).name
        ('CONSTANT', 'MAPPING', 'MODULE')
    """

    CONSTANT = auto()
    MODULE = auto()
    TENSOR = auto()
    ARRAY = auto()
    GENERATOR = auto()
    MAPPING = auto()
    SEQUENCE = auto()
    SET = auto()
    TUPLE = auto()
    OBJECT = auto()
    CLASS = auto()


def _set_numpy(generator: np.random.Generator, state: Any) -> None:
    generator.bit_generator.state = state


# How the state of a random number generator is read and set.
GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state),
    np.random.Generator: (lambda own: own.bit_generator.state, _set_numpy),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
    random.Random: (random.Random.getstate, random.Random.setstate),
}
KINDS: list[tuple[Any, Kind]] = [  # the first one that fits
    (nn.Module, Kind.MODULE),
    (Tensor, Kind.TENSOR),
    (np.ndarray, Kind.ARRAY),
    (tuple(GENERATORS), Kind.GENERATOR),
    ((type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, PurePath), Kind.CONSTANT),
    (dict, Kind.MAPPING),
    ((list, deque, bytearray, array), Kind.SEQUENCE),
    (set, Kind.SET),
    (tuple, Kind.TUPLE),
    (LRScheduler, Kind.OBJECT),  # a module's step may step a schedule that it keeps
]
MISSING: Any = object  # stands for an attribute that is not set; a class is a constant


_known: dict[type, Kind] = {}
_own: dict[type, tuple[type, ...]] = {}


def kind_of(cls: type) -> Kind:
    """The kind of the objects of a class.

    Example:
        >>> from types import SimpleNamespace
        >>> kind_of(SimpleNamespace).name, kind_of(type(print)).name
        ('OBJECT', 'CONSTANT')
    """
    if cls not in _known:
        _known[cls] = next((kind for bases, kind in KINDS if issubclass(cls, bases)), None) or _kind_of_object(cls)
    return _known[cls]


def _is_opaque(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in OPAQUE


def own_classes(cls: type) -> tuple[type, ...]:
    """A class and its bases, without those of the framework.

    Example:
        >>> own_classes(type("Listing", (nn.Linear,), {"__module__": "yours"}))
        (<class 'yours.Listing'>,)
    """
    if cls not in _own:
        _own[cls] = tuple(base for base in cls.__mro__ if base is not object and not _is_opaque(base))
    return _own[cls]


def _kind_of_object(cls: type) -> Kind:
    is_opaque = any(map(_is_opaque, cls.__mro__))
    has_attributes = bool(getattr(cls, "__dictoffset__", 0)) or bool(slots_of(cls))
    return Kind.OBJECT if has_attributes and not is_opaque else Kind.CONSTANT


def slots_of(cls: type) -> tuple[str, ...]:
    """The names of the attributes that objects of a class keep beside a ``__dict__``.

    Example:
        >>> class Point:
        ...     __slots__ = ("x", "y")
        >>> slots_of(Point)
        ('x', 'y')
    """
    names: list[str] = []
    for base in cls.__mro__:
        own = vars(base).get("__slots__", ())
        names += [own] if isinstance(own, str) else own
    return tuple(name for name in names if not name.startswith("__"))


def copy_of(kind: Kind, value: Any) -> Any:
    """What a value has now: a container's elements, a generator's state, attributes in slots or of a class.

    Example:
        >>> copy_of(Kind.SEQUENCE, [1, 2])
        [1, 2]
    """
    if kind is Kind.MAPPING:
        return dict(value)
    if kind is Kind.SEQUENCE:
        return list(value) if isinstance(value, deque) else value[:]
    if kind is Kind.SET:
        return set(value)
    if kind is Kind.GENERATOR:
        return _accessors(value)[0](value)
    if kind is Kind.OBJECT:
        return {name: getattr(value, name, MISSING) for name in slots_of(type(value))}
    if kind is Kind.CLASS:
        return vars(value).copy()
    return value.copy()


def is_same(kind: Kind, value: Any, copied: Any) -> bool:
    """Whether a value still has what its copy has: the same objects, not equal ones.

    Example:
        >>> is_same(Kind.SEQUENCE, [1.5, 2], [1.5]), is_same(Kind.SET, {1}, {1})
        (False, True)
    """
    if kind is Kind.MAPPING:
        same = len(value) == len(copied) and all(map(is_, value.values(), copied.values()))
        return same and all(map(is_, value, copied))
    if kind is Kind.SEQUENCE:
        return len(value) == len(copied) and all(map(is_, value, copied))
    if kind is Kind.SET:
        return bool(value == copied)
    if kind is Kind.CLASS:
        return is_same(Kind.MAPPING, vars(value), copied)
    if kind is Kind.OBJECT:
        return all(getattr(value, name, MISSING) is own for name, own in copied.items())
    return False  # to compare would cost as much as to restore


def restore(kind: Kind, value: Any, copied: Any) -> None:
    """Give a value what its copy has, in the same order.

    Example:
        >>> values = [1, 2, 3]
        >>> restore(Kind.SEQUENCE, values, [0])
        >>> values
        [0]
    """
    if kind is Kind.MAPPING:
        base = OrderedDict if isinstance(value, OrderedDict) else dict  # a class of one's own may forbid it
        base.clear(value)
        base.update(value, copied)
    elif kind is Kind.SEQUENCE and not isinstance(value, deque):
        value[:] = copied
    elif kind is Kind.SEQUENCE:
        value.clear()
        value.extend(copied)
    elif kind is Kind.SET:
        value.clear()
        value.update(copied)
    elif kind is Kind.ARRAY:
        value[...] = copied
    elif kind is Kind.GENERATOR:
        _accessors(value)[1](value, copied)
    elif kind is Kind.CLASS:
        for name in {**copied, **vars(value)}:
            if name not in copied:
                type.__delattr__(value, name)
            elif vars(value).get(name, MISSING) is not copied[name]:
                type.__setattr__(value, name, copied[name])
    else:
        for name, own in copied.items():
            if own is not MISSING:
                object.__setattr__(value, name, own)
            elif hasattr(value, name):
                object.__delattr__(value, name)


def _accessors(generator: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    return next(found for cls, found in GENERATORS.items() if isinstance(generator, cls))
