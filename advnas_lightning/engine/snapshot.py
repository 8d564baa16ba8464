"""What modules keep from one call to the next: put aside before a call, and put back after it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from advnas_lightning.engine.fingerprint import checksum
from advnas_lightning.engine.kinds import Kind, copy_of, is_same, kind_of, own_classes, restore, slots_of
from advnas_lightning.space.tensors import is_ordinary

SMALL = 2**20  # bytes: the contents of a tensor or an array up to this size are cheap to copy
FEW = 32  # and of those in a container with up to this many entries
DEEP = 8  # objects are followed into the objects that they refer to, but no further: as many as wrap an environment
HOOKS = frozenset(name for name in vars(nn.Module()) if "hooks" in name)  # the names of modules' dicts of hooks


class Slot(NamedTuple):
    """A place of tensors: an attribute, a parameter or a buffer of a module.

    Example:
        >>> Slot(nn.Identity(), "hidden").name
        'hidden'
    """

    module: nn.Module
    name: str

    @property
    def key(self) -> tuple[int, str]:
        """What tells slots apart: modules themselves will not do, since metrics define what equal ones are."""
        return id(self.module), self.name


class Change(NamedTuple):
    """Something that a snapshot found changed.

    Attributes:
        module: The module that it belongs to.
        name: The slot of a tensor with other contents; ``None`` for attributes and containers.
        is_usual: Whether it would have been put back without being asked for.
        is_frozen: Whether it is a parameter that needs no gradient.
        is_lost: Whether the old contents could not be put back, since only their checksum was known.

    Example:
        >>> Change(nn.Identity(), None).is_usual
        True
    """

    module: nn.Module
    name: str | None
    is_usual: bool = True
    is_frozen: bool = False
    is_lost: bool = False


Wanted = Callable[[Slot, Any], bool]  # whether what is in a slot is put aside in any case


class Snapshot:
    """The state of some modules: :meth:`keep` puts it aside, and :meth:`put_back` restores it.

    It covers attributes of modules and of their classes; containers (lists, dicts, sets, deques, tuples), nested as
    they may be; random number generators; objects with attributes of their own; and the contents of tensors, as
    far as they are asked for.

    Args:
        summed: The ids of modules of whose tensors a checksum is put aside in the place of a copy. It tells whether
            their contents have changed, and takes no memory, but cannot restore them.
        gradients: Whether the gradients of tensors are put aside, too.

    Attributes:
        others: The modules that were found in attributes and containers, instead of as submodules.

    Example:
        >>> class Counting(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.calls, self.outputs = 0, []
        ...
        ...     def forward(self, x):
        ...         self.calls += 1
        ...         self.outputs.append(x)
        >>> module, snapshot = Counting(), Snapshot()
        >>> snapshot.keep(module, lambda slot, value: False)
        >>> module(torch.ones(2))
        >>> module.calls, module.outputs
        (1, [tensor([1., 1.])])
        >>> _ = snapshot.put_back()
        >>> module.calls, module.outputs
        (0, [])
    """

    def __init__(self, summed: Container[int] = (), *, gradients: bool = True) -> None:
        self.others: list[nn.Module] = []
        self._summed, self._gradients = summed, gradients
        self._values: list[tuple[nn.Module, Kind, Any, Any]] = []  # the owner, the kind, what may change, a copy
        self._contents: dict[int, _Contents] = {}  # by the tensor's id
        self._seen: dict[int, int] = {}  # how deep a value was followed, by its id
        self._modules: list[nn.Module] = []
        self._next_hook = RemovableHandle.next_id

    def keep(self, module: nn.Module, wanted: Wanted) -> None:
        """Put aside a module's attributes, and the contents of its tensors: but not of its submodules.

        Args:
            module: The module.
            wanted: Whether the contents of tensors are put aside in any case. In other cases those of parameters are
                not, nor those of large tensors and of the tensors in large containers.
        """
        if isinstance(module, LazyModuleMixin) and (module.has_uninitialized_params() or module.cls_to_become):
            return  # its first call cannot be undone, which makes its parameters unless they were loaded
        if isinstance(module, torch.jit.ScriptModule):
            self.keep_tensors(module, wanted)  # which are all that it keeps
            return
        attributes = vars(module)
        copied = attributes.copy()
        self._modules.append(module)
        self._values.append((module, Kind.MAPPING, attributes, copied))
        for name, value in copied.items():
            kind = kind_of(type(value))
            if kind is Kind.MAPPING and not value:
                if name not in HOOKS:
                    self._values.append((module, kind, value, {}))
            elif name in ("_modules", "_parameters", "_buffers"):
                self._values.append((module, kind, value, value.copy()))
                if name != "_modules":
                    self._keep_tensors(module, value, wanted, few=name == "_buffers")
            elif kind is not Kind.CONSTANT:  # which most are
                slot = Slot(module, name)
                self._keep_value(slot, kind, value, wanted(slot, value), few=True, deep=DEEP)
        for cls in own_classes(type(module)):  # which may have a count or a list that all of its objects share
            slot = Slot(module, cls.__name__)
            self._keep_value(slot, Kind.CLASS, cls, wanted(slot, cls), few=True, deep=DEEP)

    def keep_tensors(self, module: nn.Module, wanted: Wanted) -> None:
        """Put aside the contents of a module's buffers and of wanted parameters, and nothing else of it."""
        self._keep_tensors(module, dict(module.named_buffers(recurse=False)), wanted, few=True)
        self._keep_tensors(module, dict(module.named_parameters(recurse=False)), wanted, few=False)

    def _keep_tensors(
        self, module: nn.Module, tensors: Mapping[str, Tensor | None], wanted: Wanted, *, few: bool
    ) -> None:
        for name, tensor in tensors.items():
            if tensor is not None:
                slot = Slot(module, name)
                self._keep_tensor(slot, tensor, wanted(slot, tensor), few=few)

    def _keep_value(self, slot: Slot, kind: Kind, value: Any, wanted: bool, *, few: bool, deep: int) -> None:
        """Put aside a value that may change, and what it refers to."""
        if kind is Kind.CONSTANT:
            return
        if kind is Kind.TENSOR:
            self._keep_tensor(slot, value, wanted, few=few)
        elif kind is Kind.MODULE:
            self.others.append(value)
        elif kind is Kind.ARRAY:
            self._keep_array(slot, value, wanted, few=few)
        elif kind is Kind.GENERATOR:
            self._values.append((slot.module, kind, value, copy_of(kind, value)))
        elif (deep or kind is not Kind.OBJECT) and deep > self._seen.get(id(value), -1):
            self._seen[id(value)] = deep
            if kind in (Kind.OBJECT, Kind.CLASS):
                inside = self._keep_attributes(slot.module, kind, value)
                deep -= 1
            else:
                if kind is not Kind.TUPLE:
                    self._values.append((slot.module, kind, value, copy_of(kind, value)))
                inside = value.values() if kind is Kind.MAPPING else value
                few = few and len(inside) <= FEW
            for item in inside:
                own = kind_of(type(item))
                if own is not Kind.CONSTANT and (few or wanted or own is not Kind.TENSOR):
                    self._keep_value(slot, own, item, wanted, few=few, deep=deep)

    def _keep_attributes(self, owner: nn.Module, kind: Kind, value: Any) -> list[Any]:
        """Put aside the attributes of an object or a class, and return them."""
        inside: list[Any] = []
        if kind is Kind.OBJECT and hasattr(value, "__dict__"):
            self._values.append((owner, Kind.MAPPING, vars(value), vars(value).copy()))
            inside += vars(value).values()
        if kind is Kind.CLASS or slots_of(type(value)):
            copied = copy_of(kind, value)
            self._values.append((owner, kind, value, copied))
            inside += (each for each in copied.values() if not hasattr(type(each), "__get__"))
        return inside

    def _keep_array(self, slot: Slot, values: np.ndarray[Any, Any], wanted: bool, *, few: bool) -> None:
        """Put aside the contents of an array: as a tensor in the same memory, if torch has its type."""
        if (
            values.flags.writeable
            and values.dtype.isnative
            and values.dtype.kind in "biufc"
            and min(values.strides, default=0) >= 0
        ):
            with suppress(TypeError):
                self._keep_tensor(slot, torch.from_numpy(values), wanted, few=few)
                return
        if wanted or (few and values.nbytes <= SMALL):
            self._values.append((slot.module, Kind.ARRAY, values, copy_of(Kind.ARRAY, values)))

    def _keep_tensor(self, slot: Slot, tensor: Tensor, wanted: bool, *, few: bool) -> None:
        if not (wanted or few) or id(tensor) in self._contents or not is_writable(tensor):
            return
        is_usual = few and tensor.nbytes <= SMALL
        if wanted or is_usual:
            kind = _Sum if id(slot.module) in self._summed else _Contents
            self._contents[id(tensor)] = kind(slot, tensor, is_usual, gradients=self._gradients)
            if self._gradients and tensor.is_leaf and tensor.grad is not None:  # a step may take a backward pass
                self._keep_tensor(slot, tensor.grad, wanted, few=False)

    def holds(self, tensor: Tensor) -> bool:
        """Whether the contents of a tensor, or their checksum, were put aside.

        Args:
            tensor: The tensor.
        """
        return id(tensor) in self._contents

    def put_back(self, *, compare: bool = False) -> list[Change]:
        """Restore what was put aside.

        Args:
            compare: Whether to compare the contents of tensors, too, which asks the device once.

        Returns:
            What had changed, as far as it was compared.
        """
        if RemovableHandle.next_id != self._next_hook:  # a hook is new, perhaps in a dict that was empty: see keep
            for module in self._modules:
                self._values += [(module, Kind.MAPPING, vars(module)[name], {}) for name in HOOKS]
        contents = list(self._contents.values())
        changes = [each.change(is_lost) for each, is_lost in _changed(contents)] if compare else []
        owners: dict[int, nn.Module] = {}
        for owner, kind, value, copied in reversed(self._values):  # the first copy counts
            if not is_same(kind, value, copied):
                owners[id(owner)] = owner
                restore(kind, value, copied)
        for each in contents:
            each.put_back()
        return changes + [Change(owner, None) for owner in owners.values()]


class _Contents:
    """The contents of a tensor, put aside.

    Args:
        slot: Where the tensor was found.
        tensor: The tensor.
        is_usual: Whether its contents are put aside in any case.
        gradients: Whether its gradient is put aside, too.
    """

    is_copied = True

    def __init__(self, slot: Slot, tensor: Tensor, is_usual: bool, *, gradients: bool) -> None:
        self._gradients = gradients and tensor.is_leaf
        self.slot, self.tensor, self.is_usual = slot, tensor, is_usual
        self.is_frozen = isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        self._data = tensor.data  # a module may give the tensor other memory; and writing here counts no version
        if is_ordinary(tensor):  # also if it is of a class of its own
            self._data = self._data.as_subclass(Tensor)  # whose methods need what .data leaves out
        self._grad_fn: Any = tensor.grad_fn
        self._made: Tensor | None = None  # a copy with the graph of the tensor, if it has one
        if self._grad_fn is not None and self.is_copied:
            with torch.enable_grad():
                self._made = tensor.clone()
        self._before = self._noted()
        self._requires_grad, self._grad = tensor.requires_grad, tensor.grad if self._gradients else None

    def _noted(self) -> Tensor:
        return self._data.clone()

    def has_moved(self) -> bool:
        """Whether the tensor has other memory, or other properties."""
        moved = self.tensor.data_ptr() != self._data.data_ptr() or self.tensor.shape != self._data.shape
        return moved or self.tensor.requires_grad != self._requires_grad

    def differs(self) -> Tensor:
        """Whether the contents differ from those before, scalar bool."""
        now, before = (each.view(torch.uint8) if each.itemsize == 1 else each for each in (self._data, self._before))
        return ((now != before) & ((now == now) | (before == before))).any()  # nan is like nan

    def change(self, differs: bool) -> Change:
        """The change that was found.

        Args:
            differs: Whether the contents differ from those before.
        """
        return Change(*self.slot, self.is_usual, self.is_frozen, is_lost=differs and not self.is_copied)

    def put_back(self) -> None:
        if self.tensor.grad_fn is not self._grad_fn:  # a loss was added to it in place, for instance
            with suppress(RuntimeError), torch.enable_grad():  # torch detaches no view in place
                self.tensor.detach_()
                if self._made is not None:
                    self.tensor.copy_(self._made)
        if self.has_moved():
            self.tensor.data = self._data
            if self.tensor.is_leaf:  # a view may have a graph now, which cannot be taken from it
                self.tensor.requires_grad_(self._requires_grad)
        if self._gradients and self.tensor.is_leaf and self.tensor.grad is not self._grad:
            self.tensor.grad = self._grad
        if self.is_copied:
            with torch.inference_mode() if self._data.is_inference() else nullcontext():
                self._data.copy_(self._before)


class _Sum(_Contents):
    """The checksum of a tensor's contents, which cannot be put back."""

    is_copied = False

    def _noted(self) -> Tensor:
        return checksum(self._data)

    def differs(self) -> Tensor:
        """Whether the checksum differs from that before, scalar bool."""
        return checksum(self._data) != self._before


def _changed(contents: list[_Contents]) -> list[tuple[_Contents, bool]]:
    """Those whose tensors have changed, and whether their contents differ."""
    changed: list[tuple[_Contents, bool]] = []
    for device in {each.tensor.device for each in contents}:
        here = [each for each in contents if each.tensor.device == device]
        differ = torch.stack([each.differs() for each in here]).tolist()  # one question for each device
        changed += [pair for pair in zip(here, differ, strict=True) if pair[1] or pair[0].has_moved()]
    return changed


def is_writable(tensor: Tensor) -> bool:
    """Whether a tensor has contents of its own, which can be copied and put back.

    Args:
        tensor: The tensor.

    Example:
        >>> is_writable(torch.zeros(3)), is_writable(torch.zeros(1).expand(3))
        (True, False)
    """
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or is_lazy(tensor):
        return False
    expanded = 0 in tensor.stride() and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
    return not expanded
