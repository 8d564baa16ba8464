"""Puts what matters most first, so that slices keep it: an order of a width's entries in all modules that have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advnas_lightning.space.elastic.rules.descriptions import Member

Score = Callable[[Sequence[Member]], Tensor]
OrderBy = str | Score | None


class Part(NamedTuple):
    """A tensor that has the entries of a width in one of its dimensions.

    Attributes:
        owner: The module that has the tensor.
        name: The tensor's name in it.
        dim: The dimension.
        first: The positions of the first unit.
        step: How far the positions of a unit are behind those of the unit before it.

    Example:
        >>> part = Part(nn.Linear(2, 6), "weight", 0, torch.tensor([0, 3]), 1)
        >>> part.sources(torch.tensor([2, 0, 1])).tolist()
        [2, 0, 1, 5, 3, 4]
    """

    owner: nn.Module
    name: str
    dim: int
    first: Tensor
    step: int

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer that the owner has under this name."""
        found: Tensor = getattr(self.owner, self.name)
        return found

    def positions(self, units: int) -> Tensor:
        """The positions of all units, one row for each."""
        return self.first + self.step * torch.arange(units).unsqueeze(1)

    def sources(self, order: Tensor) -> Tensor:
        """Where the new entries of the dimension come from."""
        positions = self.positions(len(order))
        index = torch.empty(positions.numel(), dtype=torch.long)
        index[positions] = positions[order]
        return index


class Reordering(NamedTuple):
    """An order of the units of one width.

    Attributes:
        order: The old places of the units, from the most important one on.
        parts: The tensors that have them.

    Example:
        >>> linear = nn.Linear(1, 2, bias=False)
        >>> linear.weight.data = torch.tensor([[1.0], [2.0]])
        >>> Reordering(torch.tensor([1, 0]), [Part(linear, "weight", 0, torch.tensor([0]), 1)]).apply()
        >>> linear.weight.flatten().tolist()
        [2.0, 1.0]
    """

    order: Tensor
    parts: list[Part]

    @torch.no_grad()
    def apply(self) -> None:
        """Put the units in this order, in place."""
        for part in self.parts:
            index = part.sources(self.order).to(part.tensor.device)
            part.tensor.copy_(part.tensor.index_select(part.dim, index))


def checked_order(order_by: Any) -> OrderBy:
    """What the entries of widths are ordered by, after a look at it.

    Args:
        order_by: What should be ``"magnitude"``, a function or ``None``.

    Raises:
        ValueError: It is something else.

    Example:
        >>> checked_order("size")
        Traceback (most recent call last):
            ...
        ValueError: order_by='size' is no order: use 'magnitude', or a function from the modules of a width to scores
    """
    if order_by is None or order_by == "magnitude" or (callable(order_by) and not isinstance(order_by, type)):
        known: OrderBy = order_by
        return known
    raise ValueError(
        f"order_by={order_by!r} is no order: use 'magnitude', or a function from the modules of a width to scores"
    )


def reordering(members: Sequence[Member], edge: str, score: str | Score) -> Reordering:
    """The order of the units of a width. A unit is an entry, or a group of entries that stay together.

    Args:
        members: The modules that have the width.
        edge: The name of the edge, for messages.
        score: ``"magnitude"``, or a function that gives a score for each entry.

    Raises:
        ValueError: The function gives something else, or the width has no order.

    Example:
        >>> from advnas_lightning.space.elastic.rules import Width
        >>> block = nn.ModuleDict({"up": nn.Linear(1, 3), "down": nn.Linear(3, 1)})
        >>> block["up"].weight.data = torch.tensor([[1.0], [-3.0], [2.0]])
        >>> reordering(Width("ffn", ["up"], ["down"]).members(block), "ffn", "magnitude").order.tolist()
        [1, 2, 0]
    """
    full = members[0].full
    unit = next(size for size in range(1, full + 1) if full % size == 0 and all(_fits(each, size) for each in members))
    if unit == full:
        return Reordering(torch.zeros(1, dtype=torch.long), [])
    units = full // unit
    parts = [(member, part) for member in members for part in _parts(member, unit, units, edge)]
    if isinstance(score, str):
        giving = [part for member, part in parts if member.role == "gives" and part.tensor.dim() > 1]
        scores = torch.stack([_magnitudes(part, units) for part in giving]).sum(0)
    else:
        scores = _scored(score, members, edge).unflatten(0, (units, unit)).sum(1)
    return Reordering(scores.argsort(descending=True, stable=True), [part for _, part in parts])


def refuse_tied(reorderings: Sequence[Reordering], model: nn.Module) -> None:
    """Refuse to reorder a weight that several modules have, as the others may use it otherwise.

    Args:
        reorderings: The orders.
        model: The network.

    Raises:
        ValueError: There is such a weight.

    Example:
        >>> refuse_tied([], nn.Linear(1, 1))
    """
    owners: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(weight), []).append(name)
    names = {id(module): name for name, module in model.named_modules()}
    seen: set[tuple[int, int]] = set()
    for part in (part for each in reorderings for part in each.parts):
        tied, place = owners.get(id(part.tensor), []), (id(part.tensor), part.dim)
        modules = {id(model.get_submodule(name.rpartition(".")[0])) for name in tied}
        if len(modules) > 1 or place in seen:
            raise ValueError(
                f"order_by cannot reorder {part.name} of {names[id(part.owner)]!r}, as {' and '.join(tied)} are one"
                " parameter: leave order_by out"
            )
        seen.add(place)


def _fits(member: Member, size: int) -> bool:
    """Whether a module can have a size."""
    try:
        member.axis.checked(member.module, size * member.times)
    except ValueError:
        return False
    return True


def _parts(member: Member, unit: int, units: int, edge: str) -> Iterator[Part]:
    """The tensors of a module that have the entries of a width."""
    change = member.axis.change(member.module, unit * member.times)
    for owner, own in change.of(member.module):
        for name, view in own.views.items():
            tensor = getattr(owner, name)
            if tensor is None:
                continue
            dims = [dim for dim, size in enumerate(view(tensor).shape) if size != tensor.shape[dim]]
            if len(dims) == 1:
                shape = [1] * tensor.dim()
                shape[dims[0]] = -1
                first = view(torch.arange(tensor.shape[dims[0]]).view(shape)).flatten()
                step = len(first) // (1 + int((first.diff() != 1).sum()))
                part = Part(owner, name, dims[0], first, step)
                if torch.equal(part.positions(units).flatten().sort()[0], torch.arange(tensor.shape[dims[0]])):
                    yield part
                    continue
            raise ValueError(f"order_by knows no order of {name} of {member.name!r} on edge {edge!r}: leave it out")


def _magnitudes(part: Part, units: int) -> Tensor:
    """The sum of the absolute values of each unit's weights."""
    sums = part.tensor.detach().abs().transpose(0, part.dim).flatten(1).sum(1, dtype=torch.double).cpu()
    return sums[part.positions(units)].sum(1)


def _scored(score: Score, members: Sequence[Member], edge: str) -> Tensor:
    """The scores that a user's function gives."""
    scores: Any = score(members)
    full = members[0].full
    if not isinstance(scores, Tensor) or scores.shape != (full,) or not scores.isfinite().all():
        told = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)
        raise ValueError(f"order_by gives {told} for edge {edge!r}: return a tensor of {full} finite scores")
    return scores.detach().cpu()
