"""The elastic sizes of convolutions: channels, groups of channels, and kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from advnas_lightning.space.elastic.axes import Axis
from advnas_lightning.space.elastic.narrowing import Change, View, first, first_of_each


class OutChannels(Axis):
    """``out_channels`` of a convolution without groups: the first filters.

    Example:
        >>> from torch import nn
        >>> conv = nn.Conv2d(3, 8, 1)
        >>> OutChannels().change(conv, 2).views["weight"](conv.weight).shape
        torch.Size([2, 3, 1, 1])
    """

    name = "out_channels"

    def of(self, module: Any) -> bool:
        """Whether the convolution has one group."""
        return bool(module.groups == 1)

    def dim(self, module: Any) -> int:
        """The dimension of the channels."""
        return -1 - len(module.kernel_size)


class InChannels(OutChannels):
    """``in_channels`` of a convolution without groups.

    Example:
        >>> from torch import nn
        >>> conv = nn.Conv2d(3, 8, 1)
        >>> InChannels().change(conv, 2).views["weight"](conv.weight).shape
        torch.Size([8, 2, 1, 1])
    """

    name = "in_channels"
    reads, gives = True, False

    def change(self, module: Any, size: int) -> Change:
        """The first inputs of all filters."""
        return Change({self.name: size}, {"weight": first(size, 1)})


class InHalves(InChannels):
    """Half of the ``in_channels`` of a convolution whose input is two halves, as of the skips of a U-Net.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> InHalves().change(nn.Conv1d(4, 8, 1), 1).views["weight"](torch.arange(4).view(1, 4, 1)).flatten()
        tensor([0, 2])
    """

    name = "in_halves"

    def of(self, module: Any) -> bool:
        """Whether the convolution has one group, and its input two halves."""
        return super().of(module) and bool(module.in_channels % 2 == 0)

    def full(self, module: Any) -> int:
        """The size of a half."""
        return int(module.in_channels) // 2

    def read(self, module: Any, size: int) -> int:
        """The size of the input, which is that of both halves."""
        return 2 * size

    def change(self, module: Any, size: int) -> Change:
        """The first inputs of each half of all filters."""
        return Change({"in_channels": 2 * size}, {"weight": first_of_each(2, size, 1)})


class GroupedChannels(OutChannels):
    """``out_channels`` of a convolution in groups, such as a depthwise one: the first groups, with their inputs.

    Example:
        >>> from torch import nn
        >>> GroupedChannels().change(nn.Conv2d(8, 8, 3, groups=8), 2).attributes
        {'out_channels': 2, 'in_channels': 2, 'groups': 2}
    """

    reads = True

    def of(self, module: Any) -> bool:
        """Whether the convolution has several groups."""
        return bool(module.groups > 1)

    def read(self, module: Any, size: int) -> int:
        """The number of input channels of these groups."""
        return int(size * module.in_channels // module.out_channels)

    def group(self, module: Any) -> int:
        """The output channels of a group."""
        return int(module.out_channels // module.groups)

    def change(self, module: Any, size: int) -> Change:
        """The convolution keeps its first groups."""
        groups = size * module.groups // module.out_channels
        attributes = {"out_channels": size, "in_channels": self.read(module, size), "groups": groups}
        return Change(attributes, super().change(module, size).views)


class TransposedOutChannels(OutChannels):
    """``out_channels`` of a transposed convolution without groups, whose weight has its inputs first.

    Example:
        >>> from torch import nn
        >>> conv = nn.ConvTranspose2d(3, 8, 2)
        >>> TransposedOutChannels().change(conv, 2).views["weight"](conv.weight).shape
        torch.Size([3, 2, 2, 2])
    """

    def change(self, module: Any, size: int) -> Change:
        """The first outputs of all inputs."""
        return Change({self.name: size}, {"weight": first(size, 1), "bias": first(size)})


class TransposedInChannels(InChannels):
    """``in_channels`` of a transposed convolution without groups.

    Example:
        >>> from torch import nn
        >>> conv = nn.ConvTranspose2d(3, 8, 2)
        >>> TransposedInChannels().change(conv, 2).views["weight"](conv.weight).shape
        torch.Size([2, 8, 2, 2])
    """

    def change(self, module: Any, size: int) -> Change:
        """The convolution keeps its first inputs."""
        return Change({self.name: size}, {"weight": first(size)})


class TransposedGroups(GroupedChannels):
    """``out_channels`` of a transposed convolution in groups: the first groups, with their inputs.

    Example:
        >>> from torch import nn
        >>> conv = nn.ConvTranspose2d(8, 16, 2, groups=4)
        >>> TransposedGroups().change(conv, 8).views["weight"](conv.weight).shape
        torch.Size([4, 4, 2, 2])
    """

    def change(self, module: Any, size: int) -> Change:
        """The convolution keeps its first groups."""
        views = {"weight": first(self.read(module, size)), "bias": first(size)}
        return replace(super().change(module, size), views=views)


class KernelSize(Axis):
    """``kernel_size`` of a convolution: the centre of the kernel, with less padding, so that the output's size stays.

    A whole number is the size in all dimensions.

    Example:
        >>> from torch import nn
        >>> KernelSize().change(nn.Conv2d(8, 8, 7, padding=3), (3, 3)).attributes["padding"]
        (1, 1)
    """

    name = "kernel_size"
    gives = False

    def change(self, module: Any, size: tuple[int, ...]) -> Change:
        """The centre of the kernel, and the padding that belongs to it."""
        lost = [full - own for full, own in zip(module.kernel_size, size, strict=True)]
        if module.padding == "same":
            padding: Any = "same"
            sides = [(n - 1) * dilation for n, dilation in zip(size, module.dilation, strict=True)]
            around = [side for total in reversed(sides) for side in (total // 2, total - total // 2)]
        else:
            padding = tuple(
                own - less * dilation // 2
                for own, less, dilation in zip(_padding(module), lost, module.dilation, strict=True)
            )
            around = [side for own in reversed(padding) for side in (own, own)]
        attributes = {self.name: size, "padding": padding, "_reversed_padding_repeated_twice": around}
        return Change(attributes, {"weight": _centre(size)})

    def checked(self, module: Any, size: Any) -> Any:
        """The size in each dimension, if the kernel has the same centre and the padding can make up for it.

        Raises:
            ValueError: The size is above the convolution's, differs from it by an odd number, or needs a padding below
                0.
        """
        count = len(module.kernel_size)
        sizes = size if isinstance(size, tuple) else (size,) * count
        limits = zip(sizes, module.kernel_size, strict=False)
        if len(sizes) != count or not all(type(own) is int and 1 <= own <= most for own, most in limits):
            raise ValueError(f"it is no size of {count} dimension(s) up to the convolution's {module.kernel_size}")
        lost = [full - own for full, own in zip(module.kernel_size, sizes, strict=True)]
        if any(less % 2 for less in lost):
            raise ValueError(f"it has no common centre with {module.kernel_size}: let both be odd, or both even")
        needed = [less * dilation // 2 for less, dilation in zip(lost, module.dilation, strict=True)]
        if module.padding != "same" and any(own < less for own, less in zip(_padding(module), needed, strict=True)):
            raise ValueError(
                f"the convolution has padding={module.padding!r}, and needs {max(needed)} for outputs of the same size"
            )
        return sizes


def _padding(module: Any) -> tuple[int, ...]:
    """A convolution's padding by dimension."""
    return (0,) * len(module.kernel_size) if module.padding == "valid" else module.padding


def _centre(size: tuple[int, ...]) -> View:
    """The function that returns the centre of a kernel, as a view."""

    def view(weight: Tensor) -> Tensor:
        for dim, own in enumerate(size, start=2):
            weight = weight.narrow(dim, (weight.shape[dim] - own) // 2, own)
        return weight

    return view
