"""Meters of one call of a module: multiply-accumulates, milliseconds or memory; and the count of its parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from advnas_lightning.modes import modes_kept

Meter = Callable[..., float]
Shape = Sequence[int]
UNITS = {
    "params": "parameters",
    "macs": "multiply-accumulates per term of the loss",
    "latency": "milliseconds of a forward pass of the batch",
    "memory": "MiB that a batch's forward pass keeps for the backward pass",
}
WARM_UP, REPEATS = 3, 10  # calls that are not timed, and calls that are


def macs(module: nn.Module, *inputs: Any, **kwargs: Any) -> float:
    """The multiply-accumulates of the convolutions and matrix products in one call, as torch counts them.

    It counts nothing inside the fused functions for attention on CPUs and for transformer layers in evaluation. So
    these are switched off meanwhile, and the products that they compute are counted. Those of fused recurrent layers,
    of bilinear layers and of matrices with vectors, which torch leaves out, are counted, too.

    Example:
        >>> macs(nn.Linear(3, 4), torch.zeros(2, 3))
        24.0
    """
    of_layers = torch.backends.mha.get_fastpath_enabled()
    on_cpu = _devices(module, inputs, kwargs) <= {"cpu"}
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext(), counter:
            module(*inputs, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(of_layers)
    return float(counter.get_total_flops()) / 2


def latency(module: nn.Module, *inputs: Any, **kwargs: Any) -> float:
    """The milliseconds of one call: the median of several calls, after a warm-up.

    Example:
        >>> latency(nn.Tanh(), torch.zeros(8)) > 0
        True
    """
    devices = _devices(module, inputs, kwargs)

    def now() -> float:
        for device in devices:
            getattr(torch, device).synchronize()
        return time.perf_counter()

    seconds = []
    for _ in range(WARM_UP + REPEATS):
        started = now()
        module(*inputs, **kwargs)
        seconds.append(now() - started)
    return 1000 * median(seconds[WARM_UP:])


def memory(module: nn.Module, *inputs: Any, **kwargs: Any) -> float:
    """The MiB of the tensors that one call keeps for the backward pass.

    Each storage is counted once. Parameters and buffers are not counted, and neither are the slices of them that a
    smaller size computes with, since what is found has these as its own.

    Example:
        >>> memory(nn.Tanh(), torch.zeros(2**18))  # keeps its output, in single precision
        1.0
    """
    own: dict[int, Tensor] = {}  # by their places in memory, which stay taken, as the tensors live on
    kept: dict[int, int] = {}

    def note(part: nn.Module, inputs: Any = None) -> None:
        names = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        for name, _ in names:
            tensor = getattr(part, name)  # while a module has a smaller size, a slice, which may be a copy
            own[tensor.untyped_storage().data_ptr()] = tensor

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def with_graph(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().requires_grad_() if floating else value

    for part in module.modules():
        note(part)
    handle = register_module_forward_pre_hook(note)
    try:
        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            output = module(*map(with_graph, inputs), **{name: with_graph(value) for name, value in kwargs.items()})
            del output
    finally:
        handle.remove()
    return sum(kept.values()) / 2**20


def _lstm_flops(inputs: Shape, *others: Shape, **_: Any) -> int:
    """Those of a layer of an LSTM in one direction on a CPU: first come the weights of the inputs and the states."""
    return _recurrent_flops(inputs, others[:2])


def _recurrent_flops(inputs: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """Those of recurrent layers on a GPU: at each place each matrix has one product."""
    places = math.prod(inputs[:-1])  # of one sequence after the other where they are packed
    return 2 * places * sum(math.prod(weight) for weight in weights if len(weight) == 2)


def _vector_flops(matrix: Shape, *_: Any, **__: Any) -> int:
    """Those of a matrix with a vector."""
    return 2 * math.prod(matrix)


def _bilinear_flops(first: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """Those of ``nn.Bilinear``: the first input with the weight, and what comes of it with the second input."""
    return 2 * first[0] * weight[0] * (weight[1] + 1) * weight[2]


FLOPS = {
    "mkldnn_rnn_layer": _lstm_flops,
    "_cudnn_rnn": _recurrent_flops,
    "miopen_rnn": _recurrent_flops,
    "mv": _vector_flops,
    "_trilinear": _bilinear_flops,
}
UNCOUNTED = {getattr(torch.ops.aten, name): flops for name, flops in FLOPS.items()}  # by torch


def _devices(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> set[str]:
    """The kinds of the devices that a call uses."""
    tensors = [value for value in (*inputs, *kwargs.values()) if isinstance(value, Tensor)]
    return {tensor.device.type for tensor in (*tensors, *module.parameters())}


METERS: dict[str, Meter] = {"macs": macs, "latency": latency, "memory": memory}


def count_parameters(model: nn.Module) -> int:
    """The number of a network's parameters: that of its own ``count_parameters()`` if it has one, else all of them.

    Example:
        >>> count_parameters(nn.Linear(3, 4))
        16
    """
    own = getattr(model, "count_parameters", None)
    return own() if callable(own) else sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, *inputs: Any) -> int:
    """The multiply-accumulates of one forward pass in evaluation mode, see :func:`~advnas_lightning.cost.meters.macs`.

    Args:
        model: A plain network, such as the result of ``genotype.apply(model)``. Its modes are restored afterwards.
        inputs: The inputs of the network.

    Example:
        >>> count_macs(nn.Linear(3, 4), torch.zeros(2, 3))
        24
    """
    with modes_kept(model), torch.no_grad():
        return int(macs(model.eval(), *inputs))
