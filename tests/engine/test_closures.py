"""Optimizers that call their closure, once or more, train as they do without a search."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import AdvantageNAS, Fixed, Genotype, MixedOp, RandomSearch
from advnas_lightning.engine.optimization import OptimizerFactory
from advnas_lightning.objectives import Classification
from tests.support.classifier import Rows, assert_same_state, loader, pair
from tests.support.optimizers import (
    CALL_AGAIN,
    CALL_ONCE,
    CautiousLookahead,
    Clipping,
    Deaf,
    Polyak,
    SharpnessAware,
)
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
GENOTYPE = {"edge": "block"}
EVERY = {**CALL_AGAIN, **CALL_ONCE}


class Noting(LightningModule):
    """Notes each call of a hook; its dropout draws numbers, and its norm counts batches."""

    def __init__(self, factory: OptimizerFactory) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh())
        self.net = nn.Sequential(
            nn.Linear(4, 8), MixedOp("edge", {"block": block, "skip": nn.Identity()}), nn.Linear(8, 3)
        )
        self.accuracy = MulticlassAccuracy(3)
        self.factory, self.called = factory, [""]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.called.append(f"training_step {batch_idx}")
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return self.factory(self.parameters())

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.called.append(f"on_before_zero_grad {type(optimizer).__name__}")

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.called.append(f"optimizer_zero_grad {epoch} {batch_idx}")
        super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_before_backward(self, loss: Tensor) -> None:
        self.called.append(f"on_before_backward {float(loss.detach())}")

    def on_after_backward(self) -> None:
        self.called.append("on_after_backward")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.called.append(f"on_before_optimizer_step {type(optimizer).__name__}")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.called.append(f"on_train_batch_end {float(outputs['loss'])} {outputs['logits'].sum()}")


def made(factory: OptimizerFactory, kind: type[Noting] = Noting) -> Noting:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind(factory)


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    slow_but(
        itertools.product(EVERY, ["32-true", "bf16-mixed"]),
        list(zip(EVERY, itertools.cycle(["32-true", "bf16-mixed"]), strict=False)),
    ),
)
def test_an_adopted_module_trains_as_it_does_alone(optimizer: str, precision: str, fit: Fit) -> None:
    alone, rows = Genotype(GENOTYPE).apply(made(EVERY[optimizer])), [Rows(), Rows()]
    search = Fixed(made(EVERY[optimizer]), genotype=GENOTYPE)
    trainers = []
    for module, logger in zip((alone, search), rows, strict=True):
        torch.manual_seed(0)
        trainers.append(fit(module, loader(), max_epochs=3, logger=logger, log_every_n_steps=1, precision=precision))
    assert search.model.called == alone.called
    assert_same_state(search.model, alone)
    steps = [name for name in alone.called if name.startswith("training_step")]
    assert (len(steps) > 9) == (optimizer in CALL_AGAIN)
    for name in ("loss_step", "loss_epoch", "accuracy"):
        assert rows[1].values(name) == rows[0].values(name) != []
    assert trainers[0].global_step == trainers[1].global_step == search.weight_steps == 9


class OwnLoss(Fixed):
    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])


def by_hand(net: nn.Module, factory: OptimizerFactory, *, gradients_first: bool = False, epochs: int = 3) -> None:
    """Train as PyTorch's documentation has it."""
    optimizer, net = factory(net.parameters()), net.train()
    for _ in range(epochs):
        for x, y in loader():

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                with torch.enable_grad():
                    optimizer.zero_grad()
                    loss = F.cross_entropy(net(x), y)
                    loss.backward()
                return loss

            if gradients_first:
                closure()
                optimizer.step()
            else:
                optimizer.step(closure)


