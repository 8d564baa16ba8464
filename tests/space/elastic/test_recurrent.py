"""Elastic recurrent layers compute what plain ones of the small sizes do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from advnas_lightning import Genotype, MixedOp, SearchSpace, elastic
from tests.support.small_search import CLASSES, FEATURES

Make = Callable[..., Any]
KINDS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "lstm": (nn.LSTM, 4, {"num_layers": 2, "batch_first": True}),
    "gru": (nn.GRU, 3, {"bias": False}),
    "rnn": (nn.RNN, 1, {"nonlinearity": "relu"}),
    "lstm in two directions": (nn.LSTM, 4, {"num_layers": 2, "bidirectional": True}),
    "gru in two directions": (nn.GRU, 3, {"num_layers": 2, "batch_first": True, "bidirectional": True}),
}


def rows(tensor: Tensor, gates: int, size: int) -> Tensor:
    """The first units of each gate, by hand."""
    return tensor.unflatten(0, (gates, -1))[:, :size].flatten(0, 1)


def sliced(state: dict[str, Tensor], gates: int, size: int) -> dict[str, Tensor]:
    small = {name: rows(tensor, gates, size) for name, tensor in state.items()}
    for name in small:
        if name.startswith(("weight_hh", "weight_ih_l1")):
            halves = small[name].split(6, dim=1)  # of two directions, or one
            small[name] = torch.cat([half[:, :size] for half in halves], dim=1)
    return small


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


class InTwoDirections(nn.Module):
    """Two recurrent layers in two directions and a classifier, which read both halves of what comes before them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = elastic(nn.LSTM(1, 6, batch_first=True, bidirectional=True), hidden_size=[2, 6], name="first")
        self.second: Any = elastic(
            nn.GRU(12, 5, batch_first=True, bidirectional=True),
            input_halves=[2, 6],
            hidden_size=[5, 3],
            name={"input_halves": "first", "hidden_size": "second"},
        )
        self.head: Any = elastic(nn.Linear(10, CLASSES), in_halves=[5, 3], name="second")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.unsqueeze(-1))[0])[0].sum(1))


def test_what_follows_two_directions_slices_both_halves_of_its_input() -> None:
    net = InTwoDirections().double()
    space, x = SearchSpace(net), torch.randn(5, FEATURES, dtype=torch.double)
    wide = net.second.widest.widest
    drawn: Any = type(space.one_hot([0, 0]))
    for choice in ((0, 0), (0, 1), (1, 0), (1, 1)):
        first, second = (2, 6)[choice[0]], (5, 3)[choice[1]]
        found: Any = space.genotype(choice).apply(net)
        assert repr(found.second) == repr(nn.GRU(2 * first, second, batch_first=True, bidirectional=True))
        assert repr(found.head) == repr(nn.Linear(2 * second, CLASSES))
        columns = [*range(second), *range(5, 5 + second)]
        assert torch.equal(found.head.weight, net.head.widest.weight[:, columns])
        columns = [*range(first), *range(6, 6 + first)]
        for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
            assert torch.equal(getattr(found.second, name), rows(getattr(wide, name), 3, second)[:, columns])
        expected = found(x)
        exact = torch.autograd.grad(expected.square().sum(), [found.head.weight, found.second.weight_ih_l0])
        for paths in (space.one_hot(choice).paths, space.all_paths):  # narrow, and with zeros behind each half
            gates = space.one_hot(choice).gates.double().requires_grad_()
            with space.bind(drawn(gates, paths), gates):
                output = net(x)
                head, inputs = torch.autograd.grad(
                    output.square().sum(), [net.head.widest.weight, wide.weight_ih_l0], retain_graph=True
                )
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
            columns = [*range(second), *range(5, 5 + second)]
            torch.testing.assert_close(head[:, columns], exact[0], rtol=0, atol=1e-10)
            columns = [*range(first), *range(6, 6 + first)]
            torch.testing.assert_close(rows(inputs, 3, second)[:, columns], exact[1], rtol=0, atol=1e-10)


def test_twice_the_sizes_of_two_directions_are_refused() -> None:
    gru = elastic(nn.GRU(3, 4, bidirectional=True), hidden_size=[2, 4], name="hidden")
    net = nn.ModuleList([gru, elastic(nn.Linear(8, 1), in_features={"2": 4, "4": 8}, name="hidden")])
    with pytest.raises(ValueError, match=r"'1' has twice the sizes of edge 'hidden', .* in_halves=\[2, 4\]"):
        SearchSpace(net)
    with pytest.raises(ValueError, match="a GRU has no elastic size 'input_halves': it has hidden_size, input_size"):
        elastic(nn.GRU(3, 4), input_halves=[1], name="inputs")


class Flattens(nn.Module):
    """Calls a recurrent layer as many networks do: with compact weights, and with a state of its size."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer
        layer.flatten_parameters()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        self.layer.flatten_parameters()
        output: Tensor = self.layer(x, torch.zeros(self.layer.num_layers, x.shape[1], self.layer.hidden_size))[0]
        return output


@pytest.mark.parametrize("is_elastic", [True, False])
def test_a_network_may_let_a_layer_flatten_its_parameters(is_elastic: bool) -> None:
    names = {"input_size": "inputs", "hidden_size": "edge"}
    layer = (
        elastic(nn.GRU(3, 6), input_size=[3], hidden_size=[2, 6], name=names)
        if is_elastic
        else MixedOp("edge", {"2": nn.GRU(3, 2), "6": nn.GRU(3, 6)})
    )
    net, x = (
        nn.Sequential(elastic(nn.Linear(3, 3), out_features=[3], name="inputs"), Flattens(layer)),
        torch.ones(4, 1, 3),
    )
    space = SearchSpace(net)
    for choice, size in ((0, 2), (1, 6)):
        with space.bind(space.one_hot([0, choice])):
            output = net(x)
        assert output.shape == (4, 1, size)
        assert torch.equal(space.genotype([0, choice]).apply(net)(x), output)


def test_the_input_of_a_layer_in_two_directions_is_cut() -> None:
    edge = elastic(nn.Linear(1, 3), out_features=[2, 3], name="inputs")
    net = nn.ModuleList([edge, elastic(nn.GRU(3, 4, bidirectional=True), input_size=[2, 3], name="inputs")])
    cut: Any = Genotype({"inputs": "2"}).apply(net)
    assert cut[1](torch.ones(5, 2))[0].shape == (5, 8)
