"""Whole networks of torchvision become elastic by rule, are searched, and what is found is such a network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from advnas_lightning import SearchSpace, make_searchable, widths
from advnas_lightning.space.elastic.rules import Stack
from tests.support.small_search import CLASSES
from tests.support.speed import slow_but

Make = Callable[..., Any]
HALF = [0.5, 1.0]


def vit(layers: int = 3, width: int = 16) -> nn.Module:
    return zoo.VisionTransformer(16, 8, layers, 2, 8, width, num_classes=CLASSES)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    stack = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(2), nn.Linear(16, 8), stack)


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 3)], num_classes=CLASSES)


def regnet(squeeze: float | None) -> nn.Module:
    """A network whose stages have 12, 24, 24 and 36 channels in groups of 6."""
    stages = BlockParams([2, 1, 1, 2], [12, 24, 24, 36], [6] * 4, [1.0] * 4, [2] * 4, squeeze)
    return RegNet(stages, num_classes=CLASSES)


# The network, its elastic sizes, and the network of the smallest sizes where torchvision can build it.
NETWORKS: dict[str, tuple[Make, dict[str, Any], Make | None]] = {
    "vit": (vit, {"ffn": [4, 16], "depth": [1, 3]}, lambda: vit(1, 4)),
    "heads of vit": (vit, {"ffn": [4, 16], "heads": HALF, "depth": [1, 3]}, None),
    "encoder": (encoder, {"ffn": HALF, "heads": HALF, "depth": HALF}, None),
    "convnext": (convnext, {"ffn": HALF, "depth": HALF}, None),
    "regnet": (lambda: regnet(None), {"channels": [0.3, 1.0], "depth": HALF}, None),  # 0.3 of 12 are 6, a whole group
    "regnet with squeeze": (lambda: regnet(0.25), {"channels": HALF, "depth": HALF}, None),
    "mnasnet": (lambda: zoo.MNASNet(0.5, CLASSES), {"channels": HALF}, None),
    "densenet": (
        lambda: DenseNet(4, (1, 2), 8, num_classes=CLASSES),
        {"channels": HALF},
        lambda: DenseNet(4, (1, 2), 8, bn_size=2, num_classes=CLASSES),
    ),
}
SLOW: dict[str, tuple[Make, dict[str, Any], Make | None]] = {
    "resnet50": (
        lambda: zoo.resnet50(num_classes=CLASSES),
        {"channels": HALF, "depth": HALF},
        lambda: ResNet(Bottleneck, [2, 2, 3, 2], CLASSES, width_per_group=32),
    ),
    "resnext50": (lambda: zoo.resnext50_32x4d(), {"channels": HALF, "depth": HALF}, None),
    "resnet18": (
        lambda: zoo.resnet18(num_classes=CLASSES),
        {"depth": [1, 2]},
        lambda: ResNet(BasicBlock, [1, 1, 1, 1], CLASSES),
    ),
    "resnet18 in width": (lambda: zoo.resnet18(), {"channels": [0.25, 0.5, 1.0]}, None),
    "convnext_tiny": (lambda: zoo.convnext_tiny(), {"ffn": HALF, "depth": [1 / 3, 1.0]}, None),
    "mobilenet_v2": (
        lambda: zoo.MobileNetV2(CLASSES, inverted_residual_setting=[[6, 16, 2, 2]]),
        {"channels": HALF},
        lambda: zoo.MobileNetV2(CLASSES, inverted_residual_setting=[[3, 16, 2, 2]]),
    ),
    "mobilenet_v3_small": (lambda: zoo.mobilenet_v3_small(), {"channels": HALF}, None),
    "mobilenet_v3_large": (lambda: zoo.mobilenet_v3_large(), {"channels": HALF}, None),
    "efficientnet_b0": (lambda: zoo.efficientnet_b0(), {"channels": HALF, "depth": HALF}, None),
    "efficientnet_v2_s": (lambda: zoo.efficientnet_v2_s(), {"channels": HALF, "depth": HALF}, None),
    "heads of vit_b_16": (lambda: zoo.vit_b_16(image_size=32), {"heads": [4, 8, 12]}, None),
    "vit_b_16": (
        lambda: zoo.vit_b_16(image_size=32),
        {"ffn": HALF, "depth": [6, 9, 12]},
        lambda: zoo.VisionTransformer(32, 16, 6, 12, 768, 1536),
    ),
    "swin_t": (lambda: zoo.swin_t(), {"ffn": HALF}, None),
}


def check(make: Make, sizes: dict[str, Any], small: Make | None) -> None:
    net: nn.Module = make().eval()
    plain, x = copy.deepcopy(net), torch.randn(2, 3, *((16, 16) if make is vit else (32, 32)))
    assert sorted(make_searchable(net, widths(**sizes)))
    space = SearchSpace(net)
    assert {edge.rpartition(".")[2] for edge in space.edges} == set(sizes)
    with torch.no_grad():
        with space.bind(space.one_hot([len(row) - 1 for row in space.candidates])):
            assert torch.equal(net(x), plain(x))
        narrowest = [0] * len(space)
        with space.bind(space.one_hot(narrowest)):
            expected = net(x)
        found = space.genotype(narrowest).apply(net)
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-6)
        if small is not None:
            built = small().eval()
            built.load_state_dict(found.state_dict(), strict=True)
            torch.testing.assert_close(built(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", slow_but(NETWORKS, [name for name in NETWORKS if name != "regnet with squeeze"]))
def test_a_network_becomes_a_smaller_one(name: str) -> None:
    check(*NETWORKS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_network_of_the_usual_size_becomes_a_smaller_one(name: str) -> None:
    check(*SLOW[name])


class Masked(nn.Module):
    """An encoder of sequences, of which the second one ends with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x, src_key_padding_mask=torch.tensor([[False] * 4, [False, False, True, True]]))
        return out


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_only_padded_places_differ_where_pytorch_has_a_fast_path() -> None:
    net = Masked().eval()
    plain, x = copy.deepcopy(net), torch.randn(2, 4, 8)
    make_searchable(net, widths(ffn=[8, 16]))
    space = SearchSpace(net)
    widest = [names.index("16") for names in space.candidates]
    with space.bind(space.one_hot(widest)):
        assert torch.equal(net(x), plain(x))  # with gradients there is no fast path
        with torch.no_grad():
            ours, theirs = net(x), plain(x)
    assert not theirs[1, 2:].any()
    assert ours[1, 2:].any()
    for sequence, length in enumerate((4, 2)):
        torch.testing.assert_close(ours[sequence, :length], theirs[sequence, :length], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(space.genotype(widest).apply(net)(x), theirs)


def images() -> dict[str, DataLoader[Any]]:
    data = TensorDataset(torch.randn(12, 3, 16, 16), torch.randint(CLASSES, (12,)))
    return {"weights": DataLoader(data, batch_size=6), "architecture": DataLoader(data, batch_size=6)}


@pytest.mark.parametrize("strategy", ["advantage", "darts"])
def test_a_network_is_searched(strategy: str, make_search: Make, fit: Make) -> None:
    conv: list[nn.Module] = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), BasicBlock(8, 8), BasicBlock(8, 8)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    for net, sizes in ((nn.Sequential(*conv, head), {"channels": HALF}), (vit(), {"ffn": HALF, "depth": [1, 3]})):
        make_searchable(net, widths(**sizes))
        search = make_search(strategy, net, calibrate=0)
        before = search.theta.detach().clone()
        fit(search, images(), max_epochs=1)
        assert (search.theta != before).any(dim=1).all()  # every edge has a gradient
        found, x = search.derive().eval(), torch.randn(2, 3, 16, 16)
        space = search.space
        with torch.no_grad(), space.bind(space.one_hot(space.choice(search.genotype(search.select)))):
            torch.testing.assert_close(found(x), search.model.eval()(x), rtol=0, atol=1e-6)


