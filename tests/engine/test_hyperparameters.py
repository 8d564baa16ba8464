"""The hyperparameters of a user's module are where they are without a search, and its checkpoint gives it back."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

from advnas_lightning import AdvantageNAS, Fixed, Genotype, MixedOp, SearchStrategy, search_loaders
from tests.support.classifier import assert_same_state, loader, pair
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
GENOTYPE = {"edge": "linear"}
KEYS = ("hyper_parameters", "hparams_name", "hparams_type")


class Net(LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.seen: list[Any] = []
        edge = MixedOp("edge", {"linear": nn.Linear(width, width), "skip": nn.Identity()})
        self.net = nn.Sequential(nn.Linear(4, width), edge, nn.Linear(width, 3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seen.append({key: copy.copy(checkpoint[key]) for key in KEYS if key in checkpoint})
        if "hyper_parameters" in checkpoint:
            checkpoint["hyper_parameters"]["added"] = 1


class Arguments(Net):
    """Its arguments have the names of a search's own, too."""

    def __init__(self, width: int = 8, seed: int = 7, warmup_epochs: int = 3) -> None:
        super().__init__(width)
        self.save_hyperparameters()


class Some(Net):
    def __init__(self, width: int = 8, secret: int = 1) -> None:
        super().__init__(width)
        self.save_hyperparameters("width")


class Changed(Arguments):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.hparams["batches"] = self.hparams.get("batches", 0) + 1
        return super().training_step(batch, batch_idx)


class Late(Net):
    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.width = width

    def setup(self, stage: str) -> None:
        self.save_hyperparameters({"width": self.width, "stage": stage})


class Unlogged(Net):
    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.save_hyperparameters(logger=False)


class NotPickled(Net):
    def __init__(self, width: int = 8, function: Any = lambda: None) -> None:
        super().__init__(width)
        self.save_hyperparameters()


class Given(Net):
    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams.width)
        self.save_hyperparameters(hparams)


MODULES: dict[str, Callable[[], Net]] = {
    "arguments": Arguments,
    "some": Some,
    "none": partial(Net, 8),
    "changed": Changed,
    "late": Late,
    "unlogged": Unlogged,
    "not_pickled": NotPickled,
    "namespace": lambda: Given(Namespace(width=8)),
    "omegaconf": lambda: Given(OmegaConf.create({"width": 8, "deep": {"er": 1}})),
}


