"""Writes what a search has found into a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from advnas_lightning import rng
from advnas_lightning.engine.lightning_private import attached_trainer
from advnas_lightning.export.call import Call
from advnas_lightning.export.network import TOLERANCE, Exported, export_call
from advnas_lightning.loader_pass import first_batches, refuse_one_batch
from advnas_lightning.modes import modes_kept
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.mixed_op import MixedOp
from advnas_lightning.texts import listed

__all__ = ["export", "found_network"]

SEEN = 2  # batches: a network that carries a state from batch to batch gets one with the second


def export(
    search: Any,
    path: str | Path,
    batches: Any = None,
    *,
    genotype: Genotype | Mapping[str, str] | str | Path | None = None,
    part: str = "",
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    batch_dims: Mapping[str, int | None] | None = None,
    dynamic: bool = True,
    tolerance: float = TOLERANCE,
    opset: int | None = None,
) -> Exported:
    """Write what a search has found into a file, and compare what the file computes with the found network.

    The network is that of ``search.derive()``, in evaluation mode and on the CPU, with the shared weights; of
    ``strategy=fixed`` it is the trained network. What it is called with, is seen in a pass over training batches, as in
    the search's own steps. The search stays as it is.

    Args:
        search: The search, after its fit.
        path: The file. Its ending is the format: ``.onnx``, ``.pt2``, ``.torchscript`` or ``.py``.
        batches: Training batches as a loader gives them, in a list or a loader, from which the inputs and the running
            statistics are taken; by default those of the last fit.
        genotype: The architecture, or a text or file that has it; by default the selected one.
        part: The name of a module in the network to write in place of the whole, such as ``"net"``.
        inputs: What the network, or the part of it, is called with: the arguments in order, or by name. By default it
            is the module's ``example_input_array``, if there is one, and otherwise what is seen in a pass.
        batch_dims: The names of the arguments that are inputs of the file, each with the dimension that is the batch,
            or ``None``; others, such as targets, are left out. By default it is the network's attribute ``batch_dims``.
            Without one all arguments are inputs, and the dimension is 0.
        dynamic: Whether the file takes batches of any size.
        tolerance: The largest difference that is allowed, in units of the largest output, or of 1 if that is smaller.
        opset: The version of ONNX's operators; by default the exporter's.

    Raises:
        ValueError: There is no batch, the network or the part is not called by itself, or the network cannot be written
            as :func:`~advnas_lightning.export.export_network` says.

    Example:
        >>> from tempfile import mkdtemp
        >>> import torch
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> from advnas_lightning.objectives import Regression
        >>> edge = MixedOp("edge", {"tanh": nn.Tanh(), "skip": nn.Identity()})
        >>> search = RandomSearch(edge, objective=Regression())
        >>> batch = torch.ones(4, 2), torch.ones(4, 2)
        >>> exported = export(search, Path(mkdtemp(), "net.torchscript"), [batch], genotype={"edge": "tanh"})
        >>> exported.inputs, exported.difference
        ({'input': ['batch', 2]}, 0.0)
    """
    network, call = found_network(search, batches, genotype=genotype, part=part, inputs=inputs, batch_dims=batch_dims)
    choices = search.genotype(search.selected) if genotype is None else as_genotype(genotype)
    return export_call(network, path, call, dynamic=dynamic, tolerance=tolerance, opset=opset, choices=dict(choices))


def found_network(
    search: Any,
    batches: Any = None,
    *,
    genotype: Genotype | Mapping[str, str] | str | Path | None = None,
    part: str = "",
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    batch_dims: Mapping[str, int | None] | None = None,
    seen: Any = None,
) -> tuple[nn.Module, Call]:
    """The found network, or a part of it, and how it is called.

    Args:
        search: The search.
        batches: As for :func:`export`.
        genotype: As for :func:`export`.
        part: As for :func:`export`.
        inputs: As for :func:`export`.
        batch_dims: As for :func:`export`.
        seen: Batches from which the inputs are taken, if not from ``batches``.

    Raises:
        ValueError: As for :func:`export`.
    """
    trainer = attached_trainer(search)
    if trainer is not None and trainer.training:
        raise ValueError("a network is exported after a fit, and this search is in one: export it when it is over")
    refuse_one_batch(batches)
    _check_part(search.model, part)
    genotype = None if genotype is None else as_genotype(genotype)
    network = search.derive(batches, genotype=genotype).get_submodule(part)
    if inputs is None and not part:
        inputs = getattr(search.model, "example_input_array", None)  # Lightning's own way to say it
    if inputs is None:
        given = _first_batches(search, batches if seen is None else seen)
        if not given:
            raise ValueError("there is no training batch to call the network with: give batches=, or inputs=")
        args, kwargs = _seen(search, given, genotype, part)
    else:
        args, kwargs = _arguments(inputs)
    return network, Call.of(network, *args, batch_dims=batch_dims, kwargs=kwargs)


def as_genotype(given: Genotype | Mapping[str, str] | str | Path) -> Genotype:
    """A genotype, or what a mapping, a text or a file says.

    Args:
        given: One of these.
    """
    return Genotype.read(given) if isinstance(given, str | Path) else Genotype(given)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if not isinstance(inputs, Iterable):
        raise ValueError(f"inputs={inputs!r} must be a tensor, a list of arguments, or a dict of them by name")
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs), {}


def _check_part(model: nn.Module, part: str) -> None:
    """Refuse a part that there is not, or that is in a choice."""
    modules = dict(model.named_modules())
    if part not in modules:
        raise ValueError(
            f"part={part!r} is no module of {type(model).__name__}: use {listed(dict(model.named_children()))}"
        )
    for name, module in modules.items():
        if isinstance(module, MixedOp) and part.startswith(f"{name}."):
            raise ValueError(f"part={part!r} lies in the choice {module.name!r}: use part={name!r}")


def _first_batches(search: Any, batches: Any) -> list[Any]:
    """The first batches of a loader, or of the last fit's, whose random numbers stay as they are."""
    if isinstance(batches, list | tuple):
        return list(batches[:SEEN])
    loaders = search.training_loaders() if batches is None else batches
    loaders = loaders.iterables if isinstance(loaders, CombinedLoader) else loaders
    if isinstance(loaders, Mapping):
        loaders = loaders.get("weights", loaders.get("architecture"))
    if loaders is None:
        return []
    with rng.seeded(0):
        return first_batches(loaders, SEEN)


