"""The settings of a search that decide its result, as plain values, so that a resumed search can be compared."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from advnas_lightning.cost.budget import ArchitectureCost
from advnas_lightning.engine.distillation import Distillation
from advnas_lightning.engine.optimization import Optimization

PACKAGE = __name__.partition(".")[0]
PLAIN = (bool, int, float, str, type(None))
# They decide where a search runs, when it gives up, and which of its results is reported.
INCIDENTAL = ("max_bad_steps", "offload", "select")


def plain_arguments(part: object) -> dict[str, Any]:
    """The arguments of a part's constructor that are plain values and that the part keeps under their names.

    Those of a user's own subclass are left out, because they may be paths or anything else.

    Args:
        part: An object of a class of this package, or of a subclass of one.

    Example:
        >>> from advnas_lightning import ArchitectureCost
        >>> plain_arguments(ArchitectureCost("params", budget=40))
        {'kind': 'params', 'budget': 40.0, 'rate': 0.003, 'damping': 10.0}
    """
    names: dict[str, None] = {}
    for kind in type(part).__mro__:
        if "__init__" in vars(kind) and kind.__module__.partition(".")[0] == PACKAGE:
            names |= dict.fromkeys(inspect.signature(kind.__init__).parameters)  # type: ignore[misc]
    kept = {name: getattr(part, name) for name in names if name not in INCIDENTAL and hasattr(part, name)}
    return {name: value for name, value in kept.items() if isinstance(value, PLAIN)}


def describe(factory: Any) -> str | None:
    """What a factory makes and with which plain arguments, in words; ``None`` where there is no factory.

    Example:
        >>> from torch.optim import SGD
        >>> describe(partial(SGD, lr=0.1, foreach=None)), describe(partial(map, SGD))
        ('SGD(lr=0.1, foreach=None)', 'map(0=SGD)')
    """
    if factory is None:
        return None
    if isinstance(factory, partial):
        given = {str(place): value for place, value in enumerate(factory.args)} | factory.keywords
        words = ", ".join(
            f"{name}={describe(value) if callable(value) else repr(value)}"
            for name, value in given.items()
            if callable(value) or _is_plain(value)
        )
        return f"{describe(factory.func)}({words})"
    return str(getattr(factory, "__qualname__", type(factory).__qualname__))


def deciding_settings(
    search: object, cost: ArchitectureCost | None, optimizations: Mapping[str, Optimization]
) -> dict[str, Any]:
    """What decides the result of a search, by name, in plain values: the arguments that its parts were made with.

    Args:
        search: The strategy.
        cost: What architectures cost.
        optimizations: How the weights and the architecture move, by role.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from advnas_lightning import DARTS, MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = DARTS(edge, architecture_optimizer=partial(torch.optim.Adam, lr=0.1), seed=3)
        >>> found = deciding_settings(search, search.cost, search.optimizations)
        >>> [found[name] for name in ("seed", "second_order", "architecture_optimizer")]
        [3, False, 'Adam(lr=0.1)']
    """
    settings = plain_arguments(search)
    for role, each in optimizations.items():
        name = role.removesuffix("s")
        settings[f"{name}_optimizer"] = describe(each.factory)
        settings[f"{name}_scheduler"] = describe(each.schedule)
        settings[f"{name}_clip"] = each.clip
        settings[f"{name}_clip_algorithm"] = each.clip_algorithm
    teacher = getattr(search, "teacher", None)
    if isinstance(teacher, Distillation):
        settings["teacher"] = teacher.describe()
    if cost is not None:
        settings |= {f"cost_{name}": value for name, value in plain_arguments(cost).items()}
        settings["cost_kind"] = cost.name  # a file of costs may have moved, and its content is in the checkpoint
        if cost.budget is None:
            settings["cost_penalty"] = float(f"{float(cost.penalty):.6g}")  # as it was given, before single precision
    return settings


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, list | tuple) and all(map(_is_plain, value)))
