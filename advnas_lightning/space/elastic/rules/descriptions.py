"""What belongs to a size of a kind of block: descriptions by the names of its modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from advnas_lightning.space.elastic.axes import Axis
from advnas_lightning.space.elastic.kinds import axes_of
from advnas_lightning.space.elastic.stacks import Behind, Layers, Looped, NumLayers, Stage
from advnas_lightning.texts import listed


class Member(NamedTuple):
    """A module that has an elastic size.

    Attributes:
        name: Its qualified name in the block.
        module: The module.
        axis: The size.
        role: Whether it gives the size, has it in passing, or reads it; or lies behind a stack.
        times: How often it has the size, such as a layer that reads all features of each head.

    Example:
        >>> Member("up", nn.Linear(4, 8), Axis(), "gives").full
        8
    """

    name: str
    module: nn.Module
    axis: Axis
    role: Literal["gives", "through", "reads", "behind"]
    times: int = 1

    @property
    def full(self) -> Any:
        """The size that the module has."""
        return self.axis.full(self.module)


@dataclass(frozen=True)
class Width:
    """A width inside a kind of block: the modules that give it, that have it in passing, and that read it.

    All names are those of modules in the block, such as ``"output.dense"``. What is elastic of each follows from its
    class: of a module that gives the width it is the size of its output, and of one that reads it the size of its
    input. A module that has it in passing has it on both sides, such as a normalization layer or a depthwise
    convolution; an ``nn.Identity`` there is passed over.

    Args:
        kind: The option of :func:`~advnas_lightning.widths` that has the sizes: ``"ffn"`` or ``"channels"``.
        gives: The names of the modules whose outputs have the width.
        reads: The names of the modules whose inputs have it.
        through: The names of the modules between these that have it on both sides.
        halves: The names of linear layers that give the width twice, such as for a gate and for what it multiplies.

    Raises:
        ValueError: The kind is another one, or names are missing.

    Example:
        >>> block = nn.ModuleDict({"up": nn.Linear(4, 8), "norm": nn.LayerNorm(8), "down": nn.Linear(8, 4)})
        >>> width = Width("ffn", gives=["up"], through=["norm"], reads=["down"])
        >>> [(member.name, member.axis.name, member.role) for member in width.members(block)]
        [('up', 'out_features', 'gives'), ('norm', 'normalized_shape', 'through'), ('down', 'in_features', 'reads')]
    """

    kind: str
    gives: Sequence[str]
    reads: Sequence[str]
    through: Sequence[str] = ()
    halves: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("ffn", "channels"):
            raise ValueError(f"Width({self.kind!r}) is of no kind of width: use 'ffn' or 'channels'")
        for role in ("gives", "reads", "through", "halves"):
            names = getattr(self, role)
            check_names(f"{role} of a Width", names)
            if not names and (role == "reads" or (role == "gives" and not self.halves)):
                raise ValueError(f"a Width {role} nothing: name a module of the block, as in {role}=['linear']")

    def members(self, block: nn.Module) -> list[Member]:
        """The modules of a block that have the width. The first one gives it.

        Args:
            block: The block.

        Raises:
            ValueError: A module is missing, has no such size, or has another one than the first module.
        """
        found: list[Member] = []
        roles: Any = {"gives": "gives", "halves": "gives", "through": "through", "reads": "reads"}
        for field, role in roles.items():
            for name in getattr(self, field):
                module = submodule(block, name)
                if role == "through" and type(module) is nn.Identity:
                    continue
                found.append(Member(name, module, _axis(name, module, field), role))
        first, *others = found
        for other in others:
            if other.full != first.full:
                raise ValueError(f"{first.name!r} has size {first.full}, and {other.name!r} has {other.full}")
        return found


@dataclass(frozen=True)
class Stack:
    """A stack of layers whose depth can be elastic: the network then runs the first ones.

    Args:
        layers: The name of an ``nn.Sequential`` in the block; or of an ``nn.ModuleList`` over which the module around
            it loops. The first layer may differ from the others, which must be equal.
        behind: The names of the normalization layers in the block that follow the stack directly. The gate acts behind
            them, too, as they divide by the scale of what the stack gives. An ``nn.Identity`` is passed over.

    Example:
        >>> net = nn.ModuleDict({"blocks": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "norm": nn.LayerNorm(4)})
        >>> [(member.name, member.full, member.role) for member in Stack("blocks", behind=["norm"]).members(net)]
        [('blocks', 2, 'gives'), ('norm', 2, 'behind')]
    """

    layers: str
    behind: Sequence[str] = ()

    kind = "depth"

    def __post_init__(self) -> None:
        check_names("layers of a Stack", [self.layers])
        check_names("behind of a Stack", self.behind)

    def members(self, block: nn.Module) -> list[Member]:
        """The stack, or the module that loops over it, and what lies behind it.

        Args:
            block: The block.

        Raises:
            ValueError: A module is missing, or the layers are in something else.
        """
        name, stack = self.layers, submodule(block, self.layers)
        axis: Layers = Stage()
        if isinstance(stack, nn.ModuleList):
            name, _, attribute = self.layers.rpartition(".")
            stack = submodule(block, name)
            known = isinstance(stack, nn.TransformerEncoder | nn.TransformerDecoder)
            axis = NumLayers() if known and attribute == "layers" else Looped(attribute)
        elif not isinstance(stack, nn.Sequential):
            raise ValueError(f"{name!r} is a {type(stack).__name__} and no Sequential or ModuleList of layers")
        full = axis.full(stack)
        found = [Member(name, stack, axis, "gives")]
        for each in self.behind:
            module = submodule(block, each)
            if type(module) is not nn.Identity:
                found.append(Member(each, module, Behind(full), "behind"))
        return found


@dataclass(frozen=True)
class Heads:
    """The heads of an attention, which has the elastic size ``num_heads``.

    For an attention of one's own, the size is entered in
    :data:`AXES <advnas_lightning.space.elastic.kinds.AXES>` by the attention's class.

    Args:
        attention: The name of the attention in the block. By default it is the block itself.
        reads: The names of linear layers in the block that read the features of all heads, where the attention has no
            such layer inside.

    Example:
        >>> [(member.axis.name, member.full) for member in Heads().members(nn.MultiheadAttention(8, 4))]
        [('num_heads', 4)]
    """

    attention: str = ""
    reads: Sequence[str] = ()

    kind = "heads"

    def __post_init__(self) -> None:
        if self.attention != "":
            check_names("attention of Heads", [self.attention])
        check_names("reads of Heads", self.reads)

    def members(self, block: nn.Module) -> list[Member]:
        """The attention, and what reads the features of its heads.

        Args:
            block: The block.

        Raises:
            ValueError: A module is missing, or has no such size.
        """
        attention = submodule(block, self.attention)
        axes = axes_of(attention)
        if "num_heads" not in axes:
            raise ValueError(f"a {type(attention).__name__} has no elastic size num_heads")
        first = Member(self.attention, attention, axes["num_heads"], "gives")
        found = [first]
        for name in self.reads:
            module = submodule(block, name)
            reader = Member(name, module, _axis(name, module, "reads"), "reads")
            if reader.full % first.full:
                raise ValueError(f"{name!r} has size {reader.full}, which is no multiple of {first.full} heads")
            found.append(reader._replace(times=reader.full // first.full))
        return found


Description = Width | Stack | Heads


class MissingModule(ValueError):
    """A block has no module of a name, as it is built in another way than is described.

    Example:
        >>> issubclass(MissingModule, ValueError)
        True
    """


def check_names(what: str, names: Any) -> None:
    """Refuse what are no names of modules.

    Args:
        what: What they are, for the message.
        names: What should be a list of texts.

    Raises:
        ValueError: It is none.

    Example:
        >>> check_names("gives of a Width", "up")
        Traceback (most recent call last):
            ...
        ValueError: gives of a Width is 'up': give a list of the names of modules in the block
    """
    listable = isinstance(names, Sequence) and not isinstance(names, str)
    if not listable or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{what} is {names!r}: give a list of the names of modules in the block")


def submodule(block: nn.Module, name: str) -> nn.Module:
    """A module in a block.

    Args:
        block: The block.
        name: The qualified name in it.

    Raises:
        MissingModule: There is none of this name.

    Example:
        >>> submodule(nn.Sequential(nn.ReLU()), "1")
        Traceback (most recent call last):
            ...
        advnas_lightning.space.elastic.rules.descriptions.MissingModule: a Sequential has no module '1'
    """
    try:
        return block.get_submodule(name)
    except AttributeError:
        raise MissingModule(f"a {type(block).__name__} has no module {name!r}") from None


def _axis(name: str, module: nn.Module, role: str) -> Axis:
    """The size of a module on the side that it has in the width."""
    sides = {"through": (True, True), "reads": (True, False)}.get(role, (False, True))
    axes = axes_of(module)
    for axis in axes.values():
        whole = role != "through" or axis.read(module, axis.full(module)) == axis.full(module)
        if (axis.reads, axis.gives) == sides and whole and (role != "halves" or axis.name == "out_halves"):
            return axis
    where = {
        "gives": "of its output alone",
        "halves": "of two halves of its output",
        "through": "of input and output",
        "reads": "of its input alone",
    }[role]
    raise ValueError(
        f"{name!r} is a {type(module).__name__} and has no size {where}: it has {listed(axes) or 'no elastic size'}"
    )
