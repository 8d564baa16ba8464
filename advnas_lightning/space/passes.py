"""What an edge has to know of the pass that it runs in: who shares its memory, and whether its gate can be seen."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils._pytree import tree_leaves  # torch has no public name for it

from advnas_lightning.space.gates import floating_tensors


def shares_memory(output: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a floating-point tensor of an output lies in the memory of an input, or of another one of the output.

    Args:
        output: What a candidate returned.
        inputs: What it was given.
        kwargs: What it was given by name.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> shares_memory(x.view(6), (x,), {}), shares_memory(x + 1, (x,), {})
        (True, False)
    """
    if torch.compiler.is_compiling():  # a compiler cannot tell, and leaves out what is copied in vain
        return True
    simple = not kwargs and all(isinstance(given, Tensor) for given in inputs)
    taken = {_memory(given) for given in (inputs if simple else tree_leaves((inputs, kwargs)))}
    for tensor in floating_tensors(output):
        place = _memory(tensor)
        if place is None or place in taken:
            return True
        taken.add(place)
    return False


def _memory(value: Any) -> int | None:
    """Where a tensor's memory begins; ``None`` where that is not known, as of sparse tensors and in ``vmap``."""
    try:
        return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None
    except RuntimeError:
        return None


def refuse_hidden_gate(edge: str) -> None:
    """Refuse an edge whose gate is to be differentiated, and which runs inside a function with a gradient of its own.

    Reentrant checkpointing is such a function: it runs the network without a graph, and once more in the backward pass,
    where it gives gradients to its inputs and adds them to those of parameters. A gate is neither. Without a graph for
    another reason, such as ``torch.no_grad`` around a teacher, an edge runs as all does there.

    Args:
        edge: The edge's name.

    Raises:
        ValueError: There is such a function.

    Example:
        >>> refuse_hidden_gate("edge")  # there is none
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "forward":
            for value in frame.f_locals.values():
                if isinstance(value, FunctionCtx):
                    raise ValueError(
                        f"edge {edge!r} runs inside {type(value).__name__.removesuffix('Backward')}, where its gate"
                        " gets no gradient: checkpoint it with use_reentrant=False"
                    )
        frame = frame.f_back
