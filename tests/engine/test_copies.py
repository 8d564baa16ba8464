"""Copies of a search, made at any moment and sent to other processes, go on as it does."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR
from torch.utils.data import DataLoader, DistributedSampler

from advnas_lightning import MixedOp, SearchStrategy
from advnas_lightning.engine.schedules import schedule
from tests.support.classifier import Classifier, OwnLoss, assert_same_state, loader, make, pair, search_of
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]


class Whole(Classifier):
    """Has hooks of each kind that a search takes over."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None: ...

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch

    def on_train_epoch_end(self) -> None:
        self.log("epochs", float(self.current_epoch))
        assert not isinstance(self.optimizers(), list)

    def configure_optimizers(self) -> Any:
        sgd = SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [sgd], [{"scheduler": ExponentialLR(sgd, 0.9), "interval": "step"}]


def adopting() -> SearchStrategy:
    return search_of(make(Whole))


def own_loss() -> SearchStrategy:
    by_step = partial(schedule, scheduler=partial(OneCycleLR, max_lr=0.5, total_steps=100), interval="step")
    return search_of(make().net, OwnLoss, weight_optimizer=partial(SGD, lr=0.1), weight_scheduler=by_step)


COPY: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda search: pickle.loads(pickle.dumps(search)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize(
    ("build", "how"),
    slow_but(itertools.product([adopting, own_loss], COPY), [(adopting, "pickle")]),
)
def test_a_copy_of_any_moment_is_a_search(build: Callable[[], SearchStrategy], how: str, fit: Fit) -> None:
    copies: list[tuple[SearchStrategy, Any]] = []

    def keep(search: Any) -> None:
        copies.append((COPY[how](search), copy.deepcopy(search.state_dict())))

    class Keeping(Callback):
        def on_train_batch_end(self, trainer: Trainer, search: LightningModule, *_: Any) -> None:
            keep(search)

        def on_validation_batch_end(self, trainer: Trainer, search: LightningModule, *_: Any) -> None:
            keep(search)

        def on_before_zero_grad(self, trainer: Trainer, search: LightningModule, *_: Any) -> None:
            keep(search)  # while the module is called, and an architecture is bound

    search = build()
    keep(search)
    torch.manual_seed(0)
    fit(search, pair(2, 2), loader(3, 1), max_epochs=2, callbacks=[Keeping()], num_sanity_val_steps=0)
    keep(search)
    assert len(copies) == 1 + 2 * (2 + 1 + (2 if build is adopting else 0)) + 1
    for again, state in copies:
        assert_same(again.state_dict(), state)
        assert not again.space.is_bound
        fit(again, pair(2, 2), loader(3, 1))
        assert again.derive()(torch.zeros(2, 4)).shape == (2, 3)

    first = COPY[how](build())
    torch.manual_seed(0)
    fit(first, pair(2, 2), loader(3, 1), max_epochs=2, num_sanity_val_steps=0)
    assert_same_state(first, search)  # it trains and draws as the one it is a copy of


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert str(value) == str(theirs[name]), name


class Plain(LightningModule):
    """What two ranks compute as one does, with batches of half the size."""

    def __init__(self) -> None:
        super().__init__()
        edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "tanh": nn.Sequential(nn.Linear(8, 8), nn.Tanh())})
        self.net = nn.Sequential(nn.Linear(4, 8), edge, nn.Linear(8, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


def test_the_generator_is_kept_in_a_form_that_every_process_reads() -> None:
    search = adopting()
    search.draw()
    state = pickle.loads(pickle.dumps(search.__getstate__()))
    assert type(state["generator"]) is bytes  # torch's own form of it is a file that a spawned process cannot open
    assert COPY["pickle"](search).draw() == search.draw()


@pytest.mark.slow  # two processes import everything
def test_processes_that_are_spawned_hold_one_search(fit: Fit) -> None:
    found = []
    for size, ranks in ((6, {"devices": 2, "strategy": "ddp_spawn_find_unused_parameters_true"}), (12, {})):
        torch.manual_seed(1)
        search = search_of(Plain(), seed=4)
        loaders = {"weights": loader(0, 36 // size, size=size), "architecture": loader(5, 36 // size, size=size)}
        if not ranks:  # in the order in which Lightning distributes it
            for role, each in loaders.items():
                sampler: Any = DistributedSampler(each.dataset, num_replicas=1, rank=0, shuffle=True, seed=0)
                loaders[role] = DataLoader(each.dataset, batch_size=size, sampler=sampler)
        fit(search, loaders, max_epochs=2, **ranks)
        assert (search.weight_steps, search.architecture_steps) == (6, 6)
        found.append(search)
    two, one = found
    assert torch.equal(two.generator.get_state(), one.generator.get_state())
    for ours, theirs in zip(two.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