@pytest.mark.parametrize("optimizer", [*EVERY, "clipping"])
def test_an_own_loss_trains_as_by_hand(optimizer: str, fit: Fit) -> None:
    factory = EVERY.get(optimizer, lambda weights: Clipping(weights, lr=0.1))
    alone, search = (
        Genotype(GENOTYPE).apply(made(factory).net),
        OwnLoss(made(factory).net, genotype=GENOTYPE, weight_optimizer=factory),
    )
    torch.manual_seed(0)
    by_hand(alone, factory, gradients_first=optimizer == "clipping")
    torch.manual_seed(0)
    fit(search, loader(), max_epochs=3)
    assert_same_state(search.model, alone)
    assert search.weight_steps == 9


def test_an_optimizer_that_moves_first_gets_gradients_of_where_it_is(fit: Fit) -> None:
    # It does not say that it needs a closure, so the gradients are there before its step, and in another place.
    def fitted(factory: OptimizerFactory) -> Fixed:
        net = nn.Sequential(
            nn.Linear(4, 8), MixedOp("edge", {"block": nn.Tanh(), "skip": nn.Identity()}), nn.Linear(8, 3)
        )
        search = OwnLoss(net, genotype=GENOTYPE, weight_optimizer=factory)
        fit(search, loader(), max_epochs=3)
        return search

    torch.manual_seed(0)
    one = fitted(CautiousLookahead)
    torch.manual_seed(0)
    assert_same_state(one.model, fitted(EVERY["lookahead"]).model)


