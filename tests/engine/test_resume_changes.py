"""A search that goes on with something else than it had: it says so with both values, or it trains all that is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, IterableDataset

from advnas_lightning import ArchitectureCost, SearchLoader, SearchStrategy
from advnas_lightning.callbacks import LastCheckpoint
from tests.support.small_search import CountingData
from tests.support.speed import slow_but

Make = Callable[..., Any]
Loaders = Callable[[], Any]


class Stop(Exception):
    """Ends a fit, as a crash does."""


class StopIn(Callback):
    """Stops after a batch of an epoch, both counted from 1; or before its first batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch + 1, batch_idx + 1) == (self.epoch, self.batch):
            raise Stop

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1, 0) == (self.epoch, self.batch):
            raise Stop


class Stream(IterableDataset[Any]):
    """So many points, and nobody is told how many."""

    def __init__(self, size: int) -> None:
        self.data = CountingData(size, seed=1)

    def __iter__(self) -> Any:
        return (self.data[index] for index in range(len(self.data)))


def loader(size: int = 48, batch_size: int = 6, **options: Any) -> DataLoader[Any]:
    return DataLoader(CountingData(size, seed=1), batch_size=batch_size, **options)


def pair(weights: Loaders = loader, architecture: Loaders = loader) -> Loaders:
    return lambda: {"weights": weights(), "architecture": architecture()}


def stream(size: int) -> Loaders:
    return pair(lambda: DataLoader(Stream(size), batch_size=6))


def alternate(**options: Any) -> Loaders:
    return lambda: SearchLoader({"weights": loader(**options)}, alternate=True)


@pytest.fixture
def go_on(make_search: Make, fit: Make, tmp_path: Path) -> Callable[..., tuple[SearchStrategy, Trainer, list[float]]]:
    """``go_on(loaders, stop=…)``: a search in the one folder, and the clock's progress in its architecture steps."""

    def run(
        loaders: Loaders, *, stop: StopIn | None = None, name: str = "gdas", trainer: Any = None, **options: Any
    ) -> tuple[SearchStrategy, Trainer, list[float]]:
        search = make_search(name, **options)
        progress: list[float] = []
        step = search.architecture_step

        def noted(batch: Any) -> None:
            progress.append(search.clock.progress)
            step(batch)

        search.architecture_step = noted
        saving = LastCheckpoint(tmp_path, every_n_steps=None if stop is None else 1)
        callbacks = [saving] if stop is None else [saving, stop]
        fitted = None
        with suppress(Stop):
            fitted = fit(
                search,
                loaders(),
                callbacks=callbacks,
                ckpt_path=saving.newest(),
                enable_checkpointing=True,
                **{"max_epochs": 4, **(trainer or {})},
            )
        return search, fitted, progress

    return run


CHANGES: dict[str, tuple[Loaders, Loaders, dict[str, Any], str]] = {
    "larger batches": (pair(), pair(partial(loader, batch_size=24)), {}, "weights.batch_size is 6, not 24"),
    "a smaller data set": (pair(), pair(partial(loader, 18)), {}, "weights.examples is 48, not 18"),
    "a larger data set": (pair(), pair(partial(loader, 96)), {}, "weights.batches is 8, not 16"),
    "both, as many batches": (pair(), pair(partial(loader, 24, 3)), {}, "weights.batch_size is 6, not 3"),
    "the architecture's batches": (pair(), pair(loader, partial(loader, 12)), {}, "architecture.batches is 8, not 2"),
    "without the last batch": (
        pair(partial(loader, 47)), pair(partial(loader, 47, drop_last=True)), {}, "weights.batches is 8, not 7",
    ),
    "a limit": (pair(), pair(), {"limit_train_batches": 5}, "trainer.limit_train_batches is 1.0, not 5"),
    "few batches to overfit": (pair(), pair(), {"overfit_batches": 5}, "trainer.overfit_batches is 0.0, not 5"),
    "in turn": (pair(), alternate(), {}, "alternate is False, not True"),
    "fewer in turn": (alternate(), alternate(size=18), {}, "weights.batches is 8, not 3"),
    "a stream": (pair(), stream(48), {}, "weights.batches is 8, not None"),
    "a shorter stream": (stream(48), stream(6), {}, "the weights loader ends after 1 batches, and the checkpoint was"),
    "a stream that ends here": (stream(48), stream(12), {}, "the loader ends after 2 batches, and the checkpoint was"),
}  # fmt: skip


