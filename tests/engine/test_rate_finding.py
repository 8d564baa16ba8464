"""Lightning's tuners find for a module in a search what they find for the module alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader

from advnas_lightning import AdvantageNAS, Fixed, Genotype, search_loaders
from tests.support.classifier import (
    GENOTYPE,
    Classifier,
    OwnLoss,
    as_it_is,
    assert_same_state,
    loader,
    make,
    pair,
    search_of,
)
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]


class Rated(Classifier):
    """Has its rate as an attribute; its dropout draws numbers."""

    def __init__(self, wrap: Any = as_it_is, lr: float = 0.02) -> None:
        super().__init__(wrap)
        self.net.append(nn.Dropout(0.1))
        self.lr = lr
        self.called: list[str] = [""]

    def rate(self) -> float:
        return self.lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.called.append(f"training_step {self.optimizers().param_groups[0]['lr']}")
        return super().training_step(batch, batch_idx)

    def on_train_start(self) -> None:
        self.called.append("on_train_start")

    def on_train_epoch_start(self) -> None:
        self.called.append("on_train_epoch_start")

    def on_train_epoch_end(self) -> None:
        self.called.append("on_train_epoch_end")

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        self.called.append(f"lr_scheduler_step {type(scheduler).__name__}")
        super().lr_scheduler_step(scheduler, metric)

    def configure_optimizers(self) -> Any:
        sgd = SGD(self.parameters(), lr=self.rate(), momentum=0.5)
        return [sgd], [ExponentialLR(sgd, 0.9)]


class Saved(Rated):
    """Has it as a hyperparameter."""

    def __init__(self, wrap: Any = as_it_is, learning_rate: float = 0.02) -> None:
        super().__init__(wrap)
        del self.lr
        self.save_hyperparameters("learning_rate")

    def rate(self) -> float:
        return self.hparams.learning_rate


class Named(Rated):
    """Calls it otherwise."""

    def __init__(self, wrap: Any = as_it_is) -> None:
        super().__init__(wrap)
        self.step_size = self.lr
        del self.lr

    def rate(self) -> float:
        return self.step_size


OPTIONS: dict[str, Any] = {"num_training_steps": 30, "min_lr": 1e-3, "max_lr": 3.0}
CASES: dict[str, tuple[type[Rated], dict[str, Any]]] = {
    "attribute": (Rated, {}),
    "hyperparameter": (Saved, {}),
    "named": (Named, {"attr_name": "step_size"}),
    "linear": (Rated, {"mode": "linear"}),
    "stopping": (Rated, {"early_stop_threshold": 2.0, "min_lr": 0.1, "max_lr": 100.0}),
    "not_kept": (Rated, {"update_attr": False}),
}


@pytest.mark.parametrize("name", slow_but(CASES, ["attribute", "stopping"]))
def test_a_module_gets_the_rate_and_the_training_that_it_gets_alone(name: str, fit: Fit, tmp_path: Path) -> None:
    kind, options = CASES[name]
    alone, search = Genotype(GENOTYPE).apply(make(kind)), Fixed(make(kind), genotype=GENOTYPE)
    finders = [LearningRateFinder(**{**OPTIONS, **options}) for _ in range(2)]
    for module, finder in zip((alone, search), finders, strict=True):
        torch.manual_seed(0)
        fit(module, loader(0, 18, shuffle=True), loader(3), max_epochs=2, callbacks=[finder], default_root_dir=tmp_path)
    results = [finder.optimal_lr.results for finder in finders]
    assert results[1] == results[0]
    assert len(set(results[0]["lr"])) > 10
    assert finders[1].optimal_lr.suggestion() == finders[0].optimal_lr.suggestion()
    assert search.model.rate() == alone.rate()
    assert (alone.rate() != 0.02) == (name != "not_kept")
    assert search.model.called == alone.called
    assert_same_state(search.model, alone)


def test_the_architecture_stays(fit: Fit, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Search(AdvantageNAS):
        def architecture_step(self, batch: Any) -> None:
            seen.append((self.trainer.global_step, self.trainer.optimizers[1].param_groups[0]["lr"]))
            super().architecture_step(batch)

    def run(**options: Any) -> AdvantageNAS:
        seen.clear()
        search = search_of(make(Rated), Search)
        for part in search.model.modules():
            if isinstance(part, nn.Dropout):  # as Lightning has it, a finder draws the first number of the first epoch
                part.p = 0.0
        torch.manual_seed(0)
        fit(search, pair(18, 18), max_epochs=2, default_root_dir=tmp_path, **options)
        return search

    found = run(callbacks=[finder := LearningRateFinder(**OPTIONS, update_attr=False)])
    assert len(finder.optimal_lr.results["loss"]) == 30
    assert seen == [(at, 0.1) for at in range(1, 37)]
    assert_same_state(found, run())  # as without the finder


def test_the_tuner_gives_the_rate_to_the_module(tmp_path: Path) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, **quiet)
    search = search_of(make(Rated))
    theta = search.theta.detach().clone()
    found = Tuner(trainer).lr_find(search, pair(18, 18), min_lr=1e-3, max_lr=3.0, num_training=30)
    assert search.model.lr == found.suggestion() != 0.02
    assert torch.equal(search.theta, theta)
    assert (search.weight_steps, search.architecture_steps) == (0, 0)
    trainer.fit(search, pair(6, 6))
    assert (search.weight_steps, search.architecture_steps) == (12, 12)
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == found.suggestion()


def test_a_finder_may_find_again_and_for_others(fit: Fit, tmp_path: Path) -> None:
    class Again(LearningRateFinder):
        def on_fit_start(self, *_: Any) -> None: ...

        def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
            if trainer.current_epoch == 1:
                self.lr_find(trainer, module)

    results = []
    finder = Again(**OPTIONS)
    for module in (Fixed(make(Rated), genotype=GENOTYPE), Genotype(GENOTYPE).apply(make(Rated))):
        torch.manual_seed(0)
        fit(module, loader(0, 18), max_epochs=3, callbacks=[finder], default_root_dir=tmp_path)
        results.append(finder.optimal_lr.results)
    assert results[0] == results[1]


def test_without_a_module_there_is_no_rate(fit: Fit) -> None:
    search = search_of(make().net, OwnLoss)
    with pytest.raises(MisconfigurationException, match=r"LearningRateFinder.*weight_optimizer") as caught:
        fit(search, pair(), callbacks=[LearningRateFinder()])
    assert "\n" not in str(caught.value)


class Data(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 4

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(0, 40 // self.batch_size, size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return loader(3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["power", pytest.param("binsearch", marks=pytest.mark.slow)])
def test_a_data_module_gets_the_batch_size_that_it_gets_alone(mode: str, fit: Fit, tmp_path: Path) -> None:
    genotype = {**GENOTYPE, "first": "linear"}  # without a dropout
    alone, search = Genotype(genotype).apply(make()), Fixed(make(), genotype=genotype)
    sizes = []
    for module in (alone, search):
        data, finder = Data(), BatchSizeFinder(mode, init_val=2, max_trials=3)
        given: Any = data if module is alone else search_loaders(data)
        torch.manual_seed(0)
        fit(module, given, max_epochs=2, callbacks=[finder], default_root_dir=tmp_path)
        sizes.append((finder.optimal_batch_size, data.batch_size))
    assert sizes[1] == sizes[0]
    assert_same_state(search.model, alone)
