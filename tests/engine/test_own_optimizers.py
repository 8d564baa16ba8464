"""A module's methods see the optimizers and schedules that they see in the module's own training."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau, StepLR

from advnas_lightning import AdvantageNAS, Depth, Genotype, MixedOp, SearchStrategy, elastic, make_searchable
from advnas_lightning.objectives import Classification
from tests.support.classifier import assert_same_state, loader, pair
from tests.support.refusals import one_line
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
GENOTYPE = {"edge": "linear"}
THETA = {
    "architecture_optimizer": partial(Adam, lr=0.3),
    "architecture_scheduler": partial(StepLR, step_size=1),
}
SEEN_IN_TRAINING: list[Any] = []
HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
)


class Part(LightningModule):
    """A part that is a LightningModule, too; Lightning gives it the trainer of the whole."""

    def __init__(self) -> None:
        super().__init__()
        edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        self.net = nn.Sequential(nn.Linear(4, 8), edge, nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Looking(LightningModule):
    """Notes in every hook and step what there is."""

    def __init__(self, schedules: str) -> None:
        super().__init__()
        self.part, self.schedules = Part(), schedules
        self.seen: list[Any] = ["nothing"]

    def look(self, place: str) -> None:
        wrapped, own, schedules = self.optimizers(), self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        several = schedules if isinstance(schedules, list) else [schedules]
        trainer = self.trainer
        self.seen.append(
            (
                place,
                type(wrapped).__name__,
                type(own).__name__,
                wrapped.optimizer is own,
                type(schedules).__name__,
                [schedule and (type(schedule).__name__, schedule.get_last_lr()) for schedule in several],
                [(type(optimizer).__name__, optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers],
                [type(optimizer).__name__ for optimizer in trainer.strategy.optimizers],
                [
                    (c.name, c.interval, c.frequency, c.reduce_on_plateau, c.monitor, c.strict, type(c.scheduler))
                    for c in trainer.lr_scheduler_configs
                ],
            )
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.look("training_step")
        SEEN_IN_TRAINING.append(self.seen[-1])
        return F.cross_entropy(self.part(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.look("validation_step")
        self.log("val", float(batch_idx))

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        self.look("optimizer_step")
        super().optimizer_step(*arguments, **keywords)

    def configure_gradient_clipping(self, *arguments: Any, **keywords: Any) -> None:
        self.look("configure_gradient_clipping")

    def lr_scheduler_step(self, *arguments: Any) -> None:
        self.look("lr_scheduler_step")
        super().lr_scheduler_step(*arguments)

    def configure_optimizers(self) -> Any:
        sgd = SGD(self.parameters(), lr=0.1)
        by_epoch, by_step = ExponentialLR(sgd, 0.9), LambdaLR(sgd, lambda step: 0.99**step)
        return {
            "none": sgd,
            "epoch": ([sgd], [by_epoch]),
            "step": {
                "optimizer": sgd,
                "lr_scheduler": {"scheduler": by_step, "interval": "step", "frequency": 2, "name": "own"},
            },
            "both": ([sgd], [by_epoch, {"scheduler": by_step, "interval": "step"}]),
            "plateau": {"optimizer": sgd, "lr_scheduler": ReduceLROnPlateau(sgd, patience=0), "monitor": "val"},
        }[self.schedules]


for _hook in HOOKS:
    setattr(Looking, _hook, lambda self, *_, hook=_hook: self.look(hook))


def made(schedules: str, kind: type[Looking] = Looking) -> Looking:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind(schedules)


@pytest.mark.parametrize(
    "schedules", slow_but(["none", "epoch", "step", "both", "plateau"], ["none", "both", "plateau"])
)
def test_they_are_the_modules_own(schedules: str, fit: Fit) -> None:
    SEEN_IN_TRAINING.clear()
    alone = Genotype(GENOTYPE).apply(made(schedules))
    fit(alone, pair()["weights"], loader(9), max_epochs=3)
    search = AdvantageNAS(made(schedules), **THETA)
    asked: list[Any] = []

    class Asking(Callback):
        def on_train_batch_start(self, trainer: Trainer, search: LightningModule, *_: Any) -> None:
            asked.append((len(search.optimizers()), len(trainer.optimizers), len(trainer.lr_scheduler_configs)))

    fit(search, {**pair(), "architecture": loader(5, 6)}, loader(9), max_epochs=3, callbacks=[Asking()])
    assert search.model.seen == alone.seen
    assert {seen[0] for seen in alone.seen} >= {*HOOKS, "training_step", "optimizer_step", "validation_step"}
    # in architecture steps, of which there is no trace in the module, it sees the same
    assert len(SEEN_IN_TRAINING) == 3 * 6 * 3
    assert set(map(str, SEEN_IN_TRAINING)) <= set(map(str, alone.seen))
    count = {"none": 0, "both": 2}.get(schedules, 1)
    assert set(asked) == {(2, 2, count + 1)}  # others see all


def test_a_ranking_after_the_fit_sees_them_as_they_were_left(fit: Fit) -> None:
    """It takes training steps under another Trainer, which has no optimizers."""
    alone, search = Genotype(GENOTYPE).apply(made("both")), AdvantageNAS(made("both"), **THETA)
    fit(alone, pair()["weights"], loader(9), max_epochs=2)
    trainer = fit(search, pair(), loader(9), max_epochs=2)
    alone.look("training_step")
    SEEN_IN_TRAINING.clear()
    assert len(search.rank(loader(9))) == 2
    assert set(map(str, SEEN_IN_TRAINING)) == {str(alone.seen[-1])}
    assert search.trainer is trainer
    assert trainer.train_dataloader is not None  # it has what it had


def test_a_checkpoint_that_a_hook_saves_is_whole(fit: Fit, tmp_path: Path) -> None:
    class Saves(Looking):
        def on_train_epoch_end(self) -> None:
            self.trainer.save_checkpoint(tmp_path / f"{self.current_epoch}.ckpt")

    def ended(epochs: int, **options: Any) -> SearchStrategy:
        search = AdvantageNAS(made("both", Saves), **THETA)
        fit(search, pair(), max_epochs=epochs, **options)
        return search

    whole = ended(3)
    saved = torch.load(tmp_path / "1.ckpt", weights_only=True)
    assert [len(saved[name]) for name in ("optimizer_states", "lr_schedulers")] == [2, 3]
    assert_same_state(ended(3, ckpt_path=tmp_path / "1.ckpt"), whole)


class Moves(LightningModule):
    """Lowers its learning rate in its step, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.part, self.way, self.rates = Part(), way, [0.1]

    def configure_optimizers(self) -> Any:
        sgd = SGD(self.parameters(), lr=torch.tensor(0.1) if self.way == "tensor" else 0.1)
        self.kept = ExponentialLR(sgd, 0.9)
        return ([sgd], [ExponentialLR(sgd, 0.9)]) if self.way == "the Trainer's schedule" else sgd

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        options = self.optimizers().param_groups[0]
        if self.way == "tensor":
            options["lr"].mul_(0.9)
        elif self.way == "number":
            options["lr"] *= 0.9
        else:
            (self.kept if self.way == "its own schedule" else self.lr_schedulers()).step()
        self.rates.append(float(options["lr"]))
        return F.cross_entropy(self.part(batch[0]), batch[1])


