"""What a search notes: the best architecture so far, and the means of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from advnas_lightning import (
    GDAS,
    REINFORCE,
    Architecture,
    Trial,
)
from advnas_lightning.objectives import Outcome

Fit = Callable[..., Trainer]
Make = Callable[..., Any]
NO_ONE_HOT = {"darts", "darts-second_order", "snas", "proxylessnas"}  # never evaluate a one-hot architecture


class Evaluated:
    def evaluate(self, architecture: Architecture, batch: Any) -> Trial:
        trial = super().evaluate(architecture, batch)
        if architecture.gates.sum(-1).eq(1).all() and architecture.gates.amax(-1).eq(1).all():
            self.trials.append((trial.loss.item(), tuple(architecture.gates.argmax(-1).tolist())))
        return trial


def test_process_best_is_the_lowest_one_hot_loss_of_an_architecture_step(
    engine: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    search = make_search(engine, mixin=Evaluated)
    search.trials = []
    fit(search, make_loaders(weights=4))
    if engine in NO_ONE_HOT or not search.searches:
        assert search.process_best is None
        assert search.selected == "argmax"
        with pytest.raises(ValueError, match="no process_best"):
            search.genotype("process_best")
    else:
        assert len(search.trials) == 4 * search.draws
        assert search.genotype("process_best") == search.space.genotype(min(search.trials)[1])
        own = "process_best" if isinstance(search, REINFORCE | GDAS) else "argmax"
        assert search.selected == own
    with pytest.raises(ValueError, match="select='best'"):
        search.genotype("best")


def test_a_nan_loss_is_never_the_process_best(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    class Nan:
        calls = count()  # of the class: what an object keeps is as it was after an evaluation

        def loss(self, batch: Any) -> Outcome:
            outcome = super().loss(batch)
            return outcome._replace(loss=outcome.loss * torch.nan) if next(self.calls) in (0, 3) else outcome

        def theta_gradient(self, trials: Sequence[Trial]) -> None:
            return None  # which nan would spoil

    search = make_search("advantage", mixin=Nan, weight_optimizer=None)
    fit(search, make_loaders(weights=4))
    assert search.best.loss.isfinite()
    assert search.process_best is not None


@pytest.mark.parametrize("name", ["advantage", "parsec", "enas", "darts", "nasp", "random", "fixed"])
def test_logged_losses_are_the_epochs_means(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    class Noting:
        noted: list[tuple[float, int]]  # of the class: what an object keeps is as it was after an evaluation

        def outcome(self, batch: Any) -> Outcome:
            outcome = super().outcome(batch)
            self.noted.append((outcome.loss.item(), outcome.size))
            return outcome

        def weight_step(self, batch: Any) -> None:
            type(self).noted = self.per_step["train"]
            super().weight_step(batch)
            type(self).noted = []

        def architecture_step(self, batch: Any) -> None:
            type(self).noted = []
            super().architecture_step(batch)
            self.per_step["architecture"].append(self.noted)

    search = make_search(name, mixin=Noting)
    search.per_step = {"train": [], "architecture": []}
    loaders = make_loaders(weights=3)
    loaders["weights"] = DataLoader(loaders["weights"].dataset, batch_size=7)  # 7, 7, 4
    trainer = fit(search, loaders)
    metrics = trainer.callback_metrics
    mean = sum(loss * size for loss, size in search.per_step["train"]) / 18
    assert metrics["train/loss"].item() == pytest.approx(mean, rel=1e-5)
    assert metrics["entropy"].item() == pytest.approx(search.entropy.item())
    if search.searches:
        means = [sum(loss for loss, _ in noted) / len(noted) for noted in search.per_step["architecture"]]
        assert metrics["architecture/loss"].item() == pytest.approx(sum(means) / 3, rel=1e-5)


@pytest.mark.parametrize("every", [0, 1, 2])
def test_any_logging_interval(every: int, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search = make_search("advantage")
    trainer = fit(search, make_loaders(), log_every_n_steps=every)
    assert search.architecture_steps == 4
    assert "train/loss" in trainer.callback_metrics
