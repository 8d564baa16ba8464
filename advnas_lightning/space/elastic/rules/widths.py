"""The rule that makes the widths and depths of a whole network elastic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from advnas_lightning.space.elastic.edge import Elastic, Follower
from advnas_lightning.space.elastic.making import check_sizes, elastic
from advnas_lightning.space.elastic.rules.descriptions import Member, MissingModule
from advnas_lightning.space.elastic.rules.importance import OrderBy, Score, checked_order, refuse_tied, reordering
from advnas_lightning.space.elastic.rules.sizes import Sizes, checked, in_numbers, names
from advnas_lightning.space.elastic.rules.table import Blocks, checked_blocks, descriptions_of
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.space.patterns import matches
from advnas_lightning.space.places import Place, check_place, places, put
from advnas_lightning.texts import listed

Share = Callable[[str, nn.Module], str]
DEPTH = "depth"
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # which are no blocks


class Found(NamedTuple):
    """A size of a block that was found in a network.

    Attributes:
        kind: The option of :func:`widths` that has its sizes.
        place: The qualified name of the block, or of the stack.
        block: The block, or the stack.
        members: The modules that have the size, with their qualified names in the network. The first one gives it.

    Example:
        >>> Found("ffn", "layers.0", nn.Identity(), []).edge
        'layers.0.ffn'
    """

    kind: str
    place: str
    block: nn.Module
    members: list[Member]

    @property
    def edge(self) -> str:
        """The name of the edge, if it is not shared."""
        return _inside(self.place, self.kind)

    @property
    def group(self) -> int:
        """How many entries stay together in all of the members."""
        groups = [(each.axis.group(each.module), each.times) for each in self.members]
        return math.lcm(*(group // math.gcd(group, times) for group, times in groups))


class Chosen(NamedTuple):
    """A size of a block as an edge.

    Attributes:
        found: The size.
        edge: The edge's name.
        sizes: The sizes to choose from by the names of the candidates.

    Example:
        >>> Chosen(Found("ffn", "mlp", nn.Identity(), []), "ffn", {"4": 4, "8": 8}).edge
        'ffn'
    """

    found: Found
    edge: str
    sizes: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Widths:
    """A rule of :func:`~advnas_lightning.make_searchable`; :func:`~advnas_lightning.widths` makes it.

    Attributes:
        sizes: The sizes to choose from by kind.
        order_by: What the entries of widths are ordered by before.
        where: A pattern of the names of the blocks that are meant.
        blocks: A user's own descriptions by class.

    Example:
        >>> dict(widths(ffn=[0.5, 1.0]).sizes)
        {'ffn': (0.5, 1.0)}
    """

    sizes: Mapping[str, Sequence[int | float]]
    order_by: OrderBy = None
    where: str | None = None
    blocks: Blocks = field(default_factory=dict)

    def put(self, model: nn.Module, share: Share | None = None) -> list[Chosen]:
        """Make the sizes of a network elastic, in place.

        Args:
            model: The network.
            share: A function that names the edge of a block, given the name that the edge would have and the block.

        Returns:
            The edges, with a row for each block that has them.

        Raises:
            ValueError: A size is found nowhere or cannot be what was given, or what is found cannot be an edge. The
                network is then unchanged.
        """
        chosen = _as_edges(self._found(model), self.sizes, share)
        sides = _check(chosen, model)
        if self.order_by is not None:
            _reorder([each for each in chosen if each.found.kind != DEPTH], self.order_by, model)
        names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            names.setdefault(module, []).append(name)
        made = {id(module): _elastic(module, own) for module, own in sides.items()}
        put(model, [place for place in places(model) if id(place.module) in made], made)
        depths = [(member, each) for each in chosen if each.found.kind == DEPTH for member in each.found.members]
        # What lies behind a stack comes first, as it may be in another one; and inner stacks before those around them.
        for member, each in sorted(depths, key=lambda pair: (pair[0].role == "gives", -pair[0].name.count("."))):
            module = model.get_submodule(member.name)  # which may be elastic itself
            edge = Elastic(each.edge, module, member.axis, each.sizes)
            edge.training = module.training
            put(model, [_place(model, name) for name in names[member.module]], {id(module): edge})
        return chosen

    def _found(self, model: nn.Module) -> list[Found]:
        """The sizes of the network's blocks of the kinds that are asked for."""
        everywhere = {id(model): ("", model)}
        for place in places(model):
            everywhere.setdefault(id(place.module), (place.name, place.module))
        misfits: dict[str, str] = {}
        found = [each for name, block in everywhere.values() for each in self._of(name, block, misfits)]
        meant = [each for each in found if self.where is None or matches(each.place, self.where)]
        for kind in self.sizes:
            of_kind = [each.place for each in found if each.kind == kind]
            if not of_kind:
                raise ValueError(_nowhere(kind, [block for _, block in everywhere.values()], misfits.get(kind)))
            if not any(each.kind == kind for each in meant):
                raise ValueError(f"where={self.where!r} matches no block with {kind}, which are {_some(of_kind)}")
        return meant

    def _of(self, name: str, block: nn.Module, misfits: dict[str, str]) -> Iterator[Found]:
        """The sizes of one block. What is described in several ways is taken as the first one that fits says.

        The first block of each kind that has the modules, and one of them cannot be elastic, is noted as a misfit.
        """
        descriptions, is_own = descriptions_of(block, self.blocks)
        reasons: dict[str, ValueError] = {}
        taken: set[tuple[str, str]] = set()
        for described in descriptions:
            kind = described.kind
            if kind not in self.sizes:
                continue
            try:
                first, *others = described.members(block)
            except ValueError as error:
                reasons.setdefault(kind, error)
                if not isinstance(error, MissingModule):
                    lacks = str(error).partition(":")[0]
                    misfits.setdefault(kind, f"in {name!r}, a {type(block).__name__}, {lacks}")
                continue
            if (kind, first.name) in taken:
                continue
            taken.add((kind, first.name))
            members = [each._replace(name=_inside(name, each.name)) for each in (first, *others)]
            stands = (members[0].name, first.module) if kind == DEPTH else (name, block)
            if kind != DEPTH or first.full > 1:  # one layer alone is no choice
                yield Found(kind, *stands, members)
        for kind, reason in reasons.items():
            if is_own and not any(kind == each for each, _ in taken):
                raise ValueError(f"what blocks says of the {kind} of a {type(block).__name__} is not so: {reason}")


