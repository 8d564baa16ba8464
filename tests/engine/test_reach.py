"""Candidates that do not run are not copied, and are as they were all the same; memory is flat in their number."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from advnas_lightning import AdvantageNAS, MixedOp
from advnas_lightning.engine.reach import Reach
from advnas_lightning.engine.trace import Trace
from benchmarks.measuring import peak_memory
from tests.support.classifier import loader, pair
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
SIDE = 64


class Classifier(LightningModule):
    """An edge with so many equal candidates of 16 KiB each."""

    def __init__(self, candidates: int) -> None:
        super().__init__()
        wide = {f"linear {index}": nn.Linear(SIDE, SIDE, bias=False) for index in range(candidates)}
        self.net = nn.Sequential(nn.Linear(4, SIDE), MixedOp("edge", wide), nn.BatchNorm1d(SIDE), nn.Linear(SIDE, 3))

    def candidates(self) -> Iterator[nn.Linear]:
        return iter(self.net[1].candidates.values())  # type: ignore[union-attr,operator,arg-type]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


class Shrinking(Classifier):
    """Shrinks all of its candidates in each step."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        for candidate in self.candidates():
            candidate.weight.data.mul_(0.9)
        return super().training_step(batch, batch_idx)


def search_of(module: LightningModule) -> AdvantageNAS:
    return AdvantageNAS(module, architecture_optimizer=partial(SGD, lr=0.0))


@pytest.mark.parametrize("validated", slow_but([False, True], [True]), ids=["", "validated"])
def test_memory_is_flat_in_the_number_of_candidates(validated: bool, fit: Fit) -> None:
    peaks = []
    for candidates in (2, 34):
        search = search_of(Classifier(candidates))
        with peak_memory() as peak:
            fit(search, pair(4, 4), *([loader(9, 1)] if validated else []), num_sanity_val_steps=0)
        assert len(search.trace.reach.left_alone) > candidates - 2
        assert search.architecture_steps == 4
        peaks += peak
    assert peaks[1] - peaks[0] < 2 * 4 * SIDE**2  # two of the other 32 candidates


def test_without_weight_steps_they_are_copied_and_put_back(fit: Fit) -> None:
    module = Shrinking(3)
    start = copy.deepcopy(module.state_dict())
    search = search_of(module)
    search.weight_step = lambda batch: None  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="lightning|torch")
        fit(search, pair(4, 4))
    assert not search.trace.reach.left_alone
    assert search.architecture_steps == 4
    assert all(torch.equal(value, start[name]) for name, value in module.state_dict().items())


def test_what_weight_steps_change_is_put_back_from_the_first_evaluation_on(fit: Fit) -> None:
    module: Any = Shrinking(3)
    module.configure_optimizers = lambda: SGD(module.parameters(), lr=0.0)
    before = [candidate.weight.norm().item() for candidate in module.candidates()]
    search = search_of(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="lightning|torch")
        fit(search, pair(8, 8))
    assert search.trace.reach.is_far
    after = [candidate.weight.norm().item() for candidate in module.candidates()]
    assert after == pytest.approx([0.9**8 * norm for norm in before])  # by the eight weight steps alone


class Targeting(Classifier):
    """Copies its head to a target in every fifth step, as in Q-learning; the first step of all is the first of five."""

    def __init__(self, requires_grad: bool) -> None:
        super().__init__(2)
        self.target = nn.Linear(SIDE, 3).requires_grad_(requires_grad)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.global_step % 5 == 0:
            self.target.load_state_dict(self.net[-1].state_dict())
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return SGD(self.net.parameters(), lr=0.1)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_target_that_a_weight_step_copies_now_and_then_is_put_back_from_the_first_time_on(
    requires_grad: bool, fit: Fit
) -> None:
    torch.manual_seed(0)
    module = Targeting(requires_grad)
    before, after = [], []
    search = search_of(module)
    own = search.architecture_step

    def architecture_step(batch: Any) -> None:
        before.append(module.target.weight.clone())
        own(batch)
        after.append(module.target.weight.clone())

    search.architecture_step = architecture_step  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="lightning|torch")
        fit(search, pair(12, 4))
    assert len(before) == 12
    assert all(map(torch.equal, before, after))


