"""Writes a plain network into a file, and checks that the file computes what the network does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advnas_lightning.export.call import Call, largest_difference
from advnas_lightning.export.formats import format_of, missing_extra
from advnas_lightning.export.source.file import FreshProcess, write_source
from advnas_lightning.export.writers import BATCH, first_sentence, opset_of, write_onnx, write_pt2, write_torchscript
from advnas_lightning.folder_lock import FolderLock
from advnas_lightning.space.copying import copy_network
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.validate import check_bool, check_int, check_positive

__all__ = ["TOLERANCE", "Exported", "export_network"]

TOLERANCE = 1e-4
UNFINISHED = ".export-"  # what the name of a folder begins with in which a file is written
Run = Callable[[Call], list[Tensor]]


@dataclass(frozen=True)
class Exported:
    """A file that a network was written into, and how it was checked.

    Attributes:
        path: The file.
        format: Its format, such as ``"onnx"``.
        inputs: The shapes of its inputs by name; the batch is the text ``"batch"`` where it may have any size.
        outputs: The shapes of its outputs, likewise.
        sizes: The sizes of the batches on which it was compared with the network.
        difference: The largest difference between the outputs, in units of the largest output, or of 1 if that is
            smaller.
        tolerance: The largest difference that was allowed.
        beside: Further files that belong to it.

    Example:
        >>> exported = Exported(Path("net.onnx"), "onnx", {"x": ["batch", 3]}, [["batch", 2]], [4, 1, 5], 0.0, 1e-4)
        >>> exported.content()["inputs"]
        {'x': ['batch', 3]}
    """

    path: Path
    format: str
    inputs: Mapping[str, list[int | str]]
    outputs: list[list[int | str]]
    sizes: list[int]
    difference: float
    tolerance: float
    beside: tuple[Path, ...] = ()

    def content(self) -> dict[str, Any]:
        """All but the path, as values for JSON."""
        return {
            "format": self.format,
            "inputs": dict(self.inputs),
            "outputs": self.outputs,
            "beside": [path.name for path in self.beside],
            "checked": {"batch_sizes": self.sizes, "difference": self.difference, "tolerance": self.tolerance},
        }


def export_network(
    network: nn.Module,
    path: str | Path,
    *inputs: Any,
    batch_dims: Mapping[str, int | None] | None = None,
    dynamic: bool = True,
    tolerance: float = TOLERANCE,
    opset: int | None = None,
    **named_inputs: Any,
) -> Exported:
    """Write a plain network into a file, and compare what the file computes with the network.

    The network is written in evaluation mode and on the CPU; it stays as it is. The file is there only if it computes
    what the network does, on the given inputs and on batches of two other sizes.

    Args:
        network: A network without MixedOps, such as the result of ``genotype.apply(model)``.
        path: The file. Its ending is the format: ``.onnx``, ``.pt2``, ``.torchscript`` or ``.py``.
        inputs: What the network is called with.
        batch_dims: The names of the arguments that are inputs of the file, each with the dimension that is the batch,
            or ``None``; others, such as targets, are left out. By default it is the network's attribute ``batch_dims``.
            Without one all arguments are inputs, and the dimension is 0.
        dynamic: Whether the file takes batches of any size.
        tolerance: The largest difference that is allowed, in units of the largest output, or of 1 if that is smaller.
        opset: The version of ONNX's operators; by default the exporter's.
        named_inputs: What the network is called with by name.

    Raises:
        ValueError: The format or an argument is unknown, its extra is missing, the network cannot be written in this
            format, the file does not compute what the network does, or a file beside it would be replaced.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "net.torchscript")
        >>> exported = export_network(nn.Linear(3, 2), path, torch.ones(4, 3))
        >>> exported.inputs, exported.sizes, exported.difference
        ({'input': ['batch', 3]}, [4, 1, 5], 0.0)
    """
    call = Call.of(network, *inputs, batch_dims=batch_dims, kwargs=named_inputs)
    return export_call(network, path, call, dynamic=dynamic, tolerance=tolerance, opset=opset)


def export_call(
    network: nn.Module,
    path: str | Path,
    call: Call,
    *,
    dynamic: bool = True,
    tolerance: float = TOLERANCE,
    opset: int | None = None,
    choices: Mapping[str, str] | None = None,
) -> Exported:
    """Write a network as :func:`export_network` does, for a call that is known.

    Args:
        network: The network.
        path: The file.
        call: How it is called.
        dynamic: Whether the file takes batches of any size.
        tolerance: The largest difference that is allowed.
        opset: The version of ONNX's operators.
        choices: The found candidate of each edge, which source shows to its reader.

    Raises:
        ValueError: As :func:`export_network` raises it.
    """
    path, kind = Path(path), format_of(path)
    check_bool("dynamic", dynamic)
    check_positive("tolerance", tolerance)
    if opset is not None:
        check_int("opset", opset, least=1)
    missing = missing_extra([kind])
    if missing is not None:
        raise ValueError(missing)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    if mixed_ops(network):
        raise ValueError(f"{type(network).__name__} has MixedOps: give a plain network, as genotype.apply(model) makes")
    network, call = on_cpu(network), call.detached()
    with torch.no_grad(), _finished_in(path) as folder, ExitStack() as stack:
        other = _with_one_more(network, call) if dynamic else call
        run = _write(network, call, folder / path.name, kind, dynamic=dynamic, opset=opset, choices=choices)
        if isinstance(run, FreshProcess):
            stack.callback(run.close)
        if kind == "onnx" and opset is not None and (written := opset_of(folder / path.name)) != opset:
            raise ValueError(
                f"opset={opset}: the exporter can write this network with version {written}: give opset={written}, or"
                " leave it out"
            )
        sizes, difference = _compared(network, run, call, kind, tolerance, dynamic=dynamic)
        inputs = _shapes(call.tensors.values(), other.tensors.values())
        outputs = _shapes(call.run(network), other.run(network))
        beside = tuple(path.parent / each.name for each in sorted(folder.iterdir()) if each.name != path.name)
    named = dict(zip(call.tensors, inputs, strict=True))
    return Exported(path, kind, named, outputs, sizes, difference, float(tolerance), beside)


def on_cpu(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode on the CPU.

    Args:
        network: The network.
    """
    copied, _ = copy_network(network, {})
    return copied.cpu().eval()


