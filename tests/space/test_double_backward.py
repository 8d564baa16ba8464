"""A loss that is made of gradients has the dense network's gradient in the gates and weights, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vmap

from advnas_lightning import Architecture, MixedOp, SearchSpace
from advnas_lightning.space.gates import Inactive

X = torch.linspace(-1, 1, 12, dtype=torch.double).view(4, 3)


class Pair(nn.Module):
    """Returns two tensors in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        return [self.one(x).tanh(), {"other": self.other(x).sin()}]


class Net(nn.Module):
    """Two edges with smooth functions before, between and behind them."""

    def __init__(self, *, pairs: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        candidates = [
            {"linear": nn.Linear(3, 3), "tanh": nn.Tanh(), "soft": nn.Softplus()},
            {"skip": nn.Identity(), "linear": nn.Linear(3, 3)},
        ]
        self.stem, self.head = nn.Linear(3, 3), nn.Linear(3, 1)
        self.edges = nn.ModuleList(MixedOp(f"e{place}", own) for place, own in enumerate(candidates))
        if pairs:
            self.edges[0] = MixedOp("e0", {"one": Pair(), "two": Pair(), "three": Pair()})
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        first = self.edges[0](self.stem(x).sin())
        inner = first if isinstance(first, Tensor) else first[0] * first[1]["other"]
        return self.head(self.edges[1](inner.square()).sin()) + x.square().sum(-1, keepdim=True)


def slope_penalty(run: Callable[[Tensor], Tensor], x: Tensor = X) -> Tensor:
    """As of a critic in a WGAN-GP."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        output = run(x)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    return (slope.square().sum(1) - 1).square().mean() + 0.1 * output.square().mean()


def curvature(run: Callable[[Tensor], Tensor], x: Tensor = X) -> Tensor:
    """The square of a second derivative, as of a differential equation's residual."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)
    return (second[:, 0] + x.sum(1)).square().mean()


def finite_differences(
    net: Net, architecture: Architecture, penalty: Callable[..., Tensor], changed: Tensor, place: tuple[int, ...]
) -> float:
    """The slope of a penalty of the dense network in one number of its gates or weights."""
    values = []
    space = SearchSpace(net)
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            changed[place] += step
        with space.bind(Architecture(architecture.gates.double(), space.all_paths)):
            values.append(penalty(net).item())
        with torch.no_grad():
            changed[place] -= step
    return (values[0] - values[1]) / 2e-5


@pytest.mark.parametrize("penalty", [slope_penalty, curvature])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("choice", [(0, 0), (1, 1), (2, 0)])
def test_one_hot_gates_and_weights_get_the_dense_networks_gradient(
    choice: tuple[int, ...], pairs: bool, penalty: Callable[..., Tensor]
) -> None:
    net = Net(pairs=pairs)
    space = SearchSpace(net)
    one_hot = space.one_hot(choice)
    leaf = one_hot.gates.double().requires_grad_()
    with space.bind(one_hot, leaf):
        gates, stem, *_ = torch.autograd.grad(penalty(net), [leaf, net.stem.weight, net.head.weight])
    dense = Architecture(one_hot.gates.double(), space.all_paths)
    for place in ((0, choice[0]), (1, choice[1])):
        assert gates[place].item() == pytest.approx(
            finite_differences(net, dense, penalty, dense.gates, place), rel=1e-5, abs=1e-8
        )
    assert stem[0, 0].item() == pytest.approx(
        finite_differences(net, dense, penalty, net.stem.weight, (0, 0)), rel=1e-5, abs=1e-8
    )
    assert gates.count_nonzero() == 2


def test_inactive_ones_are_those_of_the_product() -> None:
    net = Net()
    space = SearchSpace(net)
    leaf = space.one_hot([0, 1]).gates.double().requires_grad_()
    with space.bind(replace(space.one_hot([0, 1]), inactive="ones"), leaf):
        (gates,) = torch.autograd.grad(slope_penalty(net), leaf)

    def with_ones(x: Tensor) -> Tensor:
        first, second = ([*edge.candidates.values()] for edge in net.edges)
        y = product[0, 0] * first[0](net.stem(x).sin()) + product[0, 1] + product[0, 2]
        z = product[1, 1] * second[1](y.square()) + product[1, 0]
        return net.head(z.sin()) + x.square().sum(-1, keepdim=True)

    product = leaf.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(slope_penalty(with_ones), product)
    gates[1, 2] = 0  # padding
    torch.testing.assert_close(gates, expected)
    assert gates.count_nonzero() == 5


def test_dense_gates_get_the_gradient_of_finite_differences() -> None:
    net = Net()
    space = SearchSpace(net)
    mixture = Architecture(torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]], dtype=torch.double), space.all_paths)
    leaf = mixture.gates.clone().requires_grad_()
    with space.bind(mixture, leaf):
        (gates,) = torch.autograd.grad(slope_penalty(net), leaf)
    for place in ((0, 0), (0, 2), (1, 1)):
        expected = finite_differences(net, mixture, slope_penalty, mixture.gates, place)
        assert gates[place].item() == pytest.approx(expected, rel=1e-5)


