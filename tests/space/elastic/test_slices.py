"""Each elastic module computes what a plain module of the small size does, and its cut is such a module."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from advnas_lightning import Genotype, MixedOp, SearchSpace, elastic
from advnas_lightning.cost.elastic import count
from advnas_lightning.space.elastic import Follower
from tests.support.elastic_modules import CASES, SIZES, double, filled

EXACT = {"rtol": 0.0, "atol": 1e-10}
NAMES = {"out_channels": "channels", "kernel_size": "kernel"}


def with_edge(op: nn.Module) -> nn.Module:
    """A network that has an edge of the name of a module that follows one."""
    if isinstance(op, MixedOp):
        return op
    assert isinstance(op, Follower)
    return nn.ModuleList([op, MixedOp("edge", {name: nn.Identity() for name in op.names})])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_slice_equals_a_plain_module(name: str, size: Any, training: bool) -> None:
    case = CASES[name]
    widest = filled(case.widest())
    op, small = case.elastic(widest), case.small(widest, size)
    before = {key: value.clone() for key, value in widest.state_dict().items()}
    index = case.sizes.index(size)
    net = with_edge(op)
    space = SearchSpace(net)
    net.train(training)
    small.train(training)
    torch.manual_seed(0)
    inputs = double(case.inputs(size))
    weights = dict(widest.named_parameters())
    for _ in range(2):  # running statistics move twice
        with space.bind(space.one_hot([index])):
            found = op(inputs)
        expected = small(inputs)
        torch.testing.assert_close(found, expected, **EXACT)
    given = [inputs] if inputs.requires_grad else []
    gradient = torch.randn_like(expected)
    if given or weights:
        left = torch.autograd.grad(found, [*given, *weights.values()], gradient)
        right = torch.autograd.grad(expected, [*given, *small.parameters()], gradient)
        if given:
            torch.testing.assert_close(left[0], right[0], **EXACT)
        grads = dict(zip(weights, left[len(given) :], strict=True))
        for key, cut, exact in zip(grads, case.weights(grads, size).values(), right[len(given) :], strict=True):
            torch.testing.assert_close(cut, exact, **EXACT)
            assert grads[key].count_nonzero() <= exact.numel()  # nothing else of the parameter has a gradient
    after = widest.state_dict()
    for key, value in small.state_dict().items():
        torch.testing.assert_close(case.weights(dict(after), size)[key], value, **EXACT)
    if training and "running_mean" in after and size != max(case.sizes):
        assert torch.equal(after["running_mean"][size:], before["running_mean"][size:])


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_cut_is_a_plain_module(name: str, size: Any) -> None:
    case = CASES[name]
    widest = filled(case.widest())
    op, small = case.elastic(widest), case.small(widest, size)
    index, net = case.sizes.index(size), nn.ModuleList([with_edge(op)])
    (cut, *_) = Genotype({"edge": op.names[index]}).apply(net).modules()
    found: Any = next(module for module in cut.modules() if type(module) is type(widest))
    assert repr(found) == repr(small)
    assert vars(found).keys() == vars(small).keys()
    assert count(net, SearchSpace(net), [index]) == sum(weight.numel() for weight in small.parameters())
    small.load_state_dict(found.state_dict(), strict=True)
    inputs = double(case.inputs(size))
    torch.testing.assert_close(found(inputs), small(inputs), **EXACT)
    assert all(isinstance(weight, nn.Parameter) and weight.is_contiguous() for weight in found.parameters())
    assert not {weight.data_ptr() for weight in found.parameters()} & {
        weight.data_ptr() for weight in widest.parameters()
    }


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_cut_has_the_memory_format_of_the_module(layout: torch.memory_format) -> None:
    net = nn.Sequential(
        elastic(nn.Conv2d(3, 8, 5, padding=2), out_channels=[4, 8], kernel_size=[3, 5], name=NAMES),
        elastic(nn.Conv2d(8, 5, 3), in_channels=[4, 8], name="channels"),
    ).to(memory_format=layout)
    for size, kernel in itertools.product(("4", "8"), ("3", "5")):
        found: Any = Genotype({"channels": size, "kernel": kernel}).apply(net)
        for conv in found:
            assert conv.weight.is_contiguous(memory_format=layout)
            assert conv.weight.untyped_storage().nbytes() == 4 * conv.weight.numel()  # of itself alone


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_there_once_and_the_module_is_as_before(name: str) -> None:
    case = CASES[name]
    widest = filled(case.widest())
    attributes, expected = dict(vars(widest)), sum(weight.numel() for weight in widest.parameters())
    op = case.elastic(widest)
    assert [id(weight) for weight in op.parameters()] == [id(weight) for weight in widest.parameters()]
    assert sum(value.numel() for value in op.state_dict().values()) == sum(
        value.numel() for value in widest.state_dict().values()
    )
    assert sum(weight.numel() for weight in op.parameters()) == expected
    net = with_edge(op)
    space = SearchSpace(net)
    for index, size in enumerate(case.sizes):
        with space.bind(space.one_hot([index])):
            op(double(case.inputs(size)))
    assert vars(widest) == attributes


@pytest.mark.parametrize("name", CASES)
def test_the_widest_candidate_is_the_module_bit_for_bit(name: str) -> None:
    case, size = CASES[name], CASES[name].sizes[-1]
    widest = filled(case.widest())
    plain, inputs = copy.deepcopy(widest), double(case.inputs(size))
    op = case.elastic(widest)
    space = SearchSpace(with_edge(op))
    with space.bind(space.one_hot([len(case.sizes) - 1])):
        assert torch.equal(op(inputs), plain(inputs))
    for own, other in zip(widest.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(own, other)
