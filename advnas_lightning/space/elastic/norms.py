"""The elastic sizes of normalization layers and of PReLU. Their inputs and outputs have the same size."""

from __future__ import annotations

from typing import Any

from advnas_lightning.space.elastic.axes import Axis
from advnas_lightning.space.elastic.narrowing import Change, first


class NumFeatures(Axis):
    """``num_features`` of a BatchNorm: its first channels, with their running statistics.

    Example:
        >>> from torch import nn
        >>> sorted(NumFeatures().change(nn.BatchNorm1d(8), 2).views)
        ['bias', 'running_mean', 'running_var', 'weight']
    """

    name = "num_features"
    reads = True

    def dim(self, module: Any) -> int:
        """The dimension of the channels."""
        return 1

    def change(self, module: Any, size: int) -> Change:
        """The layer keeps its first channels."""
        tensors = ("weight", "bias", "running_mean", "running_var")
        return Change({self.name: size}, dict.fromkeys(tensors, first(size)))


class InstanceFeatures(NumFeatures):
    """``num_features`` of an InstanceNorm, whose input may be one image without a batch.

    Args:
        dims: The number of dimensions behind the channels.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> InstanceFeatures(2).given(nn.InstanceNorm2d(8), torch.zeros(8, 5, 4))
        8
    """

    def __init__(self, dims: int) -> None:
        self.dims = dims

    def dim(self, module: Any) -> int:
        """The dimension of the channels."""
        return -1 - self.dims


class NumParameters(NumFeatures):
    """``num_parameters`` of a PReLU that has one for each channel.

    Example:
        >>> from torch import nn
        >>> NumParameters().change(nn.PReLU(8), 2).attributes
        {'num_parameters': 2}
    """

    name = "num_parameters"

    def change(self, module: Any, size: int) -> Change:
        """Those of the first channels."""
        return Change({self.name: size}, {"weight": first(size)})


class NormalizedShape(Axis):
    """``normalized_shape`` of a LayerNorm or RMSNorm of the last dimension: its first entries.

    Example:
        >>> from torch import nn
        >>> NormalizedShape().change(nn.LayerNorm(8), 2).attributes
        {'normalized_shape': (2,)}
    """

    name = "normalized_shape"
    reads = True

    def of(self, module: Any) -> bool:
        """Whether the last dimension alone is normalized."""
        return len(module.normalized_shape) == 1

    def full(self, module: Any) -> int:
        """The size of the last dimension."""
        return int(module.normalized_shape[0])

    def change(self, module: Any, size: int) -> Change:
        """The first entries; a RMSNorm has no bias."""
        tensors = [name for name in ("weight", "bias") if hasattr(module, name)]
        return Change({self.name: (size,)}, dict.fromkeys(tensors, first(size)))


class NumChannels(NumFeatures):
    """``num_channels`` of a GroupNorm: its first groups, or with one group alone the first channels of it.

    Example:
        >>> from torch import nn
        >>> NumChannels().change(nn.GroupNorm(4, 8), 6).attributes
        {'num_channels': 6, 'num_groups': 3}
    """

    name = "num_channels"

    def group(self, module: Any) -> int:
        """The channels of a group; with one group alone any number of channels can be."""
        return 1 if module.num_groups == 1 else int(module.num_channels // module.num_groups)

    def change(self, module: Any, size: int) -> Change:
        """The layer keeps its first groups, or of one group alone the first channels."""
        groups = 1 if module.num_groups == 1 else size * module.num_groups // module.num_channels
        return Change({self.name: size, "num_groups": groups}, dict.fromkeys(("weight", "bias"), first(size)))


class ResponseNorm(Axis):
    """The channels of timm's GlobalResponseNorm, which divides each by the mean over all of them, as in ConvNeXt V2.

    Example:
        >>> from torch import nn
        >>> norm = nn.LayerNorm(8)
        >>> ResponseNorm().full(norm)
        8
    """

    name = "channels"
    reads, gives = True, True

    def full(self, module: Any) -> int:
        """The number of channels."""
        return len(module.weight)

    def dim(self, module: Any) -> int:
        """The dimension of the channels."""
        return int(module.channel_dim)

    def change(self, module: Any, size: int) -> Change:
        """What keeps the first channels."""
        return Change(views={"weight": first(size), "bias": first(size)})
