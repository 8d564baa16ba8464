"""Gates and θ have the gradients that they have with separate modules for the candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from advnas_lightning import SearchSpace
from advnas_lightning.engine.clock import SearchClock
from tests.support.elastic_net import AttentionNet, ElasticNet, GatedNet, SkipNet, separate, separate_attention
from tests.support.small_search import CLASSES, FEATURES, FEW, STRATEGIES

Make = Callable[..., Any]


NETWORKS: dict[str, tuple[Make, Make]] = {
    "sizes": (ElasticNet, separate),
    "heads": (AttentionNet, separate_attention),
}
MAKES: dict[str, Make] = {**{kind: make for kind, (make, _) in NETWORKS.items()}, "skips": SkipNet, "gates": GatedNet}


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(7, FEATURES, dtype=torch.double), torch.randint(CLASSES, (7,))


@pytest.mark.parametrize("kind", MAKES)
def test_gate_gradients_are_finite_differences(kind: str) -> None:
    """With all candidates mixed, the loss is a function of the gates of all."""
    net = MAKES[kind]().double()
    space, (x, _) = SearchSpace(net), batch()
    dense = space.one_hot([0] * len(space))
    gates = torch.rand(space.mask.shape, dtype=torch.double)

    def loss(gates: Tensor) -> Tensor:
        with space.bind(type(dense)(gates, space.all_paths), gates):
            return net(x).square().mean()

    net.eval()
    assert torch.autograd.gradcheck(loss, gates.requires_grad_(), atol=1e-8)


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("inactive", ["none", "outputs"])
def test_credits_of_a_draw_are_those_of_the_padded_mixture(inactive: Any, kind: str) -> None:
    """Where one candidate runs, its gate has the gradient that it has in Eq. (1) with zeros for the other gates."""
    net = MAKES[kind]().double()
    space, (x, _) = SearchSpace(net), batch()
    net.eval()
    for choice in ([0] * len(space), [1] * len(space), [len(names) - 1 for names in space.candidates]):
        one_hot = space.one_hot(choice, like=x)

        def gradient(paths: Any, kind: Any, one_hot: Any = one_hot) -> Tensor:
            gates = one_hot.gates.clone().requires_grad_()
            drawn = type(one_hot)(one_hot.gates, paths, choice=one_hot.choice, inactive=kind)
            with space.bind(drawn, gates):
                loss = net(x).square().mean()
                return torch.autograd.grad(loss, gates)[0]

        own, dense = gradient(one_hot.paths, inactive), gradient(space.all_paths, "none")
        shown = space.mask if inactive == "outputs" else one_hot.gates.bool()
        torch.testing.assert_close(own[shown], dense[shown], rtol=0, atol=1e-10)
        assert own[~shown].count_nonzero() == 0


# Two have no gradient. The look-ahead of second-order DARTS takes a step of the weights, in which slices move together.
WITHOUT = ("random", "fixed", "darts-second_order")


QUICK = ("advantage", "counterfactual", "darts")
CASES = [
    pytest.param(name, kind, marks=[] if name in QUICK or (kind == "sizes" and name in FEW) else [pytest.mark.slow])
    for name in STRATEGIES
    if name not in WITHOUT
    for kind in NETWORKS
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_theta_has_the_gradient_of_separate_candidates(name: str, kind: str, make_search: Make) -> None:
    make, apart = NETWORKS[kind]
    net, data = make().double(), batch()
    found = []
    for each in (net, apart(net)):
        search = make_search(name, each)
        search.clock = SearchClock(progress=0.5)
        torch.manual_seed(0)
        with search.space.bind(search.sample_for_weights()):
            values = [search.outcome(data).loss]
        gradients: list[Tensor] = []
        for _ in range(3):  # a baseline and a gathered gradient begin with the second step
            trials = search.evaluate_draws(data)
            values += [trial.loss for trial in trials]
            gradients += as_list(search.theta_gradient(trials))
            search.architecture_steps += 1
        assert any(gradient.count_nonzero() for gradient in gradients)
        found.append([*values, *gradients])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-10)


def as_list(gradient: Any) -> list[Tensor]:
    return [] if gradient is None else [gradient] if isinstance(gradient, Tensor) else list(gradient)