def test_a_step_within_the_loss_is_differentiated_too() -> None:
    """As in meta-learning: the loss of the weights after a step on another batch."""
    net = Net()
    space = SearchSpace(net)
    weight = net.edges[0].candidates["linear"].weight

    def after_a_step(run: Callable[..., Tensor]) -> Tensor:
        (slope,) = torch.autograd.grad(run(X).square().mean(), weight, create_graph=True)
        return (run(X.flip(0)) * (weight - 0.5 * slope).sum()).square().mean()

    gradients = []
    for paths in (((0,), (1,)), space.all_paths):
        leaf = space.one_hot([0, 1]).gates.double().requires_grad_()
        choice = (0, 1) if len(paths[0]) == 1 else None
        with space.bind(Architecture(leaf.detach(), paths, choice), leaf):
            (gates,) = torch.autograd.grad(after_a_step(net), leaf)
        gradients.append(torch.stack([gates[0, 0], gates[1, 1]]))
    torch.testing.assert_close(*gradients)
    assert gradients[0].all()


def test_weight_steps_differentiate_as_the_plain_network_does() -> None:
    net = Net()
    space = SearchSpace(net)
    plain = space.genotype([1, 1]).apply(net)
    with space.bind(space.one_hot([1, 1])):
        ours = torch.autograd.grad(slope_penalty(net), [net.stem.weight, net.head.weight])
    theirs = torch.autograd.grad(slope_penalty(plain), [plain.stem.weight, plain.head.weight])
    for own, expected in zip(ours, theirs, strict=True):
        assert torch.equal(own, expected)


def test_the_credit_of_others_is_refused_where_a_loss_is_made_of_gradients() -> None:
    net = Net()
    space = SearchSpace(net)
    leaf = space.one_hot([0, 1]).gates.double().requires_grad_()
    with (
        space.bind(replace(space.one_hot([0, 1]), inactive="outputs"), leaf),
        pytest.raises(ValueError, match=r"edge 'e1' .*create_graph=True.*AdvantageNAS") as caught,
    ):
        slope_penalty(net)
    assert "\n" not in str(caught.value)


def test_a_gradient_in_a_loss_that_is_not_differentiated_is_let_through() -> None:
    """As of an adversarial example."""
    net = Net()
    space = SearchSpace(net)
    architecture = space.one_hot([0, 1])
    credits = []
    for inactive in ("none", "ones", "outputs"):
        leaf = architecture.gates.double().requires_grad_()
        with space.bind(replace(architecture, inactive=inactive), leaf):
            x = X.clone().requires_grad_()
            (slope,) = torch.autograd.grad(net(x).sum(), x)
            (gates,) = torch.autograd.grad(net(X + 0.1 * slope.sign()).square().mean(), leaf)
        credits.append(torch.stack([gates[0, 0], gates[1, 1]]))
    assert credits[0].all()
    torch.testing.assert_close(credits[0], credits[1])
    torch.testing.assert_close(credits[0], credits[2])


# -- PyTorch's transforms of functions -------------------------------------------------------------------------------


def forward_mode(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(run(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


TRANSFORMS: dict[str, Callable[..., Tensor]] = {
    "grad": lambda run, x: grad(lambda given: run(given).square().sum())(x),
    "jvp": lambda run, x: jvp(run, (x,), (torch.ones_like(x),))[1],
    "vmap": lambda run, x: vmap(run)(x),
    "jacobians": lambda run, x: vmap(jacrev(run))(x),
    "forward mode": forward_mode,
}


@pytest.mark.parametrize("inactive", ["none", "ones", "outputs"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_go_through_one_hot_gates(transform: str, inactive: Inactive) -> None:
    net = Net()
    space = SearchSpace(net)
    choice = (2, 1)
    results = []
    for paths in (((2,), (1,)), space.all_paths):
        leaf = space.one_hot(choice).gates.double().requires_grad_()
        unit = len(paths[0]) == 1
        with space.bind(Architecture(leaf.detach(), paths, choice if unit else None, inactive=inactive), leaf):
            value = TRANSFORMS[transform](net, X)
            (gates,) = torch.autograd.grad(value.square().sum(), leaf)
        results.append((value.detach(), gates))
    (value, gates), (expected, dense) = results
    torch.testing.assert_close(value, expected)
    drawn = torch.zeros_like(dense).scatter_(1, torch.tensor(choice).view(-1, 1), 1.0)
    torch.testing.assert_close(gates * drawn, dense * drawn)
    assert (gates * drawn).count_nonzero() == 2
    if inactive == "outputs":
        torch.testing.assert_close(gates, dense)
    assert gates[0, 0].ne(0) == (inactive != "none")


def test_per_sample_gradients_of_the_weights() -> None:
    net = Net()
    space = SearchSpace(net)
    weights = dict(net.named_parameters())

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, weights, (x.unsqueeze(0),)).square().sum()

    found = []
    for gates in (None, space.one_hot([0, 1]).gates.double().requires_grad_()):
        with space.bind(space.one_hot([0, 1]), gates):
            found.append(vmap(grad(loss), in_dims=(None, 0))(weights, X)["stem.weight"])
    torch.testing.assert_close(*found)
    for sample, x in zip(found[0], X, strict=True):
        with space.bind(space.one_hot([0, 1])):
            torch.testing.assert_close(sample, torch.autograd.grad(loss(weights, x), net.stem.weight)[0])
