"""Lightning's callbacks that take a hand in training, in a search of a user's module."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import nn
from torch.optim import SGD

from advnas_lightning import (
    RandomSearch,
    SearchStrategy,
)
from tests.support.classifier import Classifier, OwnLoss, make, search_of

Make = Callable[..., Any]


class WithBackbone(Classifier):
    @property
    def backbone(self) -> nn.Module:
        return self.net[0]


# Each relies on Lightning's automatic optimization; what to do instead must be said.
OF_AUTOMATIC_OPTIMIZATION: dict[str, tuple[Callable[[Path], Callback], str]] = {
    "GradientAccumulationScheduler": (lambda _: GradientAccumulationScheduler({0: 2}), "accumulate="),
    "StochasticWeightAveraging": (lambda _: StochasticWeightAveraging(0.05, swa_epoch_start=1), "derive"),
    "BackboneFinetuning": (lambda _: BackboneFinetuning(unfreeze_backbone_at_epoch=1), "derive"),
    # In manual optimization Lightning's own ModelCheckpoint never looks at the clock.
    "ModelCheckpoint": (lambda at: ModelCheckpoint(at, train_time_interval=timedelta(0)), "LastCheckpoint"),
}


@pytest.mark.parametrize("name", OF_AUTOMATIC_OPTIMIZATION)
@pytest.mark.parametrize("which", ["search", "one optimizer"])
def test_a_callback_for_automatic_optimization_says_what_to_do_instead(
    name: str, which: str, train: Make, tmp_path: Path
) -> None:
    create, instead = OF_AUTOMATIC_OPTIMIZATION[name]
    module = make(WithBackbone)
    search = search_of(module) if which == "search" else RandomSearch(module)
    with pytest.raises(MisconfigurationException, match=name) as caught:
        train(search, max_epochs=3, callbacks=[create(tmp_path)], enable_checkpointing=True)
    assert instead in str(caught.value)
    assert "\n" not in str(caught.value)
    assert search.weight_steps == 0


def test_a_finetuning_callback_gives_no_weights_to_the_architecture_optimizer(train: Make) -> None:
    class Search(OwnLoss):
        """Has the attribute that the callback asks for."""

        moved = 0

        @property
        def backbone(self) -> nn.Module:
            return self.model[0]

        def architecture_step(self, batch: Any) -> None:
            before = self.backbone.weight.clone()
            super().architecture_step(batch)
            self.moved += not torch.equal(before, self.backbone.weight)

    search = search_of(make().net, Search, weight_optimizer=partial(SGD, lr=0.1))
    try:
        train(search, max_epochs=3, callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=1)])
    except MisconfigurationException:
        return
    assert search.moved == 0


def test_averaged_weights_leave_the_best_architecture_alone(train: Make) -> None:
    class Both(Callback):
        """What the search itself knows, before an average of all buffers takes its place."""

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            assert isinstance(pl_module, SearchStrategy)
            self.best = pl_module.genotype("process_best"), float(pl_module.best.loss)

    noted, search = Both(), search_of()
    try:
        train(search, max_epochs=4, callbacks=[noted, EMAWeightAveraging(decay=0.9)])
    except MisconfigurationException:
        return
    assert (search.genotype("process_best"), float(search.best.loss)) == noted.best


def test_a_plain_network_that_was_found_may_be_averaged(train: Make) -> None:
    search = search_of()
    train(search)
    found = search.derive()
    rates: list[float] = []

    class Note(Callback):
        def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    averaging = StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1)
    train(found, max_epochs=3, callbacks=[averaging, Note()])
    assert rates[-1] == 0.05
