"""Shows a network as it was before its modules became elastic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from advnas_lightning.space.elastic.edge import Elastic, Follower, innermost


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """A context in which a network has its own modules in the places of the elastic ones that were made of them.

    All modules and parameters then have the names and classes that they had before. So code that groups parameters by
    them, such as one rate for each layer, makes the same groups. If the network runs meanwhile, it is the widest one.

    Args:
        model: The network. An elastic module stays if it is the network itself.

    Example:
        >>> from advnas_lightning import Depth
        >>> net = nn.Sequential(Depth([nn.Linear(4, 4) for _ in range(2)], [1, 2], name="depth"))
        >>> with as_before(net):
        ...     before = [name for name, _ in net.named_parameters()]
        >>> before[0], next(net.named_parameters())[0]
        ('0.0.weight', '0.widest.0.weight')
    """
    places = [
        (modules, name, module)
        for modules in (vars(each)["_modules"] for each in model.modules() if not isinstance(each, Elastic | Follower))
        for name, module in modules.items()
        if isinstance(module, Elastic | Follower)
    ]
    for modules, name, module in places:
        modules[name] = innermost(module)
    try:
        yield
    finally:
        for modules, name, module in places:
            if modules.get(name) is innermost(module):
                modules[name] = module