def widths(
    *,
    ffn: Sizes | None = None,
    heads: Sizes | None = None,
    depth: Sizes | None = None,
    channels: Sizes | None = None,
    order_by: OrderBy = None,
    where: str | None = None,
    blocks: Blocks | None = None,
) -> Widths:
    """Make the widths and depths of a whole network elastic, as a rule of :func:`~advnas_lightning.make_searchable`.

    The blocks of networks of torchvision, timm and Hugging Face, and the layers of PyTorch, are known by their
    classes; ``blocks`` has descriptions of others. The widest candidate is the network that is there: it computes the
    same, bit for bit.

    A size is a whole number, or a share of what each block has, such as ``0.5``, rounded to whole groups. Each list has
    the size that the blocks have themselves, as a number or as ``1.0``. A candidate has its size as its name, such as
    ``"32"``; where blocks of different sizes share an edge, it is the share, such as ``"1/2"``.

    By default each block is an edge of its own, such as ``"layer1.0.channels"``. ``share`` of ``make_searchable`` is
    given this name and the block, and returns the name of the edge.

    Args:
        ffn: The widths of feed-forward parts of transformers and of ConvNeXt.
        heads: The numbers of heads of attentions. The first ones stay, each as large as before. Heads that share keys
            and values, as in Llama, stay in whole groups.
        depth: The numbers of layers of stacks. The first ones run. A stack of one layer is left as it is.
        channels: The channels inside residual blocks of convolutions. Those between blocks stay.
        order_by: What decides which entries of a width come first, and so stay in small sizes. By default it is their
            place. With ``"magnitude"`` it is the sum of the absolute values of the weights that give an entry, or that
            belong to a head; biases do not count. A function is given the modules that have the width, as a list of
            :class:`~advnas_lightning.space.elastic.rules.descriptions.Member`, and returns a tensor with a score for
            each entry. The weights of all these modules are then reordered in place, the highest scores first. The
            network computes the same, but sums in another order, so that it is no longer equal bit for bit. Leave
            ``order_by`` out where something else has an entry for each channel or head, such as a mask of attention
            with a part for each head.
        where: A pattern of the qualified names of the blocks and stacks that are meant, such as ``"layer3.**"``. By
            default all of them are.
        blocks: Descriptions by the class of a block: a :class:`~advnas_lightning.space.elastic.rules.Width`, a
            :class:`~advnas_lightning.space.elastic.rules.Stack`,
            :class:`~advnas_lightning.space.elastic.rules.Heads`, or several of them.

    Raises:
        ValueError: There are no sizes, or what is given is none.

    Example:
        >>> from advnas_lightning import make_searchable
        >>> from advnas_lightning.space.elastic.rules import Width
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 4)
        >>> own = {Block: Width("ffn", gives=["up"], reads=["down"])}
        >>> print(make_searchable(nn.Sequential(Block(), Block()), widths(ffn=[0.5, 1.0], blocks=own)))
        module  edge   candidates
        0.up    0.ffn  8, 16
        1.up    1.ffn  8, 16
    """
    given = {"ffn": ffn, "heads": heads, DEPTH: depth, "channels": channels}
    sizes = {kind: checked(kind, each) for kind, each in given.items() if each is not None}
    if not sizes:
        raise ValueError(f"widths() has no sizes: give it {' or '.join(f'{kind}=[0.5, 1.0]' for kind in given)}")
    if where is not None and (not isinstance(where, str) or not where):
        raise ValueError(f"widths(where={where!r}) is no pattern of names: give a text such as 'layer3.**'")
    return Widths(sizes, checked_order(order_by), where, checked_blocks(blocks or {}))


