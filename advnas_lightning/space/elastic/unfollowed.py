"""Names the plain module that could not take a narrower input, where PyTorch's error names none."""

from __future__ import annotations

from traceback import walk_tb

from torch import Tensor, nn

from advnas_lightning.space.elastic.edge import Elastic, Follower, innermost
from advnas_lightning.space.elastic.kinds import axes_of


def unfollowed(error: BaseException) -> str | None:
    """What to do about a module that has raised an error since its input is narrower than it is.

    Args:
        error: The error, after it was raised.

    Returns:
        A sentence, or ``None`` where there are no elastic sizes or the error has another reason.

    Example:
        >>> import torch
        >>> from advnas_lightning import SearchSpace, elastic
        >>> net = nn.Sequential(elastic(nn.Linear(4, 8), out_features=[2, 8], name="ffn"), nn.Linear(8, 3))
        >>> space = SearchSpace(net)
        >>> try:
        ...     with space.bind(space.one_hot([0])):
        ...         net(torch.ones(4))
        ... except RuntimeError as error:
        ...     print(unfollowed(error))
        '1' of Sequential, a Linear, has in_features=8 and was given 2: if what comes before it is elastic, let it \
follow, as in elastic(module, in_features=…, name=…).
    """
    frames = [frame.f_locals for frame, _ in walk_tb(error.__traceback__)]
    frames = [names for names in frames if isinstance(names.get("self"), nn.Module)]
    if not frames:
        return None
    network, module, value = frames[0]["self"], frames[-1]["self"], frames[-1].get("input")
    around = [each for each in network.modules() if isinstance(each, Elastic | Follower)]
    place = next((name for name, each in network.named_modules() if each is module), None)
    follows = any(each.axis.reads for each in around if innermost(each) is module)
    if not around or not place or follows or not isinstance(value, Tensor):
        return None
    try:
        axis = next(axis for axis in axes_of(module).values() if axis.reads)
        full, size = axis.full(module), axis.given(module, value)
    except (ValueError, StopIteration, IndexError):  # of no known kind, or an input without this dimension
        return None
    if size >= axis.read(module, full):
        return None
    return (
        f"{place!r} of {type(network).__name__}, a {type(module).__name__}, has {axis.name}={full} and was given"
        f" {size}: if what comes before it is elastic, let it follow, as in elastic(module, {axis.name}=…, name=…)."
    )