class Stacked(nn.Module):
    """A stack whose output is normalized, so that a gate in front of the norm would have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(4, eps=1e-12), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(x)))


def test_the_gate_of_a_depth_acts_behind_the_norm_that_follows() -> None:
    def credit(behind: list[str]) -> float:
        torch.manual_seed(0)
        net = Stacked().double()
        make_searchable(net, widths(depth=[1, 3], blocks={Stacked: Stack("blocks", behind=behind)}))
        space, x = SearchSpace(net), torch.randn(5, 4, dtype=torch.double)
        architecture = space.one_hot([0], like=x)
        gates = architecture.gates.clone().requires_grad_()
        with space.bind(architecture, gates):
            loss = net(x).square().mean()
            (gradient,) = torch.autograd.grad(loss, gates)
        return float(gradient[0, 0])

    assert abs(credit([])) < 1e-9
    torch.manual_seed(0)
    plain = Stacked().double()
    plain.blocks, x = plain.blocks[:1], torch.randn(5, 4, dtype=torch.double)
    gate = torch.ones(1, dtype=torch.double, requires_grad=True)
    loss = plain.head(gate * plain.norm(plain.blocks(x))).square().mean()
    (expected,) = torch.autograd.grad(loss, gate)
    assert credit(["norm"]) == pytest.approx(float(expected), abs=1e-8)
    assert abs(float(expected)) > 1e-2


def test_every_depth_of_a_resnet_has_a_credit() -> None:
    """Its stages are followed by convolutions with batch norms, which divide by the scale of a batch."""
    net = zoo.resnet18(num_classes=CLASSES)
    make_searchable(net, widths(depth=[1, 2]))
    space, x = SearchSpace(net), torch.randn(4, 3, 32, 32)
    architecture = space.one_hot([0, 0, 0, 0], like=x)
    gates = architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates):
        nn.functional.cross_entropy(net(x), torch.tensor([0, 1, 2, 0])).backward()
    assert gates.grad is not None
    assert (gates.grad[:, 0].abs() > 1e-3).all(), gates.grad
