"""Attention with fewer heads than its width has room for.

A network that was found may have such modules, and must be loaded where nothing but PyTorch is installed. So this file
needs nothing else, and a module that is pickled takes the text of it along.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MADE = "(lambda space: exec(space['SOURCE'], space) or space['bare']())({space!r})"


class NarrowAttention(nn.MultiheadAttention):
    """A MultiheadAttention whose heads together may be narrower than its input and its output.

    It has the attributes and parameters of :class:`torch.nn.MultiheadAttention`, is called as that one is, and returns
    the same. ``num_heads`` times ``head_dim`` is the number of rows of each projection and the number of columns of
    the last one. Nested tensors are refused, and there is no fast path for evaluation.

    A mask of three dimensions may have parts for more heads. Those of the first heads are used.

    Example:
        >>> plain, narrow = nn.MultiheadAttention(8, 2), NarrowAttention(8, 2)  # all heads at first
        >>> _ = narrow.load_state_dict(plain.state_dict())
        >>> x = torch.rand(3, 5, 8)
        >>> torch.allclose(narrow(x, x, x)[0], plain(x, x, x)[0], atol=1e-6)
        True
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the attention, as :class:`torch.nn.MultiheadAttention` does.

        Raises:
            ValueError: A tensor is nested, or a mask has a shape that does not fit.
            RuntimeError: ``is_causal`` is given without the mask that it is a hint of.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise ValueError("attention with fewer heads takes no nested tensors: pad them, and give key_padding_mask")
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal=True is a hint of what attn_mask is: give the mask with it")
        projected = _projected(self, query, key, value)
        q, k, v = (_by_head(self, each) for each in projected)  # [B, H, L, D] and twice [B, H, S, D]
        is_causal = is_causal and key_padding_mask is None and not need_weights  # where the hint is enough
        mask = None if is_causal else _mask(self, q, k, key_padding_mask, attn_mask)
        if self.bias_k is not None and self.bias_v is not None:  # [1, 1, H · D], for all sequences
            entries = (_by_head(self, each[0]).expand(k.shape[0], -1, -1, -1) for each in (self.bias_k, self.bias_v))
            k, v = (torch.cat(each, 2) for each in zip((k, v), entries, strict=True))
            mask = mask if mask is None else F.pad(mask, (0, 1))
        if self.add_zero_attn:
            k, v = (F.pad(each, (0, 0, 0, 1)) for each in (k, v))
            mask = mask if mask is None else F.pad(mask, (0, 1))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(2, 3)
            weights = F.dropout(F.softmax(scores if mask is None else scores + mask, -1), dropout)
            heads = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            heads = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))  # [B, L, E]
        if query.dim() == 2:
            return output[0], weights if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def __deepcopy__(self, memo: dict[Any, Any]) -> NarrowAttention:
        """A copy, which is of this very class."""
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(vars(self), memo))
        return copied

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle the module with the text of this file, so that it needs PyTorch alone to be loaded."""
        source = globals().get("SOURCE") or inspect.getsource(sys.modules[__name__])
        space = {"__name__": "narrow_attention", "SOURCE": source}
        return eval, (MADE.format(space=space),), vars(self)


def bare() -> NarrowAttention:
    """A module without anything, into which a pickled one is loaded.

    Example:
        >>> bare().__dict__
        {}
    """
    return NarrowAttention.__new__(NarrowAttention)


def _added(name: str, mask: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A mask as what is added to scores, after its shape was checked, which a trace cannot do."""
    if not torch.jit.is_tracing() and mask.shape != shape:  # type: ignore[attr-defined]
        raise ValueError(f"{name} has the shape {tuple(mask.shape)}, and needs {tuple(shape)}")
    if mask.is_floating_point():
        return mask
    if mask.dtype is not torch.bool:
        raise ValueError(f"{name} has numbers of type {mask.dtype}: give it as bool, or as floating-point numbers")
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def _projected(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """The features of all heads, with one product where the three are one tensor."""
    if module.in_proj_weight is not None and query is key and key is value:
        return F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    weights: Sequence[Tensor] = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    biases = (None, None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    return tuple(map(F.linear, (query, key, value), weights, biases))


def _by_head(module: nn.MultiheadAttention, features: Tensor) -> Tensor:
    """Features as [B, H, L, D]; those without a batch as of a batch of one."""
    heads: Tensor = features.unflatten(-1, (module.num_heads, module.head_dim))
    if heads.dim() == 3:
        return heads.transpose(0, 1).unsqueeze(0)
    return heads.transpose(1, 2) if module.batch_first else heads.permute(1, 2, 0, 3)


def _mask(
    module: nn.MultiheadAttention, q: Tensor, k: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None
) -> Tensor | None:
    """What is added to the scores: the sum of both masks, that of the keys as [B, 1, 1, S]."""
    batch, _, length, _ = q.shape
    mask = None
    if attn_mask is not None:
        shape: tuple[int, ...] = (length, k.shape[2])
        mask = attn_mask
        if attn_mask.dim() == 3:
            mask, shape = mask.unflatten(0, (batch, -1))[:, : module.num_heads], (batch, module.num_heads, *shape)
        mask = _added("attn_mask", mask, shape, q.dtype)
    if key_padding_mask is not None:
        of_keys = key_padding_mask if key_padding_mask.dim() == 2 else key_padding_mask.unsqueeze(0)
        of_keys = _added("key_padding_mask", of_keys, (batch, k.shape[2]), q.dtype)[:, None, None]
        mask = of_keys if mask is None else mask + of_keys
    return mask