@torch.no_grad()
def test_what_weight_steps_change_late_is_put_back_and_named_at_once() -> None:
    net = Net()
    trace = Trace(net)

    def step(by: float) -> None:
        for name in ("one", "two", "three"):
            net.weight(name).data.add_(by)

    def evaluation(by: float) -> None:
        with trace.removed({("edge", 0)}):
            step(by)

    def weight_step(by: float) -> None:
        with trace.reach.watched(lambda: {("edge", 0)}):
            step(by)

    for by in (0.0, 0.0, 1.0):  # the third weight step is not watched, and the third evaluation not looked at wholly
        weight_step(by)
        evaluation(by)
    assert not trace.reach.is_far
    weight_step(1.0)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    weights = "edge.candidates.one.weight, edge.candidates.three.weight, edge.candidates.two.weight"
    with pytest.warns(UserWarning, match=f"^{weights}: what gives the loss changes this"):
        evaluation(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            evaluation(1.0)
    assert all(torch.equal(value, start[name]) for name, value in net.state_dict().items())


class Net(nn.Module):
    """An edge of three candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = MixedOp("edge", {name: nn.Linear(3, 3) for name in ("one", "two", "three")})

    def weight(self, name: str) -> Tensor:
        return self.edge.candidates[name].weight  # type: ignore[return-value]


@torch.no_grad()
def test_what_only_evaluations_change_is_named_and_put_back_from_the_next_one_on() -> None:
    net = Net()
    trace = Trace(net)
    with trace.reach.watched(lambda: {("edge", 0)}):
        net.weight("one").data.add_(1)  # it runs
    assert trace.reach.left_alone == {("edge", 1), ("edge", 2)}
    assert not trace.reach.is_far
    start = {name: value.clone() for name, value in net.state_dict().items()}
    memory = net.weight("three").data_ptr()

    def evaluation() -> None:
        with trace.removed({("edge", 0)}):
            net.weight("one").data.add_(1)
            net.weight("two").data.add_(1)
            net.weight("three").data = net.weight("three") + 1
            net.edge.candidates["three"].custom = 1  # type: ignore[assignment]

    with pytest.warns(UserWarning, match=r"^edge\.candidates\.two\.weight: what gives the loss changes this"):
        evaluation()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            evaluation()
    assert torch.equal(net.weight("two"), start.pop("edge.candidates.two.weight") + 1)  # only the first one is left
    assert all(torch.equal(value, start[name]) for name, value in net.state_dict().items() if name in start)
    assert net.weight("three").data_ptr() == memory
    assert not hasattr(net.edge.candidates["three"], "custom")


@torch.no_grad()
def test_tensors_that_run_elsewhere_are_no_sign() -> None:
    net = Net()
    net.edge.candidates["two"].bias = net.edge.candidates["one"].bias
    net.edge.candidates["three"].weight = net.weight("one")
    reach = Reach(net)
    with reach.watched(lambda: {("edge", 0)}):
        net.weight("one").data.add_(1)
        net.edge.candidates["one"].bias.data.add_(1)  # type: ignore[operator,union-attr]
    assert not reach.is_far
    with reach.watched(lambda: {("edge", 0)}):
        net.edge.candidates["three"].bias.data.copy_(net.edge.candidates["three"].bias.flip(0))  # type: ignore[operator,union-attr]
    assert reach.is_far


def test_a_pass_that_fails_shows_nothing() -> None:
    reach = Reach(Net())

    def fails() -> None:
        with reach.watched(lambda: {("edge", 0)}):
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not reach.left_alone
    with reach.watched(lambda: {("edge", 0)}):
        pass
    assert not copy.deepcopy(reach).left_alone
    assert reach.left_alone == {("edge", 1), ("edge", 2)}


@torch.no_grad()
def test_what_ran_in_the_weight_step_is_copied_where_it_does_not_run() -> None:
    """The step writes to one candidate always; the weight step cannot tell, because there the candidate runs."""
    net = Net()
    trace = Trace(net)
    with trace.reach.watched(lambda: {("edge", 0)}):
        net.weight("one").data.add_(1)
    assert not trace.reach.is_far
    start = {name: value.clone() for name, value in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            with trace.removed({("edge", 1)}):
                net.weight("one").data.add_(1)
    assert all(torch.equal(value, start[name]) for name, value in net.state_dict().items())
