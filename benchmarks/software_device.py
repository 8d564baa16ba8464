"""A device in software. Its tensors compute on the CPU, their memory is counted, and they do not mix with others.

With it a machine without an accelerator can show which tensors would be on one, how much memory they would take
together, and that the numbers stay the same. It says nothing about time, but it counts
what would let the host wait for the device.

    with software_device() as memory:
        network.to(DEVICE)
        ...
    print(memory.peak)

Its name is that of one of PyTorch's device types that has no kernels of its own.
"""

from __future__ import annotations

import gc
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from advnas_lightning.sending import AT_ONCE

DEVICE = torch.device("lazy", 0)
AT_ONCE.add(DEVICE.type)
ROOT = Path(__file__).parents[1]
aten = torch.ops.aten
# Operations that read a number, or whose result has a size that depends on numbers.
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
if not hasattr(torch, DEVICE.type):  # the module is for this device what torch.cuda is for CUDA
    _module = ModuleType(f"torch.{DEVICE.type}")
    _module.synchronize = lambda: None  # type: ignore[attr-defined]
    torch._register_device_module(DEVICE.type, _module)


class Memory:
    """Counts the bytes of the storages behind the tensors on the device.

    Attributes:
        now: The number of bytes now.
        peak: The largest number of bytes so far.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._holders: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}

    def hold(self, tensor: OnDevice) -> None:
        """Count a tensor's storage until the last tensor that shares it is gone. A shared storage counts once."""
        storage = tensor.data_here.untyped_storage()
        key = storage.data_ptr()
        if not self._holders[key]:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        self._holders[key] += 1
        tensor.release = weakref.finalize(tensor, self._release, key)

    def _release(self, key: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self.now -= self._sizes.pop(key)


class OnDevice(Tensor):
    """A tensor on the device, which computes with ``data_here``, a tensor on the CPU."""

    memory = Memory()
    data_here: Tensor
    release: weakref.finalize[[int], OnDevice]  # ends that the memory counts
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type[OnDevice], data: Tensor) -> OnDevice:
        """Put ``data`` on the device without a copy."""
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=DEVICE,
        )
        made.data_here = data
        cls.memory.hold(made)
        return made

    def __init__(self, data: Tensor) -> None:
        pass

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the tensor as one on the CPU."""
        return self.data_here.__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.data_here})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Lets functions that create tensors create them on the device, too."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(function, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Converts Python's numbers from and to tensors on the CPU, because PyTorch's dispatcher does not see this."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.tolist:
            if isinstance(args[0], OnDevice):
                _note_wait("tolist")
            return _here(args[0]).tolist()
        if function == Tensor.data.__set__ and isinstance(args[0], OnDevice):  # type: ignore[attr-defined]
            function(*args)
            args[0].release()
            args[0].data_here = args[1].data_here
            OnDevice.memory.hold(args[0])
            return None
        if function is Tensor.__getitem__ and isinstance(args[1], list):
            return args[0][torch.tensor(args[1]).to(args[0].device)]
        if function is Tensor.__setitem__ and isinstance(args[0], OnDevice) and isinstance(args[1], tuple):
            places = [torch.tensor(each).to(DEVICE) if isinstance(each, list | tuple) else each for each in args[1]]
            return function(args[0], tuple(places), args[2])
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return function(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return function(*args, **kwargs)


def compute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU. The results are on the device if its tensors or its ``device`` argument are.

    Raises:
        RuntimeError: If some tensors are on the device and others are not. A single number may be anywhere.
    """
    tensors: list[Tensor] = []

    def here(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
        return _here(value)

    here_args, here_kwargs = _each(here, args), _each(here, kwargs)
    there = [isinstance(each, OnDevice) for each in tensors]
    if _watching and _waits(function, args, kwargs, there):
        _note_wait(str(function).removeprefix("aten."))
    if function is aten.copy_.default:
        here_args[0].copy_(here_args[1])
        return args[0]
    moves = function is aten._to_copy.default
    if not moves and any(there) and not all(on or each.dim() == 0 for on, each in zip(there, tensors, strict=True)):
        raise RuntimeError(f"{function} has tensors on {DEVICE} and on the CPU")
    device = kwargs.get("device")
    to_device = any(there) if device is None else torch.device(device).type == DEVICE.type
    if device is not None:
        here_kwargs |= {"device": torch.device("cpu")}
    result = function(*here_args, **here_kwargs)
    if not to_device:
        return result
    result = _each(_there, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if any(there) and not moves else result


def _each(convert: Callable[[Any], Any], value: Any) -> Any:
    """Convert all that is in tuples, lists and dicts, in a fraction of the time of PyTorch's ``tree_map``."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_each(convert, each) for each in value])
    if kind is dict:
        return {key: _each(convert, each) for key, each in value.items()}
    return convert(value)


def _here(value: Any) -> Any:
    return value.data_here if isinstance(value, OnDevice) else value


def _there(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


_watching: list[Counter[str]] = []


@contextmanager
def count_waits() -> Iterator[Counter[str]]:
    """A context in which it is counted what would let the host wait for the device, by its place in the code.

    These are numbers that are read, results whose size depends on numbers, and copies between the host and the device
    without ``non_blocking``.
    """
    counter: Counter[str] = Counter()
    _watching.append(counter)
    try:
        yield counter
    finally:
        _watching.pop()


def _waits(function: Any, args: Any, kwargs: dict[str, Any], there: list[bool]) -> bool:
    """Whether an operation makes the host wait."""
    if function in WAITING:
        return any(there)
    if function in INDEXING:
        return any(there) and any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    if function is aten._to_copy.default:
        device = kwargs.get("device")
        crosses = device is not None and (torch.device(device).type == DEVICE.type) != any(there)
        return crosses and not kwargs.get("non_blocking", False)
    if function is aten.copy_.default:
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        return isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice) and not non_blocking
    return False


def _note_wait(what: str) -> None:
    """Count a wait at the innermost line that is neither PyTorch's nor in this file."""
    if not _watching:
        return
    skipped = (Path(torch.__file__).parent, Path(__file__))
    frames = reversed(traceback.extract_stack())
    frame = next(each for each in frames if not any(Path(each.filename).is_relative_to(part) for part in skipped))
    path = Path(frame.filename)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else "/".join(path.parts[-3:])
    _watching[-1][f"{name}:{frame.lineno} {frame.name}: {what}"] += 1


@contextmanager
def software_device() -> Iterator[Memory]:
    """A context in which the device exists. It gives the device's memory, whose ``peak`` starts anew."""
    gc.collect()  # frees the tensors that an earlier use has left in reference cycles
    with _Functions(), _Mode():
        OnDevice.memory.peak = OnDevice.memory.now
        yield OnDevice.memory


class SoftwareAccelerator(Accelerator):
    """The device as Lightning's accelerator, see :func:`on_device`."""

    def setup_device(self, device: torch.device) -> None:
        """Do nothing, because the device needs no setup."""

    def teardown(self) -> None:
        """Do nothing, because the device has nothing to free."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """The memory that is in use."""
        return {"bytes": OnDevice.memory.now}

    @staticmethod
    def parse_devices(devices: Any) -> int:
        """The number of devices that the user wants."""
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        """The device, as often as it is wanted."""
        return [DEVICE] * devices

    @staticmethod
    def auto_device_count() -> int:
        """The number of devices, which is one."""
        return 1

    @staticmethod
    def is_available() -> bool:
        """True, because software is always available."""
        return True

    @staticmethod
    def name() -> str:
        """The name of the accelerator in messages."""
        return "software"


def on_device() -> dict[str, Any]:
    """The arguments with which a Trainer uses the device."""
    return {"accelerator": SoftwareAccelerator(), "devices": 1, "strategy": SingleDeviceStrategy(DEVICE)}