def _inside(name: str, inner: str) -> str:
    """The qualified name of what is in a module."""
    return ".".join(part for part in (name, inner) if part)


def _as_edges(found: Sequence[Found], sizes: Mapping[str, Sequence[int | float]], share: Share | None) -> list[Chosen]:
    """The edges of the sizes that were found, with the names of their candidates."""
    edges: list[str] = []
    for each in found:
        edge: Any = each.edge if share is None else share(each.edge, each.block)
        if not isinstance(edge, str) or not edge:
            raise ValueError(f"share gives {each.edge!r} the edge name {edge!r}: return a text")
        edges.append(edge)
    numbers = [in_numbers(each.kind, sizes[each.kind], each.members[0].full, each.place, each.group) for each in found]
    kinds: dict[str, Found] = {}
    for each, edge in zip(found, edges, strict=True):
        first = kinds.setdefault(edge, each)
        if first.kind != each.kind:
            raise ValueError(
                f"share gives {first.edge!r} and {each.edge!r} one edge, {edge!r}, and one is {first.kind} and the"
                f" other {each.kind}: give them two names"
            )
    texts = {
        edge: names(sizes[kinds[edge].kind], [own for own, other in zip(numbers, edges, strict=True) if other == edge])
        for edge in kinds
    }
    return [
        Chosen(each, edge, dict(zip(texts[edge], own, strict=True)))
        for each, edge, own in zip(found, edges, numbers, strict=True)
    ]


def _check(chosen: Sequence[Chosen], model: nn.Module) -> dict[nn.Module, dict[str, tuple[str, Mapping[str, int]]]]:
    """The modules that become elastic: the edge and the sizes of each of their sides. The stacks are not among them."""
    known = {place.name: place for place in places(model)}
    edges = {op.name: op.names for op in mixed_ops(model)}
    sides: dict[nn.Module, dict[str, tuple[str, Mapping[str, int]]]] = {}
    for found, edge, sizes in chosen:
        if edges.setdefault(edge, tuple(sizes)) != tuple(sizes):
            raise ValueError(
                f"{found.place!r} has the {found.kind} {listed(sizes)}, but the network has an edge {edge!r} with"
                f" {listed(edges[edge])}: give it another name with share"
            )
        for name, module, axis, _, times in found.members:
            if not name:
                raise ValueError(
                    f"the {found.kind} of the network itself cannot be a choice, as nothing around it is there to call"
                    " it: put the network into a module, such as nn.Sequential(model)"
                )
            if name in known:  # and no elastic module, which a gate of a depth is put around
                check_place(known[name], {})
            own_sizes = {candidate: size * times for candidate, size in sizes.items()}
            check_sizes(module, axis, edge, own_sizes)
            if found.kind == DEPTH:
                continue
            own = sides.setdefault(module, {})
            if own.setdefault(axis.name, (edge, own_sizes)) != (edge, own_sizes):
                raise ValueError(
                    f"{name!r} has {axis.name} of two edges, {own[axis.name][0]!r} and {edge!r}: let one description"
                    " name it"
                )
    return sides


