"""The elastic sizes of linear layers whose weights are transposed, such as ``Conv1D`` of Hugging Face's GPT-2."""

from __future__ import annotations

from typing import Any

from advnas_lightning.space.elastic.axes import Axis
from advnas_lightning.space.elastic.narrowing import Change, first


class Nf(Axis):
    """``nf``, the number of output features.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> conv = nn.Module()
        >>> conv.weight, conv.bias = nn.Parameter(torch.zeros(4, 8)), nn.Parameter(torch.zeros(8))
        >>> {name: view(getattr(conv, name)).shape for name, view in Nf().change(conv, 2).views.items()}
        {'weight': torch.Size([4, 2]), 'bias': torch.Size([2])}
    """

    name = "nf"

    def change(self, module: Any, size: int) -> Change:
        """The first columns of the weight."""
        return Change({self.name: size}, {"weight": first(size, 1), "bias": first(size)})


class Nx(Axis):
    """``nx``, the number of input features.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> conv = nn.Module()
        >>> conv.weight = nn.Parameter(torch.zeros(4, 8))
        >>> Nx().change(conv, 2).views["weight"](conv.weight).shape
        torch.Size([2, 8])
    """

    name = "nx"
    reads, gives = True, False

    def change(self, module: Any, size: int) -> Change:
        """The first rows of the weight."""
        return Change({self.name: size}, {"weight": first(size)})
