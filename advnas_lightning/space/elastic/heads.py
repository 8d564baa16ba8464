"""The elastic number of heads of the attentions of timm and Hugging Face, a size of their projections together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advnas_lightning.space.elastic.axes import Axis, EmbeddingDim, InFeatures, pad
from advnas_lightning.space.elastic.narrowing import Change, first, first_of_each
from advnas_lightning.space.elastic.norms import NormalizedShape
from advnas_lightning.space.elastic.transposed import Nx

GIVES, READS = Axis(), InFeatures()
BIASES = ("relative_attention_bias", "relative_position_bias")  # of T5 and of Swin


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


class TwoLayers(Heads):
    """The heads of an attention with one layer for queries, keys and values and one for the output.

    Args:
        fused: The name of the first layer.
        out: The name of the second one.
        head_dim: The name of the attribute that has the size of a head.
        by_head: Whether the first layer gives the queries, keys and values of each head together, as in GPT-NeoX. If
            not, it gives the queries of all heads, then all keys, then all values, as in ModernBERT.

    Example:
        >>> from torch import nn
        >>> attention = nn.ModuleDict({"qkv": nn.Linear(4, 12), "proj": nn.Linear(4, 4)})
        >>> attention.head_dim = 2
        >>> heads = TwoLayers("qkv", "proj", "head_dim", by_head=True)
        >>> heads.full(attention), heads.change(attention, 1).parts[attention.qkv].attributes
        (2, {'out_features': 6})
    """

    def __init__(self, fused: str, out: str, head_dim: str, *, by_head: bool) -> None:
        self.fused, self.out, self.head_dim, self.by_head = fused, out, head_dim, by_head

    def of(self, module: Any) -> bool:
        """Whether it has these layers."""
        return all(hasattr(module, name) for name in (self.fused, self.out, self.head_dim))

    def full(self, module: Any) -> int:
        """The number of heads."""
        return int(getattr(module, self.out).in_features // getattr(module, self.head_dim))

    def change(self, module: Any, size: int) -> Change:
        """The features of the first heads in both layers."""
        fused, out, width = (
            getattr(module, self.fused),
            getattr(module, self.out),
            size * getattr(module, self.head_dim),
        )
        first = GIVES.change(fused, 3 * width) if self.by_head else _fused("out_features", width)
        return Change(parts={fused: first, out: READS.change(out, width)})


class GroupedHeads(Heads):
    """The heads of an attention with a layer each for queries, keys, values and the output, such as Llama's.

    Heads that share their keys and values stay in whole groups. A bias of the positions has a column for each head.
    All else with parameters must be a norm of one head, or be named as what all heads have in common. So an attention
    that normalizes its heads together has none that could be left out, such as OLMo 2's.

    Args:
        projections: The names of the four layers.
        head_dim: The name of the attribute that has the size of a head.
        counts: The names of attributes that have the number of heads, where there are any.
        widths: The names of attributes that have the number of features of all heads.
        common: The names of parts that do not depend on the number of heads.

    Example:
        >>> from torch import nn
        >>> attention = nn.Module()
        >>> attention.head_dim, attention.q_proj, attention.o_proj = 2, nn.Linear(4, 8), nn.Linear(8, 4)
        >>> attention.k_proj, attention.v_proj = nn.Linear(4, 4), nn.Linear(4, 4)
        >>> change = GroupedHeads().change(attention, 2)
        >>> change.parts[attention.q_proj].attributes, change.parts[attention.k_proj].attributes
        ({'out_features': 4}, {'out_features': 2})
    """

    def __init__(
        self,
        projections: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
        head_dim: str = "head_dim",
        counts: Sequence[str] = ("num_attention_heads", "num_heads"),
        widths: Sequence[str] = (),
        common: Sequence[str] = (),
    ) -> None:
        self.projections, self.head_dim, self.counts, self.widths = projections, head_dim, counts, widths
        self.common = common

    def layers(self, module: Any) -> list[Any]:
        """The layers of the queries, keys, values and the output."""
        return [getattr(module, name) for name in self.projections]

    def of(self, module: Any) -> bool:
        """Whether the projections are layers of the attention itself, in whole groups, and all else is of one head."""
        if not all(hasattr(module, name) for name in (*self.projections, self.head_dim)):
            return False
        _, keys, _, out = self.layers(module)
        known = {*self.projections, *self.common, *BIASES}
        others = {name: weight for name, weight in module.named_parameters() if name.partition(".")[0] not in known}
        norm = (getattr(module, self.head_dim),)
        of_one_head = all(name.count(".") == 1 and weight.shape == norm for name, weight in others.items())
        return of_one_head and bool(out.in_features % keys.out_features == 0)

    def full(self, module: Any) -> int:
        """The number of heads of the queries."""
        return int(self.layers(module)[3].in_features // getattr(module, self.head_dim))

    def group(self, module: Any) -> int:
        """The number of heads that share their keys and values."""
        _, keys, _, out = self.layers(module)
        return int(out.in_features // keys.out_features)

    def change(self, module: Any, size: int) -> Change:
        """The features of the first groups in all projections."""
        queries, keys, values, out = self.layers(module)
        head_dim = getattr(module, self.head_dim)
        width, shared = size * head_dim, size // self.group(module) * head_dim
        parts = {
            queries: GIVES.change(queries, width),
            keys: GIVES.change(keys, shared),
            values: GIVES.change(values, shared),
            out: READS.change(out, width),
            **_bias(module, size),
        }
        given = dict.fromkeys(self.counts, size) | dict.fromkeys(self.widths, width)
        given["num_key_value_heads"] = size // self.group(module)
        return Change({name: value for name, value in given.items() if hasattr(module, name)}, parts=parts)


class HeadsOfStack(Heads):
    """The heads of all attentions of a stack that share a bias of the positions, such as T5's: they choose alike.

    The bias has a column for each head and is handed on from layer to layer, so that no layer can have heads of its
    own.

    Args:
        heads: The heads of one attention.

    Example:
        >>> from torch import nn
        >>> attention = nn.Module()
        >>> attention.head_dim, attention.relative_attention_bias = 2, nn.Embedding(3, 4)
        >>> for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        ...     attention.add_module(name, nn.Linear(8, 8))
        >>> stack = nn.Sequential(nn.Linear(8, 8), attention)
        >>> heads = HeadsOfStack(GroupedHeads())
        >>> heads.full(stack), [part is attention for part in heads.change(stack, 2).parts]
        (4, [True])
    """

    def __init__(self, heads: GroupedHeads) -> None:
        self.heads = heads

    def attentions(self, module: Any) -> list[Any]:
        """The attentions of the stack."""
        return [part for part in module.modules() if self.heads.of(part)]

    def of(self, module: Any) -> bool:
        """Whether it has any."""
        return bool(self.attentions(module))

    def full(self, module: Any) -> int:
        """The number of heads of each attention."""
        return self.heads.full(self.attentions(module)[0])

    def checked(self, module: Any, size: Any) -> Any:
        """The size, if the layers are not checkpointed.

        Raises:
            ValueError: They are, or the size is not one that the stack can have.
        """
        if any(getattr(part, "gradient_checkpointing", False) for part in module.modules()):
            raise ValueError(
                "checkpointed layers are computed again with all heads: call gradient_checkpointing_disable() before,"
                " or leave the heads out"
            )
        return super().checked(module, size)

    def change(self, module: Any, size: int) -> Change:
        """The first heads of all attentions."""
        parts = {each: self.heads.change(each, size) for each in self.attentions(module)}
        return Change({"n_heads": size} if hasattr(module, "n_heads") else {}, parts=parts | _bias(module, size))

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """The output of the stack, which has the full width."""
        return output


class InnerHeads(Heads):
    """The heads of an attention without the projection behind it, such as BERT's, whose output is as wide as its heads.

    Args:
        projections: The names of the layers inside it. Those that an attention does not have are left out.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> attention = SimpleNamespace(num_attention_heads=4, attention_head_size=2)
        >>> output, weights = InnerHeads().padded(attention, (torch.ones(1, 2), None), 4)
        >>> output.shape
        torch.Size([1, 8])
    """

    def __init__(self, projections: Sequence[str] = ("query", "key", "value")) -> None:
        self.projections = projections

    def of(self, module: Any) -> bool:
        """Whether it has any."""
        return True

    def full(self, module: Any) -> int:
        """The number of heads."""
        return int(module.num_attention_heads)

    def change(self, module: Any, size: int) -> Change:
        """The features of the first heads in all projections."""
        width = size * module.attention_head_size
        layers = [getattr(module, name) for name in self.projections if hasattr(module, name)]
        parts = {each: GIVES.change(each, width) for each in layers}
        return Change({"num_attention_heads": size, "all_head_size": width}, parts=parts)

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """The output and the attention weights of each head with zeros behind them."""
        values, *others = super().padded(module, output, size)
        return (pad(values, -1, size * module.attention_head_size), *others)


def _bias(module: Any, size: int) -> dict[Any, Change]:
    """The columns of the first heads, where a module has a bias of the positions."""
    embedding, tabled = (getattr(module, name, None) for name in BIASES)
    if tabled is not None:
        return {tabled: Change(views={"relative_position_bias_table": first(size, dim=1)})}
    return {} if embedding is None else {embedding: EmbeddingDim().change(embedding, size)}


def _fused(name: str, width: int, dim: int = 0) -> Change:
    """The change of a layer that computes queries, keys and values one behind the other."""
    return Change({name: 3 * width}, {"weight": first_of_each(3, width, dim), "bias": first_of_each(3, width)})