COUNTED = [name for name in CHANGES if "stream" not in name]


@pytest.mark.parametrize("change", slow_but(CHANGES, ["larger batches", "a stream that ends here"]))
def test_other_batches_within_an_epoch_are_refused(change: str, go_on: Make, tmp_path: Path) -> None:
    first, then, options, says = CHANGES[change]
    go_on(first, stop=StopIn(2, 3), name="advantage")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt")}
    with pytest.raises(ValueError, match=r"within an epoch a search goes on with") as no:
        go_on(then, name="advantage", trainer=options)
    assert says in str(no.value)
    assert "\n" not in str(no.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt")} == before


@pytest.mark.parametrize("change", slow_but(COUNTED, ["in turn"]))
def test_between_epochs_other_batches_are_told_and_all_epochs_are_trained(change: str, go_on: Make) -> None:
    first, then, options, says = CHANGES[change]
    go_on(first, stop=StopIn(3, 0))
    with pytest.warns(UserWarning, match="the search goes on with other batches") as told:
        search, trainer, progress = go_on(then, trainer=options)
    assert any(says in str(each.message) for each in told)
    batches = trainer.num_training_batches
    steps = 2 * (batches // 2 if search._loader.alternate else batches)
    assert (trainer.current_epoch, len(progress)) == (4, steps)
    # Half of the epochs are done, however many steps they had: the temperature goes on from there.
    assert progress == [(steps + step) / (2 * steps) for step in range(steps)]
    assert search.clock.progress == 1


CLOCKS: list[dict[str, int]] = [{}, {"accumulate": 3}, {"warmup_epochs": 2}, {"accumulate": 2, "warmup_epochs": 1}]


@pytest.mark.parametrize("options", slow_but(CLOCKS, CLOCKS[3:]))
def test_the_clock_is_that_of_the_steps_where_nothing_changes(
    options: dict[str, int], make_search: Make, fit: Make
) -> None:
    for loaders in (pair(), alternate(size=42)):
        search = make_search("gdas", **options)
        seen: list[tuple[float, int]] = []
        step = search.architecture_step

        def noted(batch: Any, search: Any = search, step: Any = step, seen: Any = seen) -> None:
            seen.append((search.clock.progress, search.architecture_steps))
            step(batch)

        search.architecture_step = noted
        fit(search, loaders(), max_epochs=4)
        each = math.ceil((3 if search._loader.alternate else 8) / search.accumulate)
        planned = each * (4 - search.warmup_epochs)
        assert seen == [(number / planned, number) for number in range(planned)]
        assert search.clock.progress == 1


SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "seed": ("advantage", {"seed": 0}, {"seed": 5}, "seed is 0, not 5"),
    "accumulate": ("advantage", {}, {"accumulate": 2}, "accumulate is 1, not 2"),
    "warm-up": ("advantage", {}, {"warmup_epochs": 1}, "warmup_epochs is 0, not 1"),
    "option": ("gdas", {}, {"tau_max": 5.0}, "tau_max is 10.0, not 5.0"),
    "controller": ("enas", {}, {"temperature": 5.0}, "temperature is 1.0, not 5.0"),
    "clip": ("advantage", {"weight_clip": 1.0}, {"weight_clip": 2.0}, "weight_clip is 1.0, not 2.0"),
    "rate": (
        "advantage", {"architecture_optimizer": partial(Adam, lr=0.1)},
        {"architecture_optimizer": partial(Adam, lr=0.2)}, "architecture_optimizer is Adam(lr=0.1), not Adam(lr=0.2)",
    ),
    "optimizer": (
        "advantage", {"weight_optimizer": partial(SGD, lr=0.1)}, {"weight_optimizer": partial(Adam, lr=0.1)},
        "weight_optimizer is SGD(lr=0.1), not Adam(lr=0.1)",
    ),
    "schedule": (
        "advantage", {"weight_scheduler": partial(CosineAnnealingLR, T_max=4)},
        {"weight_scheduler": partial(CosineAnnealingLR, T_max=8)},
        "weight_scheduler is CosineAnnealingLR(T_max=4), not CosineAnnealingLR(T_max=8)",
    ),
    "penalty": ("advantage", {"penalty": 0.1}, {"penalty": 0.2}, "cost_penalty is 0.1, not 0.2"),
    "budget": ("advantage", {"budget": 100}, {"budget": 120}, "cost_budget is 100.0, not 120.0"),
}  # fmt: skip


def with_cost(options: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in options.items() if key in ("penalty", "budget")}
    rest = {key: value for key, value in options.items() if key not in own}
    return {**rest, "cost": ArchitectureCost("params", **own)} if own else rest


@pytest.mark.parametrize("setting", slow_but(SETTINGS, ["option"]))
def test_a_setting_that_decides_the_result_is_refused_with_both_values(
    setting: str, go_on: Make, tmp_path: Path
) -> None:
    name, first, then, says = SETTINGS[setting]
    go_on(pair(), stop=StopIn(2, 3), name=name, **with_cost(first))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt")}
    with pytest.raises(ValueError, match="the checkpoint is of a search with other settings") as no:
        go_on(pair(), name=name, **with_cost(then))
    assert says in str(no.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ckpt")} == before
    _, trainer, _ = go_on(pair(), name=name, **with_cost(first))  # with what it had it goes on
    assert trainer.current_epoch == 4


def test_a_cost_that_only_one_of_both_has_is_refused_with_what_to_give(
    go_on: Make, make_search: Make, tmp_path: Path
) -> None:
    go_on(pair(), name="advantage", **with_cost({"penalty": 0.1}))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    with pytest.raises(ValueError, match="of a search with a cost: give the strategy cost=… as it had"):
        make_search("advantage").on_load_checkpoint(checkpoint)


def test_what_decides_nothing_may_change(go_on: Make) -> None:
    go_on(pair(), stop=StopIn(2, 3), name="advantage", max_bad_steps=3, select="argmax")
    _, trainer, _ = go_on(pair(), name="advantage", max_bad_steps=5, select="process_best")
    assert trainer.current_epoch == 4


@pytest.mark.parametrize("stop", [StopIn(2, 3), pytest.param(StopIn(3, 0), marks=pytest.mark.slow)])
def test_a_temperature_depends_on_the_length_and_nothing_else_does(
    stop: StopIn, go_on: Make, assert_same: Make
) -> None:
    go_on(pair(), stop=stop, name="gdas")
    with pytest.raises(ValueError, match=r"max_epochs is 4, not 6"):
        go_on(pair(), name="gdas", trainer={"max_epochs": 6})


@pytest.mark.parametrize(
    "stop", [StopIn(2, 3), *(pytest.param(each, marks=pytest.mark.slow) for each in (StopIn(3, 0), None))]
)
def test_a_longer_search_is_as_if_it_had_been_so_long_from_the_start(
    stop: StopIn | None, go_on: Make, make_search: Make, fit: Make, assert_same: Make
) -> None:
    torch.manual_seed(0)
    go_on(pair(), stop=stop, name="advantage")
    torch.manual_seed(99)
    longer, _, _ = go_on(pair(), name="advantage", trainer={"max_epochs": 6})
    straight = make_search("advantage")
    torch.manual_seed(0)
    fit(straight, pair()(), max_epochs=6)
    assert_same(longer.state_dict(), straight.state_dict())


@pytest.mark.parametrize(
    ("stop", "epoch"), slow_but(PAST := [(StopIn(3, 3), 3), (StopIn(4, 0), 3), (None, 4)], PAST[1:2])
)
def test_a_training_that_is_past_its_end_is_refused(stop: StopIn | None, epoch: int, go_on: Make) -> None:
    go_on(pair(), stop=stop, name="advantage")
    for last in range(1, epoch):
        says = rf"the checkpoint is of epoch {epoch}, and max_epochs={last}: set max_epochs to at least {epoch}"
        with pytest.raises(ValueError, match=says):
            go_on(pair(), name="advantage", trainer={"max_epochs": last})
