"""How long a module takes in onnxruntime: a meter of candidates beside PyTorch's own latency."""

from __future__ import annotations

import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from advnas_lightning.cost.meters import REPEATS, WARM_UP
from advnas_lightning.export.call import Call
from advnas_lightning.export.formats import missing_extra
from advnas_lightning.export.writers import run_onnx, write_onnx
from advnas_lightning.modes import modes_kept

__all__ = ["onnx_latency"]

KEPT = 64  # exported modules, as most edges of a network have equal candidates
PLAIN = (bool, int, float, str, type(None), tuple)
_kept: OrderedDict[Any, Callable[[Call], list[Tensor]]] = OrderedDict()


def onnx_latency(module: nn.Module, *inputs: Any, **kwargs: Any) -> float:
    """The milliseconds of one call in onnxruntime on the CPU: the median of several calls, after a warm-up.

    The module is exported in evaluation mode, for the sizes of these inputs. Modules that differ in their weights alone
    are exported once. onnxruntime has as many threads as PyTorch.

    Args:
        module: A candidate, or another module, on the CPU.
        inputs: What it is called with.
        kwargs: What it is called with by name.

    Raises:
        ValueError: The extra ``onnx`` is missing, the module is not on the CPU, or it cannot be exported.

    Example:
        >>> onnx_latency(nn.Tanh(), torch.zeros(8)) > 0  # doctest: +SKIP
        True
    """
    missing = missing_extra(["onnx"])
    if missing is not None:
        raise ValueError(missing)
    call = Call.of(module, *inputs, kwargs=kwargs)
    places = {each.device.type for each in (*call.tensors.values(), *module.state_dict().values())} - {"cpu"}
    if places:
        raise ValueError(f"onnx_latency is measured on the CPU, and the network is on {places.pop()}: use device=cpu")
    run, seconds = _session(module, call.detached()), []
    for _ in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        run(call)
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds[WARM_UP:])


def _session(module: nn.Module, call: Call) -> Callable[[Call], list[Tensor]]:
    """What calls the exported module, which may be that of an equal one."""
    key = _key(module, call)
    if key is not None and key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    with tempfile.TemporaryDirectory() as folder, modes_kept(module):
        try:
            write_onnx(module.eval(), call, Path(folder, "module.onnx"), dynamic=False)
            run = run_onnx(Path(folder, "module.onnx"), threads=torch.get_num_threads())
        except Exception as error:
            raise ValueError(f"onnx_latency: {type(module).__name__} cannot be exported: {error}") from error
    if key is not None:
        _kept[key] = run
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return run


def _key(module: nn.Module, call: Call) -> Any:
    """What two modules have in common that differ in their weights alone; ``None`` for one with other attributes."""
    usual, parts = vars(nn.Module()).keys(), []
    for name, each in module.named_modules():
        own = {key: value for key, value in vars(each).items() if key not in usual}
        if not all(isinstance(value, PLAIN) for value in own.values()):
            return None
        parts.append((name, type(each), repr(sorted(own.items(), key=lambda item: item[0]))))
    tensors = [*module.state_dict().items(), *call.tensors.items()]
    shapes = [(name, tuple(each.shape), each.dtype) for name, each in tensors]
    others = [(name, repr(value)) for name, value in call.arguments.items() if not isinstance(value, Tensor)]
    return (tuple(parts), tuple(shapes), tuple(others), torch.get_num_threads())
