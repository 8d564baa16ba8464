"""What is done by hand with parameters that stay in host memory, where they are no one else's concern."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from advnas_lightning.space import MixedOp

if TYPE_CHECKING:
    from advnas_lightning.strategies.base import SearchStrategy


class OffloadedWeights:
    """The parameters of all candidates of a network, in host memory; and so is what the weight optimizer knows of them.

    Args:
        model: the network, whose MixedOps are offloaded.

    Raises:
        ValueError: a candidate shares a parameter with the network around it, which needs it on the device.
    """

    def __init__(self, model: nn.Module) -> None:
        ops = [module for module in model.modules() if isinstance(module, MixedOp)]
        # Each once, and in the same order on all ranks
        self.parameters = dict.fromkeys(parameter for op in ops for parameter in op.candidates.parameters())
        for name, parameter in _outside(model):
            if parameter in self.parameters:
                raise ValueError(
                    f"offload=true: {name} is also a candidate's parameter: let them share none, or leave offload out"
                )

    def names(self, search: SearchStrategy) -> list[str]:
        """The parameters' names, all of them."""
        every = search.named_parameters(remove_duplicate=False)
        return [name for name, parameter in every if parameter in self.parameters]

    def share(self, search: SearchStrategy) -> None:
        """Give all ranks the parameters of the first, as DDP does with its own."""
        for parameter in self.parameters:
            there = parameter.detach().to(search.device)
            torch.distributed.broadcast(there, 0)
            parameter.data.copy_(there)

    def average(self, search: SearchStrategy) -> None:
        """Take the mean of all ranks' gradients, as DDP does with those of its own parameters."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(search._mean_over_ranks(parameter.grad))


class WaitingCopies(TorchFunctionMode):
    """Waits for what is copied to host memory.

    PyTorch's GradScaler sends its scale there and, before that has arrived, divides the gradients there by it.

    Example:
        >>> with WaitingCopies():
        ...     torch.ones(1).to(device=torch.device("cpu"), non_blocking=True)
        tensor([1.])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``."""
        kwargs = kwargs or {}
        if func is Tensor.to and kwargs.get("device") == torch.device("cpu"):
            kwargs = {**kwargs, "non_blocking": False}
        return func(*args, **kwargs)


def _outside(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of the network around its MixedOps, by name."""
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{prefix}{name}", parameter
    for name, child in module.named_children():
        if not isinstance(child, MixedOp):
            yield from _outside(child, f"{prefix}{name}.")
