"""What a module does with its checkpoints it does in a search, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors import checkpoint_connector
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import CatMetric, MaxMetric

from advnas_lightning import AdvantageNAS, Fixed, Genotype
from advnas_lightning.callbacks import LastCheckpoint
from tests.support.classifier import GENOTYPE, Classifier, assert_same_state, loader, make, pair, search_of
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]


class Shrinking(Classifier):
    """Leaves its frozen teacher out of checkpoints, keeps a weight under another name, and adds what it must have."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.teacher = nn.Linear(4, 3).requires_grad_(False)
        self.loaded: list[str] = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("teacher.")]:
            del state[name]
        state["first"] = state.pop("net.0.weight")
        checkpoint["names"] = sorted(state)
        checkpoint["teacher"] = 3

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded = sorted(checkpoint["state_dict"])
        state = dict(checkpoint["state_dict"])
        state["net.0.weight"] = state.pop("first")
        state |= {f"teacher.{name}": value for name, value in self.teacher.state_dict().items()}
        checkpoint["state_dict"] = state


class Loose(Classifier):
    """Has less in its state than it would load, and says so."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.teacher = nn.Linear(4, 3).requires_grad_(False)
        self.strict_loading = False

    def state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        state = super().state_dict(*arguments, **keywords)
        for name in [name for name in state if "teacher." in name]:
            del state[name]
        return state


@pytest.mark.parametrize("kind", [Shrinking, Loose])
def test_the_checkpoint_is_the_modules_own(kind: type[Classifier], fit: Fit, tmp_path: Path) -> None:
    found = []
    for module in (Genotype(GENOTYPE).apply(make(kind)), Fixed(make(kind), genotype=GENOTYPE)):
        fit(module, loader()).save_checkpoint(tmp_path / "saved.ckpt")
        found.append(torch.load(tmp_path / "saved.ckpt", weights_only=True))
    alone, ours = found
    assert alone.get("names") == ours.get("names")
    assert {f"model.{name}" for name in alone["state_dict"]} == set(ours["state_dict"]) - own_names(ours)
    assert not [name for name in ours["state_dict"] if "teacher" in name]
    assert ours["state_dict"]._metadata["model.net.1.1"] == {"version": 2}  # of a BatchNorm


def own_names(checkpoint: dict[str, Any]) -> set[str]:
    return {name for name in checkpoint["state_dict"] if not name.startswith("model.")}


@pytest.mark.parametrize("kind", slow_but([Shrinking, Loose], [Loose]))
def test_a_search_goes_on_from_it(kind: type[Classifier], fit: Fit, tmp_path: Path) -> None:
    def run(epochs: int, **options: Any) -> tuple[Any, Trainer]:
        search = search_of(make(kind))
        torch.manual_seed(0)
        return search, fit(search, pair(3, 3), max_epochs=epochs, **options)

    whole, _ = run(3)
    _, trainer = run(2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    again, _ = run(3, ckpt_path=tmp_path / "two.ckpt")
    assert_same_state(again, whole)
    if kind is Shrinking:
        assert "first" in again.model.loaded
        assert not [name for name in again.model.loaded if name.startswith("model.")]
    loaded = AdvantageNAS.load_from_checkpoint(
        tmp_path / "two.ckpt", model=make(kind), architecture_optimizer=torch.optim.Adam
    )
    assert torch.equal(
        loaded.model.net[0].weight,
        torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"][
            "model.first" if kind is Shrinking else "model.net.0.weight"
        ],
    )
    assert loaded.strict_loading == (kind is Shrinking)


def test_a_metric_that_is_never_reset_goes_on(fit: Fit, tmp_path: Path) -> None:
    class Remembering(Classifier):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.best, self.epochs = MaxMetric(), CatMetric()  # whose state is a list

        def on_train_epoch_end(self) -> None:
            self.best.update(-float(self.current_epoch))
            self.epochs.update(float(self.current_epoch))
            self.log_dict({"best": self.best.compute(), "epochs": self.epochs.compute().sum()})

    def run(epochs: int, **options: Any) -> Trainer:
        return fit(search_of(make(Remembering)), pair(3, 3), max_epochs=epochs, **options)

    run(2).save_checkpoint(tmp_path / "two.ckpt")
    found = run(3, ckpt_path=tmp_path / "two.ckpt").callback_metrics
    assert (float(found["best"]), float(found["epochs"])) == (0.0, 3.0)


def test_a_search_on_a_stream_goes_on_from_the_checkpoint_of_its_start(fit: Fit, tmp_path: Path) -> None:
    class Stream(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter((torch.randn(4), torch.tensor(number % 3)) for number in range(12))

    def run(seed: int, **options: Any) -> Any:
        search = search_of(make())
        loaders = {"weights": DataLoader(Stream(), 4), "architecture": loader(5)}  # a batch is fetched ahead
        torch.manual_seed(seed)
        fit(search, loaders, callbacks=[LastCheckpoint(tmp_path)], enable_checkpointing=True, max_epochs=1, **options)
        return search

    whole = run(0)
    again = run(1, ckpt_path=tmp_path / "previous.ckpt")  # the first one that is saved
    assert_same_state(again, whole)


def test_a_stream_without_a_length_may_be_validated_on(fit: Fit, tmp_path: Path) -> None:
    class Stream(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([(torch.ones(4), torch.tensor(1))] * 6)

    trainer = fit(search_of(), pair(3, 3), val=DataLoader(Stream(), 3), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = fit(search_of(), pair(3, 3), val=DataLoader(Stream(), 3), max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert again.global_step == 6


def test_a_module_may_use_every_name_but_one(fit: Fit, tmp_path: Path) -> None:
    class Hoarding(Classifier):
        names: Sequence[str] = ()

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint |= {name: "mine" for name in self.names}

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.found = [checkpoint[name] for name in self.names]

    def run(epochs: int, **options: Any) -> Any:
        search = search_of(make(Hoarding))
        torch.manual_seed(0)
        saving = LastCheckpoint(tmp_path / f"{len(Hoarding.names)}", every_n_steps=4)
        fit(search, pair(3, 3), max_epochs=epochs, callbacks=[saving], enable_checkpointing=True, **options)
        return search

    whole = run(3)
    saved = torch.load(tmp_path / "0" / "last.ckpt", weights_only=True)
    Hoarding.names = names = list(saved["advnas_lightning"])
    assert {"search", "rng", "loader", "calibration", "settings"} <= set(names)
    assert not set(names) & set(saved)
    run(2)
    again = run(3, ckpt_path=tmp_path / f"{len(names)}" / "last.ckpt")
    assert again.model.found == ["mine"] * len(names)
    assert_same_state(again, whole)


def test_saving_says_nothing_of_how_it_saves(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(checkpoint_connector.log, "info", said.append)
    fit(search_of(), pair(3, 3), enable_checkpointing=True, callbacks=[LastCheckpoint(tmp_path)])
    assert (tmp_path / "last.ckpt").exists()
    assert not any("weights_only" in line for line in said)
