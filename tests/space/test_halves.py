"""Outputs in half precision, and of several types on one edge: their gates get what they get in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import Architecture, MixedOp, SearchSpace
from tests.support.speed import slow_but

HALVES = [torch.bfloat16, torch.float16]
FACTORS = (0.5, 1.5, -2.0)


class Times(nn.Module):
    """Multiplies its input by a number; its output is of a type of its own, if one is given."""

    def __init__(self, factor: float, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.factor, self.dtype = factor, dtype

    def forward(self, x: Tensor) -> Tensor:
        return (self.factor * x).to(self.dtype or x.dtype)


def architecture_of(space: SearchSpace, kind: str) -> Architecture:
    if kind == "mixture":
        return Architecture(torch.tensor([[0.2, 0.3, 0.5]]), space.all_paths)
    if kind == "pair":
        return Architecture(torch.tensor([[1.0, 0.0, 1.0]]), ((0, 2),))
    return replace(space.one_hot([0]), inactive=kind)  # type: ignore[arg-type]


def gradients(
    dtypes: Sequence[torch.dtype | None], x: Tensor, arriving: Tensor, kind: str, autocast: AbstractContextManager[None]
) -> tuple[Tensor, Tensor, Tensor]:
    """The output of an edge, and the gradients of its gates and of its input."""
    candidates = zip(FACTORS, dtypes, strict=True)
    edge = MixedOp("a", {f"c{place}": Times(factor, dtype) for place, (factor, dtype) in enumerate(candidates)})
    space = SearchSpace(edge)
    architecture = architecture_of(space, kind)
    x = x.detach().requires_grad_()
    double = x.dtype is torch.double and set(dtypes) == {None}
    gates = architecture.gates.clone().to(torch.double if double else torch.float32).requires_grad_()
    with autocast, space.bind(architecture, gates):
        y = edge(x)
        loss = (y.double() * arriving).sum()  # its gradient in y is of y's type
    with space.bind(architecture, gates):
        return y.detach(), *torch.autograd.grad(loss, [gates, x])


@pytest.mark.parametrize("kind", ["none", "ones", "outputs", "mixture", "pair"])
@pytest.mark.parametrize("of_type", slow_but(HALVES, [torch.float16]))
@pytest.mark.parametrize(
    "places", [(True, True, True), (True, False, False), (False, True, False), (False, False, False)], ids=str
)
@pytest.mark.parametrize("sizes", [(1.0, 1.0), (200.0, 200.0), (1e-3, 1e-4)], ids=["", "large", "small"])
def test_gates_get_the_gradient_of_double_precision(
    sizes: tuple[float, float], places: tuple[bool, ...], of_type: torch.dtype, kind: str
) -> None:
    # A product of two large numbers is beyond a float16, and of two small ones below it; so is its sum.
    x, arriving = (size * (torch.rand(4, 3, 20, 20) + 0.5) for size in sizes)
    dtypes = [of_type if place else torch.float32 for place in places]
    reference = gradients([None] * 3, x.double(), arriving.double(), kind, nullcontext())
    for autocast in (nullcontext(), torch.autocast("cpu", of_type)):
        for images in (x, x.to(memory_format=torch.channels_last)):
            found = gradients(dtypes, images, arriving.double(), kind, autocast)
            mixed = kind in ("mixture", "pair")
            assert found[0].dtype is (dtypes[0] if not mixed or all(places) else torch.float32)
            assert found[1].dtype is torch.float32
            for ours, expected in zip(found, reference, strict=True):
                torch.testing.assert_close(ours.double(), expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("of_type", [torch.float32, torch.float64, torch.complex64])
def test_the_widest_type_of_a_mixture_is_that_of_its_output(of_type: torch.dtype) -> None:
    x = torch.rand(50)
    for kind in ("mixture", "outputs"):
        dtypes = [torch.bfloat16, of_type, torch.float32]
        y, gates, slope = gradients(dtypes, x, torch.ones(50, dtype=torch.double), kind, nullcontext())
        assert y.dtype is (torch.bfloat16 if kind == "outputs" else of_type)
        expected = gradients([None] * 3, x.double(), torch.ones(50, dtype=torch.double), kind, nullcontext())
        torch.testing.assert_close(gates.double(), expected[1], rtol=1e-2, atol=0)
        torch.testing.assert_close(slope.double(), expected[2], rtol=1e-2, atol=0)


@pytest.mark.parametrize("of_type", HALVES)
def test_the_second_derivative_of_halves_is_summed_in_single_precision(of_type: torch.dtype) -> None:
    edge = MixedOp("a", {"skip": nn.Identity(), "other": nn.Tanh()})
    space = SearchSpace(edge)
    gates = space.one_hot([0]).gates.requires_grad_()
    x = torch.full((3000,), 16.0, dtype=of_type, requires_grad=True)
    with space.bind(space.one_hot([0]), gates):
        (slope,) = torch.autograd.grad((edge(x).float().square() / 2).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope.float().sum(), gates)
    # y = a x and L = y²/2, so that ∂L/∂x = a² x, and Σ ∂²L/∂a∂x = Σ 2 x
    assert second.tolist() == [[2 * 16 * 3000, 0]]


@pytest.mark.parametrize("kind", ["none", "ones", "outputs", "mixture"])
def test_an_output_of_no_elements_has_no_credit(kind: str) -> None:
    y, gates, _ = gradients([None] * 3, torch.zeros(0, 3), torch.zeros(0, 3).double(), kind, nullcontext())
    assert y.shape == (0, 3)
    assert gates.tolist() == [[0, 0, 0]]
