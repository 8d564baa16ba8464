"""An edge: which of its candidates run, with which inputs, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import Architecture, MixedOp, SearchSpace
from tests.support.scaled_space import Ragged, X, dense, loss_of, scales

# -- edges -----------------------------------------------------------------------------------------------------------


def test_only_bound_candidates_run_forward_and_backward() -> None:
    for with_gates in (True, False):
        model = Ragged()
        space = SearchSpace(model)
        architecture = space.one_hot([1, 0, 0])
        gates = architecture.gates.double().requires_grad_() if with_gates else None
        with space.bind(architecture, gates):
            loss_of(model).backward()
        assert model.calls() == {
            "cells.0.candidates.x2": (3, 3),
            "cells.1.candidates.x2": (3, 3),
            "b.candidates.x5": (1, 1),
        }
        ran = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert ran == {f"{path}.k" for path in model.calls()}


def test_a_pair_runs_two_candidates_with_their_own_gates() -> None:
    model = MixedOp("a", scales(1, 2, 4))
    space = SearchSpace(model)
    architecture = Architecture(torch.tensor([[0.5, 0.0, 3.0]]).double(), ((0, 2),))
    with space.bind(architecture):
        y = model(torch.ones(2, dtype=torch.double))
    assert y.tolist() == [0.5 * 1 + 3 * 4] * 2
    assert [module.forwards for module in model.candidates.values()] == [1, 0, 1]


def test_candidates_may_take_several_inputs() -> None:
    class Add(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    edge = MixedOp("a", {"add": Add(), "also": Add()})
    space = SearchSpace(edge)
    with space.bind(space.one_hot([1])):
        assert edge(torch.ones(1), torch.ones(1)).item() == 2


@pytest.mark.parametrize("dense_gates", [False, True])
def test_what_follows_an_edge_may_work_in_place(dense_gates: bool) -> None:
    torch.manual_seed(0)
    edge = MixedOp("a", {"linear": nn.Linear(3, 3), "other": nn.Linear(3, 3)}).double()
    space = SearchSpace(edge)
    architecture = dense(space) if dense_gates else space.one_hot([0])
    x = torch.randn(5, 3, dtype=torch.double)
    gradients = []
    for relu in (nn.ReLU(inplace=False), nn.ReLU(inplace=True)):
        gates = architecture.gates.double().requires_grad_()
        with space.bind(architecture, gates):
            gradients.append(torch.autograd.grad(relu(edge(x)).square().sum(), gates)[0])
    assert torch.equal(*gradients)
    assert gradients[0].any()


def test_nested_choices_are_refused() -> None:
    inner = MixedOp("inner", {"skip": nn.Identity()})
    with pytest.raises(ValueError, match=r"'inner'.*'deep'.*'outer'"):
        MixedOp("outer", {"skip": nn.Identity(), "deep": nn.Sequential(nn.Identity(), inner)})


def test_no_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' has no candidates"):
        MixedOp("a", {})


def test_an_unbound_call_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"'a' has no architecture.*genotype\.apply"):
        MixedOp("a", {"skip": nn.Identity()})(torch.ones(1))


def test_an_edge_holds_only_its_candidates_state() -> None:
    model = Ragged()
    expected = {f"cells.{i}.candidates.x{k}.k" for i in range(2) for k in (1, 2, 3)}
    assert set(model.state_dict()) == expected | {"b.candidates.x5.k", "c.candidates.x7.k"}


# -- what would disturb the others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "single"])
def test_an_activation_in_place_leaves_the_edges_input_alone(kind: str) -> None:
    def network(inplace: bool) -> MixedOp:
        block = nn.Sequential(nn.ReLU(inplace=inplace), nn.Hardtanh(inplace=inplace))
        return MixedOp("a", {"relu": nn.ReLU(inplace=inplace), "skip": nn.Identity(), "block": block})

    results = []
    for edge in (network(inplace=False), network(inplace=True)):
        space = SearchSpace(edge)
        for choice in (0, 1, 2) if kind == "single" else (None,):
            architecture = dense(space) if choice is None else space.one_hot([choice])
            gates = architecture.gates.double().requires_grad_()
            x = X.clone().requires_grad_()
            node = x * 1
            with space.bind(architecture, gates):
                loss = (edge(node) * torch.arange(6.0)).sum() + node.square().sum()  # another edge leaves the node
            results.append((loss.detach(), *torch.autograd.grad(loss, (x, gates))))
            assert torch.equal(node, x)
    half = len(results) // 2
    torch.testing.assert_close(results[half:], results[:half], rtol=0, atol=0)
    assert results[0][2].any()


def test_only_a_flag_that_is_set_is_switched_off() -> None:
    class Odd(nn.Module):
        inplace = "yes"

    odd, dropout, outside = Odd(), nn.Dropout(inplace=True), nn.ReLU(inplace=True)
    MixedOp("a", {"odd": odd, "deep": nn.Sequential(nn.Sequential(dropout))})
    assert (odd.inplace, dropout.inplace, outside.inplace) == ("yes", False, True)


@pytest.mark.parametrize(
    ("candidates", "named"),
    [
        ({"a.b": nn.Identity()}, "'a.b'"),
        ({"": nn.Identity()}, "''"),
        ({"keys": nn.Identity()}, "'keys'"),
        ({"training": nn.Identity()}, "'training'"),
        ({3: nn.Identity()}, "3"),
        ({"x": None}, "'x'.*None"),
        ({"x": nn.Identity}, "'x'.*Identity"),
        ([nn.Identity()], "no candidates"),
        (None, "no candidates"),
    ],
    ids=repr,
)
def test_bad_candidates_are_named(candidates: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        MixedOp("edge", candidates)
    assert "MixedOp 'edge'" in str(caught.value)
    assert "\n" not in str(caught.value)
