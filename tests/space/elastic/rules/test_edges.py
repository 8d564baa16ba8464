"""Edges of elastic sizes by rule: their names, what they share, what they leave alone, and blocks of a user."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from advnas_lightning import Genotype, SearchSpace, choices, make_searchable, widths
from advnas_lightning.cost.elastic import count
from advnas_lightning.space.elastic import Elastic, Follower
from advnas_lightning.space.elastic.as_before import as_before
from advnas_lightning.space.elastic.heads import GroupedHeads, HeadsOfStack
from advnas_lightning.space.elastic.kinds import AXES
from advnas_lightning.space.elastic.rules import Heads, Stack, Width
from tests.support.refusals import one_line

HALF = [0.5, 1.0]


class Gated(nn.Module):
    """A feed-forward part whose width two layers give, as in Llama, with a norm and a convolution inside."""

    def __init__(self, width: int = 8, layers: int = 0) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, width), nn.Linear(4, width), nn.Linear(width, 4)
        self.norm = nn.LayerNorm(width)
        self.extra = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(self.norm(torch.tanh(self.gate(x)) * self.up(x)))
        for layer in self.extra:
            x = x + layer(x).tanh()
        return x


GATED = Width("ffn", gives=["gate", "up"], through=["norm"], reads=["down"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Gated(8), Gated(16, layers=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_a_block_of_ones_own_becomes_what_is_built_small() -> None:
    net = Net().double()
    plain, x = copy.deepcopy(net), torch.randn(3, 4, dtype=torch.double)
    make_searchable(net, widths(ffn=HALF, depth=[2, 3], blocks={Gated: [GATED, Stack("extra")]}))
    space = SearchSpace(net)
    assert space.edges == ("first.ffn", "second.depth", "second.ffn")
    with space.bind(space.one_hot([1, 1, 1])):
        assert torch.equal(net(x), plain(x))
    with space.bind(space.one_hot([0, 0, 0])):
        narrow = net(x)
    found = space.genotype([0, 0, 0]).apply(net)
    small = Net().double()
    small.first, small.second = Gated(4).double(), Gated(8, layers=2).double()
    state = plain.state_dict()
    small.load_state_dict(
        {key: state[key][tuple(slice(side) for side in value.shape)] for key, value in small.state_dict().items()}
    )
    torch.testing.assert_close(narrow, small(x), rtol=0, atol=1e-10)
    small.load_state_dict(found.state_dict(), strict=True)
    torch.testing.assert_close(found(x), small(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", ["stages", "loop"])
def test_costs_are_those_of_what_is_found(make: str) -> None:
    """Also where a gate stands behind a norm that is elastic itself, and where a module loops over its layers."""
    if make == "loop":
        net: nn.Module = Net()
        make_searchable(net, widths(ffn=HALF, depth=[2, 3], blocks={Gated: [GATED, Stack("extra")]}))
    else:
        net = ResNet(BasicBlock, [1, 2, 1, 1], 3)
        make_searchable(net, widths(channels=HALF, where="layer3.0"))
        make_searchable(net, widths(depth=HALF))
    space = SearchSpace(net)
    for choice in itertools.product(range(2), repeat=len(space)):
        found = space.genotype(choice).apply(net)
        assert count(net, space, list(choice)) == sum(weight.numel() for weight in found.parameters())


def test_an_edge_is_shared_by_blocks_of_different_sizes() -> None:
    net = Net()
    made = make_searchable(
        net,
        widths(ffn=[0.25, 1 / 3, 1.0], blocks={Gated: GATED}),
        share=lambda name, block: name.rpartition(".")[2] + type(block).__name__,
    )
    assert dict(made) == {"first.gate": ("1/4", "1/3", "1"), "second.gate": ("1/4", "1/3", "1")}
    assert set(made.edges.values()) == {"ffnGated"}
    found: Any = Genotype({"ffnGated": "1/3"}).apply(net)
    assert (found.first.up.out_features, found.second.up.out_features) == (3, 5)


def test_blocks_of_one_size_that_share_an_edge_have_sizes_for_names() -> None:
    net = VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=3)
    made = make_searchable(net, widths(ffn=[4, 1.0]), share=lambda *_: "ffn")
    assert set(made.values()) == {("4", "16")}
    assert SearchSpace(net).edges == ("ffn",)


def test_two_widths_of_a_block_are_one_edge() -> None:
    net = nn.Sequential(Bottleneck(8, 2))
    made = make_searchable(net, widths(channels=HALF))
    assert dict(made) == {"0.conv1": ("1", "2"), "0.conv2": ("1", "2")}
    assert SearchSpace(net).edges == ("0.channels",)


def test_a_part_of_the_network_is_left_alone() -> None:
    net = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
    make_searchable(net, widths(channels=HALF, where="1"))
    assert [name for name, module in net.named_modules() if isinstance(module, Elastic | Follower)] == [
        "1.conv1",
        "1.bn1",
        "1.conv2",
    ]
    make_searchable(net, widths(channels=[2, 8], where="0"))  # with other sizes
    assert SearchSpace(net).candidates == (("2", "8"), ("4", "8"))


def test_depth_is_put_around_widths_that_are_there_already() -> None:
    net = VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=3).eval()
    plain, x = copy.deepcopy(net), torch.randn(2, 3, 16, 16)
    make_searchable(net, widths(ffn=HALF))
    make_searchable(net, widths(depth=[1, 2]))
    make_searchable(net, {nn.Conv2d: lambda conv: {"own": conv}})  # and other rules outside of it
    space = SearchSpace(net)
    with space.bind(space.one_hot([len(row) - 1 for row in space.candidates])):
        assert torch.equal(net(x), plain(x))


def test_a_block_that_stands_at_two_places_is_one_choice() -> None:
    block = BasicBlock(8, 8)
    net = nn.Sequential(block, nn.ReLU(), block).eval()
    plain, x = copy.deepcopy(net), torch.randn(1, 8, 4, 4)
    made = make_searchable(net, widths(channels=HALF))
    assert list(made) == ["0.conv1"]
    space = SearchSpace(net)
    with space.bind(space.one_hot([1])):
        assert torch.equal(net(x), plain(x))
    found: Any = space.genotype([0]).apply(net)
    assert found[0] is found[2]
    assert found[0].conv1.out_channels == 4


class Halves(nn.Module):
    """A feed-forward part with one layer for the gate and for what it multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate, values = self.up(x).chunk(2, dim=-1)
        return x + self.down(gate.sigmoid() * values)


