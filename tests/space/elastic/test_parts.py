"""A size that several modules inside one have in common: heads of an attention whose projections are one layer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning import Genotype, SearchSpace, elastic
from advnas_lightning.cost.elastic import count
from advnas_lightning.space.elastic.axes import Axis, InFeatures
from advnas_lightning.space.elastic.edge import innermost
from advnas_lightning.space.elastic.kinds import AXES
from advnas_lightning.space.elastic.narrowing import Change, first_of_each, narrowed

HEAD, WIDTHS, HEADS = 3, [4, 6], [1, 2, 4]


class Fused(nn.Module):
    """Attention as many networks have it, with a normalization whose running statistics have the same blocks."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * heads * HEAD)
        self.norm = nn.BatchNorm1d(3 * heads * HEAD)
        self.proj = nn.Linear(heads * HEAD, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.norm(self.qkv(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, HEAD)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Heads(Axis):
    name = "num_heads"
    gives = False

    def change(self, module: Any, size: int) -> Change:
        rows = first_of_each(3, size * HEAD)
        norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), rows)
        proj = innermost(module.proj)
        parts = {
            innermost(module.qkv): Change({"out_features": 3 * size * HEAD}, {"weight": rows, "bias": rows}),
            module.norm: Change({"num_features": 3 * size * HEAD}, norm),
            proj: InFeatures().change(proj, size * HEAD),
        }
        return Change({"num_heads": size}, parts=parts)


@pytest.fixture(autouse=True)
def _entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AXES, Fused, (Heads(),))


def filled() -> Fused:
    module = Fused(WIDTHS[-1], HEADS[-1]).double()
    for number, tensor in enumerate(module.state_dict().values()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(number)) + 0.5)
    return module


def small_state(module: nn.Module, width: int, heads: int) -> dict[str, Tensor]:
    """The state of a plain module of the small sizes, sliced by hand."""
    rows = [block * HEADS[-1] * HEAD + row for block in range(3) for row in range(heads * HEAD)]
    state = {name: value.detach() for name, value in module.state_dict().items()}
    cut = {name: value[rows] for name, value in state.items() if name.startswith(("qkv", "norm")) and value.dim()}
    return {
        **state,
        **cut,
        "qkv.weight": cut["qkv.weight"][:, :width],
        "proj.weight": state["proj.weight"][:width, : heads * HEAD],
        "proj.bias": state["proj.bias"][:width],
    }


def searched(module: Any) -> Any:
    """A network in which the stream and the heads of an attention are elastic, one inside the other."""
    module.qkv = elastic(module.qkv, in_features=WIDTHS, name="stream")
    module.proj = elastic(module.proj, out_features=WIDTHS, name="stream")
    return nn.Sequential(
        elastic(nn.Linear(5, WIDTHS[-1]), out_features=WIDTHS, name="stream"),
        elastic(module, num_heads=HEADS, name="heads"),
    ).double()


@pytest.mark.parametrize("training", [True, False])
def test_a_size_of_several_parts_equals_the_small_module(training: bool) -> None:
    torch.use_deterministic_algorithms(True)  # as with Trainer(deterministic=True)
    module = filled()
    whole, small_of = dict(module.named_parameters()), {}
    for width, heads in itertools.product(WIDTHS, HEADS):
        small = small_of[width, heads] = Fused(width, heads).double()
        small.load_state_dict(small_state(module, width, heads), strict=True)
    net = searched(module)
    space, x = SearchSpace(net), torch.randn(2, 7, 5, dtype=torch.double)
    for (width, heads), small in small_of.items():
        choice = [WIDTHS.index(width), HEADS.index(heads)]
        before = {name: value.clone() for name, value in module.norm.state_dict().items()}
        small.norm.load_state_dict(
            {name: first_of_each(3, heads * HEAD)(value) if value.dim() else value for name, value in before.items()}
        )
        net.train(training)
        small.train(training)
        with space.bind(space.one_hot(choice)):
            stream = net[0](x)
            output = net[1](stream)
        expected = small(stream)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
        gradient = torch.randn_like(expected)
        left = torch.autograd.grad(output, list(whole.values()), gradient, retain_graph=True)
        right = torch.autograd.grad(expected, list(small.parameters()), gradient)
        grads = Fused(WIDTHS[-1], HEADS[-1]).double()  # a module that has the gradients in place of the weights
        with torch.no_grad():
            for own, grad in zip(grads.parameters(), left, strict=True):
                own.copy_(grad)
        cut = small_state(grads, width, heads)
        for (name, _), other in zip(small.named_parameters(), right, strict=True):
            torch.testing.assert_close(cut[name], other, rtol=0, atol=1e-10)
        assert sum(int(grad.count_nonzero()) for grad in left) == sum(int(grad.count_nonzero()) for grad in right)
        after = small_state(module_of(net), width, heads)
        for name, value in small.norm.state_dict().items():
            torch.testing.assert_close(after[f"norm.{name}"], value, rtol=0, atol=1e-10)
        others = torch.ones(3 * HEADS[-1] * HEAD, dtype=torch.bool).unflatten(0, (3, -1))
        others[:, : heads * HEAD] = False
        assert torch.equal(module.norm.running_mean[others.flatten()], before["running_mean"][others.flatten()])
        found: Any = space.genotype(choice).apply(net)
        small.load_state_dict(found[1].state_dict(), strict=True)
        assert type(found[1]) is Fused
        assert repr(found[1]) == repr(small)
        assert count(net, space, choice) == sum(weight.numel() for weight in found.parameters())
        found.eval()
        small.eval()
        torch.testing.assert_close(found[1](stream), small(stream), rtol=0, atol=1e-10)