def _place(model: nn.Module, name: str) -> Place:
    """The place of a qualified name, whatever stands there."""
    parent, _, key = name.rpartition(".")
    around = model.get_submodule(parent)
    return Place(name, around, key, around.get_submodule(key))


def _reorder(chosen: Sequence[Chosen], order_by: str | Score, model: nn.Module) -> None:
    """Put the entries of all widths in their order of importance, after all orders are known to be possible."""
    orders = [reordering(each.found.members, each.edge, order_by) for each in chosen]
    refuse_tied(orders, model)
    for order in orders:
        order.apply()


def _elastic(module: nn.Module, sides: Mapping[str, tuple[str, Mapping[str, int]]]) -> nn.Module:
    """A module with elastic sizes. A part in evaluation mode stays in it."""
    sizes = {axis: dict(own) for axis, (_, own) in sides.items()}
    made = around = elastic(module, name={axis: edge for axis, (edge, _) in sides.items()}, **sizes)
    while around is not module:
        around.training = module.training
        around = around.widest  # type: ignore[assignment]
    return made


def _nowhere(kind: str, blocks: Sequence[nn.Module], misfit: str | None) -> str:
    """The message where no block has a size."""
    model, *inner = [block for block in blocks if type(block) not in CONTAINERS or block is blocks[0]]
    is_elastic = any(isinstance(module, Elastic | Follower) for module in model.modules())
    if misfit is not None and not is_elastic:
        return (
            f"{kind} can be elastic in no block of this {type(model).__name__}: {misfit}; leave {kind} out, put the"
            " block's own layers back, as merge_and_unload() of LoRA does, or describe the block in widths(blocks=…)"
        )
    around = [block for block in inner if next(block.children(), None) is not None]
    seen = list(dict.fromkeys(type(block).__name__ for block in around or inner))
    name, part = next(((type(each).__name__, part) for each in inner if (part := _seems(kind, each))), ("MyBlock", ""))
    examples = {DEPTH: f'Stack("{part or "layers"}")', "heads": "Heads()"}
    example = examples.get(kind, f'Width("{kind}", gives=["up"], reads=["down"])')
    left = "; what is elastic already or lies in an elastic depth stays as it is, so give all its sizes in one call"
    return (
        f"{kind} is known of no block of this {type(model).__name__}, which has {_some(seen) or 'none'}: describe one,"
        f" as in widths({kind}=…, blocks={{{name}: {example}}}){left if is_elastic else ''}"
    )


def _seems(kind: str, block: nn.Module) -> str | None:
    """The name of a part for which a block looks as if it had a size."""
    if kind == "heads":
        return "itself" if "attention" in type(block).__name__.lower() else None
    layers: dict[str, tuple[int, ...]] = {}
    for name, part in block.named_children():
        types = [type(layer) for layer in part.children()]
        if kind == DEPTH and type(part) in CONTAINERS and len(types) > 1 == len(set(types)):
            return name
        weight: Any = getattr(part, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            layers[name] = weight.shape[:2]
    read = {inputs for _, inputs in layers.values()}
    widened = (name for name, (outputs, inputs) in layers.items() if outputs > inputs and outputs in read)
    return None if kind == DEPTH else next(widened, None)


def _some(names: Sequence[str]) -> str:
    """The first ones of some names."""
    return listed([*names[:5], *(["…"] if len(names) > 5 else [])])