@pytest.mark.parametrize("order_by", [None, "magnitude"])
def test_a_layer_gives_the_width_twice(order_by: Any) -> None:
    net: Any = nn.Sequential(Halves()).double()
    plain, x = copy.deepcopy(net), torch.randn(3, 4, dtype=torch.double)
    described = {Halves: Width("ffn", gives=[], halves=["up"], reads=["down"])}
    made = make_searchable(net, widths(ffn=HALF, order_by=order_by, blocks=described))
    assert dict(made) == {"0.up": ("4", "8")}
    space = SearchSpace(net)
    with space.bind(space.one_hot([1])):
        torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0 if order_by is None else 1e-12)
    found: Any = space.genotype([0]).apply(net)
    assert [found[0].up.out_features, found[0].down.in_features] == [8, 4]
    net[0].down.widest.weight.data[:, 4:] = 0
    with space.bind(space.one_hot([1])):
        torch.testing.assert_close(found(x), net(x), rtol=0, atol=1e-12)


class Biased(nn.Module):
    """An attention that hands on the bias of the positions, as in T5: the first one of a stack has it for all."""

    def __init__(self, is_first: bool) -> None:
        super().__init__()
        self.head_dim = 2
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(8, 8) for _ in range(4))
        if is_first:
            self.relative_attention_bias = nn.Embedding(5, 4)

    def forward(self, x: Tensor, bias: Any) -> tuple[Tensor, Tensor]:
        q, k, v = (each(x).unflatten(-1, (-1, 2)).transpose(1, 2) for each in (self.q_proj, self.k_proj, self.v_proj))
        if bias is None:
            places = torch.arange(x.shape[1])
            bias = self.relative_attention_bias((places - places.unsqueeze(1)).abs()).permute(2, 0, 1)
        values = ((q @ k.transpose(-1, -2) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + self.o_proj(values), bias


class BiasedStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Biased(is_first=n == 0) for n in range(3))

    def forward(self, x: Tensor) -> Tensor:
        bias = None
        for layer in self.layers:
            x, bias = layer(x, bias)
        return x


@pytest.mark.parametrize("order_by", [None, "magnitude"])
def test_layers_that_share_a_bias_of_the_positions_have_the_same_heads(
    order_by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AXES, BiasedStack, (HeadsOfStack(GroupedHeads()),))
    net: Any = nn.Sequential(BiasedStack()).double()
    plain, x = copy.deepcopy(net), torch.randn(2, 5, 8, dtype=torch.double)
    described = {BiasedStack: [Heads(), Stack("layers")]}
    make_searchable(net, widths(heads=HALF, depth=[2, 3], order_by=order_by, blocks=described))
    space = SearchSpace(net)
    assert space.edges == ("0.depth", "0.heads")
    with space.bind(space.one_hot([1, 1])):
        torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0 if order_by is None else 1e-12)
    found: Any = space.genotype([0, 0]).apply(net)
    assert [len(found[0].layers), found[0].layers[0].relative_attention_bias.embedding_dim] == [2, 2]
    for layer in net.modules():  # the others are not read then
        if isinstance(layer, Biased):
            layer.o_proj.weight.data[:, 4:] = 0
    with space.bind(space.one_hot([0, 1])):
        torch.testing.assert_close(found(x), net(x), rtol=0, atol=1e-12)