def test_means_and_metrics_count_each_batch_once(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    class Search(RandomSearch):
        def note_loss(self, name: str, loss: Tensor, size: int) -> None:
            noted.append(name)

    noted: list[str] = []
    objective = Classification(3)
    search = Search(made(SharpnessAware).net, weight_optimizer=SharpnessAware, objective=objective)
    accuracy = objective.training_metrics["accuracy"]
    monkeypatch.setattr(accuracy, "update", lambda *_: noted.append("accuracy"))
    fit(search, loader())
    assert noted == ["accuracy", "train/loss"] * 3


@pytest.mark.parametrize("kind", [Fixed, OwnLoss])
def test_the_loss_of_accumulated_batches_is_their_mean(kind: type[Fixed], fit: Fit) -> None:
    states = []
    for size, accumulate in ((12, 1), (4, 3)):
        net = made(Polyak)
        net.net[1] = MixedOp(
            "edge", {"block": nn.Tanh(), "skip": nn.Identity()}
        )  # a norm would see the smaller batches
        options = {} if kind is Fixed else {"weight_optimizer": Polyak}
        search = kind(net if kind is Fixed else net.net, genotype=GENOTYPE, accumulate=accumulate, **options)
        fit(search, loader(batches=24 // size, size=size), max_epochs=3)
        assert search.weight_steps == 6
        states.append(nn.utils.parameters_to_vector(search.model.parameters()))
    torch.testing.assert_close(*states)


def assert_refused(search: LightningModule, train: Any, fit: Fit, *says: str) -> None:
    with pytest.raises(MisconfigurationException) as caught:
        fit(search, train)
    assert "\n" not in str(caught.value)
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize("own_loss", [False, True])
@pytest.mark.parametrize("optimizer", CALL_AGAIN)
@pytest.mark.parametrize("accumulate", [3, 2])  # three batches: a whole step, or one that the end of the epoch cuts
def test_earlier_batches_cannot_be_computed_again(accumulate: int, optimizer: str, own_loss: bool, fit: Fit) -> None:
    factory = CALL_AGAIN[optimizer]
    module = made(factory)
    search: Fixed = (
        OwnLoss(module.net, genotype=GENOTYPE, weight_optimizer=factory, accumulate=accumulate)
        if own_loss
        else Fixed(module, genotype=GENOTYPE, accumulate=accumulate)
    )
    name = type(factory([nn.Parameter(torch.zeros(1))])).__name__
    assert_refused(search, loader(), fit, name, f"accumulate={accumulate}", "accumulate=1")


def scaling() -> dict[str, Any]:
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}


@pytest.mark.parametrize("own_loss", slow_but([False, True], [False]))
@pytest.mark.parametrize("optimizer", EVERY)
def test_gradients_that_are_scaled_are_not_computed_again(optimizer: str, own_loss: bool, fit: Fit) -> None:
    factory = EVERY[optimizer]
    search: Fixed = (
        OwnLoss(made(factory).net, genotype=GENOTYPE, weight_optimizer=factory)
        if own_loss
        else Fixed(made(factory), genotype=GENOTYPE)
    )
    if optimizer not in ("sgd", "adam"):
        name = type(factory([nn.Parameter(torch.zeros(1))])).__name__
        assert_refused(search, loader(), partial(fit, **scaling()), name, "bf16-mixed")
        return
    alone = Genotype(GENOTYPE).apply(made(factory))
    for module in (search, alone):
        torch.manual_seed(0)
        fit(module, loader(), max_epochs=3, **scaling())
    assert_same_state(search.model, alone.net if own_loss else alone)


@pytest.mark.parametrize("factory", [*CALL_AGAIN.values(), EVERY["lookahead"], CautiousLookahead])
def test_the_architecture_has_one_gradient_a_step(factory: OptimizerFactory, fit: Fit) -> None:
    search = AdvantageNAS(made(EVERY["sgd"]), architecture_optimizer=factory)
    name = type(factory([nn.Parameter(torch.zeros(1))])).__name__
    assert_refused(search, pair(2, 2), fit, f"architecture_optimizer={name}", "Adam")


@pytest.mark.parametrize("factory", [CALL_ONCE["one_lbfgs"], Polyak])
def test_an_optimizer_that_calls_its_closure_once_moves_the_architecture(factory: OptimizerFactory, fit: Fit) -> None:
    search = AdvantageNAS(made(EVERY["sgd"]), architecture_optimizer=factory)
    before = search.theta.detach().clone()
    fit(search, pair(2, 2))
    assert search.architecture_steps == 2
    assert not torch.equal(search.theta, before)


class NotStepping(Noting):
    def optimizer_step(self, *_: Any) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("kind", "factory", "says"), [(NotStepping, SGD, "optimizer_step"), (Noting, Deaf, "Deaf.step")]
)
def test_a_closure_that_is_not_called_is_said(kind: Any, factory: Any, says: str, fit: Fit) -> None:
    for module in (Genotype(GENOTYPE).apply(made(partial(factory, lr=0.1), kind)), None):
        search = module or Fixed(made(partial(factory, lr=0.1), kind), genotype=GENOTYPE)
        with pytest.raises(MisconfigurationException, match="closure") as caught:  # Lightning says it, too
            fit(search, loader())
    assert says in str(caught.value)


def test_an_optimizer_that_does_not_call_it_trains_with_an_own_loss(fit: Fit) -> None:
    states = []
    for kind in (SGD, Deaf):
        search = OwnLoss(made(SGD).net, genotype=GENOTYPE, weight_optimizer=partial(kind, lr=0.1))
        torch.manual_seed(0)
        fit(search, loader())
        states.append(search.model)
    assert_same_state(*states)


@pytest.mark.parametrize("own_loss", [False, True])
def test_weights_that_a_second_call_spoils_end_the_run(own_loss: bool, fit: Fit) -> None:
    class Spoilt(nn.Module):
        """Gives NaN in every second pass."""

        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return x * (float("nan") if self.passes % 2 == 0 else 1.0)

    module = made(SharpnessAware)
    module.net[2] = nn.Sequential(Spoilt(), module.net[2])
    options = {"genotype": GENOTYPE, "max_bad_steps": 2}
    search = OwnLoss(module.net, weight_optimizer=SharpnessAware, **options) if own_loss else Fixed(module, **options)
    with pytest.raises(FloatingPointError, match="3 weight steps in a row"):
        fit(search, loader(), max_epochs=2)


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_a_step_that_is_left_out_is_timed(profiler: str, fit: Fit, tmp_path: Path) -> None:
    class Picky(Noting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

        def on_train_batch_end(self, *_: Any) -> None: ...

    search = Fixed(made(EVERY["sgd"], Picky), genotype=GENOTYPE)
    fit(search, loader(), max_epochs=2, profiler=profiler, default_root_dir=tmp_path)
    assert search.weight_steps == 4
