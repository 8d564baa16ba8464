"""Makes modules elastic."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from advnas_lightning.space.elastic.axes import Axis
from advnas_lightning.space.elastic.edge import Elastic, Follower
from advnas_lightning.space.elastic.kinds import axes_of
from advnas_lightning.texts import listed

Sizes = Iterable[Any] | Mapping[str, Any]
LAYER_PARTS = {  # the sizes of transformer layers: the parts that have them, with what they call the size
    "num_heads": {"self_attn": "num_heads", "multihead_attn": "num_heads"},
    "dim_feedforward": {"linear1": "out_features", "linear2": "in_features"},
}


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
        module: A Linear, Embedding, EmbeddingBag, Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, BatchNorm1d to
            BatchNorm3d, InstanceNorm1d to InstanceNorm3d, LayerNorm, RMSNorm, GroupNorm, PReLU, RNN, GRU, LSTM or
            MultiheadAttention. Or a TransformerEncoderLayer or TransformerDecoderLayer, of which ``num_heads`` and
            ``dim_feedforward`` can be elastic: its attention and its linear layers become so in place. Both attentions
            of a decoder's layer choose alike.
        name: The name of the edge; with several sizes, the names by size.
        sizes: What the module's constructor calls the size, with the sizes to choose from: a list, of which the
            candidates get their names, or a dict of them by the candidates' names. ``out_channels`` of a convolution in
            groups, such as a depthwise one, takes the inputs of these groups.

    Returns:
        The edge, the module that follows one, or the transformer layer.

    Raises:
        ValueError: The module has no such size or cannot be elastic, a size is not one that it can have, two are of
            one input or output, or names are missing.

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
        return _with_elastic_parts(module, name, sizes)
    if isinstance(module, Elastic | Follower):
        raise ValueError(f"a module of edge {module.name!r} is elastic already: give all its sizes at once")
    axes, inner = axes_of(module), module
    names = _edges(_told(inner), axes, name, sizes, [axis for axis in axes if not _follows(axes[axis])])
    of_input = [axis for axis in sizes if _follows(axes[axis])]
    of_output = [axis for axis in sizes if axis in ("out_features", "out_halves")]
    for side, several in (("input", of_input), ("output", of_output)):
        if len(several) > 1:
            raise ValueError(
                f"elastic {_told(inner)} has {listed(several)}, which are sizes of one {side}: give one of them"
            )
    for axis in sorted(sizes, key=lambda each: not _follows(axes[each])):  # followers inside
        checked = check_sizes(inner, axes[axis], names[axis], sizes[axis])
        around = Follower if _follows(axes[axis]) else Elastic
        module = around(names[axis], module, axes[axis], checked)
    return module


def _with_elastic_parts(layer: nn.Module, name: str | Mapping[str, str], sizes: Mapping[str, Sizes]) -> nn.Module:
    """A transformer layer, after those of its parts were made elastic that have the sizes."""
    names = _edges(type(layer).__name__, LAYER_PARTS, name, sizes, list(LAYER_PARTS))
    made = {}  # all, before the first one is in its place
    for size, given in sizes.items():
        if isinstance(given, Iterable) and not isinstance(given, Mapping | str):
            given = list(given)  # which can be gone through twice
        for part, axis in LAYER_PARTS[size].items():
            if hasattr(layer, part):
                made[part] = elastic(getattr(layer, part), name=names[size], **{axis: given})
    for part, module in made.items():
        setattr(layer, part, module)
    return layer


def _edges(
    kind: str,
    known: Collection[str],
    name: str | Mapping[str, str],
    sizes: Mapping[str, Sizes],
    choices: Collection[str],
) -> dict[str, str]:
    """The names of the edges by size.

    Args:
        kind: The module's kind, for messages.
        known: The sizes that can be elastic.
        name: The names as a user gives them.
        sizes: The sizes that shall be elastic.
        choices: The sizes that are edges.

    Raises:
        ValueError: A size is unknown, or a name is missing or there twice.
    """
    if not sizes:
        raise ValueError(f"elastic {kind} has no sizes to choose from: give it {' or '.join(known)}")
    for size in sizes:
        if size not in known:
            raise ValueError(f"a {kind} has no elastic size {size!r}: it has {listed(known) or 'none'}")
    names = dict.fromkeys(sizes, name) if isinstance(name, str) else dict(name)
    if names.keys() != sizes.keys() or not all(isinstance(each, str) and each for each in names.values()):
        raise ValueError(
            f"elastic {kind} needs a name for each of its sizes: name={name!r} must be a text, or a dict with"
            f" {listed(sizes)}"
        )
    edges = [size for size in sizes if size in choices]
    for size in edges:
        if [names[each] for each in edges].count(names[size]) > 1:
            raise ValueError(
                f"elastic {kind} has two choices called {names[size]!r}: give them two names, such as"
                f" name={{{', '.join(f'{each!r}: {each!r}' for each in edges)}}}"
            )
    return names


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
