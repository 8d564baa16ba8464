"""A description of a batch as values for JSON, from which a batch of the same shapes and types is made without data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advnas_lightning.reading import read_json
from advnas_lightning.runs import write_json

SEEN = 2**16  # entries of a tensor that are looked at, or twice as many
VALUES = 16  # of a tensor that are kept at most, from its lowest to its highest one
PACKAGE = "advnas_lightning."
Description = dict[str, Any]


def describe(batch: Any) -> Description:
    """Describe a batch: the shapes and types of its tensors, with a few of their values, and all that is beside them.

    A few values of the batch stand for its contents, so that a batch that is made of them has nothing that the loss
    would refuse, such as a label that does not exist.

    Args:
        batch: Tensors, numbers and texts, in lists, tuples, named tuples and dictionaries.

    Raises:
        ValueError: There is something else in the batch, or a tensor that is sparse or has complex numbers.

    Example:
        >>> describe((torch.zeros(8, 3), torch.arange(8)))["tuple"][1]
        {'tensor': 'int64', 'shape': [8], 'values': [0, 1, 2, 3, 4, 5, 6, 7]}
    """
    if isinstance(batch, Tensor):
        return _describe_tensor(batch)
    if batch is None or isinstance(batch, bool | int | float | str):
        return {"value": batch}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        kind = type(batch)
        return {"named": f"{kind.__module__}:{kind.__qualname__}", "entries": [describe(each) for each in batch]}
    if type(batch) in (list, tuple):
        return {type(batch).__name__: [describe(each) for each in batch]}
    if type(batch) is dict and all(isinstance(key, str) for key in batch):
        return {"dict": {key: describe(each) for key, each in batch.items()}}
    raise ValueError(f"the batch has a {type(batch).__name__}, of which no description is kept")


def _describe_tensor(tensor: Tensor) -> Description:
    if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
        raise ValueError(
            f"the batch has a tensor of {tensor.layout} and {tensor.dtype}, of which no description is kept"
        )
    values = tensor.detach().flatten()
    values = values[:: max(len(values) // SEEN, 1)].cpu()
    if values.is_floating_point():
        values = values.double()
        values = values[values.isfinite()]
    values = values.unique()  # from the lowest on
    if len(values) > VALUES:
        values = values[torch.linspace(0, len(values) - 1, VALUES).round().long()]
    kept = {"tensor": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "values": values.tolist()}
    if tensor.dim() == 4 and not tensor.is_contiguous():
        kept["channels_last"] = tensor.is_contiguous(memory_format=torch.channels_last)
    return kept


def tensors(description: Description) -> Iterator[Description]:
    """The descriptions of a batch's tensors.

    Example:
        >>> [each["shape"] for each in tensors(describe({"x": torch.zeros(8, 3), "length": 3}))]
        [[8, 3]]
    """
    yield from (each for each in _leaves(description) if "tensor" in each)


def _leaves(description: Any) -> Iterator[Description]:
    if not isinstance(description, dict):
        raise ValueError("it is no mapping")
    for kind in ("list", "tuple", "entries"):
        for each in description.get(kind, ()):
            yield from _leaves(each)
    for each in description.get("dict", {}).values():
        yield from _leaves(each)
    if "tensor" in description or "value" in description:
        yield description


def resized(description: Description, size: int) -> Description:
    """The description of a batch of another size: the first dimension of each tensor.

    Args:
        description: The description of a batch.
        size: The number of its samples.

    Raises:
        ValueError: It cannot be told what depends on the size, because there are whole numbers beside the tensors, or
            because the tensors have different first dimensions.

    Example:
        >>> [each["shape"] for each in tensors(resized(describe((torch.zeros(8, 3), torch.arange(8))), 2))]
        [[2, 3], [2]]
    """
    numbers = [each["value"] for each in _leaves(description) if type(each.get("value")) is int]
    firsts = {each["shape"][0] for each in tensors(description) if each["shape"]}
    if numbers or len(firsts) != 1:
        why = "has tensors of several lengths" if firsts else "has no tensors"
        why = f"has the number {numbers[0]} beside its tensors" if numbers else why
        raise ValueError(f"batch_size={size}: the batch {why}, so what depends on its size is not known: leave it out")
    changed: Description = _with_first(description, size)
    return changed


def _with_first(description: Any, size: int) -> Any:
    if isinstance(description, list):
        return [_with_first(each, size) for each in description]
    if not isinstance(description, dict):
        return description
    changed = {key: value if key == "shape" else _with_first(value, size) for key, value in description.items()}
    if "tensor" in changed and changed["shape"]:
        changed["shape"] = [size, *changed["shape"][1:]]
    return changed


def make_batch(description: Description, *, trust: bool = False, seed: int = 0) -> Any:
    """Make a batch from a description. Each entry of a tensor is one of the values that are kept of it.

    Args:
        description: What :func:`describe` has given, perhaps in another process.
        trust: Whether to import a named tuple's class from whatever module the description names. Without it only this
            package's are made.
        seed: The seed of the draws.

    Raises:
        ValueError: The description is broken, or names a class of somebody else.

    Example:
        >>> batch = make_batch(describe((torch.ones(4, 3), torch.tensor([5, 7]))))
        >>> batch[0].shape, set(batch[1].tolist()) <= {5, 7}
        (torch.Size([4, 3]), True)
    """
    generator = torch.Generator().manual_seed(seed)

    def make(each: Any) -> Any:
        if not isinstance(each, dict):
            raise ValueError("the description of a batch is broken")
        if "tensor" in each:
            return _make_tensor(each, generator)
        if "value" in each:
            return each["value"]
        if "named" in each:
            return _named(each["named"], trust)(*map(make, each["entries"]))
        if "dict" in each:
            return {key: make(value) for key, value in each["dict"].items()}
        kind: Any = list if "list" in each else tuple
        return kind(map(make, each[kind.__name__]))

    try:
        return make(description)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"the description of a batch is broken: {error!r}") from None


def _make_tensor(kept: Description, generator: torch.Generator) -> Tensor:
    dtype = getattr(torch, kept["tensor"])
    values = torch.tensor(kept["values"] or [0])
    places = torch.randint(len(values), tuple(kept["shape"]), generator=generator)
    tensor = values[places].to(dtype)
    return tensor.contiguous(memory_format=torch.channels_last) if kept.get("channels_last") else tensor


def _named(name: str, trust: bool) -> Any:
    module, _, path = name.partition(":")
    if not trust and not f"{module}.".startswith(PACKAGE):
        raise ValueError(f"the batch is made by {name!r}, which may run any code: trust=true allows it")
    kind: Any = import_module(module)
    for part in path.split("."):
        kind = getattr(kind, part)
    if not (isinstance(kind, type) and issubclass(kind, tuple)):
        raise ValueError(f"the batch is made by {name!r}, which is no named tuple")
    return kind


def write_description(path: Path, batch: Any, arguments: Mapping[str, Any]) -> bool:
    """Write the description of a batch, if there is one.

    Args:
        path: The file.
        batch: The batch.
        arguments: What else a network for such batches is made with, by its name.

    Returns:
        Whether the file was written. It is not where a batch or an argument has no description.
    """
    try:
        content = {"batch": describe(batch), **arguments}
        json.dumps(content, allow_nan=False)
    except (RuntimeError, TypeError, ValueError):  # RuntimeError: of a type of numbers that cannot be compared
        return False
    write_json(path, content)
    return True


def read_description(path: Path) -> dict[str, Any]:
    """The content of a file of :func:`write_description`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no description of a batch.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict) or "batch" not in content:
            raise ValueError("it has no 'batch'")
        list(_leaves(content["batch"]))
    except ValueError as error:
        raise ValueError(f"{path} describes no batch: {error}") from None
    found: dict[str, Any] = content
    return found
