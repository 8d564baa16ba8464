"""A module's own methods see its own training loader, and so schedules that are made of its length are right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import AdvantageNAS, Fixed, MixedOp, RandomSearch, search_loaders
from tests.support.speed import slow_but

SAMPLES, BATCH, EPOCHS = 60, 5, 2


class Data(LightningDataModule):
    """Its training loader has 12 batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.points = TensorDataset(torch.randn(SAMPLES, 3), torch.randn(SAMPLES, 1))

    def train_dataloader(self) -> Any:
        return DataLoader(self.points, BATCH)

    def val_dataloader(self) -> Any:
        return DataLoader(self.points, BATCH)


def of_data_module(module: LightningModule) -> int:
    return len(module.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]


def of_trainer(module: LightningModule) -> int:
    module.trainer.fit_loop.setup_data()
    return len(module.trainer.train_dataloader)  # type: ignore[arg-type]


def of_trainer_after_an_estimate(module: LightningModule) -> int:
    assert module.trainer.estimated_stepping_batches
    return len(module.trainer.train_dataloader)  # type: ignore[arg-type]


class Scheduled(LightningModule):
    """Its learning rate rises and falls over the steps, which it counts itself."""

    def __init__(self, length: Callable[[LightningModule], int], *, searchable: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        edge = MixedOp("act", {"tanh": nn.Tanh(), "same": nn.Tanh()}) if searchable else nn.Tanh()
        self.net = nn.Sequential(nn.Linear(3, 4), edge, nn.Linear(4, 1))
        self.length, self.rates, self.seen = length, [], []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def on_train_epoch_end(self) -> None:
        self.seen.append([first.sum() for first, _ in self.trainer.train_dataloader])  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.1)
        schedule = OneCycleLR(optimizer, 0.2, epochs=EPOCHS, steps_per_epoch=self.length(self))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer() -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, **quiet)


@pytest.mark.parametrize(
    "length",
    slow_but(
        [of_data_module, of_trainer, of_trainer_after_an_estimate], [of_data_module, of_trainer_after_an_estimate]
    ),
)
@pytest.mark.parametrize(
    "strategy",
    [partial(Fixed, genotype={"act": "tanh"}), partial(AdvantageNAS, architecture_optimizer=partial(Adam, lr=0.0))],
)
def test_a_schedule_is_as_in_plain_training(length: Any, strategy: Any) -> None:
    plain, search = Scheduled(length, searchable=False), strategy(Scheduled(length))
    trainer().fit(plain, datamodule=Data())
    trainer().fit(search, datamodule=search_loaders(Data()))
    own = search.model
    assert len(own.rates) == EPOCHS * SAMPLES / BATCH
    assert own.rates == plain.rates
    assert own.seen == plain.seen
    for mine, theirs in zip(own.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_others_see_the_loaders_of_both_kinds_of_step() -> None:
    data = search_loaders(Data(), 0.5)
    search = AdvantageNAS(Scheduled(of_data_module), architecture_optimizer=partial(Adam, lr=0.01))
    (running := trainer()).fit(search, datamodule=data)
    assert running.train_dataloader.keys() == {"weights", "architecture"}  # type: ignore[union-attr]
    assert data.train_dataloader().keys() == {"weights", "architecture"}
    assert search.architecture_steps == search.weight_steps == EPOCHS * SAMPLES / BATCH / 2


def test_a_module_may_give_the_loaders_of_both_kinds_of_step_itself() -> None:
    class Loading(Scheduled):
        def train_dataloader(self) -> Any:
            return search_loaders(Data(), 0.5).train_dataloader()

    module = Loading(lambda own: len(own.train_dataloader()))
    trainer().fit(search := AdvantageNAS(module, architecture_optimizer=partial(Adam, lr=0.01)))
    assert search.architecture_steps == search.weight_steps == EPOCHS * SAMPLES / BATCH / 2


def test_a_data_module_may_give_the_loaders_of_both_kinds_of_step_itself() -> None:
    class Both(Data):
        def train_dataloader(self) -> Any:
            return {"weights": super().train_dataloader(), "architecture": super().train_dataloader()}

    plain, module = Scheduled(of_data_module, searchable=False), Scheduled(of_data_module)
    trainer().fit(plain, datamodule=Data())
    trainer().fit(AdvantageNAS(module, architecture_optimizer=partial(Adam, lr=0.01)), datamodule=Both())
    assert module.rates == plain.rates


class Doubled(Data):
    """Changes its batches on the device, as augmentations do."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        points, targets = batch
        return 2 * points, targets


class Noisy(Data):
    """Draws random numbers on the device, as augmentations do."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        points, targets = batch
        return points + torch.rand_like(points) if self.trainer.training else points, targets  # type: ignore[union-attr]


def test_random_numbers_of_the_hooks_of_a_data_module_are_those_of_plain_training() -> None:
    plain = Scheduled(of_data_module, searchable=False)
    search = AdvantageNAS(Scheduled(of_data_module), architecture_optimizer=partial(Adam, lr=0.01))
    trainer().fit(plain, datamodule=Noisy())
    trainer().fit(search, datamodule=search_loaders(Noisy()))
    for mine, theirs in zip(search.model.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("of_module", [False, True])
def test_no_hook_and_no_step_of_an_architecture_batch_draws_what_another_has_drawn(of_module: bool) -> None:
    drawn: list[float] = []

    class Drawing:
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            drawn.append(torch.rand(()).item())
            return batch

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return self.on_before_batch_transfer(batch, dataloader_idx)

    class Nothing:
        pass

    of_both = (Drawing, Nothing) if of_module else (Nothing, Drawing)

    class Module(of_both[0], Scheduled):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            drawn.append(torch.rand(()).item())
            return super().training_step(batch, batch_idx)

    class Own(of_both[1], Data):  # type: ignore[misc]
        pass

    search = AdvantageNAS(Module(of_data_module), architecture_optimizer=partial(Adam, lr=0.01))
    fit = trainer()
    fit.limit_val_batches = fit.limit_sanity_val_batches = 0
    fit.fit(search, datamodule=search_loaders(Own()))
    assert len(drawn) == EPOCHS * SAMPLES // BATCH * 2 * 3  # two hooks and a step, of two batches
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("strategy", [partial(Fixed, genotype={"act": "tanh"}), RandomSearch])
def test_the_hooks_of_a_data_module_with_one_training_loader_get_its_own_batches(strategy: Any) -> None:
    plain, search = Scheduled(of_data_module, searchable=False), strategy(Scheduled(of_data_module))
    trainer().fit(plain, datamodule=Doubled())
    trainer().fit(search, datamodule=Doubled())
    for mine, theirs in zip(search.model.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_hooks_of_a_data_module_get_its_own_batches_where_running_statistics_are_computed() -> None:
    class Normalized(Scheduled):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    module = Normalized(of_data_module)
    module.net.insert(1, nn.BatchNorm1d(4))
    search = AdvantageNAS(module, architecture_optimizer=partial(Adam, lr=0.01))
    trainer().fit(search, datamodule=search_loaders(Doubled()))
    losses = [
        [row.loss for row in search.rank(datamodule=data, top=None, training_batches=Doubled().train_dataloader())]
        for data in (search_loaders(Doubled()), Doubled())
    ]
    assert losses[0] == losses[1]
