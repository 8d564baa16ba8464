"""The Trainer of a search may train and evaluate the found network, too."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from tests.support.classifier import VAL, Classifier, loader, make, pair, search_of

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Metered(Classifier):
    """Logs one metric as an object and one as a value, and counts its hooks."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.logged, self.computed = MulticlassAccuracy(3), MulticlassAccuracy(3)
        self.epochs = 0

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for metric in (self.logged, self.computed):
            metric(self(batch[0]), batch[1])
        self.log("logged", self.logged)

    def on_test_epoch_end(self) -> None:
        self.log("computed", self.computed.compute())
        self.computed.reset()

    def on_train_epoch_end(self) -> None:
        self.epochs += 1


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(accelerator="cpu", max_epochs=1, **QUIET)


def test_a_trainer_evaluates_the_search_and_the_found_network(trainer: Trainer) -> None:
    search, rows = search_of(make(Metered)), loader(2, VAL)
    trainer.fit(search, pair(2, 2))
    before = trainer.test(search, rows, verbose=False)
    found = trainer.test(search.derive(), rows, verbose=False)
    assert before == found == trainer.test(search, rows, verbose=False)


def test_a_trainer_trains_the_found_network(trainer: Trainer) -> None:
    search = search_of(make(Metered))
    trainer.fit(search, pair(2, 2))
    found = search.derive()
    trainer.fit_loop.max_epochs = 3
    trainer.fit(found, loader(0, 2))
    assert (search.model.epochs, found.epochs) == (1, 1 + 2)  # the search's one, and two of its own


def test_a_trainer_trains_another_network_after_an_exception(trainer: Trainer) -> None:
    class Failing(Metered):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("failed")

    search = search_of(make(Failing))
    with pytest.raises(RuntimeError, match="failed"):
        trainer.fit(search, pair(2, 2))
    plain = search.genotype().apply(make(Metered))
    trainer.fit(plain, loader(0, 2))
    assert plain.epochs == 1
