"""The candidate operations of NAS-Bench-201 (Dong & Yang, ICLR 2020, Section 2.1; the paper's Appendix D)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["OPERATIONS", "AvgPool", "ReLUConvBN", "Zero"]


class ReLUConvBN(nn.Sequential):
    """A ReLU, a convolution without bias and a BatchNorm.

    Args:
        inputs: The number of channels before.
        outputs: The number of channels after.
        kernel: The width of the kernel. The padding keeps the image's size.
        stride: The stride of the convolution.
        affine: Whether the BatchNorm has a learnt scale and shift.
        running_statistics: Whether the BatchNorm keeps running statistics for evaluation. Without them every batch is
            normalised by its own statistics.

    Example:
        >>> block = ReLUConvBN(3, 8, 3, stride=2, affine=True, running_statistics=True)
        >>> block(torch.zeros(2, 3, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, affine: bool, running_statistics: bool
    ) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, affine=affine, track_running_stats=running_statistics),
        )


class AvgPool(nn.AvgPool2d):
    """3×3 average pooling that keeps the image's size and does not count the padding.

    PyTorch's CUDA kernel silently gives wrong gradients where a padded image is channels-last
    (https://github.com/pytorch/pytorch/issues/188344), and its MPS kernel does so for any such image. So on all devices
    but a CPU, images are laid out channel by channel for it. Without that, searches on a GPU find cells of poolings.

    Example:
        >>> AvgPool()(torch.ones(1, 1, 2, 2)).flatten()
        tensor([1., 1., 1., 1.])
    """

    def __init__(self) -> None:
        super().__init__(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the same shape in the same memory format."""
        if x.device.type == "cpu" or x.is_contiguous():
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class Zero(nn.Module):
    """The zero operation: it cuts the edge, since it returns zeros for every input.

    Example:
        >>> Zero()(torch.ones(2)), Zero.is_zero_op
        (tensor([0., 0.]), True)
    """

    is_zero_op = True

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the shape of ``x``."""
        return torch.zeros_like(x)


def _conv(kernel: int, channels: int, *, affine: bool, running_statistics: bool) -> nn.Module:
    return ReLUConvBN(channels, channels, kernel, affine=affine, running_statistics=running_statistics)


def _without_parameters(make: Callable[[], nn.Module], channels: int, **_: bool) -> nn.Module:
    return make()


#: The candidates by their names, as functions ``(channels, *, affine, running_statistics) -> module``.
OPERATIONS: dict[str, Callable[..., nn.Module]] = {
    "none": partial(_without_parameters, Zero),
    "skip_connect": partial(_without_parameters, nn.Identity),
    "nor_conv_1x1": partial(_conv, 1),
    "nor_conv_3x3": partial(_conv, 3),
    "avg_pool_3x3": partial(_without_parameters, AvgPool),
}
