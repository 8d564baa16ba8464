"""The elastic number of heads of PyTorch's attention, a size of its projections together."""

from __future__ import annotations

from typing import Any

from advnas_lightning.space.elastic.axes import Axis, InFeatures, pad
from advnas_lightning.space.elastic.narrow_attention import NarrowAttention
from advnas_lightning.space.elastic.narrowing import Change, first, first_of_each


class NumHeads(Axis):
    """``num_heads`` of a MultiheadAttention: its first heads, each as large as before.

    A mask that has one part for each head is read up to the first heads. Where the attention weights of each head are
    returned, Eq. (1) mixes them with zeros for the heads that a candidate does not have.

    Example:
        >>> from torch import nn
        >>> attention = nn.MultiheadAttention(8, 4)
        >>> change = NumHeads().change(attention, 1)
        >>> change.views["in_proj_weight"](attention.in_proj_weight).shape
        torch.Size([6, 8])
        >>> change.parts[attention.out_proj].attributes
        {'in_features': 2}
    """

    name = "num_heads"

    def change(self, module: Any, size: int) -> Change:
        """The features of the first heads in all projections."""
        width = size * module.head_dim
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        views = {
            **dict.fromkeys(("in_proj_weight", "in_proj_bias"), first_of_each(3, width)),
            **dict.fromkeys(names, first(width)),
            **dict.fromkeys(("bias_k", "bias_v"), first(width, 2)),
        }
        out = {module.out_proj: InFeatures().change(module.out_proj, width)}
        return Change({self.name: size}, views, parts=out, kind=NarrowAttention)

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """The output, which has the full width, and the weights of each head with zeros behind them."""
        values, weights = output
        is_for_each = weights is not None and weights.dim() > values.dim()
        return (values, pad(weights, -3, size)) if is_for_each else output
