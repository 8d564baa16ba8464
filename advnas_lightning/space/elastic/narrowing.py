"""Modules that compute with slices of their parameters for a while, and copies that have only the slices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from advnas_lightning.space.copying import copy_attributes

View = Callable[[Tensor], Tensor]
CUT = "the parameters that were cut"  # a key of deepcopy's memo
KIND = "the class of a module of this size"  # a key of a narrowed module's attributes


@dataclass(frozen=True)
class Change:
    """What a module of a smaller size has in place of the widest one's.

    Attributes:
        attributes: Its attributes by name.
        views: By the name of a parameter or buffer: the function that returns the part of it that is used, as a view or
            as a :class:`Copying`.
        derived: A function that returns further attributes, given those and the parts by name.
        parts: The changes of modules inside it, for a size that several modules have in common.
        kind: The class of the plain module, where the widest one's has no form of this size. Its ``forward`` runs with
            the widest module, too.

    Example:
        >>> linear = nn.Linear(4, 8)
        >>> with narrowed(linear, Change({"out_features": 2}, {"weight": first(2), "bias": first(2)})):
        ...     linear.out_features, linear(torch.ones(3, 4)).shape
        (2, torch.Size([3, 2]))
    """

    attributes: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    derived: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda inside: {}
    parts: Mapping[nn.Module, Change] = field(default_factory=dict)
    kind: type[nn.Module] | None = None

    def of(self, module: nn.Module) -> Iterator[tuple[nn.Module, Change]]:
        """Yield a module and those inside it that this changes, each with its own change.

        Args:
            module: The module.
        """
        for part, change in self.parts.items():
            yield from change.of(part)
        yield module, self


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


@dataclass(frozen=True)
class Copying:
    """A function that returns a part of a tensor which no view can show, and so is a copy.

    Of a buffer, what is written to the copy is written to the buffer afterwards.

    Attributes:
        part: The function. It picks entries, and computes nothing.

    Example:
        >>> Copying(lambda tensor: tensor[[0, 2]])(torch.arange(4))
        tensor([0, 2])
    """

    part: View

    def __call__(self, tensor: Tensor) -> Tensor:
        """The part of a tensor."""
        return self.part(tensor)

    def write_back(self, part: Tensor, tensor: Tensor) -> None:
        """Write a part into the tensor that it is of.

        BatchNorm raises no version counter when it writes, so that it is not known whether it has.

        Args:
            part: The part.
            tensor: The tensor.
        """
        places = self(torch.arange(tensor.numel(), device=tensor.device).view_as(tensor))
        tensor.data[torch.unravel_index(places, tensor.shape)] = part  # `put_` is no deterministic algorithm


def first_of_each(blocks: int, size: int, dim: int = 0) -> View:
    """The function that returns the first entries of each block of a tensor, as those of queries, keys and values.

    Args:
        blocks: The number of blocks, which are equally large.
        size: The number of entries of each.
        dim: The dimension that is cut.

    Example:
        >>> first_of_each(3, 2)(torch.arange(12))
        tensor([0, 1, 4, 5, 8, 9])
    """
    # In host memory a part may lie on its device as a slice already, whose blocks are smaller than the module's.
    return Copying(lambda tensor: tensor.unflatten(dim, (blocks, -1)).narrow(dim + 1, 0, size).flatten(dim, dim + 1))


@contextmanager
def narrowed(module: nn.Module, change: Change) -> Iterator[tuple[nn.Module, ...]]:
    """A context in which a module has a smaller size. Its parameters stay what they are, and their views are used.

    An attribute hides the parameter or buffer of the same name. What a forward pass writes to a part of a buffer, such
    as a running mean, is in the buffer itself. Contexts can be nested: the inner one takes views of the outer one's.

    Args:
        module: The module.
        change: What it has meanwhile.

    Yields:
        The modules inside it that are smaller too, the innermost ones first.

    Example:
        >>> norm = nn.BatchNorm1d(3, momentum=1.0)
        >>> views = dict.fromkeys(["weight", "bias", "running_mean", "running_var"], first(1))
        >>> with narrowed(norm, Change({"num_features": 1}, views)):
        ...     _ = norm(torch.tensor([[1.0], [3.0]]))
        >>> norm.num_features, norm.running_mean
        (3, tensor([2., 0., 0.]))
    """
    changed = list(change.of(module))
    restore: list[Callable[[], None]] = []
    try:
        for each, own in changed:
            restore.append(_narrow(each, own))
        yield tuple(each for each, _ in changed[:-1])
    finally:
        for each_restore in reversed(restore):
            each_restore()


def cut(module: nn.Module, memo: dict[Any, Any], parts: Iterable[nn.Module] = ()) -> Any:
    """A deep copy of a module, in which slices that are used in place of parameters have become parameters.

    Equal slices of one parameter, such as those of tied embeddings, become one parameter. A slice has the attributes
    that were set on the whole parameter, and none of its hooks.

    Args:
        module: The module, which may be narrowed.
        memo: What ``copy.deepcopy`` has copied already.
        parts: The modules inside it that are narrowed with it, as :func:`narrowed` yields them.

    Example:
        >>> linear = nn.Linear(4, 8)
        >>> with narrowed(linear, Change({"out_features": 2}, {"weight": first(2), "bias": first(2)})):
        ...     small = cut(linear, {})
        >>> small, small.weight.shape, linear.weight.shape
        (Linear(in_features=4, out_features=2, bias=True), torch.Size([2, 4]), torch.Size([8, 4]))
    """
    made: dict[Any, Tensor] = memo.setdefault(CUT, {})
    known = len(made)
    for each in (*parts, module):
        copied = memo[id(each)] = copy.deepcopy(_settled(each, made), memo)
    for part in list(made.values())[known:]:
        copy_attributes(part, memo[id(part)], memo)
    return copied


def refuse_computed(owner: str, module: nn.Module, names: Iterable[str]) -> None:
    """Refuse a module that computes a tensor: a slice in its place would be overwritten, or not be used.

    Args:
        owner: The module, for the message.
        module: The module.
        names: The names of the tensors that a smaller size takes slices of.

    Raises:
        ValueError: It computes one of them.

    Example:
        >>> linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
        >>> refuse_computed("a Linear", linear, ["weight"])
        Traceback (most recent call last):
            ...
        ValueError: a Linear with a computed weight, as of weight_norm, pruning or LoRA, cannot be elastic: remove \
