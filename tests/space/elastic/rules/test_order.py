"""The entries of widths in their order of importance: the network computes the same, and slices keep what matters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck

from advnas_lightning import SearchSpace, make_searchable, widths
from tests.support.blocks import CASES, filled, inputs
from tests.support.refusals import one_line

HALF = [0.5, 1.0]
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def run(net: nn.Module, index: int, x: Tensor) -> Tensor:
    space = SearchSpace(net)
    with space.bind(space.one_hot([index] * len(space))):
        found: Tensor = net(x)
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_network_computes_the_same_in_another_order(name: str) -> None:
    case = CASES[name]
    net = nn.Sequential(case.widest()).eval()
    plain, x = copy.deepcopy(net), inputs(case)
    make_searchable(net, widths(**{case.kind: HALF, "order_by": "magnitude"}))
    torch.testing.assert_close(run(net, 1, x), plain(x), **EXACT)
    values = {key.replace("widest.", ""): value for key, value in net.state_dict().items()}
    moved = [key for key, value in plain.state_dict().items() if not torch.equal(value, values[key])]
    assert moved  # another order it is


def test_slices_keep_the_channels_of_the_largest_weights() -> None:
    net = nn.Sequential(filled(BasicBlock(8, 8)))
    plain: Any = copy.deepcopy(net)[0]
    make_searchable(net, widths(channels=HALF, order_by="magnitude"))
    found: Any = SearchSpace(net).genotype([0]).apply(net)[0]
    best = plain.conv1.weight.abs().sum((1, 2, 3)).topk(4).indices
    assert torch.equal(found.conv1.weight, plain.conv1.weight[best])
    assert torch.equal(found.bn1.running_var, plain.bn1.running_var[best])
    assert torch.equal(found.conv2.weight, plain.conv2.weight[:, best])


def test_whole_groups_are_put_in_order() -> None:
    """Of a ResNeXt's block, where the channels of a group stay together."""
    net = nn.Sequential(filled(Bottleneck(16, 4, groups=4, base_width=32))).eval()
    plain: Any = copy.deepcopy(net)[0]
    x = torch.randn(2, 16, 4, 4, dtype=torch.double)
    make_searchable(net, widths(channels=HALF, order_by="magnitude"))
    torch.testing.assert_close(run(net, 1, x), plain(x), **EXACT)
    found: Any = SearchSpace(net).genotype([0]).apply(net)[0]
    groups = plain.conv1.weight.abs().sum((1, 2, 3)).unflatten(0, (4, 2)).sum(1).topk(2).indices
    best = torch.stack([2 * groups, 2 * groups + 1], 1).flatten()
    assert torch.equal(found.conv2.weight, plain.conv2.weight[best])
    assert torch.equal(found.conv3.weight, plain.conv3.weight[:, best])


def test_heads_and_widths_of_a_network_are_put_in_order() -> None:
    net = VisionTransformer(16, 8, 2, 4, 8, 16, num_classes=3).double().eval()
    nn.init.normal_(net.heads.head.weight)
    for layer in net.encoder.layers:
        nn.init.normal_(layer.self_attention.in_proj_bias)
    plain, x = copy.deepcopy(net), torch.randn(2, 3, 16, 16, dtype=torch.double)
    make_searchable(net, widths(heads=HALF, ffn=HALF, depth=[1, 2], order_by="magnitude"))
    torch.testing.assert_close(run(net, 1, x), plain(x), **EXACT)
    found: Any = SearchSpace(net).genotype([0] * 5).apply(net)
    own, before = found.encoder.layers[0].self_attention, plain.encoder.layers[0].self_attention
    sums = before.in_proj_weight.abs().sum(1).unflatten(0, (3, 4, 2)).sum((0, 2))
    sums = sums + before.out_proj.weight.abs().sum(0).unflatten(0, (4, 2)).sum(1)
    best = sums.topk(2).indices
    queries = before.in_proj_weight[:8].unflatten(0, (4, 2))[best].flatten(0, 1)
    assert torch.equal(own.in_proj_weight[:4], queries)


def test_scores_of_a_users_own_decide() -> None:
    net = nn.Sequential(filled(BasicBlock(8, 8)))
    plain: Any = copy.deepcopy(net)[0]
    names: list[str] = []

    def scales(members: Sequence[Any]) -> Tensor:
        names.extend(member.name for member in members)
        (norm,) = [member.module for member in members if member.role == "through"]
        return norm.weight.abs()

    make_searchable(net, widths(channels=HALF, order_by=scales))
    found: Any = SearchSpace(net).genotype([0]).apply(net)[0]
    assert torch.equal(found.bn1.weight, plain.bn1.weight[plain.bn1.weight.abs().topk(4).indices])
    assert names == ["0.conv1", "0.bn1", "0.conv2"]


@pytest.mark.parametrize(
    ("scores", "part"),
    [
        (torch.ones(3), "order_by gives a tensor of shape (3,) for edge '0.channels': return a tensor of 8 finite"),
        (torch.full((8,), float("nan")), "return a tensor of 8 finite scores"),
        ([1.0] * 8, "order_by gives [1.0, "),
    ],
)
def test_scores_that_are_none_are_refused(scores: Any, part: str) -> None:
    net = nn.Sequential(filled(BasicBlock(8, 8)))
    before = copy.deepcopy(net.state_dict())
    with one_line(part):
        make_searchable(net, widths(channels=HALF, order_by=lambda _: scores))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_an_order_that_cannot_be_is_refused() -> None:
    for order in ("size", nn.ReLU, 3):
        with one_line("is no order: use 'magnitude', or a function"):
            widths(channels=HALF, order_by=order)  # type: ignore[arg-type]
    net = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
    net[1].conv1.weight = net[0].conv1.weight
    with one_line(
        "order_by cannot reorder weight of '0.conv1', as 0.conv1.weight and 1.conv1.weight are one parameter"
    ):
        make_searchable(net, widths(channels=HALF, order_by="magnitude"))
    shared = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
    shared[1].conv1 = shared[0].conv1
    with one_line("order_by cannot reorder weight of '0.conv1'"):
        make_searchable(shared, widths(channels=HALF, order_by="magnitude"), share=lambda *_: "channels")