class Data(LightningDataModule):
    def __init__(self, batches: int = 3, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(batches=self.hparams.batches)

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(3)


class Told(CSVLogger):
    """Keeps what it is told of hyperparameters."""

    told: Any = None

    def log_hyperparams(self, params: Any = None) -> None:
        self.told = (self.told or []) + [dict(params)]


def made(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


def checkpoint_of(trainer: Trainer, folder: Path) -> dict[str, Any]:
    trainer.save_checkpoint(folder / "saved.ckpt")
    return torch.load(folder / "saved.ckpt", weights_only=False)


@pytest.mark.parametrize("data", slow_but([None, Data, lambda: search_loaders(Data())], [Data]))
@pytest.mark.parametrize("module", MODULES)
def test_checkpoints_and_loggers_get_them_as_without_a_search(module: str, data: Any, fit: Fit, tmp_path: Path) -> None:
    alone = Genotype(GENOTYPE).apply(made(MODULES[module]))
    search = Fixed(made(MODULES[module]), genotype=GENOTYPE)
    found, told = [], []
    for each in (alone, search):
        logger = Told(tmp_path)
        given = loader() if data is None else Data() if each is alone else data()
        found.append(checkpoint_of(fit(each, given, logger=logger), tmp_path))
        told.append(logger.told)
    assert found[1].keys() >= found[0].keys()
    for key in (*KEYS, "datamodule_hyper_parameters", "datamodule_hparams_name"):
        assert found[1].get(key) == found[0].get(key), key
    assert search.model.seen == alone.seen != []
    assert ("hyper_parameters" in found[1]) == (module != "none")
    assert told[1] == told[0]
    assert (told[0] is None) == (module in ("none", "unlogged") and data is None)
    assert search.model.hparams == alone.hparams


def test_a_logger_need_not_be_told(fit: Fit, tmp_path: Path) -> None:
    logger = Told(tmp_path)
    fit(Fixed(Arguments(), genotype=GENOTYPE), loader(), logger=logger, enable_autolog_hparams=False)
    assert logger.told is None


@pytest.mark.parametrize("adopts", [True, False])
def test_a_data_module_that_says_otherwise_is_refused(adopts: bool, fit: Fit, tmp_path: Path) -> None:
    module = Fixed(Arguments(width=6), genotype=GENOTYPE) if adopts else Arguments(width=6)
    with pytest.raises(RuntimeError, match=r"\['width'\].*different values"):
        fit(module, Data(width=8), logger=Told(tmp_path))


class Own(AdvantageNAS):
    """A search that saves its own hyperparameters."""

    def __init__(self, model: nn.Module, rate: float, seed: int = 1, *, logs: bool = True) -> None:
        super().__init__(model, architecture_optimizer=partial(Adam, lr=rate), seed=seed)
        self.save_hyperparameters(ignore=["model", "logs"], logger=logs)


class OwnLoss(Own):
    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.model.net(batch[0]), batch[1])


@pytest.mark.parametrize("kind", [Own, OwnLoss])
def test_those_of_a_search_are_kept_apart(kind: type[Own], fit: Fit, tmp_path: Path) -> None:
    logger = Told(tmp_path)
    search = kind(made(partial(Arguments, seed=1)), 0.1)
    checkpoint = checkpoint_of(fit(search, pair(), logger=logger), tmp_path)
    added = {"added": 1} if kind is Own else {}
    assert checkpoint["hyper_parameters"] == {"width": 8, "seed": 1, "warmup_epochs": 3, **added}
    assert checkpoint["search_hyper_parameters"] == {"rate": 0.1, "seed": 1} == dict(search.hparams)
    assert logger.told == [{"width": 8, "seed": 1, "warmup_epochs": 3, "rate": 0.1}]
    again = kind.load_from_checkpoint(tmp_path / "saved.ckpt", model=Arguments())
    assert (again.seed, again.warmup_epochs, dict(again.hparams)) == (1, 0, {"rate": 0.1, "seed": 1})
    assert_same_state(again, search)


def test_two_of_one_name_are_refused_where_both_are_logged(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="seed is 2 in Own and 7 in Arguments") as caught:
        fit(Own(Arguments(), 0.1, 2), pair(), logger=Told(tmp_path))
    assert "\n" not in str(caught.value)
    for search in (Own(Arguments(), 0.1, 2, logs=False), Own(Unlogged(), 0.1, 2)):
        fit(search, pair(), logger=(logger := Told(tmp_path)))
        assert [("width" in told, "rate" in told) for told in logger.told] == [
            (isinstance(search.model, Arguments), not isinstance(search.model, Arguments))
        ]


class Renaming(Arguments):
    def log(self, name: str, *arguments: Any, **options: Any) -> None:
        super().log(f"own/{name}", *arguments, **options)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.seen.append(checkpoint["hyper_parameters"])


@pytest.mark.parametrize("kind", [Arguments, Renaming])
@pytest.mark.parametrize("warmup_epochs", slow_but([0, 1], [1]))
def test_a_checkpoint_gives_the_module_back(
    kind: type[Arguments], warmup_epochs: int, fit: Fit, tmp_path: Path
) -> None:
    search = AdvantageNAS(kind(width=6), architecture_optimizer=partial(Adam, lr=1.0), warmup_epochs=warmup_epochs)
    fit(search, pair(), max_epochs=2).save_checkpoint(tmp_path / "search.ckpt")

    saved = torch.load(tmp_path / "search.ckpt", weights_only=True)["hyper_parameters"]
    saved.pop("added")
    module: SearchStrategy = AdvantageNAS.load_from_checkpoint(
        tmp_path / "search.ckpt", model=kind(**saved), architecture_optimizer=Adam
    ).derive()
    assert type(module) is kind
    assert_same_state(module, search.derive())
    assert module.hparams == {"width": 6, "seed": 7, "warmup_epochs": 3}
    fit(module, loader())  # it is a module as any other, whose own checkpoint its class loads
