"""Small tensors on their way from host memory to a device."""

from __future__ import annotations

import torch
from torch import Tensor

# The types of devices whose copies have taken the values when they return, also if they do not wait for the device.
# CUDA's do so for memory that is not pinned. MPS reads them later, when they may be gone (PyTorch's issue 189690).
AT_ONCE = {"cuda"}


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device, where this is possible without waiting for what the device does.

    Args:
        values: A tensor in host memory that is not pinned, or on the device already.
        device: The device.

    Example:
        >>> sent(torch.ones(2), torch.device("cpu"))
        tensor([1., 1.])
    """
    return values.to(device, non_blocking=device.type in AT_ONCE)
