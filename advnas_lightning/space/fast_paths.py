"""The fast paths of PyTorch's transformer layers, which compute with their children's weights and never call them.

In evaluation without gradients ``nn.TransformerEncoderLayer`` hands the weights of its children to one fused function,
and ``nn.TransformerEncoder`` packs padded sequences into nested tensors, which only that function can compute with. A
choice among the children would not count. So the layers with a choice, and the encoders around them, have their fast
paths switched off while they are searched. The found network has them again where they compute what its parts do.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional as F

from advnas_lightning.space.mixed_op import MixedOp, mixed_ops

# An attribute of a layer or an encoder: its flag before it was switched off.
BEFORE = "fast_path_before_search"
FLAGS: tuple[tuple[type[nn.Module], str, Any], ...] = (  # by class: the flag of the fast path, and its value for none
    (nn.TransformerEncoderLayer, "activation_relu_or_gelu", 0),
    (nn.TransformerEncoder, "use_nested_tensor", False),
)
# The parts of a layer that the fused function computes, and those that it takes to do nothing in evaluation.
COMPUTED = {
    "self_attn": nn.MultiheadAttention,
    "linear1": nn.Linear,
    "linear2": nn.Linear,
    "norm1": nn.LayerNorm,
    "norm2": nn.LayerNorm,
}
IGNORED, IGNORED_TYPES = ("dropout", "dropout1", "dropout2"), (nn.Dropout, nn.Identity)


def switch_off_fast_paths(model: nn.Module) -> None:
    """Switch off the fast paths of the transformer layers that contain a choice, and of the encoders around them.

    Args:
        model: The network with MixedOps.

    Example:
        >>> layer = nn.TransformerEncoderLayer(4, 2, 8, activation=nn.ReLU())
        >>> layer.activation = MixedOp("act", {"relu": nn.ReLU(), "silu": nn.SiLU()})
        >>> switch_off_fast_paths(layer)
        >>> layer.activation_relu_or_gelu
        0
    """
    for module in model.modules():
        for kind, flag, off in FLAGS:
            if isinstance(module, kind) and BEFORE not in vars(module) and mixed_ops(module):
                setattr(module, BEFORE, getattr(module, flag, off))
                setattr(module, flag, off)
        if isinstance(module, nn.TransformerEncoderLayer) and isinstance(module.self_attn, MixedOp):
            # The layer asks for it before it asks for its flag. It has no fast path for an attention without biases.
            vars(module.self_attn)["in_proj_bias"] = None


def restore_fast_paths(network: nn.Module) -> None:
    """Give a network that was found its fast paths again, where they compute what its parts do.

    Args:
        network: A copy of the searched network, with its chosen candidates in place of the MixedOps.

    Example:
        >>> layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        >>> layer.linear1 = MixedOp("up", {"own": layer.linear1, "other": nn.Linear(4, 8)})
        >>> switch_off_fast_paths(layer)
        >>> layer.linear1 = layer.linear1.candidates["other"]
        >>> restore_fast_paths(layer)
        >>> layer.activation_relu_or_gelu
        1
    """
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and vars(module).pop(BEFORE, 0) and _is_fused(module):
            module.activation_relu_or_gelu = _activation(module)
    for module in network.modules():  # after the layers, since it depends on theirs
        if isinstance(module, nn.TransformerEncoder) and vars(module).pop(BEFORE, False):
            module.use_nested_tensor = all(map(_takes_nested_tensors, module.layers))


def _is_fused(layer: nn.TransformerEncoderLayer) -> bool:
    """Whether the fused function computes what the parts of a layer do, with an activation that it knows."""
    parts = [getattr(layer, name, None) for name in COMPUTED]
    if [type(part) for part in parts] != [*COMPUTED.values()]:
        return False
    attention: Any = parts[0]
    others: list[Any] = parts[1:]
    has_all = all(part.weight is not None and part.bias is not None for part in others)
    is_simple = attention.bias_k is None and attention.bias_v is None and not attention.add_zero_attn
    return has_all and is_simple and all(type(getattr(layer, name, None)) in IGNORED_TYPES for name in IGNORED)


def _activation(layer: nn.TransformerEncoderLayer) -> int:
    """The flag of a layer's activation as PyTorch has it: 1 for ReLU, 2 for GELU, and 0 for any other."""
    activation: Any = layer.activation
    if activation is F.relu or type(activation) is nn.ReLU:
        return 1
    return 2 if activation is F.gelu or (type(activation) is nn.GELU and activation.approximate == "none") else 0


def _takes_nested_tensors(layer: nn.Module) -> bool:
    """Whether a layer has a fast path in evaluation, for all padded sequences."""
    if not isinstance(layer, nn.TransformerEncoderLayer) or not layer.activation_relu_or_gelu or layer.norm_first:
        return False
    attention: Any = layer.self_attn
    has_projection = attention.in_proj_weight is not None and attention.in_proj_bias is not None
    is_even = attention.batch_first and attention.num_heads % 2 == 0
    return has_projection and is_even and layer.norm1.eps == layer.norm2.eps