@pytest.mark.parametrize("way", ["the Trainer's schedule", "its own schedule", "number", "tensor"])
def test_a_rate_that_a_step_changes_moves_in_weight_steps_alone(way: str, fit: Fit) -> None:
    alone, search = Genotype(GENOTYPE).apply(Moves(way)), AdvantageNAS(Moves(way), **THETA)
    fit(alone, pair()["weights"])
    fit(search, pair())
    assert search.architecture_steps == 6
    assert search.model.rates == alone.rates


@pytest.mark.parametrize("name", ["optimizers", "lr_scheduler_configs"])
def test_other_ones_are_refused(name: str, fit: Fit) -> None:
    class Replaces(Looking):
        def on_train_epoch_start(self) -> None:
            setattr(self.trainer.strategy, name, list(getattr(self.trainer.strategy, name)))

    search = AdvantageNAS(made("epoch", Replaces), **THETA)
    with pytest.raises(MisconfigurationException, match="in place") as caught:
        fit(search, pair())
    assert "\n" not in str(caught.value)
    assert search.weight_steps == 0


def test_a_schedule_that_a_hook_exchanges_is_stepped(fit: Fit) -> None:
    class Exchanges(Looking):
        def on_train_start(self) -> None:
            config = self.trainer.lr_scheduler_configs[0]
            config.scheduler = StepLR(config.scheduler.optimizer, 1, gamma=0.5)

    search = AdvantageNAS(made("epoch", Exchanges), **THETA)
    trainer = fit(search, pair(), max_epochs=2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.025


class ByName(LightningModule):
    """Gives each layer a rate of its own, and leaves a norm without a decay: by the names of all parameters."""

    def __init__(self, *, is_elastic: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers: nn.Module = nn.Sequential(*(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)) for _ in range(2)))
            self.net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))
        if is_elastic:  # with the sizes that they have, so that the search trains the same network
            first, norm, act, last = self.net
            self.layers = Depth(self.layers, [2], name="depth")
            self.net[0] = elastic(first, out_features=[8], name="width")
            self.net[1] = elastic(norm, normalized_shape=[8], name="width")
            self.net[2] = MixedOp("act", {"tanh": act, "same": nn.Tanh()})
            self.net[3] = elastic(last, in_features=[8], name="width")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(self.layers(batch[0])), batch[1])

    def configure_optimizers(self) -> Any:
        groups = []
        for name, weight in self.named_parameters():
            layer = re.match(r"layers\.(\d)\.", name)
            rate = 0.1 * 2.0 ** int(layer[1]) if layer else 0.01
            groups.append({"params": [weight], "lr": rate, "weight_decay": 0.0 if name == "net.1.weight" else 0.5})
        return SGD(groups, lr=0.01)


