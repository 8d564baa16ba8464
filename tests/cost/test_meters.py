"""Parameters and multiply-accumulates of a network, counted."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning.cost import count_macs, count_parameters


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"), [(3, 1, 1, 1), (1, 1, 0, 1), (3, 2, 1, 2), (5, 3, 0, 1)]
)
def test_macs_of_a_convolution(kernel: int, stride: int, padding: int, groups: int, batch: int) -> None:
    conv = nn.Conv2d(4, 6, kernel, stride, padding, groups=groups)
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in (9, 7))
    expected = batch * 6 * height * width * (4 // groups) * kernel * kernel
    assert count_macs(conv, torch.zeros(batch, 4, 9, 7)) == expected


def test_macs_of_a_network_are_the_sum() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 6 * 4, 7))
    assert count_macs(network, torch.zeros(2, 3, 8, 6)) == 2 * (5 * 6 * 4 * 3 * 9 + 5 * 6 * 4 * 7)
    assert count_macs(nn.ReLU(), torch.zeros(3)) == 0


def test_macs_of_a_network_with_two_inputs() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x @ y

    assert count_macs(Product(), torch.zeros(2, 3), torch.zeros(3, 5)) == 2 * 3 * 5


@pytest.mark.parametrize("need_weights", [True, False])
def test_macs_of_attention(need_weights: bool) -> None:
    """In evaluation PyTorch computes it in one function, inside of which it counts nothing."""

    class Own(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=need_weights)[0]

    batch, length, width, heads, hidden = 3, 5, 8, 2, 7
    products = batch * (4 * length * width**2 + 2 * length**2 * width)
    assert count_macs(Own(width, heads, batch_first=True), torch.zeros(batch, length, width)) == products
    assert count_macs(Own(width, heads, dropout=0.1), torch.zeros(length, batch, width)) == products
    layer = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True)
    assert count_macs(layer, torch.zeros(batch, length, width)) == products + 2 * batch * length * width * hidden
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_macs_of_a_recurrent_layer(kind: Any, gates: int, directions: int, dtype: torch.dtype) -> None:
    """PyTorch computes an LSTM of single precision in one function, inside of which it counts nothing."""
    batch, length, width, hidden = 2, 7, 8, 16
    layer = kind(width, hidden, num_layers=2, batch_first=True, bidirectional=directions == 2, dtype=dtype)
    rows = directions * gates * hidden
    expected = batch * length * rows * (width + hidden + directions * hidden + hidden)
    assert count_macs(layer, torch.zeros(batch, length, width, dtype=dtype)) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch has other functions for recurrent layers on a GPU")
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_macs_of_a_recurrent_layer_on_a_gpu(kind: Any) -> None:
    layer, x = kind(8, 16, num_layers=2, bidirectional=True), torch.zeros(7, 2, 8)
    assert count_macs(layer.cuda(), x.cuda()) == count_macs(layer.double().cpu(), x.double())


def test_macs_of_a_matrix_with_a_vector() -> None:
    """As where attention pools a sequence."""

    class Pool(nn.Module):
        def forward(self, x: Tensor, query: Tensor) -> Tensor:
            return x @ query

    assert count_macs(Pool(), torch.zeros(2, 7, 8), torch.zeros(8)) == 2 * 7 * 8


def test_macs_of_a_bilinear_layer() -> None:
    """It has the products of the first input and the weight, and of these and the second input."""
    layer, first, second = nn.Bilinear(3, 4, 5), torch.randn(2, 7, 3), torch.randn(2, 7, 4)

    class Products(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            rows = first.flatten(0, 1) @ layer.weight.permute(1, 0, 2).flatten(1)  # (14, 5 x 4)
            return (rows.unflatten(1, (5, 4)) @ second.flatten(0, 1)[..., None])[..., 0] + layer.bias

    torch.testing.assert_close(layer(first, second).flatten(0, 1), Products()(first, second))
    assert count_macs(layer, first, second) == count_macs(Products(), first, second) == 14 * 5 * (3 * 4 + 4)


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_network_as_it_was(training: bool) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()).train(training)
    state, rng = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    modes: list[bool] = []
    network[2].register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    count_macs(network, torch.randn(4, 3, generator=torch.Generator()))
    assert modes == [False]
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def test_counting_leaves_a_frozen_part_frozen() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    network[1].eval()
    count_macs(network, torch.zeros(4, 3))
    assert [module.training for module in network] == [True, False]


def test_a_failed_count_leaves_the_network_training() -> None:
    network = nn.Sequential(nn.Linear(3, 3)).train()
    with pytest.raises(RuntimeError):
        count_macs(network, torch.zeros(4, 2))
    assert network.training


def test_parameters_are_counted_by_the_network_where_it_knows_better() -> None:
    class Own(nn.Linear):
        def count_parameters(self) -> int:
            return 42

    class Attribute(nn.Linear):
        count_parameters = 3

    assert count_parameters(nn.Linear(3, 4)) == 16
    assert count_parameters(Own(3, 4)) == 42
    assert count_parameters(Attribute(3, 4)) == 16
    tied = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(tied, tied)) == 12
