"""Writes a network into a file of each of PyTorch's formats and of ONNX, and calls what is in such a file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advnas_lightning.engine.lightning_private import scripted
from advnas_lightning.export.call import Call

__all__ = ["ONNX_FILE_LIMIT", "run_onnx", "write_onnx", "write_pt2", "write_torchscript"]

ONNX_FILE_LIMIT = 2**31 - 2**20  # bytes of one file; weights beyond it are in a file beside it
BATCH = "batch"
TORCH = Path(torch.__file__).parent


def write_pt2(network: nn.Module, call: Call, path: Path, *, dynamic: bool) -> Callable[[Call], list[Tensor]]:
    """Write a network as an exported program.

    Args:
        network: The network, in evaluation mode.
        call: How it is called.
        path: The file.
        dynamic: Whether the file takes batches of any size.

    Returns:
        A function that calls what is in the file.
    """
    with quiet_exporters():
        torch.export.save(_program(network, call, dynamic=dynamic), path)
        loaded = torch.export.load(path).module()
    return lambda other: other.run(loaded)


def write_torchscript(network: nn.Module, call: Call, path: Path, *, dynamic: bool) -> Callable[[Call], list[Tensor]]:
    """Write a network as a trace of TorchScript.

    Args:
        network: The network, in evaluation mode.
        call: How it is called.
        path: The file.
        dynamic: Whether it is meant for batches of any size. A trace does not check the size.

    Returns:
        A function that calls what is in the file.

    Raises:
        ValueError: A constant of the network depends on the inputs, so that the trace would be wrong for others.
    """
    inputs = tuple(call.tensors.values())
    unsure: type[Warning] = torch.jit.TracerWarning  # type: ignore[attr-defined]
    with quiet_exporters(), scripted(network):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            traced = torch.jit.trace(_OfTensors(network, call), inputs, check_trace=False, strict=False)
        for each in caught:
            # Those about PyTorch's own code are of its checks, such as that of a batch for a BatchNorm.
            if issubclass(each.category, unsure) and not Path(each.filename).is_relative_to(TORCH):
                reason = first_sentence(str(each.message))
                raise ValueError(f"a trace would be wrong for other inputs, in {Path(each.filename).name}: {reason}")
        torch.jit.save(traced, path)
        loaded = torch.jit.load(path)
    return lambda other: other.run(lambda *_, **__: loaded(*other.tensors.values()))


def write_onnx(
    network: nn.Module, call: Call, path: Path, *, dynamic: bool, opset: int | None = None
) -> Callable[[Call], list[Tensor]]:
    """Write a network as an ONNX file, whose inputs have the names of the arguments of ``forward``.

    Args:
        network: The network, in evaluation mode.
        call: How it is called.
        path: The file.
        dynamic: Whether the file takes batches of any size.
        opset: The version of ONNX's operators; by default the exporter's.

    Returns:
        A function that calls what is in the file, by onnxruntime.
    """
    count = len(call.run(network))
    weights = sum(each.numel() * each.element_size() for each in network.state_dict().values())
    with quiet_exporters():
        torch.onnx.export(
            _program(network, call, dynamic=dynamic),
            (),
            path,
            input_names=list(call.tensors),
            output_names=["output"] if count == 1 else [f"output_{number}" for number in range(count)],
            opset_version=opset,
            dynamo=True,
            external_data=weights > ONNX_FILE_LIMIT,
            verbose=False,
        )
        if dynamic:
            _name_batch(path, call)
    return run_onnx(path)


def run_onnx(path: Path, threads: int | None = None) -> Callable[[Call], list[Tensor]]:
    """A function that calls what is in an ONNX file, by onnxruntime on the CPU.

    Args:
        path: The file.
        threads: The number of threads; by default onnxruntime's choice.
    """
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(call: Call) -> list[Tensor]:
        inputs = {each.name: call.tensors[each.name].numpy() for each in session.get_inputs()}
        return [torch.from_numpy(output) for output in session.run(None, inputs)]

    return run


def _program(network: nn.Module, call: Call, *, dynamic: bool) -> Any:
    shapes = call.dynamic_shapes() if dynamic else None
    return torch.export.export(network, call.args, call.kwargs, dynamic_shapes=shapes, strict=False)


def opset_of(path: Path) -> int:
    """The version of ONNX's operators that a file needs. The exporter keeps its own where it cannot write another one.

    Args:
        path: The file.
    """
    import onnx  # an extra

    imported = onnx.load(path, load_external_data=False).opset_import
    return int(next(each.version for each in imported if not each.domain))


def _name_batch(path: Path, call: Call) -> None:
    """Call the size of the batch ``batch`` in the file, where the exporter has called it by a number."""
    import onnx  # an extra

    model = onnx.load(path, load_external_data=False)
    dims = {name: dim for name, dim in call.batch_dims.items() if dim is not None}
    inputs = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input if value.name in dims}
    own = {shape[dims[name]].dim_param for name, shape in inputs.items() if len(shape) > dims[name]} - {""}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in own:
                dim.dim_param = BATCH
    onnx.save(model, path)


class _OfTensors(nn.Module):
    """A network that is called with the tensors of a call alone."""

    def __init__(self, network: nn.Module, call: Call) -> None:
        super().__init__()
        self.network, self._call = network, call

    def forward(self, *tensors: Tensor) -> Any:
        call = self._call.with_tensors(tensors)
        return self.network(*call.args, **call.kwargs)


def first_sentence(text: str) -> str:
    """The first line that says something, without its end.

    Example:
        >>> first_sentence("Converting a tensor to a Python boolean might be wrong. We can't record it.")
        'Converting a tensor to a Python boolean might be wrong'
    """
    lines = [line.strip() for line in text.splitlines() if any(sign.isalpha() for sign in line)]
    return lines[0].split(". ")[0].rstrip(".:") if lines else text.strip()


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """A context in which the exporters do not warn and print: what matters is checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
