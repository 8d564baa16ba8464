"""Activations that are recomputed in the backward pass: the same search, or one line."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.autograd import Function
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from advnas_lightning import Architecture, MixedOp, SearchSpace, SearchStrategy
from advnas_lightning.engine.accumulation import MicroBatches
from tests.support.refusals import one_line
from tests.support.small_search import CLASSES, FEATURES, STRATEGIES, few
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
Make = Callable[..., Any]
Recompute = Callable[..., Tensor]
X = torch.linspace(-1, 1, 12).view(3, FEATURES)

reentrant: Recompute = partial(checkpoint, use_reentrant=True)
recomputed: Recompute = partial(checkpoint, use_reentrant=False)
NO_GATES = ("advantage-exact", "counterfactual-exact", "reinforce", "enas", "parsec", "parsec-authors_code")
GATES = (
    "advantage",
    "counterfactual",
    "darts",
    "gdas",
    "gdas-none",
    "snas",
    "nasp",
    "drnas",
    "proxylessnas",
    "proxylessnas-binary",
)


class Net(nn.Module):
    """Three edges; ``place`` says what is recomputed."""

    def __init__(self, place: str = "nothing", how: Recompute = recomputed) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(FEATURES, 5), nn.Linear(5, CLASSES)
        self.edges = nn.ModuleList(
            MixedOp(f"e{place}", {"linear": nn.Linear(5, 5), "tanh": nn.Tanh(), "soft": nn.Softplus()})
            for place in range(3)
        )
        self.place, self.how = place, how

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.edges

        def all_edges(y: Tensor) -> Tensor:
            return third(second(first(y)))

        if self.place == "stem":
            return self.head(all_edges(self.how(self.stem, x.clone().requires_grad_())))
        y = self.stem(x)
        if self.place == "one edge":
            return self.head(third(self.how(second, first(y))))
        if self.place == "first edge":
            return self.head(third(second(self.how(first, y))))
        if self.place == "all edges":
            return self.head(self.how(all_edges, y))
        if self.place == "input without a gradient":
            return self.head(y + self.how(all_edges, y.detach()))
        if self.place == "within another":
            return self.head(recomputed(lambda y: third(self.how(second, first(y))), y))
        if self.place == "around another":
            return self.head(self.how(lambda y: third(recomputed(second, first(y))), y))
        if self.place == "segments":
            mode = self.how.keywords["use_reentrant"]
            return self.head(checkpoint_sequential(list(self.edges), 2, y, use_reentrant=mode))
        if self.place == "head":
            return self.how(self.head, all_edges(y))
        assert self.place == "nothing"
        return self.head(all_edges(y))


WITH_EDGES = ["one edge", "first edge", "all edges", "input without a gradient", "within another", "around another"]
WITH_EDGES.append("segments")


def search_of(name: str, net: nn.Module, make_search: Make, **options: Any) -> SearchStrategy:
    return make_search(name, net, architecture_optimizer=partial(SGD, lr=1.0), **options)


def theta_after_a_fit(name: str, net: nn.Module, make_search: Make, make_loaders: Make, fit: Fit) -> list[Tensor]:
    search = search_of(name, net, make_search)
    fit(search, make_loaders(weights=3))
    assert search.architecture_steps == 3
    return [parameter.detach() for parameter in search.architecture_parameters()]


@pytest.mark.parametrize("name", few([*GATES, *NO_GATES]))
def test_recomputing_without_reentering_changes_nothing(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    plain, *others = (
        theta_after_a_fit(name, Net(place), make_search, make_loaders, fit)
        for place in ("nothing", "one edge", "all edges", "within another")
    )
    assert any(parameter.ne(parameter.flatten()[0]).any() for parameter in plain)
    for other in others:
        torch.testing.assert_close(other, plain)


@pytest.mark.parametrize("place", WITH_EDGES)
@pytest.mark.parametrize("name", slow_but(GATES, ["advantage", "darts"]))
def test_an_edge_in_reentrant_checkpointing_is_refused(
    name: str, place: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    search = search_of(name, Net(place, reentrant), make_search)
    with one_line("edge 'e", "CheckpointFunction", "use_reentrant=False"):
        fit(search, make_loaders(weights=1))
    assert search.architecture_steps == 0
    gc.collect()  # a checkpoint of PyTorch 2.6 that ends with an error goes on until the error is freed


@pytest.mark.parametrize("name", few(NO_GATES))
def test_reentrant_checkpointing_is_right_where_no_gate_is_differentiated(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    plain, *others = (
        theta_after_a_fit(name, Net(place, reentrant), make_search, make_loaders, fit)
        for place in ("nothing", "one edge", "all edges", "segments", "head")
    )
    for other in others:
        torch.testing.assert_close(other, plain)


@pytest.mark.parametrize("place", ["one edge", "head"])
def test_reentrant_checkpointing_is_refused_in_micro_batches(place: str, make_search: Make) -> None:
    search = search_of("advantage", Net(place, reentrant), make_search, accumulate=2)
    batch = (X, torch.zeros(3, dtype=torch.long))
    with one_line("use_reentrant=False"):
        search.evaluate_draws(MicroBatches([batch, batch]))


@pytest.mark.parametrize("name", GATES)
def test_what_reentrant_checkpointing_keeps_from_the_gates_is_refused(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    # PyTorch's own error advises to call backward() without inputs, which nobody here can do.
    with one_line("use_reentrant=True", "use_reentrant=False"):
        fit(search_of(name, Net("head", reentrant), make_search), make_loaders(weights=1))


def test_reentrant_checkpointing_before_the_edges_is_right(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    for name in ("advantage", "darts"):
        plain, other = (
            theta_after_a_fit(name, Net(place, reentrant), make_search, make_loaders, fit)
            for place in ("nothing", "stem")
        )
        torch.testing.assert_close(other, plain)


def test_a_look_ahead_needs_the_gradients_of_all_weights(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    # The weights of the stem would seem to have no gradient.
    for place in ("stem", "head"):
        search = search_of("darts-second_order", Net(place, reentrant), make_search)
        with one_line("use_reentrant=True", "use_reentrant=False"):
            fit(search, make_loaders(weights=2))


# -- passes without a graph that are none of checkpointing's -----------------------------------------------------------


class Distilled(Net):
    """Learns from itself, run without a graph."""

    def __init__(self, without: Callable[[], Any], around: Recompute | None = None) -> None:
        super().__init__()
        self.without, self.around = without, around

    def teach(self, x: Tensor) -> Tensor:
        with self.without():
            target = super().forward(x)
        return super().forward(x) - 2 * target.clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.teach(x) if self.around is None else self.around(self.teach, x)


@pytest.mark.parametrize("kind", ["one-hot", "dense"])
@pytest.mark.parametrize("around", [None, recomputed])
@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_an_edge_that_runs_without_a_graph_on_purpose_has_no_gradient_of_that_run(
    without: Callable[[], Any], around: Recompute | None, kind: str
) -> None:
    net, plain = Distilled(without, around), Net()
    space = SearchSpace(net)
    architecture = space.one_hot([0, 1, 2])
    if kind == "dense":
        architecture = Architecture(torch.full((3, 3), 0.3), space.all_paths)
    leaf, other = (architecture.gates.clone().requires_grad_() for _ in range(2))
    with space.bind(architecture, leaf):
        loss = net(X).square().sum()
        (found,) = torch.autograd.grad(loss, leaf)
    with SearchSpace(plain).bind(architecture, other):
        target = plain(X).detach()
        (expected,) = torch.autograd.grad((plain(X) - 2 * target).square().sum(), other)
    torch.testing.assert_close(found, expected)
    assert found.any()


def test_another_function_that_hides_an_edge_is_named() -> None:
    class Reversible(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
            return run(x)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
            return grad, None

    edge = MixedOp("hidden", {"tanh": nn.Tanh(), "skip": nn.Identity()})
    space = SearchSpace(edge)
    architecture = space.one_hot([0])
    x = X.clone().requires_grad_()
    with one_line("edge 'hidden'", "Reversible"), space.bind(architecture, architecture.gates.requires_grad_()):
        Reversible.apply(x, edge)
    with space.bind(space.one_hot([0])):  # a weight step's
        assert torch.equal(Reversible.apply(x, edge), x.tanh())


def test_every_strategy_is_tried() -> None:
    tried = {name.partition("-")[0] for name in (*GATES, *NO_GATES)}
    assert tried == {name.partition("-")[0] for name, (kind, _) in STRATEGIES.items() if kind.searches}
