"""A call knows the names of its inputs and their batch, and makes calls of other sizes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning.export import Call
from advnas_lightning.export.call import largest_difference


class Net(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, pair: Any = None, *, scale: float = 1.0) -> Tensor:
        return scale * x if mask is None else scale * x * mask


class Sequence(nn.Module):
    batch_dims: ClassVar = {"tokens": 1, "state": 0}

    def forward(self, tokens: Tensor, state: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return tokens + state.T, state


class Any_(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


def test_the_inputs_have_the_names_of_the_parameters() -> None:
    x, mask = torch.ones(4, 3), torch.ones(4, 1)
    call = Call.of(Net(), x, mask, kwargs={"scale": 2.0})
    assert call.arguments.keys() == {"x", "mask", "scale"}
    assert (len(call.args), call.kwargs, list(call.tensors)) == (2, {"scale": 2.0}, ["x", "mask"])
    assert torch.equal(call.run(Net())[0], 2 * x)


def test_an_optional_input_that_is_none_is_left_out_and_what_follows_is_given_by_name() -> None:
    call = Call.of(Net(), torch.ones(4, 3), None, [torch.ones(4), {"b": torch.ones(4, 2)}])
    assert list(call.arguments) == ["x", "pair"]
    assert (len(call.args), list(call.kwargs), list(call.tensors)) == (1, ["pair"], ["x", "pair_0", "pair_1"])
    shapes = {name: list(each.shape) for name, each in call.resized(6).tensors.items()}
    assert shapes == {"x": [6, 3], "pair_0": [6], "pair_1": [6, 2]}


def test_the_network_may_say_which_dimension_is_the_batch() -> None:
    call = Call.of(Sequence(), torch.arange(10.0).view(5, 2), torch.zeros(2, 1), torch.zeros(9, 9))
    assert list(call.arguments) == ["tokens", "state"]  # and no targets
    assert (call.size, call.resized(3).tensors["tokens"].shape, call.resized(3).tensors["state"].shape) == (
        2,
        torch.Size([5, 3]),
        torch.Size([3, 1]),
    )
    assert torch.equal(call.resized(3).tensors["tokens"][:, 2], call.tensors["tokens"][:, 0])
    fixed = Call.of(Sequence(), torch.zeros(5, 2), torch.zeros(2, 1), batch_dims={"tokens": None, "state": None})
    assert not fixed.has_batch


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Call.of(Net()), "Net.forward is not called like this: missing a required argument: 'x'"),
        (lambda: Call.of(Any_(), torch.ones(2)), "takes \\*inputs: 'Tensor', so its inputs have no names"),
        (lambda: Call.of(Net(), torch.ones(2), batch_dims={"x": 0, "y": 1}), "batch_dims names 'y', which is no input"),
        (lambda: Call.of(Net(), torch.ones(2), batch_dims={}), "batch_dims does not name 'x', which Net.forward needs"),
        (lambda: Call.of(Net(), torch.ones(2, 1), torch.ones(3)).size, "no batch size in common \\(x 2, mask 3\\)"),
        (lambda: Call.of(Net(), 3.0).size, "there is no tensor"),
        (lambda: Call.of(Net(), torch.ones(2)).run(lambda x: x.sum().item()), "the network returns a float"),
        (lambda: Call.of(Net(), torch.ones(2)).run(lambda x: None), "the network returns no tensor"),
    ],
)
def test_what_cannot_be_called_is_one_line(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_a_difference_is_relative_to_the_largest_value_and_nan_is_never_small() -> None:
    ones = torch.ones(3)
    assert largest_difference([ones, 100 * ones], [ones, 101 * ones]) == pytest.approx(1 / 101)
    assert largest_difference([ones / 4], [ones / 2]) == 0.25
    assert largest_difference([torch.tensor([3, 4])], [torch.tensor([3, 4])]) == 0.0
    assert largest_difference([ones], [ones[:2]]) == float("inf")
    assert not largest_difference([ones / 0 * 0], [ones]) <= 1
    assert not largest_difference([torch.tensor([float("nan"), 1.0]), ones], [torch.ones(2), ones]) <= 1
    assert largest_difference([ones[:0]], [ones[:0]]) == 0.0
