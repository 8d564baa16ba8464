"""The places of modules in a network, and what is put there."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from advnas_lightning.space.copying import Rebound
from advnas_lightning.space.elastic.edge import Elastic, Follower
from advnas_lightning.space.mixed_op import MixedOp

# Attributes of all modules: the hooks that a choice takes over, with what belongs to them, and those that stay.
MOVED = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_hooks", "_is_full_backward_hook"),
)
KEPT = ("_forward_pre_hooks", "_backward_pre_hooks")


class Place(NamedTuple):
    """A place of a module in a network: the attribute ``key`` of the module ``parent``.

    Attributes:
        name: The qualified name.
        parent: The module around it.
        key: The name of the place in that module.
        module: What stands there.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.ReLU()))
        >>> Place("0.0", net[0], "0", net[0][0]).name
        '0.0'
    """

    name: str
    parent: nn.Module
    key: str
    module: nn.Module


def places(model: nn.Module, closed: Container[int] = ()) -> Iterator[Place]:
    """Yield all places in a network, except inside MixedOps and inside certain modules.

    Args:
        model: The network. Its own place is none.
        closed: The ids of these modules. It may grow while the places are yielded.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
        >>> [place.name for place in places(net)], [place.name for place in places(net, {id(net[0])})]
        (['0', '0.0', '1'], ['0', '1'])
    """
    modules = dict(model.named_modules(remove_duplicate=False))  # a module may have several places
    # Nothing below these names is yielded.
    shut = {name for name, module in modules.items() if isinstance(module, MixedOp | Follower)}
    for name, module in modules.items():
        parent, _, key = name.rpartition(".")
        if not name or name in shut:
            continue
        if parent in shut:
            shut.add(name)
            continue
        yield Place(name, modules[parent], key, module)
        if id(module) in closed:
            shut.add(name)


def put(model: nn.Module, found: Sequence[Place], ops: Mapping[int, nn.Module]) -> None:
    """Put choices at the places of what they replace, also in lists, dicts and functions that a module keeps.

    Args:
        model: The network.
        found: The places.
        ops: The choices, or elastic modules, by the ids of the modules that they replace.

    Example:
        >>> net = nn.Sequential(nn.ReLU())
        >>> net.last = [net[0]]  # which is no place of its own
        >>> edge = MixedOp("act", {"relu": net[0], "skip": nn.Identity()})
        >>> put(net, list(places(net)), {id(net[0]): edge})
        >>> net[0] is edge, net.last[0] is edge
        (True, True)
    """
    # Not the replaced modules themselves, which may be candidates.
    keepers = [model, *(place.module for place in places(model, ops) if id(place.module) not in ops)]
    for place in {id(place.module): place for place in reversed(found)}.values():  # the first one of each module
        move_hooks(place, ops[id(place.module)])
        if not isinstance(place.module, MixedOp | Follower):
            warn_of_names(place, ops[id(place.module)])
    for place in found:
        setattr(place.parent, place.key, ops[id(place.module)])
    rebound = Rebound(ops)
    for keeper in keepers:
        rebound.inside(vars(keeper))


def move_hooks(place: Place, op: nn.Module) -> None:
    """Let a choice have the hooks of the module that it replaces, so that they run with all candidates.

    A hook before the pass stays with the module, as it may compute its weight. A warning says so, unless it is one of
    ``torch.nn.utils``, or all candidates are slices of the module.

    Args:
        place: The place.
        op: What stands there from now on.

    Example:
        >>> net = nn.Sequential(nn.Tanh())
        >>> handle = net[0].register_forward_hook(lambda module, inputs, output: output + 1)
        >>> (place,) = places(net)
        >>> edge = MixedOp("edge", {"own": net[0], "skip": nn.Identity()})
        >>> move_hooks(place, edge)
        >>> len(edge._forward_hooks), len(net[0]._forward_hooks)
        (1, 0)
    """
    old, new = vars(place.module), vars(op)
    for name in MOVED:
        if old.get(name):  # the dicts themselves, which the handles of the hooks know
            old[name], new[name] = new[name], old[name]
    before = [hook for name in KEPT for hook in old.get(name, {}).values()]
    if (
        isinstance(op, MixedOp)
        and not isinstance(op, Elastic)
        and not all(type(hook).__module__.startswith("torch.nn.utils.") for hook in before)
    ):
        where = "goes with it" if op.original is None else f"stays with its candidate {op.original!r}"
        warnings.warn(
            f"{place.name!r} has a hook before its pass, and it {where}: register it after make_searchable, if it is"
            " for all candidates",
            stacklevel=4,
        )


def warn_of_names(place: Place, op: nn.Module) -> None:
    """Warn of attributes of a replaced module that a choice has, too, and with another meaning.

    Args:
        place: The place.
        op: What stands there from now on.

    Example:
        >>> net = nn.Sequential(nn.Tanh())
        >>> (place,) = places(net)
        >>> warn_of_names(place, MixedOp("edge", {"own": net[0], "skip": nn.Identity()}))
    """
    own = {name for name in (*vars(op), *dir(op)) if not name.startswith("_")} - {*dir(nn.Module()), "training"}
    for name in sorted(own):
        if hasattr(place.module, name):
            warnings.warn(
                f"{place.name!r} has an attribute {name!r}, and so has a choice: what reads it gets that of edge"
                f" {op.name!r} from now on",
                stacklevel=4,
            )


def check_place(place: Place, candidates: Mapping[str, nn.Module]) -> None:
    """Refuse a choice where the module around it does not call what stands there, or needs more of it than the call.

    Args:
        place: The place.
        candidates: The candidates by name.

    Raises:
        ValueError: The module around it reads a weight of what stands there, or has compiled it; or a candidate lacks
            an attribute that it reads.

    Example:
        >>> (place,) = places(nn.Sequential(nn.ReLU()))
        >>> check_place(place, {"skip": nn.Identity()})
    """
    name, parent, key, _ = place
    if key == "out_proj" and type(parent).forward is nn.MultiheadAttention.forward:
        raise ValueError(
            f"{name!r} cannot be a choice: nn.MultiheadAttention reads its weight and never calls it; make a choice of"
            " whole attentions, or let the rule return None for it"
        )
    if key == "self_attn" and isinstance(parent, nn.TransformerEncoderLayer):
        for candidate, module in candidates.items():
            needed = {"batch_first": "True or False", "in_proj_bias": "None"}
            missing = [f"{each!r}, {value}" for each, value in needed.items() if not hasattr(module, each)]
            if missing:
                raise ValueError(
                    f"candidate {candidate!r} of {name!r} lacks what nn.TransformerEncoderLayer reads in evaluation:"
                    f" give it the attribute {', and the attribute '.join(missing)}"
                )
    if key == "_orig_mod":
        raise ValueError(f"{name!r} is compiled and cannot be a choice: use torch.compile after make_searchable")
    if isinstance(parent, torch.jit.ScriptModule):
        raise ValueError(f"{name!r} lies in a module of TorchScript and cannot be a choice: use the module itself")
