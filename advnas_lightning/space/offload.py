"""Parameters of candidates that stay in host memory, and the work that DDP and GradScaler do not do for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from advnas_lightning.space.mixed_op import MixedOp, mixed_ops
from advnas_lightning.validate import check_bool


class DeviceCopies:
    """Copies of offloaded candidates' parameters on the device. While an architecture is bound, each is copied once.

    Args:
        ops: The offloaded MixedOps of a network.

    Example:
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> edge.offload()
        >>> [tuple(copied.shape) for copied in DeviceCopies([edge]).of(edge, 0).values()]
        [(8, 8), (8,)]
    """

    def __init__(self, ops: Sequence[MixedOp]) -> None:
        self._ops = ops
        self._copies: dict[tuple[int, int], dict[nn.Parameter, Tensor]] = {}

    def of(self, op: MixedOp, index: int) -> dict[nn.Parameter, Tensor]:
        """The copies of one candidate's parameters."""
        if not self._copies:
            # The first edge that runs starts the copies for all edges, so that they arrive before their use.
            self._copies = {
                (id(each), path): each.load(path)
                for each in self._ops
                if each.edge_state.plan is not None
                for path in each.edge_state.plan.paths
            }
        found = self._copies.get((id(op), index))
        return op.load(index) if found is None else found  # copies for a credit alone are not kept


class OffloadedWeights:
    """The parameters of all candidates of a network, in host memory, as is the weight optimizer's state of them.

    Args:
        model: The network whose MixedOps are offloaded.

    Raises:
        ValueError: A candidate shares a parameter with the network around it, which needs it on the device.

    Example:
        >>> net = nn.Sequential(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}))
        >>> OffloadedWeights(net).names(net)
        ['0.candidates.linear.weight', '0.candidates.linear.bias']
    """

    def __init__(self, model: nn.Module) -> None:
        # Each parameter is here once, in the same order on all ranks.
        self.parameters = dict.fromkeys(parameter for op in mixed_ops(model) for parameter in op.candidate_parameters())
        for name, parameter in _outside(model):
            if parameter in self.parameters:
                raise ValueError(
                    f"offload=true: {name} is also a candidate's parameter: let them share none, or leave offload out"
                )

    @classmethod
    def of(cls, model: nn.Module, offload: bool) -> OffloadedWeights | None:
        """Switch offloading on or off in a network, and return its offloaded parameters, or ``None`` if it is off."""
        check_bool("offload", offload)
        for op in mixed_ops(model):
            op.offload(offload)
        return cls(model) if offload else None

    def names(self, module: nn.Module) -> list[str]:
        """All the names that these parameters have in ``module``."""
        every = module.named_parameters(remove_duplicate=False)
        return [name for name, parameter in every if parameter in self.parameters]

    def share(self, device: torch.device) -> None:
        """Give all ranks the parameters of the first one, as DDP does with its own parameters.

        Args:
            device: The rank's own device, from which the process group can send.
        """
        for parameter in self.parameters:
            there = parameter.detach().to(device)
            torch.distributed.broadcast(there, 0)
            parameter.data.copy_(there)

    def average(self, mean_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Replace each gradient by the mean of all ranks' gradients, as DDP does for its own parameters."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.copy_(mean_over_ranks(parameter.grad))


class WaitingCopies(TorchFunctionMode):
    """A context in which every copy to host memory has arrived when the next line runs.

    PyTorch's GradScaler sends its scale to the host without waiting, and divides the gradients there by it.

    Example:
        >>> with WaitingCopies():
        ...     torch.ones(1).to(device=torch.device("cpu"), non_blocking=True)
        tensor([1.])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``; if it copies to the host, then without ``non_blocking``."""
        kwargs = kwargs or {}
        if func is Tensor.to and kwargs.get("device") == torch.device("cpu"):
            kwargs = {**kwargs, "non_blocking": False}
        return func(*args, **kwargs)


def _outside(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the names and parameters of the network around its MixedOps."""
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{prefix}{name}", parameter
    for name, child in module.named_children():
        if not isinstance(child, MixedOp):
            yield from _outside(child, f"{prefix}{name}.")
