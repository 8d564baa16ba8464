"""A gate's gradient is the dense network's, of the candidates that ran and of those that did not."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advnas_lightning import Architecture, MixedOp, SearchSpace
from tests.support.refusals import one_line
from tests.support.scaled_space import (
    Parts,
    Ragged,
    Scale,
    X,
    by_hand,
    finite_differences,
    gate_gradient,
    loss_of,
    parts_loss,
    scales,
    tensors,
)

# -- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [(0, 0, 1), (2, 0, 1), (1, 0, 0)])
def test_a_one_hot_gate_has_the_dense_networks_gradient(choice: tuple[int, ...]) -> None:
    model = Ragged()
    space = SearchSpace(model)
    one_hot = space.one_hot(choice)
    gradient = gate_gradient(model, space, one_hot)
    expected = finite_differences(model, space, one_hot.gates.double()) * one_hot.gates
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_inactive_candidates_count_as_ones_where_asked() -> None:
    model = nn.Sequential(MixedOp("a", scales(2, 3)))
    space = SearchSpace(model)
    hot = space.one_hot([1])
    gradient = gate_gradient(model, space, Architecture(hot.gates, hot.paths, hot.choice, inactive="ones"))
    x = torch.linspace(-1, 2, 6, dtype=torch.double)
    expected = torch.stack([(2 * 3 * x).sum(), (2 * 3 * x * 3 * x).sum()])  # L = Σ y², y = 3x
    torch.testing.assert_close(gradient[0], expected)


@pytest.mark.parametrize("paths", [(1, 0, 2), (2, 1, 0), (2, 0)])
def test_paths_may_be_in_any_order(paths: tuple[int, ...]) -> None:
    model = nn.Sequential(MixedOp("a", scales(2, 3, 5)))
    space = SearchSpace(model)
    gates = torch.tensor([[0.2, 0.3, 0.7]])
    found, expected = (
        gate_gradient(model, space, Architecture(gates, (own,))) for own in (paths, tuple(sorted(paths)))
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    x = torch.linspace(-1, 2, 6)
    with space.bind(Architecture(gates, (paths,))):
        output = model(x)
    torch.testing.assert_close(output, sum(gates[0, j] * (2, 3, 5)[j] * x for j in paths))


# -- the gate of a single path ---------------------------------------------------------------------------------------


def test_in_place_after_a_skip_leaves_the_edges_input_alone() -> None:
    edge = MixedOp("a", {"skip": nn.Identity(), "other": nn.Tanh()})
    space = SearchSpace(edge)
    architecture = space.one_hot([0])
    x = torch.tensor([-2.0, 1.0, 3.0], requires_grad=True)
    node = x * 1
    gates = architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates):
        y = edge(node).mul_(2).relu_()
    assert node.tolist() == [-2, 1, 3]
    assert y.tolist() == [0, 2, 6]
    (y * torch.tensor([5.0, 7.0, 11.0]) + node.square()).sum().backward()
    assert gates.grad.tolist() == [[2 * 7 * 1 + 2 * 11 * 3, 0]]
    assert x.grad.tolist() == [-4, 2 * 7 + 2, 2 * 11 + 6]


def test_an_output_without_a_gradient_gives_no_credit() -> None:
    """Such as behind an arg max, a function that passes none on."""

    class Blocked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> None:  # type: ignore[override]
            return None

    net = nn.ModuleList(MixedOp(name, {"twice": Scale(2.0), "skip": nn.Identity()}) for name in "ab")
    space = SearchSpace(net)
    for inactive in ("none", "ones", "outputs"):
        architecture = replace(space.one_hot([0, 1]), inactive=inactive)
        gates = architecture.gates.double().requires_grad_()
        with space.bind(architecture, gates):
            loss = (net[1](X) + Blocked.apply(net[0](X))).sum()
        (gradient,) = torch.autograd.grad(loss, gates)
        assert not gradient[0].any()
        torch.testing.assert_close(gradient[1, 1], X.sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gates_credit_is_summed_in_full_precision(dtype: torch.dtype) -> None:
    edge = MixedOp("a", {"skip": nn.Identity(), "other": nn.Identity()})
    space = SearchSpace(edge)
    architecture = space.one_hot([1])
    gates = architecture.gates.clone().requires_grad_()
    x = torch.full((1001,), 16.0, dtype=dtype)
    with space.bind(architecture, gates):
        y = edge(x)
        assert y.dtype is dtype
        (y.float() * 8).sum().backward()
    assert gates.grad.dtype is torch.float32
    assert gates.grad.tolist() == [[0, 8 * 16 * 1001]]  # beyond a float16, and between two bfloat16


def test_a_single_path_equals_a_dense_draw_of_the_same_gates() -> None:
    model = Ragged()
    space = SearchSpace(model)
    one_hot = space.one_hot([2, 0, 1])
    gradients = []
    for architecture in (one_hot, Architecture(one_hot.gates, space.all_paths)):
        model.zero_grad()
        gates = one_hot.gates.double().requires_grad_()
        with space.bind(architecture, gates):
            loss_of(model).backward()
        weights = [p.grad for p in model.parameters() if p.grad is not None and p.grad.any()]
        gradients.append([*weights, gates.grad * one_hot.gates])
    assert len(gradients[0]) == 5  # two cells, b, c, and the gates
    torch.testing.assert_close(*gradients)


# -- candidates that take and return more than a tensor --------------------------------------------------------------


def test_one_gate_serves_all_tensors_that_a_candidate_returns() -> None:
    edge = MixedOp("a", {"one": Parts(0.7), "two": Parts(-0.4)})
    space = SearchSpace(edge)
    for choice in (0, 1):
        expected, credit = by_hand(edge, choice, X)
        for gated in (True, False):
            architecture = space.one_hot([choice])
            gates = architecture.gates.double().requires_grad_() if gated else None
            with space.bind(architecture, gates):
                output = edge(X, shift=0.5)
            torch.testing.assert_close(tensors(output), tensors(expected), rtol=0, atol=0)
            assert output[1][0].tolist() == [0, 1, 2]
            assert list(output[1][1]) == ["sum", "word", "empty"]
            assert (type(output), output[1][1]["word"], output[1][1]["empty"]) == (tuple, "same", None)
            if gated:
                (gradient,) = torch.autograd.grad(parts_loss(output), gates)
                torch.testing.assert_close(gradient[0, choice], credit)
                assert gradient[0, 1 - choice] == 0


def test_inactive_ones_are_added_to_every_tensor_that_a_candidate_returns() -> None:
    edge = MixedOp("a", {"one": Parts(0.7), "two": Parts(-0.4)})
    space = SearchSpace(edge)
    hot = space.one_hot([1])
    gates = hot.gates.double().requires_grad_()
    with space.bind(Architecture(hot.gates, hot.paths, hot.choice, inactive="ones"), gates):
        (gradient,) = torch.autograd.grad(parts_loss(edge(X, shift=0.5)), gates)
    output, credit = by_hand(edge, 1, X)
    ones = sum(g.sum() for g in torch.autograd.grad(parts_loss(output), tensors(output)))
    torch.testing.assert_close(gradient[0], torch.stack([ones, credit]).detach())


# -- the credit of candidates that did not run -----------------------------------------------------------------------


def outputs_credited(space: SearchSpace, choice: Sequence[int]) -> Architecture:
    return replace(space.one_hot(choice), inactive="outputs")


@pytest.mark.parametrize("choice", [(0, 0, 1), (2, 0, 1), (1, 0, 0)])
def test_inactive_outputs_give_all_gates_the_dense_networks_gradient(choice: tuple[int, ...]) -> None:
    """Edges that several cells and time steps share, a ragged space, and a zero operation."""
    model = Ragged()
    space = SearchSpace(model)
    gradient = gate_gradient(model, space, outputs_credited(space, choice))
    expected = finite_differences(model, space, space.one_hot(choice).gates.double())
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
    assert (gradient != 0).tolist() == [[True, True, True], [True, False, False], [False, True, False]]


def test_inactive_outputs_of_every_tensor_that_a_candidate_returns() -> None:
    edge = MixedOp("a", {"one": Parts(0.7), "two": Parts(-0.4)})
    space = SearchSpace(edge)
    gates = space.one_hot([1]).gates.double().requires_grad_()
    with space.bind(outputs_credited(space, [1]), gates):
        (gradient,) = torch.autograd.grad(parts_loss(edge(X, shift=0.5)), gates)
    output, credit = by_hand(edge, 1, X)
    arriving = torch.autograd.grad(parts_loss(output), tensors(output))
    other = tensors(edge.candidates["one"](X, shift=0.5))
    expected = sum((g * y).sum() for g, y in zip(arriving, other, strict=True))
    torch.testing.assert_close(gradient[0], torch.stack([expected, credit]).detach())


class Alive(nn.Module):
    """Counts the outputs that there are at a time, of all that were made without a graph."""

    now = most = 0

    def forward(self, x: Tensor) -> Tensor:
        output = 2 * x
        if not torch.is_grad_enabled():
            Alive.now += 1
            Alive.most = max(Alive.most, Alive.now)
            weakref.finalize(output, self.gone)
        return output

    @staticmethod
    def gone() -> None:
        Alive.now -= 1


def test_one_counterfactual_output_is_alive_at_a_time() -> None:
    model = nn.Sequential(*(MixedOp(name, {f"op{j}": Alive() for j in range(5)}) for name in "abc"))
    space = SearchSpace(model)
    gate_gradient(model, space, outputs_credited(space, [0, 1, 2]))
    assert (Alive.now, Alive.most) == (0, 1)


def test_counterfactual_passes_run_under_the_forward_passs_autocast() -> None:
    types = []

    class Note(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            types.append((output.dtype, torch.is_grad_enabled()))
            return output

    model = nn.Sequential(MixedOp("a", {"one": Note(6, 6), "two": Note(6, 6)}))
    space = SearchSpace(model)
    gates = space.one_hot([0]).gates.requires_grad_()
    with space.bind(outputs_credited(space, [0]), gates):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.ones(2, 6)).float().square().sum()
        loss.backward()
    assert types == [(torch.bfloat16, True), (torch.bfloat16, False)]
    assert gates.grad.ne(0).all()
    with torch.autocast("cpu", torch.bfloat16):
        with space.bind(outputs_credited(space, [0]), gates):
            model(torch.ones(2, 6)).float().square().sum().backward()
        model.zero_grad()
        with space.bind(space.one_hot([1])):  # whose weights were cast without a graph just now
            model(torch.ones(2, 6)).float().square().sum().backward()
    assert model[0].candidates["two"].weight.grad.ne(0).any()


def test_counterfactual_passes_under_activation_checkpointing() -> None:
    model = Ragged()
    space = SearchSpace(model)
    architecture = outputs_credited(space, (1, 0, 1))
    expected = gate_gradient(model, space, architecture)
    gates = architecture.gates.double().requires_grad_()
    with space.bind(architecture, gates):
        output = checkpoint(model, torch.linspace(-1, 2, 6, dtype=torch.double), use_reentrant=False)
        (gradient,) = torch.autograd.grad(output.square().sum(), gates)
    torch.testing.assert_close(gradient, expected)


def test_an_input_that_is_overwritten_before_it_is_needed_is_noticed() -> None:
    edge = MixedOp("a", {"one": nn.Identity(), "two": nn.Tanh()})
    space = SearchSpace(edge)
    gates = space.one_hot([0]).gates.requires_grad_()
    with space.bind(outputs_credited(space, [0]), gates):
        x = torch.ones(3)
        loss = edge(x).sum()
        x.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_counterfactual_output_of_another_shape_is_refused() -> None:
    edge = MixedOp("a", {"one": nn.Identity(), "two": nn.Linear(3, 1)})
    space = SearchSpace(edge)
    gates = space.one_hot([0]).gates.requires_grad_()
    with (
        space.bind(outputs_credited(space, [0]), gates),
        pytest.raises(ValueError, match=r"'a' differ in their outputs"),
    ):
        edge(torch.ones(2, 3)).sum().backward()


# -- what can have no gate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inactive", ["none", "ones", "outputs", None])
@pytest.mark.parametrize("kind", ["sparse", "compressed", "nested", "within"])
def test_sparse_and_nested_outputs_are_refused_where_gates_are_differentiated(kind: str, inactive: Any) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Any:
            if kind == "nested":
                return torch.nested.as_nested_tensor([x[0], x[1]])
            sparse = (2 * x).to_sparse_csr() if kind == "compressed" else (2 * x).to_sparse()
            return {"first": x + 1, "rest": [sparse]} if kind == "within" else sparse

    edge = MixedOp("a", {"one": Other(), "two": Other()})
    space = SearchSpace(edge)
    architecture = space.one_hot([0])
    if inactive is None:
        architecture = Architecture(torch.full((1, 2), 0.5), space.all_paths)
    else:
        architecture = replace(architecture, inactive=inactive)
    with (
        one_line("edge 'a'", "sparse or nested"),
        space.bind(architecture, architecture.gates.clone().requires_grad_()),
    ):
        edge(torch.ones(2, 3))
    with space.bind(space.one_hot([0])):  # a weight step needs no gate
        edge(torch.ones(2, 3))
