"""Sizes by rule that cannot be are refused in one line, and the network is then as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import MLP

from advnas_lightning import MixedOp, make_searchable, widths
from advnas_lightning.space.elastic.rules import Heads, Stack, Width
from tests.support.refusals import one_line

HALF = [0.5, 1.0]


def vit() -> nn.Module:
    return VisionTransformer(16, 8, 3, 2, 8, 16, num_classes=3)


def blocks() -> nn.Module:
    return nn.Sequential(BasicBlock(8, 8), BasicBlock(4, 4))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.act = nn.Linear(4, 8), nn.Linear(8, 4), nn.ReLU()
        self.attention, self.odd = nn.MultiheadAttention(4, 2), nn.Linear(3, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class OwnBlock(BasicBlock):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(self.bn1(x))


def own(*described: Any) -> dict[type[nn.Module], Any]:
    return {Own: list(described)}


def nested() -> nn.Module:
    return nn.Sequential(nn.Sequential(Own()))


class Adapted(nn.Module):
    """Has the layer inside, and an adapter beside it."""


def adapted() -> nn.Module:
    net = vit()
    for block in net.modules():
        if isinstance(block, MLP):
            block[0] = Adapted()
    return net


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], tuple[str, ...]]] = {
    "unknown": (
        nested,
        {"ffn": HALF},
        (
            "ffn is known of no block of this Sequential, which has Own, MultiheadAttention: describe one, as in",
            ' widths(ffn=…, blocks={Own: Width("ffn", gives=["up"], reads=["down"])})',
        ),
    ),
    "unknown of another block": (
        lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), Own())),
        {"depth": [1, 3]},
        ("depth is known of no block", 'widths(depth=…, blocks={Own: Stack("layers")})'),
    ),
    "unknown of known": (
        vit,
        {"channels": HALF},
        ("channels is known of no block of this VisionTransformer", 'Width("channels", gives='),
    ),
    "forward of its own": (lambda: nn.Sequential(OwnBlock(8, 8)), {"channels": HALF}, ("which has OwnBlock",)),
    "elsewhere": (
        vit,
        {"ffn": HALF, "where": "decoder.**"},
        ("where='decoder.**' matches no block with ffn, which are encoder.layers.encoder_layer_0.mlp, encoder.",),
    ),
    "above": (blocks, {"channels": [4, 8, 16]}, ("channels=16 is above the 8 that '0' has",)),
    "above in another block": (blocks, {"channels": [4, 8]}, ("channels=8 is above the 4 that '1' has",)),
    "nothing": (blocks, {"channels": [0.1, 1.0]}, ("channels=0.1 of the 4 of '1' is nothing: give a larger share",)),
    "equal": (
        blocks,
        {"channels": [0.4, 0.5, 1.0]},
        ("channels has 0.4, 0.5, which are both 2 of the 4 of '1': leave one out",),
    ),
    "twice": (vit, {"depth": [3, 1.0]}, ("depth has 3, 1.0, which are both 3 of the 3 of 'encoder.layers'",)),
    "widest missing": (
        blocks,
        {"channels": [0.5]},
        ("channels=[0.5] lacks the 8 that '0' has, so that the network itself is no candidate: add 8, or 1.0",),
    ),
    "groups": (
        lambda: nn.Sequential(Bottleneck(8, 4, groups=4, base_width=32)),
        {"channels": [7, 8]},
        ("out_channels=7 of elastic '0.channels' cannot be: it is no multiple of 2",),
    ),
    "own name": (
        nested,
        {"ffn": HALF, "blocks": own(Width("ffn", ["upp"], ["down"]))},
        ("what blocks says of the ffn of a Own is not so: a Own has no module 'upp'",),
    ),
    "own size": (
        nested,
        {"ffn": HALF, "blocks": own(Width("ffn", ["down"], ["down"]))},
        ("'down' has size 4, and 'down' has 8",),
    ),
    "own role": (
        nested,
        {"ffn": HALF, "blocks": own(Width("ffn", ["act"], ["down"]))},
        ("a ReLU cannot be elastic",),
    ),
    "own passing": (
        nested,
        {"ffn": HALF, "blocks": own(Width("ffn", ["up"], ["down"], through=["up"]))},
        ("'up' is a Linear and has no size of input and output: it has out_features, out_halves,",),
    ),
    "own halves": (
        nested,
        {"ffn": HALF, "blocks": own(Width("ffn", [], ["down"], halves=["attention"]))},
        ("'attention' is a MultiheadAttention and has no size of two halves of its output: it has num_heads",),
    ),
    "own stack": (nested, {"depth": HALF, "blocks": own(Stack("act"))}, ("'act' is a ReLU and no Sequential",)),
    "own attention": (
        nested,
        {"heads": HALF, "blocks": own(Heads())},
        ("what blocks says of the heads of a Own is not so: a Own cannot be elastic",),
    ),
    "own heads": (nested, {"heads": HALF, "blocks": own(Heads("up"))}, ("a Linear has no elastic size num_heads",)),
    "own reader": (
        nested,
        {"heads": HALF, "blocks": own(Heads("attention", reads=["odd"]))},
        ("'odd' has size 3, which is no multiple of 2 heads",),
    ),
    "unequal layers": (
        nested,
        {"depth": HALF, "blocks": own(Stack("layers"))},
        ("depth=2 of elastic '0.0.depth' cannot be: layer 2 is no Linear of the shapes that layer 1 has",),
    ),
    "adapted": (
        adapted,
        {"ffn": HALF},
        (
            "ffn can be elastic in no block of this VisionTransformer: in 'encoder.layers.encoder_layer_0.mlp', a",
            " MLPBlock, a Adapted cannot be elastic; leave ffn out, put the block's own layers back, as merge_and_un",
        ),
    ),
    "itself": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
        {"depth": HALF},
        ("the depth of the network itself cannot be a choice", "nn.Sequential(model)"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_size_that_cannot_be_is_refused(name: str) -> None:
    make, sizes, parts = REFUSED[name]
    net = make()
    before = [*net.named_modules()]
    with one_line(*parts):
        make_searchable(net, widths(**sizes))
    assert [*net.named_modules()] == before


@pytest.mark.parametrize(
    ("sizes", "part"),
    [
        ({}, "widths() has no sizes: give it ffn=[0.5, 1.0] or"),
        ({"ffn": []}, "ffn=[] has no sizes: give a list"),
        ({"ffn": "8"}, "ffn='8' has no sizes"),
        ({"ffn": 8}, "ffn=8 has no sizes"),
        ({"depth": [1, True]}, "depth=True is no size"),
        ({"depth": [0, 2]}, "depth=0 is no size"),
        ({"channels": [0.0, 1.0]}, "channels=0.0 is no size"),
        ({"channels": [1.5]}, "channels=1.5 is no size: give a whole number from 1, or a share up to 1.0"),
        ({"channels": [float("nan")]}, "channels=nan is no size"),
        ({"ffn": HALF, "where": ""}, "widths(where='') is no pattern of names"),
        ({"ffn": HALF, "blocks": [Width("ffn", ["up"], ["down"])]}, "is no mapping"),
        ({"ffn": HALF, "blocks": {"Own": Width("ffn", ["up"], ["down"])}}, "blocks has 'Own', which is no class"),
        ({"ffn": HALF, "blocks": {Own: ["up"]}}, "blocks has ['up'] for Own: give a Width, Heads, a Stack, or a list"),
        ({"ffn": HALF, "blocks": {Own: []}}, "blocks has [] for Own"),
    ],
)
def test_what_is_no_list_of_sizes_is_refused(sizes: dict[str, Any], part: str) -> None:
    with one_line(part):
        widths(**sizes)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Width("heads", ["up"], ["down"]), "Width('heads') is of no kind of width: use 'ffn' or 'channels'"),
        (lambda: Width("ffn", "up", ["down"]), "gives of a Width is 'up': give a list"),
        (lambda: Width("ffn", ["up"], []), "a Width reads nothing: name a module of the block"),
        (lambda: Width("ffn", [], ["down"]), "a Width gives nothing"),
        (lambda: Width("ffn", [], ["down"], halves="up"), "halves of a Width is 'up': give a list"),
        (lambda: Width("ffn", ["up"], ["down"], [1]), "through of a Width is [1]"),  # type: ignore[list-item]
        (lambda: Heads(["self"]), "attention of Heads is"),  # type: ignore[arg-type]
        (lambda: Heads(reads="out"), "reads of Heads is 'out'"),
        (lambda: Stack(["layers"]), "layers of a Stack is"),  # type: ignore[arg-type]
        (lambda: Stack("layers", behind="norm"), "behind of a Stack is 'norm'"),
    ],
)
def test_what_is_no_description_is_refused(make: Callable[[], Any], part: str) -> None:
    with one_line(part):
        make()


def test_edges_that_cannot_be_shared_are_refused() -> None:
    rule = widths(ffn=HALF, depth=[1, 3])
    with one_line("one edge, 'all'", "one is depth and the other ffn: give them two names"):
        make_searchable(vit(), rule, share=lambda *_: "all")
    with one_line("share gives 'encoder.layers.depth' the edge name None: return a text"):
        make_searchable(vit(), rule, share=lambda *_: None)  # type: ignore[arg-type, return-value]
    net = nn.Sequential(MixedOp("1.1.channels", {"relu": nn.ReLU()}), nn.Sequential(nn.ReLU(), BasicBlock(8, 8)))
    with one_line("'1.1' has the channels 4, 8, but the network has an edge '1.1.channels' with relu"):
        make_searchable(net, widths(channels=HALF))
    net = nn.Sequential(BasicBlock(8, 8))
    make_searchable(net, widths(channels=HALF))
    with one_line("channels is known of no block of this Sequential", "what is elastic already or lies in an elastic"):
        make_searchable(net, widths(channels=HALF))
    net = nn.Sequential(vit())
    make_searchable(net, widths(depth=[1, 3]))
    with one_line("ffn is known of no block", "lies in an elastic depth stays as it is, so give all its sizes in one"):
        make_searchable(net, widths(ffn=HALF))


def test_a_side_of_two_widths_is_refused() -> None:
    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)

    described = {Double: [Width("ffn", ["one"], ["down"]), Width("channels", ["two"], ["down"])]}
    with one_line("'0.down' has in_features of two edges, '0.ffn' and '0.channels': let one description name it"):
        make_searchable(nn.Sequential(Double()), widths(ffn=HALF, channels=HALF, blocks=described))


def test_a_stack_of_one_layer_is_left_as_it_is() -> None:
    net = ResNet(BasicBlock, [1, 2, 1, 1], 3)
    made = make_searchable(net, widths(depth=HALF))
    assert dict(made) == {"layer2": ("1", "2")}
