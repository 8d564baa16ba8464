"""The network of the toy task, for the teacher and the student (§5.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advnas_lightning.space.mixed_op import MixedOp
from advnas_lightning.validate import check_int, check_seed

SIZE, KERNEL, STRIDE = 13, 7, 2
PLACES = ((SIZE - KERNEL) // STRIDE + 1) ** 2  # the number of places at which a filter is applied: 16


class Filter(nn.Module):
    """A fixed 7×7 convolution with stride 2 of 13×13 images, computed as one matrix product.

    The filter never changes, and so small a convolution would be slow on a CPU.

    Args:
        kernel: The filter, ``[7, 7]``.

    Example:
        >>> Filter(torch.ones(7, 7))(torch.ones(2, 169))[0, 0]
        tensor(49.)
    """

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        pixels = torch.eye(SIZE**2).view(-1, 1, SIZE, SIZE)
        matrix = nn.functional.conv2d(pixels, kernel[None, None], stride=STRIDE).flatten(1).T  # [places, pixels]
        self.matrix = nn.Parameter(matrix.contiguous(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[B, 169]`` to ``[B, 16]``."""
        return nn.functional.linear(images, self.matrix)


class ToyNetwork(nn.Module):
    """A network whose nodes each see the input through one of several fixed filters; the output is their mean (§5.1).

    Edge i leads from the input to node i. Its candidates are 7×7 filters with stride 2 and one output channel on a
    13×13 image. The mixing of Eq. (1) is followed by tanh and by a fixed 4×4 convolution to one number. All weights are
    normal with deviation 1/√fan_in. There are no biases, since the paper's are zero. Nothing is trained but θ.

    Args:
        nodes: The number of nodes, and of edges.
        candidates: The number of filters per edge.
        seed: The seed of the weights. Two networks with the same seed are equal.

    Raises:
        ValueError: A number is not a whole number of at least 1, or the seed is no whole number.

    Example:
        >>> from advnas_lightning import SearchSpace
        >>> net = ToyNetwork(seed=0)
        >>> space = SearchSpace(net)
        >>> with space.bind(space.one_hot([0] * 10)):
        ...     net(torch.zeros(5, 1, 13, 13)).shape
        torch.Size([5])
    """

    def __init__(self, *, nodes: int = 10, candidates: int = 10, seed: int = 0) -> None:
        super().__init__()
        check_int("nodes", nodes, least=1)
        check_int("candidates", candidates, least=1)
        generator = torch.Generator().manual_seed(check_seed("seed", seed))
        kernels = torch.empty(nodes, candidates, KERNEL, KERNEL).normal_(std=1 / KERNEL, generator=generator)
        heads = torch.empty(nodes, PLACES).normal_(std=PLACES**-0.5, generator=generator)
        self.edges = nn.ModuleList(
            MixedOp(f"input->{node}", {f"filter{j}": Filter(kernel) for j, kernel in enumerate(row)})
            for node, row in enumerate(kernels, start=1)
        )
        self.heads = nn.Parameter(heads.flatten() / nodes, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[B, 1, 13, 13]`` to outputs ``[B]``."""
        images = images.flatten(1)
        nodes = torch.cat([edge(images) for edge in self.edges], -1).tanh()  # [B, nodes * places]
        return nodes @ self.heads
