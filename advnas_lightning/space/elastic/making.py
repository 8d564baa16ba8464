"""Makes modules elastic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from advnas_lightning.space.elastic.axes import Axis
from advnas_lightning.space.elastic.edge import Elastic, Follower
from advnas_lightning.space.elastic.kinds import axes_of
from advnas_lightning.texts import listed

Sizes = Iterable[Any] | Mapping[str, Any]


def elastic(module: nn.Module, *, name: str | Mapping[str, str], **sizes: Sizes) -> nn.Module:
    """Make sizes of a module elastic: its candidates are slices of its own parameters.

    The result stands in the module's place. A size of the output, such as ``out_features``, is an edge of the search
    space, and so are the channels of a normalization layer and the ``kernel_size`` of a convolution. A size of the
    input alone, such as ``in_features``, is none: it follows the edge of the given name. All modules of one name
    choose alike.

    The parameters are there once, in the module itself, and all candidates compute with views of their first entries;
    a kernel's with its centre. A search, its costs, ``genotype.apply`` and everything else treat the result as a
    :class:`MixedOp`. What is found is a plain module of the small sizes.

    A candidate's output stands for the same with zeros up to the widest size, which Eq. (1) mixes. Where one
    architecture is drawn, the narrow output itself is handed on. Behind a normalization layer the scale of its input
    has no effect, so that the layer must be elastic with the same name, for the gate to act behind it.

    Args:
        module: A Linear, Embedding, Conv1d to Conv3d, BatchNorm1d to BatchNorm3d, LayerNorm, RMSNorm, GroupNorm, RNN,
            GRU or LSTM. Or a TransformerEncoderLayer or TransformerDecoderLayer, of which ``dim_feedforward`` can be
            elastic: its two linear layers become so in place.
        name: The name of the edge; with several sizes, the names by size.
        sizes: What the module's constructor calls the size, with the sizes to choose from: a list, of which the
            candidates get their names, or a dict of them by the candidates' names. ``out_channels`` of a convolution in
            groups, such as a depthwise one, takes the inputs of these groups.

    Returns:
        The edge, the module that follows one, or the transformer layer.

    Raises:
        ValueError: The module has no such size or cannot be elastic, a size is not one that it can have, or names are
            missing.

    Example:
        >>> net = nn.Sequential(
        ...     elastic(nn.Linear(4, 8), out_features=[2, 4, 8], name="ffn"),
        ...     nn.ReLU(),
        ...     elastic(nn.Linear(8, 3), in_features=[2, 4, 8], name="ffn"),
        ... )
        >>> from advnas_lightning import Genotype
        >>> Genotype({"ffn": "2"}).apply(net)
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=3, bias=True)
        )
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"elastic {module!r} is no module: give one, such as nn.Linear(256, 1024)")
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        layer: nn.Module = _with_feed_forward(module, name, sizes)
        return layer
    if isinstance(module, Elastic | Follower):
        raise ValueError(f"a module of edge {module.name!r} is elastic already: give all its sizes at once")
    axes, kind, inner = axes_of(module), type(module).__name__, module
    if not sizes:
        raise ValueError(f"elastic {kind} has no sizes to choose from: give it {' or '.join(axes)}")
    for axis in sizes:
        if axis not in axes:
            raise ValueError(f"a {_told(inner)} has no elastic size {axis!r}: it has {listed(axes) or 'none'}")
    edges = [axis for axis in sizes if not _follows(axes[axis])]
    names = {axis: name for axis in sizes} if isinstance(name, str) else dict(name)
    if names.keys() != sizes.keys() or not all(isinstance(each, str) and each for each in names.values()):
        raise ValueError(
            f"elastic {kind} needs a name for each of its sizes: name={name!r} must be a text, or a dict with"
            f" {listed(sizes)}"
        )
    for axis in edges:
        if [names[each] for each in edges].count(names[axis]) > 1:
            raise ValueError(
                f"elastic {kind} has two choices called {names[axis]!r}: give them two names, such as"
                f" name={{{', '.join(f'{each!r}: {each!r}' for each in edges)}}}"
            )
    for axis in sorted(sizes, key=lambda each: not _follows(axes[each])):  # followers inside
        checked = check_sizes(inner, axes[axis], names[axis], sizes[axis])
        around = Follower if _follows(axes[axis]) else Elastic
        module = around(names[axis], module, axes[axis], checked)
    return module


def _with_feed_forward(layer: Any, name: str | Mapping[str, str], sizes: Mapping[str, Sizes]) -> Any:
    """A transformer layer, after the two linear layers of its feed-forward part were made elastic."""
    size = "dim_feedforward"
    for axis in sizes:
        if axis != size:
            raise ValueError(f"a {type(layer).__name__} has no elastic size {axis!r}: it has {size}")
    if not sizes or not isinstance(layer.linear1, nn.Linear):
        done = "is elastic already" if sizes else f"has no sizes to choose from: give it {size}"
        raise ValueError(f"{type(layer).__name__} {done}")
    given = sizes[size]
    if isinstance(given, Iterable) and not isinstance(given, Mapping | str):
        given = list(given)  # which can be gone through twice
    edge = name if isinstance(name, str) else name.get(size, "")
    layer.linear1 = elastic(layer.linear1, out_features=given, name=edge)
    layer.linear2 = elastic(layer.linear2, in_features=given, name=edge)
    return layer


def check_sizes(module: nn.Module, axis: Axis, edge: str, sizes: Sizes) -> dict[str, Any]:
    """The sizes to choose from, by the names of the candidates.

    Args:
        module: The module that has the parameters.
        axis: Which of its sizes.
        edge: The edge's name.
        sizes: The sizes as a user gives them.

    Raises:
        ValueError: There is none, one is given twice, or it is not one that the module can have.

    Example:
        >>> check_sizes(nn.Linear(4, 8), Axis(), "ffn", [2, 8])
        {'2': 2, '8': 8}
        >>> check_sizes(nn.Linear(4, 8), Axis(), "ffn", [2, 16])
        Traceback (most recent call last):
            ...
        ValueError: out_features=16 of elastic 'ffn' cannot be: it is no whole number from 1 to the 8 that the \
Linear has
    """
    if not isinstance(sizes, Mapping):
        listable = isinstance(sizes, Iterable) and not isinstance(sizes, str)
        sizes = list(sizes) if listable else []
        pairs = [("x".join(map(str, size)) if isinstance(size, tuple) else str(size), size) for size in sizes]
    else:
        pairs = list(sizes.items())
    if not pairs:
        raise ValueError(f"{axis.name} of elastic {edge!r} has no sizes: give a list, such as [{axis.full(module)}]")
    found: dict[str, Any] = {}
    for candidate, size in pairs:
        try:
            checked = axis.checked(module, size)
        except ValueError as error:
            raise ValueError(f"{axis.name}={size!r} of elastic {edge!r} cannot be: {error}") from None
        if candidate in found or checked in found.values():
            raise ValueError(f"{axis.name}={size!r} of elastic {edge!r} is there twice: give each size once")
        found[candidate] = checked
    return found


def _follows(axis: Axis) -> bool:
    """Whether a size is one of the input alone, so that it is no edge."""
    return axis.reads and not axis.gives


def _told(module: nn.Module) -> str:
    groups = getattr(module, "groups", 1)
    return type(module).__name__ + (f" with {groups} groups" if groups != 1 else "")
