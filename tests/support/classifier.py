"""A user's LightningModule with two choices in it, its data, and its search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import (
    AdvantageNAS,
    Genotype,
    MixedOp,
    SearchStrategy,
)

Wrap = Callable[[nn.Module], nn.Module]
GENOTYPE = {"first": "block", "second": "tanh"}
TRAIN, ARCHITECTURE, VAL = 6, 4, 3  # how many batches the loaders have


def as_it_is(module: nn.Module) -> nn.Module:
    return module


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(inplace=True))


class Classifier(LightningModule):
    """As a user writes it, with two choices in it, one of three and one of two candidates."""

    def __init__(self, wrap: Wrap = as_it_is) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8),
            MixedOp("first", {"linear": wrap(nn.Linear(8, 8)), "block": wrap(block()), "skip": nn.Identity()}),
            MixedOp("second", {"linear": wrap(nn.Linear(8, 8)), "tanh": nn.Tanh()}),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


class OwnLoss(AdvantageNAS):
    """The same for those who override ``loss``."""

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])


def make(kind: type[Classifier] = Classifier, wrap: Wrap = as_it_is) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind(wrap)


def search_of(
    module: nn.Module | None = None, kind: type[SearchStrategy] = AdvantageNAS, **options: Any
) -> SearchStrategy:
    module = make() if module is None else module
    return kind(module, **{"architecture_optimizer": partial(Adam, lr=0.1), **options})


def loader(seed: int = 0, batches: int = 3, *, size: int = 6, shuffle: bool = False) -> DataLoader[Any]:
    """So many batches of points with 4 features, in 3 classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size * batches, 4, generator=generator)
    labels = torch.randint(3, (size * batches,), generator=generator)
    return DataLoader(TensorDataset(inputs, labels), batch_size=size, shuffle=shuffle)


def pair(weights: int = TRAIN, architecture: int = ARCHITECTURE, **options: Any) -> dict[str, DataLoader[Any]]:
    """A loader for each step."""
    return {"weights": loader(0, weights, **options), "architecture": loader(5, architecture, **options)}


def subject(which: str) -> LightningModule:
    """A plain network, the search of a user's module, or that of a network with an overridden loss."""
    if which == "plain":
        return Genotype(GENOTYPE).apply(make())  # type: ignore[return-value]
    if which == "module":
        return search_of()
    return search_of(make().net, OwnLoss, weight_optimizer=partial(SGD, lr=0.1))


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    pairs = list(zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True))
    assert pairs
    for (name, ours_), (_, theirs_) in pairs:
        if isinstance(ours_, Tensor):
            assert torch.equal(ours_, theirs_), name


class Rows(Logger):
    """Keeps what is logged, in order."""

    name = version = ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def places(self) -> list[tuple[int | None, float | None, tuple[str, ...]]]:
        """The step, the epoch and the names of each row, without what a search adds to it."""
        added = {"epoch", "entropy", "architecture/loss", "lr-Adam"}
        rows = [
            (step, row.get("epoch"), tuple(name for name in row if name not in added))
            for step, row in self.rows
            if not row.keys() <= added
        ]
        return [(step, epoch, tuple(sorted(names))) for step, epoch, names in rows]

    def values(self, name: str) -> list[float]:
        return [row[name] for _, row in self.rows if name in row]


class Scripted(AdvantageNAS):
    """A search whose entropy is known beforehand, epoch by epoch."""

    entropies: tuple[float, ...] = (0.9, 0.5, 0.31, 0.3, 0.29, 0.4, 0.1)

    @property
    def entropy(self) -> Tensor:
        return torch.tensor(self.entropies[self.current_epoch])
