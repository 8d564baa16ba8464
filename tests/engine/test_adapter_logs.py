"""What a user's module logs, and when its hooks run beside the callbacks', is as in its own training."""

from __future__ import annotations

import copy
import csv
import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import AdvantageNAS, ArchitectureCost, Fixed, Genotype, MixedOp
from tests.support.speed import slow_but

ADDED = {"entropy", "architecture/loss"}  # what a search logs beside


class Logging(LightningModule):
    """Logs in every way that Lightning has, from most hooks, and counts in its hooks."""

    counted: Tensor

    def __init__(self) -> None:
        super().__init__()
        edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        self.net = nn.Sequential(nn.Linear(4, 8), edge, nn.Linear(8, 3))
        self.accuracy = MulticlassAccuracy(3)
        self.register_buffer("counted", torch.zeros(2))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log("forked", loss, on_step=True, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("sum", loss, reduce_fx="sum", on_epoch=True)
        self.log("largest", loss, reduce_fx=torch.max, on_step=False, on_epoch=True)
        self.log("sized", loss, on_step=False, on_epoch=True, batch_size=2)
        self.log("positional", loss, True, False)
        self.log_dict({"once": loss, "twice": 2 * loss}, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))  # a name for each of two loaders
        if dataloader_idx == 0:
            self.log("first", 1.0, add_dataloader_idx=False)

    def on_train_start(self) -> None:
        self.counted[0] += 1

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 4 else None  # ends the epoch

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.counted[1] += 1
        self.log("batches", self.counted[1].item())

    def on_validation_epoch_end(self) -> None:
        self.log("at_validation", self.counted[1].item())

    def on_train_epoch_end(self) -> None:
        self.log("at_end", self.counted[1].item())

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=0.01)


class Renaming(Logging):
    """Has a ``log`` of its own."""

    def log(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
        super().log(f"own/{name}", value, *arguments, **options)


def made(kind: type[Logging]) -> Logging:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind()


def loader(seed: int) -> DataLoader[Any]:
    """Batches of 7, and a last one of 2."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(37, 4, generator=generator)
    return DataLoader(TensorDataset(x, torch.randint(3, (37,), generator=generator)), batch_size=7)


def fit(module: LightningModule, train: Any, folder: Path) -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        log_every_n_steps=1,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}", save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, train, [loader(9), loader(10)])
    return trainer


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        found = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in ({n: v for n, v in row.items() if n not in ADDED} for row in found) if len(row) > 2]


@pytest.mark.parametrize("kind", slow_but([Logging, Renaming], [Renaming]))
def test_logs_and_checkpoints_are_those_of_the_modules_own_training(kind: type[Logging], tmp_path: Path) -> None:
    alone = fit(Genotype({"edge": "linear"}).apply(made(kind)), loader(1), tmp_path / "alone")
    search = fit(Fixed(made(kind), genotype={"edge": "linear"}), loader(1), tmp_path / "search")
    ours = {name: float(value) for name, value in search.callback_metrics.items() if name not in ADDED}
    assert ours == {name: float(value) for name, value in alone.callback_metrics.items()}
    assert len(rows(tmp_path / "alone")) > 8
    assert rows(tmp_path / "search") == rows(tmp_path / "alone")
    # A checkpoint is saved before the module's own hooks of that moment, as Lightning has it.
    names = sorted(path.name for path in (tmp_path / "alone").glob("*.ckpt"))
    assert names == sorted(path.name for path in (tmp_path / "search").glob("*.ckpt"))
    assert len(names) == 9
    for name in names:
        theirs = torch.load(tmp_path / "alone" / name, weights_only=False)["state_dict"]
        state = torch.load(tmp_path / "search" / name, weights_only=False)["state_dict"]
        assert all(torch.equal(value, state[f"model.{key}"]) for key, value in theirs.items())


@pytest.mark.parametrize(
    ("kind", "name"), slow_but([(Logging, "sum_step"), (Renaming, "own/sum_step")], [(Renaming, "own/sum_step")])
)
def test_nothing_is_logged_of_architecture_steps(kind: type[Logging], name: str, tmp_path: Path) -> None:
    seen: list[int] = []

    class Search(AdvantageNAS):
        def log(self, name: str, *arguments: Any, **options: Any) -> None:
            seen.append(self.in_architecture_step)
            super().log(name, *arguments, **options)

    fit(Search(made(kind), architecture_optimizer=partial(Adam, lr=0.1)), loader_pair(), tmp_path)
    assert not any(seen)
    assert sum(name in row for row in rows(tmp_path)) == 8  # once for each weight step


class Graphs(Logging):
    """Has batches with more rows than samples, as batches of graphs have."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("other", 2 * loss, batch_size=5)
        self.log("loss", loss.detach(), batch_size=2)
        return loss


class GraphsOfMetric(Graphs):
    """Logs its loss as a metric, which is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.mean(F.cross_entropy(self.net(batch[0]), batch[1]))
        self.log("loss", self.mean, batch_size=2)
        return loss


class WithRate(Graphs):
    """Logs its loss as it is, and a value beside it that is no mean over the batch."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        self.log("rate", 0.1, batch_size=1)
        return loss


def test_the_size_of_other_logs_is_not_that_of_a_loss_that_is_logged() -> None:
    search = AdvantageNAS(WithRate(), architecture_optimizer=partial(Adam, lr=0.1))
    assert search.evaluate(search.sample(), (torch.zeros(7, 4), torch.zeros(7, dtype=torch.long))).size == 7


@pytest.mark.parametrize("kind", [Graphs, GraphsOfMetric])
def test_the_size_that_a_module_logs_its_loss_with_is_that_of_the_batch(kind: type[Graphs]) -> None:
    search = AdvantageNAS(kind(), architecture_optimizer=partial(Adam, lr=0.1))
    trial = search.evaluate(search.sample(), (torch.zeros(7, 4), torch.zeros(7, dtype=torch.long)))
    assert trial.size == 2


class Copying(Logging):
    """Copies itself in a hook, as those do who keep the best network so far."""

    def on_train_epoch_end(self) -> None:
        self.kept = copy.deepcopy(self)
        self.bytes = pickle.dumps(self.kept)


def test_a_copy_that_a_hook_makes_is_a_module_of_its_own(tmp_path: Path) -> None:
    module = made(Copying)
    search = AdvantageNAS(module, architecture_optimizer=partial(Adam, lr=0.1))
    fit(search, loader_pair(), tmp_path / "search")
    assert len(module.bytes) < 40_000  # 300 parameters, and no search
    again = pickle.loads(module.bytes)
    fit(AdvantageNAS(again, architecture_optimizer=partial(Adam, lr=0.1)), loader_pair(), tmp_path / "again")
    assert "log" not in vars(module)
    fit(search.derive(), loader(1), tmp_path / "derived")


def loader_pair() -> dict[str, DataLoader[Any]]:
    return {"weights": loader(1), "architecture": loader(2)}


def test_a_name_of_the_search_is_warned_of(train: Any) -> None:
    class Entropic(Logging):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            self.log_dict({"entropy": 1.0, "cost": 2.0})
            return super().training_step(batch, batch_idx)

    for cost, names in ((None, {"entropy"}), (ArchitectureCost("params", penalty=1.0), {"entropy", "cost"})):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            train(AdvantageNAS(Entropic(), architecture_optimizer=torch.optim.Adam, cost=cost), max_epochs=1)
        told = [str(each.message) for each in caught]
        assert {name for name in ADDED | {"cost"} if any(f"the module logs {name!r}" in line for line in told)} == names
