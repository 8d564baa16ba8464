"""Compiled candidates are searched as others are."""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from advnas_lightning import (
    DARTS,
    AdvantageNAS,
    Genotype,
    MixedOp,
    ProxylessNAS,
    SearchSpace,
    SearchStrategy,
)
from advnas_lightning.space.gates import Inactive
from tests.support.classifier import GENOTYPE, Classifier, Wrap, as_it_is, assert_same_state, block, make, search_of
from tests.support.refusals import one_line
from tests.support.speed import slow_but

Make = Callable[..., Any]


@functools.cache
def compiles(how: str) -> bool:
    """Whether PyTorch compiles a module of its own: PyTorch 2.6 does not in place."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiling(how, backend)(nn.Linear(1, 1))(torch.ones(1, 1))
    return bool(graphs)


@pytest.fixture
def compiler() -> Iterator[Callable[[], int]]:
    """Forgets what was compiled before; the number of graphs that have been compiled since."""
    compiles("in place")
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch.compiler.reset()


def compiling(how: str, backend: str | Callable[..., Any]) -> Wrap:
    def wrap(module: nn.Module) -> nn.Module:
        if how == "wrapped":
            return torch.compile(module, backend=backend)  # type: ignore[return-value]
        module.compile(backend=backend)
        return module

    return wrap


@pytest.mark.parametrize(
    ("how", "backend", "kind"),
    slow_but(
        itertools.product(
            ["wrapped", "in place"],
            ["eager", "aot_eager"],
            [AdvantageNAS, ProxylessNAS, DARTS],  # one, two and all candidates at a time
        ),
        [
            ("in place", "aot_eager", AdvantageNAS),
        ],
    ),
)
def test_compiled_candidates_are_searched_as_others_are(
    how: str, backend: str, kind: type[SearchStrategy], train: Make, compiler: Callable[[], int]
) -> None:
    plain, compiled = (search_of(make(wrap=wrap), kind) for wrap in (as_it_is, compiling(how, backend)))
    train(plain)
    assert compiler() == 0
    train(compiled)
    if how == "wrapped" or compiles("in place"):
        assert compiler() >= 3  # the linear layers, and the block for training and evaluation
    assert (compiled.weight_steps, compiled.architecture_steps) == (12, 12)
    if backend == "eager":
        assert_same_state(compiled, plain)
    for ours, theirs in zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True):
        if isinstance(ours, Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    # torch.compile puts a module of its own around the candidate; compiling in place leaves all names.
    ours, theirs = list(compiled.model.state_dict()), list(plain.model.state_dict())
    assert [name.replace("_orig_mod.", "") for name in ours] == theirs
    assert (ours == theirs) == (how == "in place")


def built_by_hand(wrap: Wrap) -> Classifier:
    network = make()
    network.net = nn.Sequential(nn.Linear(4, 8), wrap(block()), nn.Tanh(), nn.Linear(8, 3))
    return network


@pytest.mark.parametrize("how", slow_but(["wrapped", "in place"], ["wrapped"]))
def test_a_network_found_among_compiled_candidates_is_plain(
    how: str, train: Make, compiler: Callable[[], int], tmp_path: Path
) -> None:
    wrap = compiling(how, "eager")
    search = search_of(make(wrap=wrap))
    train(search)
    search.eval()
    inputs = torch.randn(5, 4)
    derived = search.derive()
    assert torch.equal(derived(inputs), search(inputs))
    found = Genotype(GENOTYPE).apply(search.model)
    assert not any(isinstance(part, MixedOp) for part in [*derived.modules(), *found.modules()])
    with search.space.bind(search.one_hot(search.space.choice(Genotype(GENOTYPE)))):
        expected = search.model(inputs)
    by_hand = built_by_hand(wrap).eval()
    by_hand.load_state_dict(found.state_dict(), strict=True)
    # What was compiled in place is compiled anew in a copy, if that is wanted; what was wrapped stays wrapped.
    assert found.net[1]._compiled_call_impl is None
    assert hasattr(found.net[1], "_orig_mod") == (how == "wrapped")
    plain = built_by_hand(as_it_is).eval()
    if how == "wrapped":
        with pytest.raises(RuntimeError, match="_orig_mod"):
            plain.load_state_dict(found.state_dict(), strict=True)
    plain.load_state_dict({name.replace("_orig_mod.", ""): value for name, value in found.state_dict().items()})
    torch.save(found.state_dict(), tmp_path / "found.pt")
    loaded = built_by_hand(wrap).eval()
    loaded.load_state_dict(torch.load(tmp_path / "found.pt", weights_only=True), strict=True)
    for network in (found, by_hand, plain, loaded, copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert torch.equal(network(inputs), expected)
    train(found)  # in Lightning, as any other


def test_a_network_may_be_compiled_as_a_whole_and_in_place(train: Make, compiler: Callable[[], int]) -> None:
    plain, compiled = search_of(), search_of()
    compiled.model.compile(backend="eager")
    train(plain, max_epochs=1)
    train(compiled, max_epochs=1)
    assert_same_state(compiled.model, plain.model)
    torch.testing.assert_close(compiled.theta, plain.theta)


@pytest.mark.parametrize("inactive", slow_but(["none", "ones", "outputs"], ["outputs"]))
def test_gates_in_a_compiled_network_have_the_same_gradients(inactive: Inactive, compiler: Callable[[], int]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.edge = MixedOp("edge", {"linear": nn.Linear(4, 4), "tanh": nn.Tanh(), "skip": nn.Identity()})

        def forward(self, x: Tensor) -> Tensor:
            return self.edge(x.sin()).add_(1).square()

    def gate_gradients(run: Callable[[Tensor], Tensor], space: SearchSpace) -> list[Tensor]:
        found = []
        for choice in range(3):
            architecture = replace(space.one_hot([choice]), inactive=inactive)
            gates = architecture.gates.clone().requires_grad_()
            x = torch.linspace(-1, 1, 12).view(3, 4).requires_grad_()
            with space.bind(architecture, gates):
                found += torch.autograd.grad(run(x).sum(), gates)
                if inactive == "outputs":
                    with one_line("edge 'edge'", "create_graph=True"):
                        torch.autograd.grad(run(x).sum(), x, create_graph=True)
                    continue
                (slope,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
                found += torch.autograd.grad(slope.square().sum(), gates)
        return found

    net = Net()
    space = SearchSpace(net)
    plain = gate_gradients(net, space)
    assert compiler() == 0
    compiled = gate_gradients(torch.compile(net, backend="eager"), space)
    assert compiler() > 0
    torch.testing.assert_close(compiled, plain)


def test_a_compiled_module_says_what_to_compile_instead() -> None:
    # What torch.compile returns is no LightningModule any more, so its training_step would be overlooked.
    with pytest.raises(ValueError, match="compile") as caught:
        search_of(torch.compile(make(), backend="eager"))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_candidates_compiled_to_machine_code(how: str, train: Make, compiler: Callable[[], int]) -> None:
    def quiet(module: nn.Module) -> nn.Module:
        for part in module.modules():
            if isinstance(part, nn.Dropout):  # compiled, it draws other random numbers
                part.p = 0.0
        return module

    wrap = compiling(how, "inductor")
    # Adam would make large steps of rounding errors
    options = {"architecture_optimizer": partial(SGD, lr=1.0)}
    plain = search_of(make(wrap=quiet), **options)
    compiled = search_of(make(wrap=lambda module: wrap(quiet(module))), **options)
    train(plain)
    train(compiled)
    if how == "wrapped" or compiles("in place"):
        assert compiler() >= 3
    assert compiled.theta.ne(1).any()
    for ours, theirs in zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True):
        if isinstance(ours, Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