def test_checkpointed_layers_have_no_heads_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AXES, BiasedStack, (HeadsOfStack(GroupedHeads()),))
    net: Any = nn.Sequential(BiasedStack())
    net[0].layers[0].gradient_checkpointing = True  # as gradient_checkpointing_enable() does
    with one_line("num_heads=2 of elastic '0.heads' cannot be: checkpointed layers are computed again with all heads"):
        make_searchable(net, widths(heads=HALF, blocks={BiasedStack: Heads()}))


class Tabled(nn.Module):
    """A bias of the positions with a column for each head, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.randn(5, 4))

    def forward(self, places: Tensor) -> Tensor:
        return self.relative_position_bias_table[places].permute(2, 0, 1)


class Normed(nn.Module):
    """An attention that normalizes its queries."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.head_dim, self.num_heads = 2, 4
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(8, 8) for _ in range(4))
        self.q_norm, self.relative_position_bias = norm, Tabled()

    def forward(self, x: Tensor) -> Tensor:
        form = (*x.shape[:-1], self.num_heads, self.head_dim)
        q, k, v = (each(x).view(form).transpose(1, 2) for each in (self.q_proj, self.k_proj, self.v_proj))
        places = torch.arange(x.shape[1])
        bias = self.relative_position_bias((places - places.unsqueeze(1)).abs())
        values = (self.q_norm(q) @ k.transpose(-1, -2) + bias).softmax(-1) @ v
        return x + self.o_proj(values.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("order_by", [None, "magnitude"])
def test_heads_have_norms_of_their_own_size_and_columns_of_a_table(
    order_by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AXES, Normed, (GroupedHeads(),))
    net: Any = nn.Sequential(Normed(nn.LayerNorm(2))).double()
    plain, x = copy.deepcopy(net), torch.randn(2, 5, 8, dtype=torch.double)
    make_searchable(net, widths(heads=HALF, order_by=order_by, blocks={Normed: Heads()}))
    space = SearchSpace(net)
    with space.bind(space.one_hot([1])):
        torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0 if order_by is None else 1e-12)
    found: Any = space.genotype([0]).apply(net)
    assert found[0].relative_position_bias.relative_position_bias_table.shape == (5, 2)
    net[0].widest.o_proj.weight.data[:, 4:] = 0
    with space.bind(space.one_hot([1])):
        torch.testing.assert_close(found(x), net(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.ModuleList(nn.LayerNorm(2) for _ in range(4))])
