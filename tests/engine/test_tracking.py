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
from advnas_lightning.engine.accumulation import weighted_mean
from advnas_lightning.engine.tracking import EpochMeans, ProcessBest
from advnas_lightning.objectives import Outcome
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
Make = Callable[..., Any]
NO_ONE_HOT = {"darts", "darts-second_order", "snas", "drnas", "proxylessnas"}  # never evaluate a one-hot architecture


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
        others = 4 if engine == "counterfactual-exact" else 0  # of 4 and 2 candidates, each is tried
        assert len(search.trials) == 4 * (search.draws + others)
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


class Finer:
    """Losses in double precision, which differ where single precision ends."""

    def loss(self, batch: Any) -> Outcome:
        outcome = super().loss(batch)
        return outcome._replace(loss=1 + 1e-9 * outcome.loss.double())


def test_losses_beyond_single_precision_are_told_apart(
    engine: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    search = make_search(engine, mixin=type("FinerEvaluated", (Finer, Evaluated), {}))
    search.trials = []
    fit(search, make_loaders(weights=4))
    if engine in NO_ONE_HOT or not search.searches:
        return
    best, choice = min(search.trials)
    assert len({float(torch.tensor(loss)) for loss, _ in search.trials}) == 1  # in single precision
    assert search.best.loss.item() == best
    assert search.genotype("process_best") == search.space.genotype(choice)
    again = make_search(engine, mixin=Finer)
    again.load_state_dict(search.state_dict())
    for name, value in search.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert again.state_dict()[name].dtype is value.dtype, name
            assert torch.equal(again.state_dict()[name], value), name


def trial_of(choice: int, loss: float, dtype: torch.dtype) -> Trial:
    gates = torch.eye(3)[choice : choice + 1]
    return Trial(Architecture(gates, ((choice,),), (choice,)), torch.tensor(loss, dtype=dtype), None, 1)


def seen(*losses: float, dtype: torch.dtype = torch.double) -> ProcessBest:
    best = ProcessBest(edges=1)
    best.see([trial_of(place, loss, dtype) for place, loss in enumerate(losses)])
    return best


@pytest.mark.parametrize(
    "losses", [(1.0, 1 - 1e-12, 1.0), (1e300, 1e299, 1e301), (-1e-300, -2e-300, 0.0), (1e8 + 1, 1e8, 1e8 + 2)]
)
def test_the_best_is_kept_in_double_precision(losses: tuple[float, ...]) -> None:
    best = seen(*losses)
    assert (best.found, best.loss.item()) == ([1], losses[1])
    for convert in (ProcessBest.double, lambda module: module.to("cpu")):
        assert convert(best).loss.item() == losses[1]
    resumed = ProcessBest(edges=1)
    resumed.load_state_dict(best.state_dict())
    resumed.see([trial_of(2, losses[2], torch.double)])
    assert (resumed.found, resumed.loss.item()) == ([1], losses[1])
    resumed.see([trial_of(0, losses[1] - abs(losses[1]) * 1e-15, torch.double)])
    assert resumed.found == [0]


def test_a_checkpoint_in_single_precision_is_gone_on_from_in_double_precision() -> None:
    old = seen(0.5, 0.25, dtype=torch.float32)
    assert old.loss.dtype is torch.float32
    for best in (ProcessBest(edges=1), seen(9.0)):
        best.load_state_dict(old.state_dict())
        assert (best.found, best.loss.item()) == ([1], 0.25)
        best.see([trial_of(2, 0.25 - 1e-12, torch.double)])
        assert (best.found, best.loss.item()) == ([2], 0.25 - 1e-12)


def test_the_best_stays_in_double_precision_where_the_network_is_in_half(make_search: Make) -> None:
    search = make_search("advantage")
    search.best.see([Trial(search.one_hot([0, 0]), torch.tensor(1e300, dtype=torch.double), None, 1)])
    search.bfloat16()
    assert next(search.model.parameters()).dtype is torch.bfloat16
    assert search.best.loss.item() == 1e300


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_means_of_halves_are_taken_in_single_precision(dtype: torch.dtype) -> None:
    means, loss = EpochMeans(), torch.tensor(40.0, dtype=dtype)
    for _ in range(1000):
        means.add("loss", loss, 2240)  # 40 · 2240 is beyond a float16, and the sum stands still in a bfloat16
    assert means.take()["loss"].item() == pytest.approx(40)
    assert weighted_mean([loss, 3 * loss], [2240, 2240]).item() == pytest.approx(80)


def test_means_of_double_precision_keep_it() -> None:
    means = EpochMeans()
    means.add("loss", torch.tensor(1e300, dtype=torch.double), 2)
    means.add("loss", torch.tensor(3e300, dtype=torch.double), 2)
    state = means.state_dict()
    means = EpochMeans()
    means.load_state_dict(state, torch.device("cpu"))
    assert means.take()["loss"].item() == pytest.approx(2e300)


@pytest.mark.parametrize(
    "name", slow_but(["advantage", "parsec", "enas", "darts", "nasp", "random", "fixed"], ["parsec", "darts", "fixed"])
)
def test_logged_losses_are_the_epochs_means(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    noted: list[tuple[float, int]] = []  # what an object or its class keeps is as it was after an evaluation

    class Noting:
        def outcome(self, batch: Any) -> Outcome:
            outcome = super().outcome(batch)
            noted.append((outcome.loss.item(), outcome.size))
            return outcome

        def weight_step(self, batch: Any) -> None:
            noted.clear()
            super().weight_step(batch)
            self.per_step["train"] += noted

        def architecture_step(self, batch: Any) -> None:
            noted.clear()
            super().architecture_step(batch)
            self.per_step["architecture"].append(noted.copy())

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
