"""Small networks with edges that lie inside candidates of other edges."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from torch import Tensor, nn

from advnas_lightning import Depth, MixedOp, SearchSpace, elastic, make_searchable, widths
from tests.support.small_search import CLASSES, FEATURES

Choice = tuple[int, ...]


class Layer(nn.Module):
    """A residual layer with an elastic width, and perhaps a choice of the activation."""

    def __init__(self, width: str, act: str | None = None) -> None:
        super().__init__()
        self.up = elastic(nn.Linear(FEATURES, 4), out_features=[4, 2], name=width)
        self.act = nn.ReLU() if act is None else MixedOp(act, {"relu": nn.ReLU(), "silu": nn.SiLU()})
        self.down = elastic(nn.Linear(4, FEATURES), in_features=[4, 2], name=width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(x)))


def deep() -> nn.Module:
    """A stack of three layers, each with a width of its own."""
    return nn.Sequential(Depth([Layer(f"w{n}") for n in (1, 2, 3)], [1, 2, 3], name="depth"), head())


def shared() -> nn.Module:
    """Two stacks whose layers share widths and an activation, one width also with what is outside."""
    sizes = {"d1": [3, 1], "d2": [1, 2]}
    stacks = [Depth([Layer("w"), Layer("u", "act"), Layer("v")], sizes[d], name=d) for d in sizes]
    return nn.Sequential(*stacks, Layer("v"), head())


def nested() -> nn.Module:
    """A stack of stacks, of which the second edge is found before the one around it decides."""
    inner = [Depth([Layer("a"), Layer(f"b{n}")], [1, 2], name=f"inner {n}") for n in (1, 2)]
    return nn.Sequential(Depth(inner, [1, 2], name="outer"), head())


def twice() -> nn.Module:
    """A stack whose second layer runs once more behind it."""
    layers = [Layer("w1"), Layer("w2"), Layer("w3")]
    return nn.Sequential(Depth(layers, [1, 3], name="depth"), layers[1], head())


def looped() -> nn.Module:
    """A TransformerEncoder, in which a rule has found all choices."""
    layer = nn.TransformerEncoderLayer(FEATURES, 1, 4, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), head())
    make_searchable(net, widths(ffn=[2, 4], depth=[1, 2, 3]))
    return net


def head() -> nn.Linear:
    """The last layer."""
    return nn.Linear(FEATURES, CLASSES)


def all_choices(space: SearchSpace) -> Iterator[Choice]:
    """All architectures."""
    return product(*(range(len(row)) for row in space.candidates))


def fingerprint(space: SearchSpace, choice: Choice, net: nn.Module) -> Any:
    """What is equal for two architectures whose derived networks are equal."""
    found = space.genotype(choice).apply(net)
    return repr(found), tuple((name, tuple(value.flatten().tolist())) for name, value in found.state_dict().items())
