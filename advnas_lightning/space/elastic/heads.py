"""The elastic number of heads of the attentions of timm and Hugging Face, a size of their projections together."""

from __future__ import annotations

from typing import Any

from advnas_lightning.space.elastic.axes import Axis, InFeatures, pad
from advnas_lightning.space.elastic.narrowing import Change, first_of_each
from advnas_lightning.space.elastic.norms import NormalizedShape
from advnas_lightning.space.elastic.transposed import Nx

GIVES, READS = Axis(), InFeatures()


class Heads(Axis):
    """``num_heads`` of an attention: its first heads, each as large as before. The methods are those of timm's.

    Example:
        >>> from types import SimpleNamespace
        >>> Heads().full(SimpleNamespace(num_heads=4))
        4
    """

    name = "num_heads"

    def of(self, module: Any) -> bool:
        """Whether the attention has a width of its own, which older ones of timm read off their input."""
        return hasattr(module, "attn_dim")

    def change(self, module: Any, size: int) -> Change:
        """The features of the first heads in all projections."""
        width = size * module.head_dim
        parts = {module.qkv: _fused("out_features", width), module.proj: READS.change(module.proj, width)}
        if getattr(module, "gate", None) is not None:
            parts[module.gate] = GIVES.change(module.gate, width)
        if hasattr(module.norm, "normalized_shape"):
            parts[module.norm] = NormalizedShape().change(module.norm, width)
        return Change({self.name: size, "attn_dim": width}, parts=parts)

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """The output, which has the full width, and attention weights of each head with zeros behind them."""
        if not isinstance(output, tuple):
            return output
        values, weights, *others = output
        return (values, weights if weights is None else pad(weights, -3, size), *others)


class FusedHeads(Heads):
    """The heads of GPT-2's attention, which computes queries, keys and values by one transposed layer.

    Example:
        >>> from types import SimpleNamespace
        >>> FusedHeads().of(SimpleNamespace(is_cross_attention=True))
        False
    """

    def of(self, module: Any) -> bool:
        """Whether the attention is no cross-attention."""
        return not module.is_cross_attention

    def change(self, module: Any, size: int) -> Change:
        """The features of the first heads in both layers."""
        width = size * module.head_dim
        parts = {module.c_attn: _fused("nf", width, dim=1), module.c_proj: Nx().change(module.c_proj, width)}
        return Change({self.name: size, "split_size": width}, parts=parts)


class GroupedHeads(Heads):
    """The heads of attentions such as Llama's, in whole groups that share their keys and values.

    Example:
        >>> from torch import nn
        >>> attention = nn.Module()
        >>> attention.head_dim, attention.q_proj, attention.o_proj = 2, nn.Linear(4, 8), nn.Linear(8, 4)
        >>> attention.k_proj, attention.v_proj = nn.Linear(4, 4), nn.Linear(4, 4)
        >>> change = GroupedHeads().change(attention, 2)
        >>> change.parts[attention.q_proj].attributes, change.parts[attention.k_proj].attributes
        ({'out_features': 4}, {'out_features': 2})
    """

    def of(self, module: Any) -> bool:
        """Whether the projections are layers of the attention itself, and its heads are whole groups."""
        is_whole = hasattr(module, "q_proj") and hasattr(module, "head_dim")
        return is_whole and module.o_proj.in_features % module.k_proj.out_features == 0

    def full(self, module: Any) -> int:
        """The number of heads of the queries."""
        return int(module.o_proj.in_features // module.head_dim)

    def group(self, module: Any) -> int:
        """The number of heads that share their keys and values."""
        return int(module.o_proj.in_features // module.k_proj.out_features)

    def change(self, module: Any, size: int) -> Change:
        """The features of the first groups in all projections."""
        width, shared = size * module.head_dim, size // self.group(module) * module.head_dim
        parts = {
            module.q_proj: GIVES.change(module.q_proj, width),
            module.k_proj: GIVES.change(module.k_proj, shared),
            module.v_proj: GIVES.change(module.v_proj, shared),
            module.o_proj: READS.change(module.o_proj, width),
        }
        counted = "num_attention_heads"
        return Change({counted: size} if hasattr(module, counted) else {}, parts=parts)


class InnerHeads(Heads):
    """The heads of an attention without the projection behind it, such as BERT's, whose output is as wide as its heads.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> attention = SimpleNamespace(num_attention_heads=4, attention_head_size=2)
        >>> output, weights = InnerHeads().padded(attention, (torch.ones(1, 2), None), 4)
        >>> output.shape
        torch.Size([1, 8])
    """

    def of(self, module: Any) -> bool:
        """Whether it has any."""
        return True

    def full(self, module: Any) -> int:
        """The number of heads."""
        return int(module.num_attention_heads)

    def change(self, module: Any, size: int) -> Change:
        """The features of the first heads in all projections."""
        width = size * module.attention_head_size
        parts = {each: GIVES.change(each, width) for each in (module.query, module.key, module.value)}
        return Change({"num_attention_heads": size, "all_head_size": width}, parts=parts)

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """The output and the attention weights of each head with zeros behind them."""
        values, *others = super().padded(module, output, size)
        return (pad(values, -1, size * module.attention_head_size), *others)


def _fused(name: str, width: int, dim: int = 0) -> Change:
    """The change of a layer that computes queries, keys and values one behind the other."""
    return Change({name: 3 * width}, {"weight": first_of_each(3, width, dim), "bias": first_of_each(3, width)})