def module_of(net: Any) -> Any:
    """The attention with its plain layers, which share their parameters and buffers with the elastic ones."""
    attention = net[1].widest
    plain = Fused(WIDTHS[-1], HEADS[-1]).double()
    plain.qkv, plain.norm, plain.proj = innermost(attention.qkv), attention.norm, innermost(attention.proj)  # type: ignore[assignment]
    return plain


def test_gates_of_a_size_inside_another_have_the_gradients_of_finite_differences() -> None:
    net = searched(filled()).eval()
    space, x = SearchSpace(net), torch.randn(2, 4, 5, dtype=torch.double)
    gates = torch.rand(space.mask.shape, dtype=torch.double).requires_grad_()
    drawn: Any = type(space.one_hot([0, 0]))

    def loss(gates: Tensor) -> Tensor:
        with space.bind(drawn(gates, space.all_paths), gates):
            return net(x).square().mean()

    assert torch.autograd.gradcheck(loss, gates, atol=1e-7)


def test_a_part_that_computes_its_weight_is_refused() -> None:
    module = filled()
    torch.nn.utils.parametrizations.weight_norm(module.qkv)
    with pytest.raises(
        ValueError,
        match="Linear in a Fused with a computed weight, as of weight_norm, pruning or LoRA, cannot",
    ):
        elastic(module, num_heads=HEADS, name="heads")


class Adapted(nn.Linear):
    """Computes with more than a Linear does, as a layer with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum()


class Wrapped(nn.Module):
    """Has the layer inside."""


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Adapted(12, 5), "^a Adapted in a Fused has a forward pass of its own, which may use its parameters otherwise"),
        (Wrapped(), "^a Fused whose parts are not the usual ones cannot be elastic: 'Wrapped' object has no attribute"),
    ],
)
def test_a_part_of_another_class_is_refused(part: nn.Module, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heads, "of", lambda axis, module: module.proj.in_features % HEAD == 0)
    module = filled()
    module.proj = part  # type: ignore[assignment]
    with pytest.raises(ValueError, match=message):
        elastic(module, num_heads=HEADS, name="heads")


def test_a_module_is_as_before_when_a_part_cannot_be_narrowed() -> None:
    module = filled()
    attributes, inside = dict(vars(module)), dict(vars(module.qkv))
    change = Heads().change(module, 2)
    broken = Change({"num_heads": 2}, parts={**change.parts, nn.ReLU(): Change(views={"weight": first_of_each(3, 1)})})
    with pytest.raises(AttributeError, match="weight"), narrowed(module, broken):
        pass
    assert vars(module) == attributes
    assert vars(module.qkv) == inside


def test_a_found_network_has_one_copy_of_a_part_that_others_refer_to() -> None:
    module = filled()
    module.last = [module.qkv]  # type: ignore[assignment]
    found: Any = Genotype({"heads": "2"}).apply(nn.ModuleList([elastic(module, num_heads=HEADS, name="heads")]))
    assert found[0].last[0] is found[0].qkv
    assert isinstance(found[0].qkv.weight, nn.Parameter)