@contextmanager
def _finished_in(path: Path) -> Iterator[Path]:
    """A context that gives a folder to write into, and at its end moves what is in it to where ``path`` is.

    The folder's name is that of the file. So an export that was killed leaves one folder at most, and the next one
    removes it.

    Raises:
        ValueError: Another process writes the same file, or a file that belongs to it would replace one that does not.
    """
    folder = path.with_name(f"{UNFINISHED}{path.name}")
    with FolderLock(path.parent, f"{folder.name}.lock"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
            for each in (path.parent / each.name for each in folder.iterdir() if each.name != path.name):
                if each.exists() and not path.exists():
                    raise ValueError(f"{each} is there, and {path} would replace it: move it, or name another file")
            for each in sorted(folder.iterdir(), key=lambda each: each.name == path.name):  # the file itself is last
                if not each.is_dir():  # such as what Python has compiled
                    os.replace(each, path.parent / each.name)
        finally:
            shutil.rmtree(folder)


def _write(
    network: nn.Module,
    call: Call,
    path: Path,
    kind: str,
    *,
    dynamic: bool,
    opset: int | None,
    choices: Mapping[str, str] | None,
) -> Run:
    writers: dict[str, Callable[..., Run]] = {
        "onnx": partial(write_onnx, opset=opset),
        "pt2": write_pt2,
        "torchscript": write_torchscript,
        "source": partial(write_source, choices=choices),
    }
    # The exporters take a size of 1 for a constant.
    example = call.resized(max(call.size, 2)) if dynamic else call
    try:
        return writers[kind](network, example, path, dynamic=dynamic)
    except Exception as error:
        fix = "another format, or a part of the network (part=)"
        if dynamic and "onstraint" in f"{type(error).__name__} {error}":
            fix = f"dynamic=false, which writes it for batches of {call.size}"
        raise ValueError(
            f"{type(network).__name__} cannot be written as {kind}: {_reason(error)}; try {fix}"
        ) from error


def _reason(error: BaseException) -> str:
    """The first sentence of the error that was the first one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_sentence(str(error)) or type(error).__name__


def _compared(
    network: nn.Module, run: Run, call: Call, kind: str, tolerance: float, *, dynamic: bool
) -> tuple[list[int], float]:
    """The sizes of the batches on which the file agrees with the network, and the largest difference.

    Raises:
        ValueError: They do not agree.
    """
    calls = {call.size: call} if call.has_batch else {0: call}
    if dynamic:
        calls |= {size: call.resized(size) for size in (1, call.size + 1) if size != call.size}
    worst, sizes = 0.0, []
    for size, each in calls.items():
        try:
            wanted = each.run(network)
        except Exception:
            if each is call:
                raise
            continue  # the network itself takes no such batch, as with a BatchNorm of a batch of 1
        where = f"on a batch of {size}" if size else "on its inputs"
        try:
            found = run(each)
        except Exception as error:
            fix = "try dynamic=false" if dynamic else "try another format"
            raise ValueError(f"the {kind} file fails {where}: {_reason(error)}; {fix}") from error
        difference = largest_difference(found, wanted)
        if not difference <= tolerance:
            raise ValueError(
                f"the {kind} file differs from the network by {difference:.2g} {where}, and the tolerance is"
                f" {tolerance:g}: allow more with tolerance=, or use another format"
            )
        worst = max(worst, difference)
        sizes.append(size)
    return sizes, worst


def _shapes(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> list[list[int | str]]:
    """The shapes of tensors, with the text ``batch`` where those of a batch of another size differ."""
    return [
        [size if size == changed else BATCH for size, changed in zip(each.shape, other.shape, strict=True)]
        for each, other in zip(tensors, others, strict=True)
    ]


def _with_one_more(network: nn.Module, call: Call) -> Call:
    """The call with a batch that is larger by one sample.

    Raises:
        ValueError: There is no batch, or the network itself takes batches of its size alone.
    """
    if not call.has_batch:
        raise ValueError("no input has a batch: dynamic=false writes the network for these inputs")
    other = call.resized(call.size + 1)
    try:
        other.run(network)
    except Exception as error:
        _check_inputs(network, call)
        raise ValueError(
            f"{type(network).__name__} itself fails with a batch of {call.size + 1} in place of {call.size}"
            f" ({_reason(error)}): say which dimension of each input is the batch (batch_dims=), or"
            f" dynamic=false, which writes it for batches of {call.size}"
        ) from error
    return other


def _check_inputs(network: nn.Module, call: Call) -> None:
    """Refuse inputs with which the network fails as they are."""
    try:
        call.run(network)
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__} fails with these inputs ({_reason(error)}): give what its forward takes"
        ) from error