def test_elastic_modules_change_no_names_where_parameters_are_grouped(fit: Fit) -> None:
    alone, search = ByName(is_elastic=False), AdvantageNAS(ByName(is_elastic=True), **THETA)
    fit(alone, pair()["weights"])
    fit(search, pair())
    for mine, theirs in zip(search.model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert "layers.widest.0.0.weight" in search.model.state_dict()  # elsewhere they are as they were


class ByGradient(ByName):
    """Changes gradients by the names of weights in one of its hooks, and reads a layer's."""

    def __init__(self, hook: str, **options: Any) -> None:
        super().__init__(**options)
        self.norms: list[float] = []
        setattr(self, hook, self.change)  # in the instance, where Lightning looks, too

    def change(self, *_: Any, **__: Any) -> None:
        first: Any = self.net[0]
        self.norms.append(float(first.weight.grad.norm()))
        for name, weight in self.named_parameters():
            if weight.grad is not None:
                weight.grad *= {"net.3.weight": 0.0, "layers.0.1.weight": 3.0}.get(name, 1.0)


@pytest.mark.parametrize("hook", ["on_after_backward", "on_before_optimizer_step", "configure_gradient_clipping"])
def test_elastic_modules_change_no_names_where_gradients_are_read(hook: str, fit: Fit) -> None:
    alone, module = ByGradient(hook, is_elastic=False), ByGradient(hook, is_elastic=True)
    fit(alone, pair()["weights"])
    fit(AdvantageNAS(module, **THETA), pair())
    assert module.norms == alone.norms != []
    for mine, theirs in zip(module.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_function_that_makes_an_optimizer_sees_the_same_names() -> None:
    net = nn.Sequential(Depth([nn.Linear(4, 4) for _ in range(2)], [1, 2], name="depth"), nn.Linear(4, 3))
    seen: list[str] = []

    def make_optimizer(weights: Any) -> SGD:
        seen.extend(name for name, _ in net.named_parameters())
        return SGD(weights, lr=0.1)

    search = AdvantageNAS(net, objective=Classification(3), weight_optimizer=make_optimizer, **THETA)
    search.configure_optimizers()
    assert seen == ["0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias", "1.weight", "1.bias"]


class Early(LightningModule):
    """Makes its optimizer in its constructor, of the whole or of its head alone."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3))
        self.optimizer = SGD((self.net[2] if part == "head" else self.net).parameters(), lr=0.1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer


@pytest.mark.parametrize(
    ("part", "kept", "frozen", "refused"),
    [("all", True, False, True), ("all", False, False, True), ("all", True, True, False), ("head", True, False, False)],
)
def test_an_optimizer_that_was_made_before_the_choices_is_refused(
    part: str, kept: bool, frozen: bool, refused: bool, fit: Fit
) -> None:
    def candidates(old: nn.Module) -> dict[str, nn.Module]:
        new = nn.Linear(8, 8).requires_grad_(not frozen)
        return {"old": old, "new": new} if kept else {"new": new, "skip": nn.Identity()}

    module = Early(part)
    make_searchable(module, {"net.1": candidates})
    with one_line("SGD", "'new'", "'net.1'", "never be trained") if refused else nullcontext():
        fit(AdvantageNAS(module, **THETA), pair(1, 1))
