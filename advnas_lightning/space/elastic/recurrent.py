"""The elastic sizes of recurrent layers, whose parameters have one block of rows for each gate."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from torch import Tensor

from advnas_lightning.space.elastic.axes import Axis, pad
from advnas_lightning.space.elastic.narrowing import Change, View, first, first_of_each

GATES = {"LSTM": 4, "GRU": 3}  # the blocks of rows by the mode of a layer; a plain one has one


class HiddenSize(Axis):
    """``hidden_size`` of a RNN, GRU or LSTM: the first units of each gate, in all layers and both directions.

    In two directions the outputs are two halves side by side, each with the first units of its direction, and a later
    layer reads both. The slices are copied for each pass, as the rows of several gates are no part of a tensor that a
    view can show.

    Example:
        >>> from torch import nn
        >>> gru = nn.GRU(3, 8)
        >>> HiddenSize().change(gru, 2).views["weight_hh_l0"](gru.weight_hh_l0).shape
        torch.Size([6, 2])
    """

    name = "hidden_size"

    def of(self, module: Any) -> bool:
        """Whether the layer has no projection."""
        return not module.proj_size

    def change(self, module: Any, size: int) -> Change:
        """The layer keeps the first hidden units, in each gate and direction."""
        views: dict[str, View] = {}
        gates = GATES.get(module.mode, 1)
        rows = first_of_each(gates, size)
        inputs, states = first_of_each(_directions(module), size, 1), first(size, 1)
        for layer, direction in product(range(module.num_layers), ("", "_reverse")[: _directions(module)]):
            own = f"l{layer}{direction}"
            views[f"weight_ih_{own}"] = rows if layer == 0 else _both(rows, inputs)
            views[f"weight_hh_{own}"] = _both(rows, states)
            if module.bias:
                views[f"bias_ih_{own}"] = views[f"bias_hh_{own}"] = rows
        return Change({self.name: size}, views, flat_weights(module))

    def padded(self, module: Any, output: Any, size: int) -> Any:
        """The outputs and the last states with zeros behind the units of each direction."""
        outputs, states = output
        return _padded(outputs, size, _directions(module)), _padded(states, size, 1)


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


class InputHalves(InputSize):
    """Half of the ``input_size`` of a recurrent layer whose input is two halves, as of another one in two directions.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> gru = nn.GRU(4, 1)
        >>> gru.weight_ih_l0.data = torch.arange(12.0).view(3, 4)
        >>> InputHalves().change(gru, 1).views["weight_ih_l0"](gru.weight_ih_l0)[0].tolist()
        [0.0, 2.0]
    """

    name = "input_halves"

    def of(self, module: Any) -> bool:
        """Whether the input has two halves."""
        return bool(module.input_size % 2 == 0)

    def full(self, module: Any) -> int:
        """The size of a half."""
        return int(module.input_size) // 2

    def read(self, module: Any, size: int) -> int:
        """The size of the input, which is that of both halves."""
        return 2 * size

    def change(self, module: Any, size: int) -> Change:
        """The first inputs of each half."""
        views = dict.fromkeys(super().change(module, size).views, first_of_each(2, size, 1))
        return Change({"input_size": 2 * size}, views, flat_weights(module))


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


def _directions(module: Any) -> int:
    return 2 if module.bidirectional else 1


def _both(rows: View, columns: View) -> View:
    return lambda tensor: rows(columns(tensor))


def _padded(output: Any, size: int, parts: int) -> Any:
    """An output with zeros behind each of its equal parts."""
    if isinstance(output, tuple):  # also of a packed sequence, whose lengths are no floating-point numbers
        items = [_padded(item, size, parts) for item in output]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return output
    return pad(output.unflatten(-1, (parts, -1)), -1, size).flatten(-2)
