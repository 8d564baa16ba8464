"""Tensors that others have made: whether they change, and whether their class is an ordinary one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def counted(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those of some tensors whose changes are counted: not those of inference mode, and none while it is compiled.

    Args:
        tensors: The tensors.

    Example:
        >>> counted([torch.ones(1)])
        [tensor([1.])]
    """
    return [] if torch.compiler.is_compiling() else [tensor for tensor in tensors if not tensor.is_inference()]


def change_counter(tensor: Tensor) -> Tensor:
    """A tensor whose ``_version`` goes on with that of another one, and that keeps none of its memory.

    A tensor of a class or a layout that allows no such thing is returned itself.

    Args:
        tensor: The tensor.

    Example:
        >>> counter = change_counter(x := torch.ones(2))
        >>> counter.shape, counter._version
        (torch.Size([0]), 0)
        >>> _ = x.add_(1)
        >>> counter._version
        1
    """
    try:
        counter = tensor.detach()  # counts with the tensor
        counter.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)  # and counts on with other memory
    except Exception:  # of any kind, from a class of its own
        return tensor
    return counter


def is_ordinary(tensor: Tensor) -> bool:
    """Whether PyTorch's own operations run on a tensor, also if it is of a class of its own.

    The attributes of other tensors hold their contents.

    Args:
        tensor: The tensor.

    Example:
        >>> is_ordinary(torch.ones(1))
        True
    """
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
