"""A run that was interrupted and resumed ends bit for bit where an uninterrupted one does."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from advnas_lightning import AdvantageNAS, MixedOp, SearchLoader, SearchStrategy

Make = Callable[..., Any]
OPTIMIZERS = {
    "weight_optimizer": partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "architecture_optimizer": partial(Adam, lr=0.1, betas=(0.5, 0.999)),
    "weight_scheduler": partial(CosineAnnealingLR, T_max=4),
    "architecture_scheduler": partial(StepLR, step_size=1, gamma=0.5),
}


class StopAfter(Callback):
    """Ends a run after its second epoch, as somebody who kills it would."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1


@pytest.fixture
def train(make_search: Make, fit: Callable[..., Trainer], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``train(name, loaders, folder=…)``: a run's last checkpoint. Each call builds everything anew.

    ``resume`` is the checkpoint to go on from, in ``folder``'s neighbour: every epoch leaves one.
    """

    def run(
        name: str,
        loaders: Callable[[], tuple[Any, Any]],
        *,
        folder: str,
        resume: str | None = None,
        stop: bool = False,
        max_epochs: int = 3,
    ) -> dict[str, Any]:
        search = make_search(name, **OPTIMIZERS, warmup_epochs=1)
        saving = ModelCheckpoint(
            tmp_path / folder, filename="{epoch}", save_last=True, save_top_k=-1, save_on_train_epoch_end=True
        )
        weights, validation = loaders()
        torch.manual_seed(0 if resume is None else 99)  # another process has other global random numbers
        fit(
            search,
            weights,
            validation,
            max_epochs=max_epochs,
            enable_checkpointing=True,
            callbacks=[saving, *([StopAfter()] if stop else [])],
            ckpt_path=None if resume is None else tmp_path / resume,
        )
        return torch.load(tmp_path / folder / "last.ckpt", weights_only=True)

    return run


def state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """θ or controller, weights, buffers, running means, generators, optimizers, schedules and progress."""
    keys = ("state_dict", "optimizer_states", "lr_schedulers", "rng", "epoch", "global_step")
    return {key: checkpoint[key] for key in keys}


def check(train: Make, assert_same: Make, name: str, loaders: Callable[[], tuple[Any, Any]]) -> None:
    straight = train(name, loaders, folder="straight")
    resumed = train(name, loaders, folder="resumed", resume="straight/epoch=1.ckpt")
    assert resumed["epoch"] == 2
    assert_same(state(resumed), state(straight))


def test_every_strategy_resumes(name: str, train: Make, make_loaders: Make, assert_same: Make, tmp_path: Path) -> None:
    def loaders() -> tuple[Any, Any]:
        return make_loaders(weights=2, architecture=3, shuffle=True), make_loaders(architecture=1)["architecture"]

    check(train, assert_same, name, loaders)
    half = torch.load(tmp_path / "straight" / "epoch=1.ckpt", weights_only=True)["state_dict"]
    assert half["_extra_state"]["steps"][:2] == [4, 0 if name in ("random", "fixed") else 2]
    if name == "parsec-authors_code":  # interrupted between the second and the third of its three draws
        assert half["kept_losses"].ne(0).tolist() == [True, True, False]


def test_a_run_that_was_stopped_half_way_resumes(train: Make, make_loaders: Make, assert_same: Make) -> None:
    def loaders() -> tuple[Any, Any]:
        return make_loaders(weights=2, shuffle=True), make_loaders()["architecture"]

    straight = train("gdas", loaders, folder="straight", max_epochs=4)
    half = train("gdas", loaders, folder="half", stop=True, max_epochs=4)
    assert (half["epoch"], straight["epoch"]) == (1, 3)
    resumed = train("gdas", loaders, folder="resumed", resume="half/last.ckpt", max_epochs=4)
    assert_same(state(resumed), state(straight))


@pytest.mark.parametrize(
    ("name", "shuffle", "validation"),
    [("advantage-ema", True, False), ("enas", False, True), ("reinforce", False, False), ("gdas", True, False)],
)
def test_whatever_the_loaders(
    name: str, shuffle: bool, validation: bool, train: Make, make_loaders: Make, assert_same: Make
) -> None:
    def loaders() -> tuple[Any, Any]:
        train_on = make_loaders(weights=2, architecture=1, shuffle=shuffle)
        return train_on, make_loaders()["architecture"] if validation else None

    check(train, assert_same, name, loaders)


@pytest.mark.parametrize("name", ["proxylessnas", "snas"])
def test_one_loader_for_both_steps(name: str, train: Make, make_loaders: Make, assert_same: Make) -> None:
    def loaders() -> tuple[Any, Any]:
        return SearchLoader({"weights": make_loaders(weights=5, shuffle=True)["weights"]}, alternate=True), None

    check(train, assert_same, name, loaders)


def test_a_finished_run_can_be_prolonged(train: Make, make_loaders: Make, assert_same: Make) -> None:
    def loaders() -> tuple[Any, Any]:
        return make_loaders(weights=2, shuffle=True), None

    straight = train("advantage", loaders, folder="straight")
    train("advantage", loaders, folder="short", max_epochs=2)
    assert_same(state(train("advantage", loaders, folder="long", resume="short/last.ckpt")), state(straight))


def test_a_checkpoint_holds_the_result(
    train: Make, make_loaders: Make, make_search: Make, small_net: Make, tmp_path: Path
) -> None:
    """Another process reads the genotype from the file alone, with no trainer."""
    checkpoint = train("reinforce", lambda: (make_loaders(weights=4), None), folder="run")
    search = make_search("reinforce")
    search.load_state_dict(checkpoint["state_dict"])
    assert search.process_best is not None
    assert search.best_choice.tolist() == checkpoint["state_dict"]["best_choice"].tolist()
    loaded = type(search).load_from_checkpoint(
        tmp_path / "run" / "last.ckpt", model=small_net(), weights_only=True, strict=False, **OPTIMIZERS
    )
    assert loaded.genotype() == search.genotype()
    assert loaded.genotype("process_best") == search.genotype("process_best")


def other_space(first: str, second: str, candidates: tuple[str, ...]) -> nn.Module:
    return nn.Sequential(*(MixedOp(name, {c: nn.Linear(4, 4) for c in candidates}) for name in (first, second)))


@pytest.mark.parametrize(
    "model",
    [
        lambda: other_space("a", "b", ("x", "z")),
        lambda: other_space("a", "c", ("x", "y")),
        lambda: other_space("b", "a", ("x", "y")),
        lambda: other_space("a", "b", ("y", "x")),
        lambda: other_space("a", "b", ("x", "y", "z")),
    ],
    ids=["candidate", "edge", "order of edges", "order of candidates", "more candidates"],
)
def test_the_checkpoint_of_another_search_space_is_refused(
    model: Callable[[], nn.Module], make_search: Make, make_loaders: Make, fit: Callable[..., Trainer], tmp_path: Path
) -> None:
    search: SearchStrategy = make_search("advantage", other_space("a", "b", ("x", "y")))
    trainer = fit(search, make_loaders())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other: AdvantageNAS = make_search("advantage", model())
    with pytest.raises(ValueError, match=r"checkpoint's search space is .*'x', 'y'.*this model's is"):
        fit(other, make_loaders(), max_epochs=2, ckpt_path=tmp_path / "a.ckpt")
