"""The elastic sizes of normalization layers. Their inputs and outputs have the same size."""

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
