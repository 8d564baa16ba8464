"""An evaluation whose network changes an edge's output in place is repeated once, with copies from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock

from advnas_lightning import Architecture, MixedOp, SearchSpace
from advnas_lightning.engine.environment import Precision, Ranks
from advnas_lightning.engine.evaluation import Evaluator
from advnas_lightning.engine.trace import Trace
from advnas_lightning.objectives import Outcome
from tests.support.speed import slow_but

BATCH = torch.linspace(-1, 2, 12).view(3, 4)


class Net(nn.Module):
    """Two edges, and a function of the output of the first one between them. The running statistics count passes."""

    def __init__(self, first: nn.Module, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(4)
        self.first = MixedOp("first", {"this": first, "other": nn.Linear(4, 4)})
        self.second = MixedOp("second", {"this": nn.Linear(4, 4), "other": nn.Tanh()})
        self.between, self.passes = between, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        x = self.norm(x)
        y = self.second(self.between(self.first(x)))
        return (y + x).square()


def evaluator_of(net: Net) -> Evaluator:
    def run(batch: Tensor) -> Outcome:
        return Outcome(net(batch).mean(), len(batch))

    return Evaluator(SearchSpace(net), run, Ranks(), Precision(), Trace(nn.Module()))


def expected(net: Net, architecture: Architecture) -> Tensor:
    """The gradient of the gates where all outputs are copied."""
    gates = architecture.gates.clone().requires_grad_()
    with SearchSpace(net).bind(architecture, gates):
        return torch.autograd.grad(net(BATCH).mean(), gates)[0]


def hidden(y: Tensor) -> Tensor:
    with torch.no_grad():
        y.mul_(-2)
    return y


CANDIDATES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 4),
    "identity": nn.Identity,
    "norm": lambda: nn.BatchNorm1d(4),
    "several": lambda: nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.Flatten()),
}
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(inplace=True),
    "sum": lambda y: y.add_(torch.ones(4)),
    "part": lambda y: [y, y[:, :2].mul_(3)][0],
    "view": lambda y: [y, y.view(-1)[:5].zero_()][0],
    "without a graph": hidden,
}


@pytest.mark.parametrize("inactive", slow_but(["none", "ones", "outputs"], ["outputs"]))
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("candidate", CANDIDATES)
def test_the_credit_is_that_of_an_output_that_was_copied(candidate: str, change: str, inactive: Any) -> None:
    net = Net(CANDIDATES[candidate](), CHANGES[change])
    evaluator = evaluator_of(net)
    architecture = replace(evaluator.space.one_hot([0, 0]), inactive=inactive)
    wanted = expected(net, architecture)
    for repeats in (1, 0):  # it is learnt once
        before = net.passes
        trial = evaluator.evaluate(architecture, BATCH, gates=True)
        assert net.passes - before <= 1 + repeats
        torch.testing.assert_close(trial.gate_grad, wanted)


def test_an_output_that_nothing_changes_is_not_copied_and_no_pass_is_repeated() -> None:
    net = Net(nn.Linear(4, 4), torch.sin)
    evaluator, places = evaluator_of(net), []
    for module in (net.first.candidates["this"], net.first):
        module.register_forward_hook(lambda _, __, output: places.append(output.data_ptr()))
    architecture = evaluator.space.one_hot([0, 0])
    trial = evaluator.evaluate(architecture, BATCH, gates=True)
    assert net.passes == 1
    assert places[0] == places[1]
    torch.testing.assert_close(trial.gate_grad, expected(net, architecture))


@pytest.mark.parametrize("choice", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_residual_block_of_torchvision_has_the_same_credit_bit_for_bit(choice: tuple[int, int]) -> None:
    block = BasicBlock(4, 4)
    block.bn1 = MixedOp("first", {"norm": nn.BatchNorm2d(4), "skip": nn.Identity()})  # ReLU in place follows
    block.bn2 = MixedOp("second", {"norm": nn.BatchNorm2d(4), "groups": nn.GroupNorm(2, 4)})  # and a sum in place
    space, images = SearchSpace(block), torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    evaluator = Evaluator(space, lambda x: Outcome(block(x).square().mean(), 3), Ranks(), Precision(), Trace(block))
    before = [value.clone() for value in block.state_dict().values()]
    architecture = space.one_hot(choice)
    found = evaluator.evaluate(architecture, images, gates=True).gate_grad
    assert all(map(torch.equal, block.state_dict().values(), before))
    gates = architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates):
        (wanted,) = torch.autograd.grad(block(images).square().mean(), gates)
    assert found is not None
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_an_edge_in_a_checkpoint_gets_the_same_credit(candidate: str) -> None:
    class Checkpointed(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            y = checkpoint(lambda z: self.between(self.first(z)).exp(), self.norm(x), use_reentrant=False)
            return self.second(y).square()

    net = Checkpointed(CANDIDATES[candidate](), nn.Hardtanh(-0.1, 0.1, inplace=True))
    evaluator = evaluator_of(net)
    architecture = evaluator.space.one_hot([0, 0])
    trial = evaluator.evaluate(architecture, BATCH, gates=True)
    torch.testing.assert_close(trial.gate_grad, expected(net, architecture))


@pytest.mark.parametrize("start", [False, True])
def test_the_output_of_an_identity_stays_when_its_input_is_changed(start: bool) -> None:
    class Residual(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            x = x.clone() if start else self.norm(x)
            y = self.first(x)
            x += 1
            return (x * self.second(y)).square()

    net = Residual(nn.Identity(), torch.sin)
    evaluator = evaluator_of(net)
    architecture = evaluator.space.one_hot([0, 0])
    trial = evaluator.evaluate(architecture, BATCH, gates=True)
    torch.testing.assert_close(trial.gate_grad, expected(net, architecture))


def test_another_error_is_raised_as_it_is() -> None:
    def fails(y: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    net = Net(nn.Linear(4, 4), fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluator_of(net).evaluate(SearchSpace(net).one_hot([0, 0]), BATCH, gates=True)
    assert net.passes == 1
