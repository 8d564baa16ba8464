"""Elastic recurrent layers compute what plain ones of the small sizes do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from advnas_lightning import Genotype, SearchSpace, elastic
from tests.support.small_search import CLASSES, FEATURES

Make = Callable[..., Any]
KINDS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "lstm": (nn.LSTM, 4, {"num_layers": 2, "batch_first": True}),
    "gru": (nn.GRU, 3, {"bias": False}),
    "rnn": (nn.RNN, 1, {"nonlinearity": "relu"}),
}


def rows(tensor: Tensor, gates: int, size: int) -> Tensor:
    """The first units of each gate, by hand."""
    return tensor.unflatten(0, (gates, -1))[:, :size].flatten(0, 1)


def sliced(state: dict[str, Tensor], gates: int, size: int) -> dict[str, Tensor]:
    small = {name: rows(tensor, gates, size) for name, tensor in state.items()}
    inner = [name for name in small if name.startswith("weight_hh") or name == "weight_ih_l1"]
    return {**small, **{name: small[name][:, :size] for name in inner}}


def tensors(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [each for item in output for each in tensors(item)]


@pytest.mark.parametrize("size", [2, 5, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_equals_a_plain_layer(kind: str, size: int) -> None:
    make, gates, options = KINDS[kind]
    wide, small = make(3, 6, **options).double(), make(3, size, **options).double()
    small.load_state_dict(sliced(dict(wide.state_dict()), gates, size), strict=True)
    before = dict(vars(wide))
    net = nn.ModuleList([elastic(wide, hidden_size=[2, 5, 6], name="hidden")])
    space, x = SearchSpace(net), torch.randn(4, 7, 3, dtype=torch.double)
    with space.bind(space.one_hot([[2, 5, 6].index(size)])):
        found = net[0](x)
    expected = small(x)
    assert vars(wide) == before
    for own, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-10)
    left = torch.autograd.grad(sum(each.square().sum() for each in tensors(found)), list(wide.parameters()))
    right = torch.autograd.grad(sum(each.square().sum() for each in tensors(expected)), list(small.parameters()))
    grads = dict(zip(dict(wide.named_parameters()), left, strict=True))
    for name, exact in zip(grads, right, strict=True):
        torch.testing.assert_close(sliced(grads, gates, size)[name], exact, rtol=0, atol=1e-10)
        assert grads[name].count_nonzero() <= exact.numel()
    cut: Any = Genotype({"hidden": str(size)}).apply(net)
    assert repr(cut[0]) == repr(small)
    small.load_state_dict(cut[0].state_dict(), strict=True)
    torch.testing.assert_close(cut[0](x), small(x), rtol=0, atol=1e-10)
    cut.float()  # moves what it computes with, too
    assert cut[0](x.float())[0].dtype == torch.float32


class Reader(nn.Module):
    """An embedding, a LSTM and a classifier, all of elastic sizes."""

    def __init__(self, *, packed: bool = False) -> None:
        super().__init__()
        self.packed = packed
        self.stem = elastic(nn.Linear(1, 6), out_features=[3, 6], name="inputs")
        self.lstm = elastic(
            nn.LSTM(6, 8, batch_first=True),
            input_size=[3, 6],
            hidden_size=[4, 8],
            name={"input_size": "inputs", "hidden_size": "hidden"},
        )
        self.head = elastic(nn.Linear(8, CLASSES), in_features=[4, 8], name="hidden")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.unsqueeze(-1))
        if not self.packed:
            return self.head(self.lstm(x)[0][:, -1])
        lengths = torch.arange(len(x)).remainder(FEATURES).add(1)
        output, _ = self.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return self.head(pad_packed_sequence(output, batch_first=True)[0].sum(1))


@pytest.mark.parametrize("packed", [False, True])
def test_both_sides_are_cut(packed: bool) -> None:
    net = Reader(packed=packed).double()
    space, x = SearchSpace(net), torch.randn(5, FEATURES, dtype=torch.double)
    for choice in ((0, 0), (0, 1), (1, 0), (1, 1)):
        with space.bind(space.one_hot(choice)):
            expected = net(x)
        found: Any = space.genotype(choice).apply(net)
        assert (found.lstm.input_size, found.lstm.hidden_size) == ((3, 6)[choice[0]], (4, 8)[choice[1]])
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("packed", [False, True])
def test_gate_gradients_are_finite_differences(packed: bool) -> None:
    net = Reader(packed=packed).double()
    space, x = SearchSpace(net), torch.randn(3, FEATURES, dtype=torch.double)
    gates = torch.rand(space.mask.shape, dtype=torch.double).requires_grad_()
    drawn: Any = type(space.one_hot([0, 0]))

    def loss(gates: Tensor) -> Tensor:
        with space.bind(drawn(gates, space.all_paths), gates):
            return net(x).square().mean()

    assert torch.autograd.gradcheck(loss, gates, atol=1e-8)


def test_a_search_finds_a_hidden_size(make_search: Make, make_loaders: Make, fit: Make) -> None:
    search = make_search("counterfactual", Reader())
    fit(search, make_loaders())
    assert search.derive().lstm.hidden_size in (4, 8)


def test_a_layer_in_two_directions_has_no_elastic_hidden_size() -> None:
    with pytest.raises(ValueError, match="a GRU has no elastic size 'hidden_size': it has input_size"):
        elastic(nn.GRU(3, 4, bidirectional=True), hidden_size=[2], name="hidden")
    edge = elastic(nn.Linear(1, 3), out_features=[2, 3], name="inputs")
    net = nn.ModuleList([edge, elastic(nn.GRU(3, 4, bidirectional=True), input_size=[2, 3], name="inputs")])
    cut: Any = Genotype({"inputs": "2"}).apply(net)
    assert cut[1](torch.ones(5, 2))[0].shape == (5, 8)
