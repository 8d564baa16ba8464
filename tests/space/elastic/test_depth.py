"""A stack of elastic depth computes what the stack of its first layers does, also with choices in its layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import Depth, Genotype, MixedOp, SearchSpace, elastic
from advnas_lightning.cost.elastic import count
from tests.support.refusals import one_line
from tests.support.small_search import CLASSES, FEATURES
from tests.support.speed import slow_but

Make = Callable[..., Any]
SIZES = [1, 2, 4]


class Block(nn.Module):
    """A residual block, with an elastic width and a choice of the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.up = elastic(nn.Linear(6, 8), out_features=[3, 8], name="hidden")
        self.act = MixedOp("act", {"relu": nn.ReLU(), "silu": nn.SiLU()})
        self.down = elastic(nn.Linear(8, 6), in_features=[3, 8], name="hidden")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class DeepNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, 6)
        self.blocks = Depth([Block() for _ in range(4)], SIZES, name="depth")
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def encoder(layers: int = 4) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, dtype=torch.double)
    return nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(4, dtype=torch.double))


def sequential() -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(5), nn.Tanh()) for _ in range(4))).double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [sequential, encoder])
def test_a_stack_equals_that_of_its_first_layers(make: Make, size: int, training: bool) -> None:
    stack = make()
    for weight in stack.parameters():
        nn.init.normal_(weight, std=0.5)
    if isinstance(stack, nn.TransformerEncoder):
        small: Any = encoder(size)
    else:
        small = nn.Sequential(*list(make())[:size])
    small.load_state_dict({name: stack.state_dict()[name] for name in small.state_dict()}, strict=True)
    edge = Depth(stack, SIZES, name="depth")
    space, x = SearchSpace(edge), torch.randn(3, 5, 4, dtype=torch.double)
    edge.train(training)
    small.train(training)
    with space.bind(space.one_hot([SIZES.index(size)])):
        found = edge(x)
    expected = small(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    found.square().sum().backward()
    expected.square().sum().backward()
    used = dict(small.named_parameters())
    for name, weight in stack.named_parameters():
        if name in used:
            torch.testing.assert_close(weight.grad, used[name].grad, rtol=0, atol=1e-10)
        else:
            assert weight.grad is None
    for name, value in small.named_buffers():
        torch.testing.assert_close(stack.get_buffer(name), value, rtol=0, atol=1e-10)
    cut: Any = Genotype({"depth": str(size)}).apply(nn.ModuleList([edge]))[0]  # type: ignore[index]
    assert repr(cut) == repr(small)
    small.load_state_dict(cut.state_dict(), strict=True)
    torch.testing.assert_close(cut(x), small(x), rtol=0, atol=1e-10)


def test_arguments_by_name_reach_an_encoder() -> None:
    edge = Depth(encoder().eval(), SIZES, name="depth")
    space, x = SearchSpace(edge), torch.randn(2, 5, 4, dtype=torch.double)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with space.bind(space.one_hot([1])):
        found = edge(x, src_key_padding_mask=mask)
    plain: Any = Genotype({"depth": "2"}).apply(nn.ModuleList([edge]))
    torch.testing.assert_close(found[~mask], plain[0](x, src_key_padding_mask=mask)[~mask])


def test_choices_in_its_layers_are_found_too() -> None:
    net = DeepNet().double().eval()
    space, x = SearchSpace(net), torch.randn(5, FEATURES, dtype=torch.double)
    assert space.edges == ("depth", "hidden", "act")
    for choice in itertools.product(range(3), range(2), range(2)):
        with space.bind(space.one_hot(choice)):
            expected = net(x)
        found: Any = space.genotype(choice).apply(net)
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-10)
        assert len(found.blocks) == SIZES[choice[0]]
        assert count(net, space, list(choice)) == sum(weight.numel() for weight in found.parameters())
        assert b"".join(key.encode() for key in found.state_dict() if "widest" in key or "candidates" in key) == b""


def test_gate_gradients_are_finite_differences() -> None:
    net = DeepNet().double().eval()
    space, x = SearchSpace(net), torch.randn(5, FEATURES, dtype=torch.double)
    gates = torch.rand(space.mask.shape, dtype=torch.double).requires_grad_()
    dense: Any = type(space.one_hot([0, 0, 0]))

    def loss(gates: Tensor) -> Tensor:
        with space.bind(dense(gates, space.all_paths), gates):
            return net(x).square().mean()

    assert torch.autograd.gradcheck(loss, gates, atol=1e-7)


@pytest.mark.parametrize(
    "name", slow_but(["advantage", "counterfactual", "proxylessnas", "darts"], ["advantage", "darts"])
)
def test_a_search_finds_a_depth(name: str, make_search: Make, make_loaders: Make, fit: Make) -> None:
    search = make_search(name, DeepNet())
    before = search.theta.clone()
    fit(search, make_loaders(), max_epochs=2)
    assert not torch.equal(search.theta, before)
    assert len(search.derive().blocks) in SIZES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Depth([], [1], name="d"), "Depth 'd' has no layers: give it an nn.Sequential of equal layers"),
        (lambda: Depth([nn.ReLU(), None], [1], name="d"), "Depth 'd' has no layers"),  # type: ignore[list-item]
        (lambda: Depth(nn.Linear(2, 2), [1], name="d"), "Depth 'd' has no layers"),
        (
            lambda: Depth([nn.ReLU()], [2], name="d"),
            "depth=2 of elastic 'd' cannot be: it is no whole number from 1 to",
        ),
        (
            lambda: Depth([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 8)], [1, 3], name="d"),
            "depth=1 of elastic 'd' cannot be: layer 2 is no Linear of the shapes that layer 0 has: stack equal layers",
        ),
        (lambda: Depth(encoder(), [5], name="d"), "num_layers=5 of elastic 'd' cannot be"),
    ],
)
def test_what_is_no_stack(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("layers", [lambda stack: stack, lambda stack: stack[:2], lambda stack: [stack[0]]])
def test_a_loop_over_the_layers_is_refused(layers: Make) -> None:
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = Depth([nn.Linear(4, 4) for _ in range(3)], [2, 3], name="depth")

        def forward(self, x: Tensor) -> Tensor:
            for block in layers(self.blocks):
                x = block(x)
            return x

    space, x = SearchSpace(net := Loops()), torch.ones(1, 4)
    with (
        space.bind(space.one_hot([0])),
        pytest.raises(ValueError, match="edge 'depth' is used past the choice: call the edge itself"),
    ):
        net(x)
    assert net.blocks[1].out_features == 4  # plain values of a layer can be read


class AllOutputs(nn.Sequential):
    """Returns what each layer gives."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x := layer(x) for layer in self]


class NetOfAllOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = Depth(AllOutputs(*(nn.Linear(FEATURES, FEATURES) for _ in range(3))), [1, 3], name="depth")
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[-1])


@pytest.mark.parametrize("name", ["darts", "counterfactual", "advantage"])
def test_outputs_of_all_layers_cannot_be_mixed(name: str, make_search: Make, make_loaders: Make, fit: Make) -> None:
    search = make_search(name, NetOfAllOutputs())
    if name == "advantage":
        fit(search, make_loaders())
        return
    with one_line(
        "candidates of edge 'depth' return ", " tensors, which cannot be mixed: leave out what each layer gives"
    ):
        fit(search, make_loaders())
