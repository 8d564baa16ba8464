"""Elastic transformers: PyTorch's layers with elastic feed-forward parts, and attention whose heads are elastic."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning import Depth, Genotype, SearchSpace, elastic

HEADS, HEAD = {"1": 4, "2": 8, "4": 16}, 4


class Attention(nn.Module):
    """Attention whose projections are linear layers. Its heads are groups of their features."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (
            elastic(nn.Linear(6, 16), out_features=HEADS, name="heads") for _ in range(3)
        )
        self.out = elastic(nn.Linear(16, 6), in_features=HEADS, name="heads")

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (-1, HEAD)).transpose(1, 2) for each in (self.queries, self.keys, self.values))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def encoder(layers: int = 3, width: int = 8) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(6, 2, width, dropout=0.0, batch_first=True, dtype=torch.double)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


@pytest.mark.parametrize("decoder", [False, True])
def test_a_feed_forward_part_is_cut(decoder: bool) -> None:
    kind: Any = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
    layer = kind(6, 2, 8, dropout=0.0, batch_first=True, dtype=torch.double)
    assert elastic(layer, dim_feedforward=[3, 8], name="ffn") is layer
    space, x = SearchSpace(layer), torch.randn(2, 5, 6, dtype=torch.double)
    given = (x, x) if decoder else (x,)
    for training, (index, size) in itertools.product((True, False), enumerate((3, 8))):
        layer.train(training)
        with space.bind(space.one_hot([index])):
            expected = layer(*given)
        found = Genotype({"ffn": str(size)}).apply(layer)
        small = kind(6, 2, size, dropout=0.0, batch_first=True, dtype=torch.double)
        small.load_state_dict(found.state_dict(), strict=True)
        small.train(training)
        torch.testing.assert_close(small(*given), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(found(*given), expected, rtol=0, atol=1e-10)
        with torch.no_grad():  # with the fast path of PyTorch, which the found layer has again
            torch.testing.assert_close(found(*given), expected, rtol=0, atol=1e-10)


def test_widths_and_depth_of_an_encoder_are_found_together() -> None:
    stack = encoder()
    for layer in stack.layers:
        elastic(layer, dim_feedforward=(size for size in (3, 8)), name="ffn")
    net = nn.Sequential(Depth(stack, [1, 3], name="depth"), nn.Linear(6, 2, dtype=torch.double))
    space, x = SearchSpace(net), torch.randn(2, 5, 6, dtype=torch.double)
    net.eval()
    for choice in itertools.product(range(2), range(2)):
        with space.bind(space.one_hot(choice)):
            expected = net(x)
        found: Any = space.genotype(choice).apply(net)
        small = encoder((1, 3)[choice[0]], (3, 8)[choice[1]])
        small.load_state_dict(found[0].state_dict(), strict=True)
        assert type(found[0]) is nn.TransformerEncoder
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-10)


def test_heads_are_groups_of_features() -> None:
    net = Attention().double()
    space, x = SearchSpace(net), torch.randn(2, 5, 6, dtype=torch.double)
    assert space.candidates == (("1", "2", "4"),)
    for index, (name, width) in enumerate(HEADS.items()):
        with space.bind(space.one_hot([index])):
            expected = net(x)
        found: Any = Genotype({"heads": name}).apply(net)
        assert (found.queries.out_features, found.out.in_features) == (width, width)
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-10)
    gates = torch.rand(1, 3, dtype=torch.double).requires_grad_()
    drawn: Any = type(space.one_hot([0]))

    def loss(gates: Tensor) -> Tensor:
        with space.bind(drawn(gates, space.all_paths), gates):
            return net(x).square().mean()

    assert torch.autograd.gradcheck(loss, gates, atol=1e-8)


def test_other_sizes_of_a_layer_are_refused() -> None:
    layer: Any = nn.TransformerEncoderLayer(6, 2, 8)
    with pytest.raises(
        ValueError, match="a TransformerEncoderLayer has no elastic size 'nhead': it has num_heads, dim_feedforward"
    ):
        elastic(layer, nhead=[1, 2], name="heads")
    with pytest.raises(
        ValueError, match="TransformerEncoderLayer has no sizes to choose from: give it num_heads or dim_feedforward"
    ):
        elastic(layer, name="ffn")
    with pytest.raises(ValueError, match="TransformerEncoderLayer has two choices called 'own': give them two names"):
        elastic(layer, num_heads=[1, 2], dim_feedforward=[4, 8], name="own")
    names = {"num_heads": "heads", "dim_feedforward": "ffn"}
    with pytest.raises(ValueError, match="out_features=16 of elastic 'ffn' cannot be"):
        elastic(layer, num_heads=[1, 2], dim_feedforward=[4, 16], name=names)
    assert type(layer.self_attn) is nn.MultiheadAttention  # all of it or nothing
    elastic(layer, num_heads=[1, 2], name="heads")
    with pytest.raises(ValueError, match="a module of edge 'heads' is elastic already: give all its sizes at once"):
        elastic(layer, num_heads=[1, 2], dim_feedforward=[4, 8], name=names)
    elastic(layer, dim_feedforward=[4, 8], name="ffn")
    assert SearchSpace(layer).edges == ("heads", "ffn")
