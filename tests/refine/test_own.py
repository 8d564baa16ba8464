"""Refinement of a module of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from advnas_lightning import Fixed, Genotype, MixedOp, RandomSearch, search_loaders
from advnas_lightning.objectives import Classification
from advnas_lightning.refine import Ladder, finalists_of, refine
from advnas_lightning.refine.training import RungTraining
from tests.support.refining import CLASSES, FEATURES, needs_storage, points
from tests.support.refusals import one_line

pytestmark = needs_storage
EDGES = {"first": ("linear", "skip", "tanh"), "second": ("linear", "tanh")}
START = Genotype({"first": "tanh", "second": "tanh"})


class Own(LightningModule):
    """A classifier that somebody has written, with two choices."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            MixedOp("first", {"linear": nn.Linear(FEATURES, FEATURES), "skip": nn.Identity(), "tanh": nn.Tanh()}),
            MixedOp("second", {"linear": nn.Linear(FEATURES, FEATURES), "tanh": nn.Tanh()}),
            nn.Linear(FEATURES, CLASSES),
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        raise AssertionError("the module was tested")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(points(48, 0), batch_size=8, shuffle=True), DataLoader(points(48, 1), batch_size=16)


def run(folder: Path, **options: Any) -> Ladder:
    train, val = loaders()
    settings: dict[str, Any] = {
        "metric": "val_loss",
        "rungs": (1, 2),
        "train_dataloaders": train,
        "val_dataloaders": val,
        "trainer": {"accelerator": "cpu"},
    }
    return refine(options.pop("make", Own), options.pop("start", [START]), folder=folder, **{**settings, **options})


def test_a_module_is_refined_to_a_local_optimum_of_its_own_trainings(tmp_path: Path) -> None:
    ladder = run(tmp_path / "refined", rungs=(2,))
    train, val = loaders()
    single = RungTraining(
        lambda genotype: Fixed(Own(), genotype=genotype),
        epochs=2,
        metric="val_loss",
        train_dataloaders=train,
        val_dataloaders=val,
        trainer={"accelerator": "cpu"},
    )
    known = {}
    for first in EDGES["first"]:
        for second in EDGES["second"]:
            each = Genotype({"first": first, "second": second})
            known[each] = single(each, tmp_path / f"{first}-{second}", 2)
    assert ladder.winner is not None
    found = ladder.winner.genotype
    assert {trial.genotype: trial.scores[2] for trial in ladder.trials}.items() <= known.items()
    near = [each for each in known if sum(each[edge] != found[edge] for edge in EDGES) == 1]
    assert all(known[each] >= known[found] for each in near)
    assert known[found] < known[START]
    assert list((tmp_path / "refined").rglob("*.ckpt")) == []  # which nothing goes on from any more


def test_the_same_call_trains_nothing_twice(tmp_path: Path) -> None:
    first = run(tmp_path)

    def make() -> nn.Module:
        made.append(1)
        return Own()

    made: list[int] = []
    assert run(tmp_path, make=make).content() == first.content()
    assert len(made) == 2  # for the names of the edges, and for those of the metrics


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    run(tmp_path)
    with one_line("rungs is [1, 2], not [1, 3]", "another folder"):
        run(tmp_path, rungs=(1, 3))


def test_what_cannot_be_refined_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "refined"
    with one_line("metric=val/loss is not validated: use val_loss"):
        run(folder, metric="val/loss")
    with one_line("edge 'first' has no candidate 'relu'"):
        run(folder, start=[Genotype({"first": "relu", "second": "tanh"})])
    with one_line("there is no finalist"):
        run(folder, start=[])
    for wrong in (START, [dict(START)], ["tanh"]):
        with one_line("a finalist is a Genotype, not", "such as [search.genotype()]"):
            run(folder, start=wrong)
        with one_line("a finalist is a Genotype, not"):
            finalists_of(RandomSearch(Own()), ranked=wrong)
    with one_line("trainer asks for 2 processes, and each training runs in one"):
        run(folder, trainer={"accelerator": "cpu", "devices": 2})
    with one_line("epochs=1 is less than one whole training: give at least 2"):
        run(folder, epochs=1)
    with one_line("rungs=2,3: give whole numbers of epochs"):
        run(folder, rungs=(2, 3))
    with one_line("rungs=3 must be a list of numbers of epochs"):
        run(folder, rungs=3)
    assert not folder.exists()


def test_a_plain_network_with_the_loaders_of_a_search(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return Own().net

    train, val = loaders()
    search = RandomSearch(make(), objective=Classification(CLASSES))
    ladder = refine(
        make,
        finalists_of(search, ranked=[START], draws=1),
        folder=tmp_path,
        metric="val/accuracy",
        maximize=True,
        rungs=(1, 2),
        neighbours=False,
        train_dataloaders=search_loaders(train, 0.5),
        val_dataloaders=val,
        objective=Classification(CLASSES),
        weight_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        trainer={"accelerator": "cpu"},
    )
    assert next(trial.proposed_by for trial in ladder.trials) == "argmax"
    assert "ranked 1" in [trial.proposed_by for trial in ladder.trials]
    assert all(0 <= score <= 1 for trial in ladder.trials for score in trial.scores.values())


def test_without_optuna_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advnas_lightning.refine.own.missing_package", lambda: "refine needs an extra: pip install …")
    with one_line("refine needs an extra"):
        run(tmp_path / "refined")
    assert not (tmp_path / "refined").exists()