def test_heads_with_a_norm_in_common_or_one_each_are_refused(norm: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AXES, Normed, (GroupedHeads(),))
    with one_line("a Normed has no elastic size num_heads"):
        make_searchable(nn.Sequential(Normed(norm)), widths(heads=HALF, blocks={Normed: Heads()}))


def test_a_state_from_before_is_loaded_into_elastic_sizes() -> None:
    def net() -> nn.Sequential:
        return nn.Sequential(Gated(layers=2), nn.BatchNorm1d(5), nn.Linear(4, 3))

    plain, searchable = net(), net()
    plain[1].running_mean += 1
    described = {Gated: [GATED, Stack("extra")]}
    make_searchable(searchable, widths(ffn=HALF, depth=HALF, blocks=described))
    assert "0.widest.gate.widest.weight" in searchable.state_dict()
    for strict in (True, False):
        found = searchable.load_state_dict(plain.state_dict(), strict=strict)
        assert found.missing_keys == found.unexpected_keys == []
    space, x = SearchSpace(searchable), torch.randn(2, 5, 4)
    with space.bind(space.one_hot([1] * len(space))):
        assert torch.equal(searchable.eval()(x), plain.eval()(x))
    again = net()
    make_searchable(again, widths(ffn=HALF, depth=HALF, blocks=described))
    again.load_state_dict(searchable.state_dict())  # with the names of its own
    assert all(map(torch.equal, again.state_dict().values(), searchable.state_dict().values()))
    with as_before(searchable):
        net().load_state_dict(searchable.state_dict())
    found = searchable.load_state_dict({"0.gate.weights": torch.ones(1)}, strict=False)
    assert found.unexpected_keys == ["0.widest.gate.widest.weights"]


def test_hooks_modes_and_references_stay() -> None:
    net = nn.Sequential(BasicBlock(8, 8))
    block: Any = net[0]
    block.bn1.eval()
    block.first = [block.conv1]
    calls: list[str] = []
    block.conv1.register_forward_hook(lambda *_: calls.append("behind"))
    block.conv1.register_forward_pre_hook(lambda *_: calls.append("before"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_searchable(net, widths(channels=HALF))
    assert block.first == [block.conv1]
    assert not block.bn1.training
    assert block.conv1.training
    space = SearchSpace(net)
    with space.bind(space.one_hot([0])):
        net(torch.randn(2, 8, 4, 4))
    assert calls == ["before", "behind"]
    found: Any = space.genotype([0]).apply(net)
    found(torch.randn(2, 8, 4, 4))
    assert calls == ["before", "behind"] * 2


class Recording(nn.Module):
    """Puts hooks on its layers in its first pass, as those of Hugging Face do where hidden states are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.is_hooked, self.states = False, [torch.empty(0)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if not self.is_hooked:
            self.is_hooked = True
            for layer in next(self.children()).children():
                layer.register_forward_hook(lambda module, given, output: self.states.append(output))
        self.states = [x]
        for layer in self.layers[:5]:
            x = layer(x)
        return tuple(self.states)


def test_hooks_that_a_pass_of_few_layers_puts_on_all_are_on_all() -> None:
    net = nn.Sequential(Recording())
    make_searchable(net, widths(depth=[1, 2, 3], blocks={Recording: Stack("layers")}))
    space, x = SearchSpace(net), torch.randn(2, 4)
    for candidate in (0, 2, 1):
        with space.bind(space.one_hot([candidate])):
            assert len(net(x)) == 1 + candidate + 1


def test_the_search_space_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
    make_searchable(net, widths(channels=HALF))
    choices(net)
    printed = capsys.readouterr().out
    assert "0.channels" in printed
    assert "2^2 = 4 architectures" in printed
