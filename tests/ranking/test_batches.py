"""The batches of a ranking come from a validation in which no step is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils.data import DataLoader

from advnas_lightning import AdvantageNAS, MixedOp, search_loaders
from tests.support.refusals import one_line

HOOKS = ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")


class Collecting(LightningModule):
    """Keeps what its validation steps return, as modules without torchmetrics do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MixedOp("edge", {"linear": nn.Linear(4, 4), "skip": nn.Identity()})
        self.losses: list[Tensor] = []
        self.called: list[str] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        self.losses.append(self.training_step(batch, batch_idx))
        return {"loss": self.losses[-1]}

    def on_validation_start(self) -> None:
        self.called.append("start")

    def on_validation_epoch_start(self) -> None:
        self.called.append("epoch_start")

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.called.append("batch_start")

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("last_loss", outputs["loss"])
        self.called.append("batch_end")

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", torch.stack(self.losses).mean())  # fails where there were no steps
        self.losses.clear()
        self.called.append("epoch_end")

    def on_validation_end(self) -> None:
        self.called.append("end")

    def configure_optimizers(self) -> Adam:
        return Adam(self.parameters())


def test_a_module_that_reduces_what_its_validation_steps_have_kept_is_ranked() -> None:
    torch.manual_seed(0)
    search = AdvantageNAS(Collecting(), architecture_optimizer=Adam)
    batches = [(torch.randn(3, 4), torch.tensor([0, 1, 2])) for _ in range(2)]
    ranking = search.rank(batches, top=None)
    assert len(ranking) == 2
    assert search.model.called == []
    assert vars(search.model).keys().isdisjoint(f"on_validation_{each}" for each in HOOKS)  # it has its own again


def test_of_the_loaders_of_a_search_those_of_the_architecture_steps_count() -> None:
    torch.manual_seed(0)
    search = AdvantageNAS(Collecting(), architecture_optimizer=Adam)
    weights, architecture = ([(torch.randn(3, 4), torch.tensor([0, 1, 2]))] * 2 for _ in range(2))
    loaders = {"weights": DataLoader(weights, None), "architecture": DataLoader(architecture, None)}
    assert [row.loss for row in search.rank(loaders)] == [row.loss for row in search.rank(architecture)]


def test_the_generator_of_a_loader_stays_so_that_the_same_batches_come_again() -> None:
    search = AdvantageNAS(Collecting(), architecture_optimizer=Adam)
    data = [(torch.randn(4), label % 4) for label in range(12)]
    loader = DataLoader(data, 3, shuffle=True, generator=torch.Generator().manual_seed(1))
    first, second = (search.rank(loader, batches=2) for _ in range(2))
    assert [row.loss for row in first] == [row.loss for row in second]
    assert torch.equal(loader.generator.get_state(), torch.Generator().manual_seed(1).get_state())


def test_loaders_in_the_place_of_a_data_module_are_named() -> None:
    search = AdvantageNAS(Collecting(), architecture_optimizer=Adam)
    loaders = search_loaders(DataLoader([(torch.randn(4), 0)] * 4), architecture=0.5)
    with one_line("datamodule= takes a LightningDataModule, and here is a dict: give loaders or batches as the first"):
        search.rank(datamodule=loaders)


def test_a_search_without_training_batches_is_warned_of_once() -> None:
    module = Collecting()
    module.net = nn.Sequential(module.net, nn.BatchNorm1d(4))
    search = AdvantageNAS(module, architecture_optimizer=Adam)
    with pytest.warns(UserWarning, match="running statistics") as caught:
        search.rank([(torch.randn(3, 4), torch.tensor([0, 1, 2]))] * 2)
    assert len([each for each in caught if "running statistics" in str(each.message)]) == 1


@dataclass
class Checked:
    """A batch that takes nothing but tensors, as image libraries have it."""

    x: Tensor
    y: Tensor

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor")
        super().__setattr__(name, value)


def test_a_batch_may_be_a_dataclass_that_takes_nothing_but_tensors() -> None:
    class OfDataclasses(Collecting):
        def training_step(self, batch: Checked, batch_idx: int) -> Tensor:  # type: ignore[override]
            return F.cross_entropy(self.net(batch.x), batch.y)

    batches = [Checked(torch.randn(3, 4), torch.zeros(3, dtype=torch.long)) for _ in range(2)]
    search = AdvantageNAS(OfDataclasses(), architecture_optimizer=Adam)
    assert len(search.rank(batches, sample=0)) == 2
