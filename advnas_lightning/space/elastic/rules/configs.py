"""Writes the sizes of a found network of Hugging Face into its config."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import nn

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
    kind = type(network).__name__
    config: Any = getattr(network, "config", None)
    if not hasattr(config, "to_dict"):
        raise ValueError(f"a {kind} has no config of Hugging Face: give a network that has one")
    made: dict[int, Any] = {}
    fitted = copy.deepcopy(config, made)
    values = _values(network, config, made)
    told = ", ".join(f"{name}={value}" for _, name, value in values)
    for inner, name, value in values:
        setattr(made[id(inner)], name, value)
    try:
        with torch.device("meta"):
            built = type(network)(type(config).from_dict(fitted.to_dict()))  # as from_pretrained does
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"no {kind} can be built with {told}, so that no config describes it: {reason}; save it with torch.save"
        ) from None
    own, other = _shapes(network), _shapes(built)
    different = next((name for name in (*own, *other) if own.get(name) != other.get(name)), None)
    if different is not None:
        raise ValueError(
            f"no config of a {kind} describes the network: with {told or 'its own values'} {different!r} has the shape"
            f" {other.get(different)}, and here {own.get(different)}; save it with torch.save"
        )
    for inner, name, value in values:
        setattr(inner, name, value)


def _values(network: nn.Module, config: Any, known: Container[int]) -> list[tuple[Any, str, Any]]:
    """The values of the config, and of those inside it, by the sizes that the network's blocks have.

    The sizes of a block belong to the innermost config around it that is known, as of one of two networks in one.
    """
    configs: dict[str, Any] = {}
    sizes: dict[tuple[int, str, str], set[int]] = {}
    for name, module in network.named_modules():
        outer = configs.get(name.rpartition(".")[0], config)
        own = getattr(module, "config", outer)
        configs[name] = own = own if id(own) in known else outer
        for described in descriptions_of(module, {})[0]:
            try:
                member = described.members(module)[0]
            except ValueError:  # the block is built in another way
                continue
            field = _field(described.kind, own, f"{name}.{member.name}".split("."))
            if not isinstance(getattr(own, field, []), list):  # it has the field, and not one value for each stage
                sizes.setdefault((id(own), described.kind, field), set()).add(member.full)
    by_id = {id(each): each for each in configs.values()}
    values: list[tuple[Any, str, Any]] = []
    for (place, kind, field), found in sizes.items():
        if len(found) > 1:
            raise ValueError(
                f"a config has one {kind} for all layers, and the network has {listed(map(str, sorted(found)))}: search"
                " one for all with share=, or save it with torch.save"
            )
        own, size = by_id[place], found.pop()
        values.append((own, field, size))
        if kind == "heads":
            values += [(own, *each) for each in _heads(field, size, own).items()]
        if kind == "depth" and getattr(own, "layer_types", None) is not None:  # the kind of attention of each layer
            values.append((own, "layer_types", list(own.layer_types[:size])))
    return values


def _field(kind: str, config: Any, place: Sequence[str]) -> str:
    """The name of a size in a config. Some have one for the encoder and one for the decoder."""
    side = "decoder" if "decoder" in place else "encoder"
    names = {
        "depth": (f"{side}_layers", f"num_{side}_layers", "num_hidden_layers"),
        "ffn": (f"{side}_ffn_dim", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "hidden_dim", "intermediate_size"),
        "heads": (f"{side}_attention_heads", "num_attention_heads"),
    }[kind]
    return next((name for name in names if hasattr(config, name)), names[-1])


def _heads(field: str, size: int, config: Any) -> dict[str, int]:
    """Further values of the config for another number of heads. The heads are as large as before."""
    before = getattr(config, field, size)
    if before == size:
        return {}
    values = {"head_dim": getattr(config, "head_dim", None) or config.hidden_size // before}
    shared = getattr(config, "num_key_value_heads", None)
    if shared is not None:
        values["num_key_value_heads"] = size * shared // before
    return values


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
