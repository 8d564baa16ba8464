"""What follows an edge may change its output in place: the input stays in every kind of pass."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.optim import SGD

from advnas_lightning import AdvantageNAS, Architecture, MixedOp, SearchSpace
from tests.support.classifier import loader
from tests.support.refusals import one_line
from tests.support.small_search import CLASSES, FEATURES
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
Named = namedtuple("Named", ["first", "second"])


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.function(*inputs, **kwargs)


def twice(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + 1
    return y, y


RETURNS_ITS_INPUT: dict[str, nn.Module] = {
    "identity": nn.Identity(),
    "flatten": nn.Flatten(),
    "unflatten": nn.Unflatten(1, (2, 3)),
    "no dropout": nn.Dropout(0.0),
    "chain": nn.Sequential(nn.Identity(), nn.Dropout(0.0)),
    "view": Call(lambda x: x.view(2, 12)),
    "part": Call(lambda x: x[1:]),
    "transposed": Call(lambda x: x.t()),
    "real": Call(lambda x: torch.view_as_complex(x.view(4, 3, 2))),
    "in a tuple": Call(lambda x: (x, 2 * x)),
    "in a list": Call(lambda x: [x.view(-1), x]),
    "in a dict": Call(lambda x: {"first": x, "sum": x.sum()}),
    "in a named tuple": Call(lambda x: Named(x, x + 1)),
    "deep": Call(lambda x: [[{"first": (x,)}], 3]),
    "packed": Call(lambda x: pack_sequence([x[0]])),
    "one tensor twice": Call(twice),
    "without a graph": Call(lambda x: x.detach()),
    "new": Call(lambda x: x + 1),
}


def first_of(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


def squares(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.abs().square().sum() if output.is_floating_point() or output.is_complex() else 0
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return sum(map(squares, parts))


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "add": lambda y: y.add_(1),
    "scale": lambda y: y.mul_(-0.5),
    "set": lambda y: y.zero_(),
    "part": lambda y: y[:1].fill_(3),
}


def passes(space: SearchSpace) -> dict[str, tuple[Architecture, bool]]:
    """Every kind of pass with the first candidate: what is bound, and whether its gates are differentiated."""
    hot = space.one_hot([0])
    return {
        "weights": (hot, False),
        "gate": (hot, True),
        "gates and ones": (replace(hot, inactive="ones"), True),
        "gates and others": (replace(hot, inactive="outputs"), True),
        "mixture": (Architecture(hot.gates, space.all_paths), True),
    }


@pytest.mark.parametrize("training", slow_but([True, False], [True]))
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("candidate", RETURNS_ITS_INPUT)
def test_every_kind_of_pass_sees_the_same_network(candidate: str, change: str, training: bool) -> None:
    module = RETURNS_ITS_INPUT[candidate]
    edge = MixedOp("a", {"one": module, "same": module}).train(training)
    space = SearchSpace(edge)
    weight = torch.rand(4, 6)
    expected = None
    for kind, (architecture, gated) in passes(space).items():
        for graph in (True, False):
            start = torch.linspace(-1, 1, 24).view(4, 6).requires_grad_()
            gates = architecture.gates.clone().requires_grad_() if gated else None
            with torch.set_grad_enabled(graph), space.bind(architecture, gates):
                x = start * 1
                y = edge(x)
                CHANGES[change](first_of(y))
                assert torch.equal(x, start), kind
                loss = squares(y) + (weight * x).sum()
                slope = torch.autograd.grad(loss, start)[0] if graph else None
            expected = (loss.detach(), slope) if expected is None else expected
            torch.testing.assert_close(loss.detach(), expected[0], msg=f"{kind}: {{}}".format)
            if graph:
                torch.testing.assert_close(slope, expected[1], msg=f"{kind}: {{}}".format)


def test_an_input_by_name_or_in_a_container_is_left_alone() -> None:
    edge = MixedOp("a", {"second": Call(lambda *, pair: pair["x"][1]), "sum": Call(lambda *, pair: sum(pair["x"]))})
    space = SearchSpace(edge)
    x = torch.ones(3)
    with space.bind(space.one_hot([0])):
        edge(pair={"x": [torch.zeros(3), x]}).add_(1)
    assert x.tolist() == [1, 1, 1]


def test_only_what_shares_memory_is_copied() -> None:
    made: list[Tensor] = []

    def linear(x: Tensor) -> Tensor:
        made.append(x + 1)
        return made[-1]

    edge = MixedOp("a", {"linear": Call(linear), "skip": nn.Identity()})
    space = SearchSpace(edge)
    with space.bind(space.one_hot([0])):
        assert edge(torch.ones(3)) is made[0]


def test_the_input_may_be_changed_after_the_edge_unless_others_still_need_it() -> None:
    edge = MixedOp("a", {"skip": nn.Identity(), "tanh": nn.Tanh()})
    space = SearchSpace(edge)
    start = torch.ones(3, requires_grad=True)
    hot = space.one_hot([0])
    for gates in (None, hot.gates.clone().requires_grad_()):
        x = start * 1
        with space.bind(hot, gates):
            y = edge(x)
            x += 1
            assert (x.tolist(), y.tolist()) == ([2, 2, 2], [1, 1, 1])
            (x * y).sum().backward()
    assert gates is not None
    assert gates.grad is not None
    assert gates.grad.tolist() == [[6, 0]]
    x = start * 1
    with space.bind(replace(hot, inactive="outputs"), hot.gates.clone().requires_grad_()):
        y = edge(x)
        x += 1
        with pytest.raises(RuntimeError, match=r"edge 'a' was modified by an inplace operation.*x = x \+ 1") as caught:
            (x * y).sum().backward()
    assert "\n" not in str(caught.value)


# -- candidates that change their input ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixture", "gates and others"])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_candidate_that_changes_what_others_get_is_refused(by_name: bool, kind: str) -> None:
    functions = {"first": lambda x: x + 2, "in place": lambda x: F.relu_(x) + 1, "tanh": lambda x: x.tanh()}
    edge = MixedOp("a", {name: Call(function) for name, function in functions.items()})
    space = SearchSpace(edge)
    architecture, _ = passes(space)[kind]
    x = torch.linspace(-1, 1, 6)
    with (
        one_line("candidate 'in place' of edge 'a'", "in place", "other candidates"),
        space.bind(architecture, architecture.gates.clone().requires_grad_()),
    ):
        (edge(x=x) if by_name else edge(x)).sum().backward()


@pytest.mark.parametrize("gated", [False, True])
def test_a_candidate_that_runs_alone_may_change_its_input(gated: bool) -> None:
    edge = MixedOp("a", {"in place": Call(lambda x: F.relu_(x) + 1), "tanh": nn.Tanh()})
    space = SearchSpace(edge)
    x = torch.linspace(-1, 1, 6)
    with space.bind(space.one_hot([0]), space.one_hot([0]).gates.requires_grad_() if gated else None):
        y = edge(x)
    assert torch.equal(y, x + 1)
    assert x.min() == 0


def test_mixtures_run_in_inference_mode() -> None:
    edge = MixedOp("a", {"skip": nn.Identity(), "tanh": nn.Tanh()})
    space = SearchSpace(edge)
    with torch.inference_mode(), space.bind(Architecture(torch.tensor([[0.5, 0.5]]), space.all_paths)):
        x = torch.ones(2)
        torch.testing.assert_close(edge(x), 0.5 + 0.5 * x.tanh())


# -- a search --------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Changes each edge's output in place, and uses its input again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(FEATURES, 6), nn.Linear(6, CLASSES)
        self.edges = nn.ModuleList(
            MixedOp(name, {"flat": nn.Flatten(), "no dropout": nn.Dropout(0.0), "linear": nn.Linear(6, 6)})
            for name in "ab"
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for edge in self.edges:
            y = edge(x)
            y += 1
            x = x + F.relu_(y)
        return self.head(x)


def test_a_weight_step_and_an_architecture_step_have_the_same_loss(fit: Fit) -> None:
    losses: dict[bool, list[float]] = {True: [], False: []}

    class Search(AdvantageNAS):
        def sample(self) -> Architecture:
            return self.one_hot([0, 1])

        def loss(self, batch: Any) -> Tensor:
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            losses[self.in_architecture_step].append(loss.item())
            return loss

    search = Search(Residual(), architecture_optimizer=partial(SGD, lr=0.0), weight_optimizer=partial(SGD, lr=0.0))
    search._architecture_step.checks = ()  # which refuse this network, since what is found of it has another loss
    fit(search, {"weights": loader(1), "architecture": loader(1)})
    assert losses[True] == losses[False]
    assert len(losses[True]) == 3