that before
    """
    held = vars(module)
    if any(name not in held["_parameters"] and name not in held["_buffers"] for name in names):
        raise ValueError(
            f"{owner} with a computed weight, as of weight_norm, pruning or LoRA, cannot be elastic: remove that before"
        )


def _narrow(module: nn.Module, change: Change) -> Callable[[], None]:
    """Let a module have a smaller size, without those inside it, until the function is called that is returned."""
    attributes = vars(module)
    tensors = {name: tensor for name in change.views if (tensor := getattr(module, name)) is not None}
    refuse_computed(f"a {type(module).__name__}", module, tensors)
    inside = {**change.attributes, **{name: change.views[name](tensor) for name, tensor in tensors.items()}}
    inside |= change.derived(inside)
    if change.kind is not None:
        inside |= {"forward": MethodType(change.kind.forward, module), KIND: change.kind}
    copied = [
        (view, name)
        for name, view in change.views.items()
        if isinstance(view, Copying) and name in tensors and name in attributes["_buffers"]
    ]
    before = {name: attributes[name] for name in inside if name in attributes}
    attributes.update(inside)

    def restore() -> None:
        attributes.update(before)  # in the order that they had
        for name in inside.keys() - before.keys():
            del attributes[name]
        for view, name in copied:
            view.write_back(inside[name], tensors[name])

    return restore


def _settled(module: nn.Module, made: dict[Any, Tensor]) -> nn.Module:
    """A plain module of which no attribute hides a parameter or buffer. It shares all else with the given one."""
    attributes = dict(vars(module))
    held = {kind: dict(attributes[kind]) for kind in ("_parameters", "_buffers")}
    hidden = [(kind, name) for kind, tensors in held.items() for name in tensors if name in attributes]
    own = attributes.pop(KIND, type(module))
    if own is not type(module):
        del attributes["forward"]
    elif not hidden:
        return module
    for kind, name in hidden:
        part, whole = attributes.pop(name).detach(), held[kind][name]
        place = (id(whole), part.storage_offset(), part.shape, part.stride())  # equal slices of a parameter are one
        if place not in made:
            copied = part.clone()  # without gaps, and with the whole's order of dimensions, such as channels_last
            made[place] = nn.Parameter(copied, whole.requires_grad) if kind == "_parameters" else copied
            vars(made[place]).update(vars(whole))
        held[kind][name] = made[place]
    settled: nn.Module = own.__new__(own)
    vars(settled).update(attributes, **held)
    return settled
