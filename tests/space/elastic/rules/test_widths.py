"""Blocks of known classes become elastic by rule: narrow ones compute what is built small, the widest what it did."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from advnas_lightning import SearchSpace, make_searchable, widths
from advnas_lightning.space import mixed_ops
from tests.support.blocks import CASES, inputs, sliced

EXACT = {"rtol": 0.0, "atol": 1e-10}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_block_becomes_what_is_built_small(name: str, training: bool) -> None:
    case = CASES[name]
    net = nn.Sequential(case.widest()).train(training)
    plain, small = copy.deepcopy(net), nn.Sequential(case.small(case.full // 2))
    sliced(net, small).train(training)
    made = make_searchable(net, widths(**{case.kind: [0.5, 1.0]}))
    assert set(made.values()) == {(str(case.full // 2), str(case.full))}
    assert set(made.edges.values()) == {f"0.{case.kind}"}
    space, x = SearchSpace(net), inputs(case)
    with space.bind(space.one_hot([1])):
        assert torch.equal(net(x), plain(x))
    for own, other in zip(net.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(own, other)  # the running statistics, too
    sliced(plain, small).train(training)
    found = space.genotype([0]).apply(net)
    with space.bind(space.one_hot([0])):
        narrow = net(x)
    torch.testing.assert_close(narrow, small(x), **EXACT)
    torch.testing.assert_close(found(x), narrow, **EXACT)
    small.load_state_dict(found.state_dict(), strict=True)
    removed = sum(weight.numel() for weight in plain.parameters()) - sum(
        weight.numel() for weight in found.parameters()
    )
    assert removed == case.removed
    assert not mixed_ops(found)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_block_that_is_built_small(name: str) -> None:
    case = CASES[name]
    net = nn.Sequential(case.widest())
    small = sliced(net, nn.Sequential(case.small(case.full // 2)))
    weights = dict(net.named_parameters())
    make_searchable(net, widths(**{case.kind: [0.5, 1.0]}))
    space, x = SearchSpace(net), inputs(case)
    with space.bind(space.one_hot([0])):
        net(x).square().sum().backward()
    small(x).square().sum().backward()
    for key, weight in small.named_parameters():
        gradient = weights[key].grad
        assert gradient is not None
        assert weight.grad is not None
        part = gradient[tuple(slice(side) for side in weight.shape)]
        torch.testing.assert_close(part, weight.grad, rtol=1e-10, atol=1e-10)
        assert gradient.count_nonzero() == part.count_nonzero()