def _seen(
    search: Any, batches: Sequence[Any], genotype: Genotype | None, part: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the network, or the part of it, is called with for the last of these batches."""
    model = search.model
    choice = search.selected_choice() if genotype is None else search.space.choice(genotype)
    architecture = search.one_hot(choice)
    calls: dict[str, list[tuple[Any, Any]]] = {}
    watched = {name: module for name, module in model.named_modules() if name.count(".") == 0 or name == part}

    def note(name: str, args: Any, kwargs: Any) -> None:
        calls.setdefault(name, []).append(tree_map(_own, (args, kwargs)))

    with ExitStack() as stack:
        stack.enter_context(search.training_pass.no_trace(architecture))
        stack.enter_context(search.space.bind(architecture))
        stack.enter_context(modes_kept(search))
        search.eval()
        for name, module in watched.items():
            handle = module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: note(name, args, kwargs), with_kwargs=True
            )
            stack.callback(handle.remove)
        for batch in batches:
            calls.clear()
            search.training_pass(batch)
    if part in calls:
        return calls[part][0]
    inner = sorted(
        (name for name in calls if name), key=lambda name: -sum(1 for _ in model.get_submodule(name).modules())
    )
    name = type(model).__name__
    what = f"the part {part!r} of {name}" if part else name
    has_forward = not isinstance(model, LightningModule) or is_overridden("forward", model)
    reason = "is not called as a whole in its own step" if has_forward or part else "has no forward of its own"
    hint = f"part={inner[0]!r}, which is called, or " if inner else ""
    raise ValueError(f"{what} {reason}: give {hint}inputs=")


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
