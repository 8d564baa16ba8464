"""Writes the sizes of a found network of Hugging Face into its config."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from advnas_lightning.space.elastic.rules.descriptions import Member
from advnas_lightning.space.elastic.rules.table import descriptions_of
from advnas_lightning.texts import listed


def fit_config(network: Any) -> None:
    """Write the sizes of a found network of Hugging Face into its config.

    ``save_pretrained`` writes the weights with the config, and ``from_pretrained`` builds the network that the config
    describes. A config has one size of each kind for all layers. Whether it describes the network is checked: the
    network of the config must have the same weights with the same shapes.

    Args:
        network: The network, such as ``search.derive()``.

    Raises:
        ValueError: It has no config; layers differ in their sizes; or no config describes the network, as where a
            BERT has fewer heads, which its config has no size for. The config is then unchanged.

    Example:
        >>> fit_config(nn.Linear(4, 8))
        Traceback (most recent call last):
            ...
        ValueError: a Linear has no config of Hugging Face: give a network that has one
    """
    kind, config = type(network).__name__, getattr(network, "config", None)
    if not hasattr(config, "to_dict"):
        raise ValueError(f"a {kind} has no config of Hugging Face: give a network that has one")
    values = _values(network, config)
    fitted = copy.deepcopy(config)
    for name, value in values.items():
        setattr(fitted, name, value)
    try:
        with torch.device("meta"):
            built = type(network)(copy.deepcopy(fitted))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"no {kind} can be built with {_told(values)}, so that no config describes it: {reason}"
        ) from None
    own, other = _shapes(network), _shapes(built)
    different = next((name for name in (*own, *other) if own.get(name) != other.get(name)), None)
    if different is not None:
        raise ValueError(
            f"no config of a {kind} describes the network: with {_told(values)} {different!r} has the shape"
            f" {other.get(different)}, and here {own.get(different)}; save it with torch.save"
        )
    for name, value in values.items():
        setattr(config, name, value)


def _values(network: nn.Module, config: Any) -> dict[str, Any]:
    """The values of the config by the sizes that the network's blocks have."""
    sizes: dict[str, set[int]] = {"ffn": set(), "heads": set(), "depth": set()}
    for module in network.modules():
        for described in descriptions_of(module, {})[0]:
            try:
                member = described.members(module)[0]
            except ValueError:  # the block is built in another way
                continue
            sizes[described.kind].add(member.full)
            if described.kind == "heads":
                heads = member
    for size, found in sizes.items():
        if len(found) > 1:
            raise ValueError(
                f"a config has one {size} for all layers, and the network has {listed(map(str, sorted(found)))}: search"
                " one for all with share=, or save it with torch.save"
            )
    values: dict[str, Any] = {}
    if sizes["depth"]:
        values["num_hidden_layers"] = depth = sizes["depth"].pop()
        if getattr(config, "layer_types", None) is not None:  # the kind of attention of each layer
            values["layer_types"] = list(config.layer_types[:depth])
    if sizes["ffn"]:
        values["n_inner" if hasattr(config, "n_inner") else "intermediate_size"] = sizes["ffn"].pop()
    if sizes["heads"] and config.num_attention_heads not in sizes["heads"]:
        values |= _heads(heads, config)
    return values


def _heads(heads: Member, config: Any) -> dict[str, int]:
    """The values of the config for another number of heads. The heads are as large as before."""
    values = {"num_attention_heads": heads.full}
    values["head_dim"] = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None)
    if shared is not None:
        values["num_key_value_heads"] = heads.full * shared // config.num_attention_heads
    return values


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
