"""Blocks of torchvision whose sizes are known, and the same blocks as they are built with the small size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import FusedMBConv, FusedMBConvConfig, MBConv, MBConvConfig
from torchvision.models.mobilenetv2 import InvertedResidual as InvertedResidualV2
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vision_transformer import MLPBlock

IMAGES, TOKENS = (3, 8, 6, 6), (3, 5, 8)


@dataclass(frozen=True)
class Case:
    """A kind of block.

    Attributes:
        kind: The size that is elastic.
        full: The size that it has.
        small: Makes the block with half of that size, and ``small(full)`` the block itself.
        shape: The shape of an input.
        removed: The number of parameters that half of the size removes, counted by hand.
    """

    kind: str
    full: int
    small: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    removed: int

    def widest(self) -> nn.Module:
        return filled(self.small(self.full))


def filled(block: nn.Module) -> nn.Module:
    """A block in double precision whose weights and statistics are all different."""
    for name, value in block.double().state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) / 2)
    return block


def sliced(block: nn.Module, small: nn.Module) -> nn.Module:
    """The small block with the first entries of the parameters and buffers of the large one."""
    state = block.state_dict()
    own = {name: state[name][tuple(slice(side) for side in value.shape)] for name, value in small.state_dict().items()}
    small.double().load_state_dict(own, strict=True)
    return small


def basic(width: int) -> nn.Module:
    block = BasicBlock(8, 8)
    block.conv1, block.bn1 = nn.Conv2d(8, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
    block.conv2 = nn.Conv2d(width, 8, 3, padding=1, bias=False)
    return block


def bottleneck(width: int) -> nn.Module:
    return Bottleneck(8, 2, base_width=32 * width)


def resnext(width: int) -> nn.Module:
    return Bottleneck(8, 2, groups=width // 2, base_width=64)


def squeezed(block: Any, width: int) -> nn.Module:
    """With the squeezed channels of the large one, which are not elastic."""
    block.fc1, block.fc2 = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
    return block


def mobile_v3(width: int, *, squeeze: bool) -> nn.Module:
    config = InvertedResidualConfig(8, 3, width, 8, squeeze, "HS", 1, 1, 1.0)
    block: Any = InvertedResidual(config, nn.BatchNorm2d)
    if squeeze:
        squeezed(block.block[2], width)
    return block


def mbconv(width: int) -> nn.Module:
    block: Any = MBConv(MBConvConfig(width / 8, 3, 1, 8, 8, 1), 0.0, nn.BatchNorm2d)
    squeezed(block.block[2], width)
    return block


def fused(width: int) -> nn.Module:
    return FusedMBConv(FusedMBConvConfig(width / 8, 3, 1, 8, 8, 1), 0.0, nn.BatchNorm2d)


def convnext(width: int) -> nn.Module:
    block: Any = CNBlock(8, 0.5, 0.0)
    block.block[3], block.block[5] = nn.Linear(8, width), nn.Linear(width, 8)
    return block


CASES = {
    # the columns of conv1 and conv2, and weight and bias of the norm
    "resnet": Case("channels", 8, basic, IMAGES, 4 * (8 * 9 + 2 + 8 * 9)),
    # 1x1 from and to 8 channels, two norms, and 3x3 in the middle
    "bottleneck": Case("channels", 4, bottleneck, IMAGES, 2 * (8 + 8 + 4) + (16 - 4) * 9),
    "resnext": Case("channels", 8, resnext, IMAGES, 4 * (8 + 8 + 4 + 2 * 9)),
    "mobilenet_v2": Case("channels", 48, lambda n: InvertedResidualV2(8, 8, 1, n // 8), IMAGES, 24 * (8 + 9 + 4 + 8)),
    "mobilenet_v3": Case("channels", 32, partial(mobile_v3, squeeze=False), IMAGES, 16 * (8 + 9 + 4 + 8)),
    # also 4 weights to the squeezed channels, 4 from them, and a bias
    "squeezed": Case("channels", 32, partial(mobile_v3, squeeze=True), IMAGES, 16 * (8 + 9 + 4 + 8 + 9)),
    "efficientnet": Case("channels", 48, mbconv, IMAGES, 24 * (8 + 9 + 4 + 8 + 9)),
    "fused": Case("channels", 32, fused, IMAGES, 16 * (72 + 2 + 8)),
    "convnext": Case("ffn", 32, convnext, IMAGES, 16 * (8 + 1 + 8)),
    "vit": Case("ffn", 16, lambda n: MLPBlock(8, n, 0.0), TOKENS, 8 * (8 + 1 + 8)),
    "encoder": Case(
        "ffn", 16, lambda n: nn.TransformerEncoderLayer(8, 2, n, 0.0, batch_first=True), TOKENS, 8 * (8 + 1 + 8)
    ),
}


def inputs(case: Case) -> Tensor:
    return torch.randn(case.shape, dtype=torch.double)
