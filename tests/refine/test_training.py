"""Training from rung to rung is the training that plain PyTorch does, and asks for no test data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, LambdaCallback
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, IterableDataset

from advnas_lightning import Fixed
from advnas_lightning.objectives import Classification
from advnas_lightning.refine.training import RungTraining
from advnas_lightning.space.genotype import Genotype
from tests.support.refining import CLASSES, points
from tests.support.refusals import one_line
from tests.support.small_search import GENOTYPE, SmallNet

RUNGS = (1, 2, 4)
FOUND = Genotype(GENOTYPE)


class Points(LightningDataModule):
    """Points in the order in which they are, or shuffled. Whoever asks for test data fails."""

    def __init__(self, *, shuffle: bool = False) -> None:
        super().__init__()
        self.shuffle = shuffle

    def train_dataloader(self) -> dict[str, DataLoader[Any]]:
        both = {"weights": points(32, 0), "architecture": points(32, 1)}
        return {role: DataLoader(data, batch_size=8, shuffle=self.shuffle) for role, data in both.items()}

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(points(32, 1), batch_size=8)

    def test_dataloader(self) -> DataLoader[Any]:
        raise AssertionError("test data were asked for")


def make(genotype: Genotype, *, dropout: float = 0.0) -> Fixed:
    return Fixed(
        SmallNet(dropout=dropout),
        genotype=genotype,
        objective=Classification(CLASSES),
        weight_optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9),
        weight_scheduler=partial(CosineAnnealingLR, T_max=RUNGS[-1]),
    )


def plain_losses(anneal: Sequence[int] = ()) -> list[float]:
    """The validation loss after each epoch of a training that is written down here."""
    seed_everything(5, verbose=False)
    network: nn.Module = FOUND.apply(SmallNet(dropout=0.0))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    schedule = CosineAnnealingLR(optimizer, T_max=RUNGS[-1])
    batches = len(Points().train_dataloader()["weights"])
    cycles = [(stop - start) * batches for start, stop in pairwise((0, *anneal))]  # in batches
    annealed = [0.1 * (1 + math.cos(math.pi * step / cycle)) for cycle in cycles for step in range(cycle)]
    losses = []

    def loss_of(batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(network(batch[0]), batch[1])

    for _ in range(RUNGS[-1]):
        network.train()
        for batch in Points().train_dataloader()["weights"]:
            if annealed:
                optimizer.param_groups[0]["lr"] = annealed.pop(0)
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()
        if not anneal:
            schedule.step()
        network.eval()
        with torch.no_grad():
            losses.append(float(torch.stack([loss_of(batch) for batch in Points().val_dataloader()]).mean()))
    return losses


def training(**options: Any) -> RungTraining:
    settings = {"epochs": RUNGS[-1], "metric": "val/loss", "seed": 5, "trainer": {"accelerator": "cpu"}}
    return RungTraining(options.pop("make", make), **{**settings, "datamodule": Points(), **options})


@pytest.mark.parametrize("anneal", [(), RUNGS])
def test_the_rungs_of_a_training_are_those_of_plain_pytorch(anneal: Sequence[int], tmp_path: Path) -> None:
    plain = plain_losses(anneal)
    train = training(anneal=anneal)
    for rung in RUNGS:
        assert train(FOUND, tmp_path, rung) == pytest.approx(plain[rung - 1], rel=1e-5)
    assert len(set(plain)) == 4
    assert plain_losses() != plain_losses(RUNGS)


@pytest.mark.parametrize("anneal", [(), RUNGS])
def test_a_training_goes_on_from_its_checkpoint_in_another_process(anneal: Sequence[int], tmp_path: Path) -> None:
    options = {"make": partial(make, dropout=0.3), "datamodule": Points(shuffle=True), "metric": "val/accuracy"}
    options["anneal"] = anneal
    scores = [training(**options)(FOUND, tmp_path / "one", rung) for rung in RUNGS]
    train = training(**options)
    again = [train(FOUND, tmp_path / "other", rung) for rung in RUNGS[:2]]
    assert [*again, training(**options)(FOUND, tmp_path / "other", RUNGS[2])] == scores


def test_a_rung_that_is_reached_already_is_scored_again(tmp_path: Path) -> None:
    train = training(datamodule=Points(shuffle=True))
    score = train(FOUND, tmp_path, 2)
    assert training(datamodule=Points(shuffle=True))(FOUND, tmp_path, 2) == score


def test_annealing_needs_the_number_of_batches(tmp_path: Path) -> None:
    class Endless(IterableDataset[list[Tensor]]):
        def __iter__(self) -> Iterator[list[Tensor]]:
            return iter(list(points(32, 0)))

    loader = DataLoader(Endless(), batch_size=8)
    options = {"datamodule": None, "train_dataloaders": loader, "val_dataloaders": Points().val_dataloader()}
    with one_line("anneal=True needs the number of batches of an epoch", "limit_train_batches"):
        training(anneal=RUNGS, **options)(FOUND, tmp_path, 1)
    limited = {"accelerator": "cpu", "limit_train_batches": 2}
    assert training(anneal=RUNGS, **options, trainer=limited)(FOUND, tmp_path, 1) > 0


def test_a_callback_may_end_a_training_and_knows_nothing_of_others(tmp_path: Path) -> None:
    epochs: list[int] = []
    note = LambdaCallback(on_train_epoch_end=lambda trainer, _: epochs.append(trainer.current_epoch))
    impatient = EarlyStopping("val/loss", min_delta=9.0, patience=1)  # no epoch is so much better than the first one
    train = training(
        datamodule=None,
        train_dataloaders=Points().train_dataloader(),
        val_dataloaders=Points().val_dataloader(),
        trainer={"accelerator": "cpu", "check_val_every_n_epoch": 1, "callbacks": [note, impatient]},
    )
    assert train(FOUND, tmp_path / "one", 4) == train(FOUND, tmp_path / "other", 4)
    assert epochs == [0, 1, 0, 1]


def test_a_single_callback_is_taken_and_a_number_of_epochs_is_not(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = True

    once = training(trainer={"accelerator": "cpu", "callbacks": Stop()})(FOUND, tmp_path, 4)
    assert once == pytest.approx(plain_losses()[0], rel=1e-5)
    with one_line("trainer has max_epochs=2, and the rungs say how long a training is: leave it out"):
        training(trainer={"max_epochs": 2})


def test_an_unknown_metric_is_one_line_with_those_that_there_are(tmp_path: Path) -> None:
    with one_line("metric=accuracy is not validated: use val/loss, val/accuracy"):
        training(metric="accuracy")(FOUND, tmp_path, 1)
    with one_line("metric=accuracy is not validated: use val/loss, val/accuracy"):
        training(metric="accuracy").check(FOUND)


def test_a_training_that_diverges_raises_what_a_refinement_takes_as_failed(tmp_path: Path) -> None:
    def diverging(genotype: Genotype) -> Fixed:
        made = make(genotype)
        made.max_bad_steps = 1
        made.optimizations["weights"].factory = partial(torch.optim.SGD, lr=1e30)
        return made

    train = training(make=diverging)
    train(FOUND, tmp_path, 1)
    with pytest.raises(FloatingPointError):
        train(FOUND, tmp_path, 4)
