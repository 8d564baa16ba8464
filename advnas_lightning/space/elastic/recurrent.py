"""The elastic sizes of recurrent layers, whose parameters have one block of rows for each gate."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from advnas_lightning.space.elastic.axes import Axis, pad
from advnas_lightning.space.elastic.narrowing import Change, View, first, first_of_each

GATES = {"LSTM": 4, "GRU": 3}  # the blocks of rows by the mode of a layer; a plain one has one


class HiddenSize(Axis):
    """``hidden_size`` of a RNN, GRU or LSTM in one direction: the first units of each gate, in all layers.

    The slices are copied for each pass, as the rows of several gates are no part of a tensor that a view can show.

    Example:
        >>> from torch import nn
        >>> gru = nn.GRU(3, 8)
        >>> HiddenSize().change(gru, 2).views["weight_hh_l0"](gru.weight_hh_l0).shape
        torch.Size([6, 2])
    """

    name = "hidden_size"

    def of(self, module: Any) -> bool:
        """Whether the layer runs in one direction and without a projection."""
        return not module.bidirectional and not module.proj_size

    def change(self, module: Any, size: int) -> Change:
        """The first units."""
        views: dict[str, View] = {}
        gates = GATES.get(module.mode, 1)
        for layer in range(module.num_layers):
            columns = None if layer == 0 else size
            views[f"weight_ih_l{layer}"] = _units(gates, size, columns)
            views[f"weight_hh_l{layer}"] = _units(gates, size, size)
            if module.bias:
                views[f"bias_ih_l{layer}"] = views[f"bias_hh_l{layer}"] = _units(gates, size, None)
        return Change({self.name: size}, views, flat_weights(module))

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """The outputs and the last states with zeros behind their units."""
        if isinstance(output, tuple):  # also of a packed sequence, whose lengths are no floating-point numbers
            items = [self.padded(module, item, size) for item in output]
            return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
        return pad(output, -1, size) if isinstance(output, Tensor) and output.is_floating_point() else output


class InputSize(Axis):
    """``input_size`` of a recurrent layer.

    Example:
        >>> from torch import nn
        >>> gru = nn.GRU(8, 2)
        >>> InputSize().change(gru, 3).views["weight_ih_l0"](gru.weight_ih_l0).shape
        torch.Size([6, 3])
    """

    name = "input_size"
    reads, gives = True, False

    def given(self, module: Any, value: Any) -> int:
        """The size of the last dimension, also of a packed sequence."""
        return int(value.data.shape[-1])

    def change(self, module: Any, size: int) -> Change:
        """The first inputs of the first layer."""
        names = ["weight_ih_l0", *(["weight_ih_l0_reverse"] if module.bidirectional else [])]
        return Change({self.name: size}, dict.fromkeys(names, first(size, 1)), flat_weights(module))


def flat_weights(module: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The function that returns the list of weights that a recurrent layer hands to PyTorch's kernels.

    Args:
        module: The layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> gru = nn.GRU(3, 2, bias=False)
        >>> part = torch.zeros(6, 1)
        >>> flat_weights(gru)({"weight_ih_l0": part})["_flat_weights"][0] is part
        True
    """

    def derived(inside: Mapping[str, Any]) -> dict[str, Any]:
        names = vars(module)["_flat_weights_names"]
        weights = [inside[name] if name in inside else getattr(module, name) for name in names]
        return {"_flat_weights": weights, "_flat_weight_refs": [weakref.ref(weight) for weight in weights]}

    return derived


def _units(gates: int, size: int, columns: int | None) -> View:
    """The function that returns the first units of each gate, and their first columns."""
    rows = first_of_each(gates, size)
    return lambda tensor: rows(tensor if columns is None or tensor.dim() == 1 else tensor.narrow(1, 0, columns))
