"""The searchable network of the cifar10 task: NAS-Bench-201's skeleton and cell (§5.2, Appendix D)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from advnas_lightning.space.mixed_op import MixedOp
from advnas_lightning.tasks.cifar10.operations import OPERATIONS, ReLUConvBN
from advnas_lightning.validate import check_bool, check_int

__all__ = ["EDGES", "NODES", "NASBench201"]

NODES = 4
EDGES = tuple(f"{i}->{j}" for j in range(1, NODES) for i in range(j))  # in NAS-Bench-201's order


class Cell(nn.Module):
    """A cell of four nodes. Node j is the sum over i < j of the outputs of edge ``i->j`` for node i.

    Args:
        candidates: A function that makes the candidate operations of one edge.

    Example:
        >>> list(Cell(lambda: {"skip_connect": nn.Identity()}).edges)
        ['0->1', '0->2', '1->2', '0->3', '1->3', '2->3']
    """

    def __init__(self, candidates: Callable[[], Mapping[str, nn.Module]]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({name: MixedOp(name, candidates()) for name in EDGES})

    def forward(self, x: Tensor) -> Tensor:
        """Compute node 3 from node 0, which has the same shape."""
        nodes = [x]
        for j in range(1, NODES):
            node = self.edges[f"0->{j}"](nodes[0])
            for i in range(1, j):
                node = node + self.edges[f"{i}->{j}"](nodes[i])
            nodes.append(node)
        return nodes[-1]


class Reduction(nn.Module):
    """The residual block between two stages, which halves the size of the images.

    Args:
        inputs: The number of channels before the block.
        outputs: The number of channels after the block.
        running_statistics: Whether its BatchNorms keep running statistics for evaluation.

    Example:
        >>> Reduction(4, 8, running_statistics=False)(torch.zeros(2, 4, 6, 6)).shape
        torch.Size([2, 8, 3, 3])
    """

    def __init__(self, inputs: int, outputs: int, *, running_statistics: bool) -> None:
        super().__init__()
        norm = {"affine": True, "running_statistics": running_statistics}
        self.main = nn.Sequential(
            ReLUConvBN(inputs, outputs, 3, stride=2, **norm), ReLUConvBN(outputs, outputs, 3, **norm)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, ⌈H / 2⌉, ⌈W / 2⌉]``."""
        output: Tensor = self.shortcut(x) + self.main(x)
        return output


class NASBench201(nn.Module):
    """NAS-Bench-201's network, with a choice of operation on each of the cell's six edges.

    The network has a 3×3 stem, stages of equal cells with a residual block between two stages, and then BatchNorm,
    ReLU, global average pooling and a linear classifier. All cells share one architecture. The edges are named and
    ordered ``0->1, 0->2, 1->2, 0->3, 1->3, 2->3``.

    The defaults are those of a search: BatchNorm normalises by the batch's own statistics, and has no scale and shift
    in the candidates. Training one cell as the benchmark did needs ``affine=True, running_statistics=True``.

    Args:
        classes: The number of classes.
        channels: The number of channels of the first stage. Every further stage has twice as many.
        cells: The number of cells of each stage.
        stages: The number of stages.
        zero_op: Whether to add the operation ``none``, which cuts an edge (Appendix F).
        affine: Whether BatchNorm in the candidates has a learnt scale and shift.
        running_statistics: Whether all BatchNorms keep running statistics for evaluation.
        operations: The candidates by name, each as a function that makes it from the number of channels. By default
            they are those of the benchmark (:data:`~advnas_lightning.tasks.cifar10.operations.OPERATIONS`).

    Raises:
        ValueError: A size is below 1, or a switch is no bool.

    Example:
        >>> from advnas_lightning import Genotype
        >>> supernet = NASBench201(cells=1)
        >>> genotype = Genotype.from_nasbench201(
        ...     "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_1x1~2|"
        ... )
        >>> genotype.apply(supernet)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        classes: int = 10,
        channels: int = 16,
        cells: int = 5,
        stages: int = 3,
        zero_op: bool = False,
        affine: bool = False,
        running_statistics: bool = False,
        operations: Mapping[str, Callable[[int], nn.Module]] | None = None,
    ) -> None:
        sizes = {"classes": classes, "channels": channels, "cells": cells, "stages": stages}
        for name, size in sizes.items():
            check_int(name, size, least=1)
        switches = {"zero_op": zero_op, "affine": affine, "running_statistics": running_statistics}
        for name, switch in switches.items():
            check_bool(name, switch)
        super().__init__()

        def candidates(width: int) -> dict[str, nn.Module]:
            if operations is not None:
                return {name: make(width) for name, make in operations.items()}
            return {
                name: make(width, affine=affine, running_statistics=running_statistics)
                for name, make in OPERATIONS.items()
                if zero_op or name != "none"
            }

        widths = [channels * 2**stage for stage in range(stages)]
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, track_running_stats=running_statistics),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Cell(partial(candidates, width)) for _ in range(cells))) for width in widths
        )
        self.reductions = nn.ModuleList(
            Reduction(width, wider, running_statistics=running_statistics) for width, wider in pairwise(widths)
        )
        self.head = nn.Sequential(
            nn.BatchNorm2d(widths[-1], track_running_stats=running_statistics),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], classes),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[B, 3, H, W]`` to logits ``[B, classes]``."""
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        for index, stage in enumerate(self.stages):
            if index > 0:
                x = self.reductions[index - 1](x)
            x = stage(x)
        logits: Tensor = self.head(x)
        return logits

    def count_parameters(self) -> int:
        """The number of parameters as the benchmark counts them, with a scale and a shift in every BatchNorm."""
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d) and not module.affine]
        return sum(weight.numel() for weight in self.parameters()) + sum(2 * norm.num_features for norm in norms)
