"""A run that was interrupted and resumed ends bit for bit where an uninterrupted one does."""

import csv
import itertools
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import GDAS, AdvantageNAS, MixedOp, SearchLoader, SearchStrategy
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.callbacks.run_log import RunLog
from advnas_lightning.engine.resume import Resumption
from advnas_lightning.engine.tracking import EpochMeans
from tests.support.ends_of_runs import state
from tests.support.small_search import STRATEGIES
from tests.support.speed import slow_but

Make = Callable[..., Any]
OPTIMIZERS = {
    "weight_optimizer": partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "architecture_optimizer": partial(Adam, lr=0.1, betas=(0.5, 0.999)),
    "weight_scheduler": partial(CosineAnnealingLR, T_max=4),
    "architecture_scheduler": partial(StepLR, step_size=1, gamma=0.5),
}


EVERY = slow_but(STRATEGIES, ["parsec", "darts-second_order"])


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


def check(train: Make, assert_same: Make, name: str, loaders: Callable[[], tuple[Any, Any]]) -> None:
    straight = train(name, loaders, folder="straight")
    resumed = train(name, loaders, folder="resumed", resume="straight/epoch=1.ckpt")
    assert resumed["epoch"] == 2
    assert_same(state(resumed), state(straight))


@pytest.mark.parametrize("name", slow_but(STRATEGIES, ["advantage"]))
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
    slow_but(
        [("advantage-ema", True, False), ("enas", False, True), ("reinforce", False, False), ("gdas", True, False)],
        [("enas", False, True)],
    ),
)
def test_whatever_the_loaders(
    name: str, shuffle: bool, validation: bool, train: Make, make_loaders: Make, assert_same: Make
) -> None:
    def loaders() -> tuple[Any, Any]:
        train_on = make_loaders(weights=2, architecture=1, shuffle=shuffle)
        return train_on, make_loaders()["architecture"] if validation else None

    check(train, assert_same, name, loaders)


@pytest.mark.parametrize("name", slow_but(["proxylessnas", "snas"], ["proxylessnas"]))
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
    assert search.best.choice.tolist() == checkpoint["state_dict"]["best.choice"].tolist()
    loaded = type(search).load_from_checkpoint(
        tmp_path / "run" / "last.ckpt", model=small_net(), weights_only=True, strict=False, **OPTIMIZERS
    )
    assert loaded.genotype() == search.genotype()
    assert loaded.genotype("process_best") == search.genotype("process_best")


@pytest.mark.parametrize("how", ["validated", "loaded"])
def test_a_checkpoint_that_was_evaluated_leaves_a_new_search_its_whole_epoch(
    how: str, make_search: Make, make_loaders: Make, small_net: Make, fit: Callable[..., Trainer], tmp_path: Path
) -> None:
    class Save(Callback):
        def on_train_batch_start(self, trainer: Trainer, search: LightningModule, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    fit(make_search("advantage"), make_loaders(), callbacks=[Save()])
    search = make_search("advantage")
    if how == "validated":
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        validating = Trainer(accelerator="cpu", enable_checkpointing=False, **quiet)
        validating.validate(search, make_loaders()["weights"], ckpt_path=tmp_path / "middle.ckpt", verbose=False)
    else:
        search = type(search).load_from_checkpoint(
            tmp_path / "middle.ckpt", model=small_net(), objective=search.objective, strict=False, **OPTIMIZERS
        )
    loaders = make_loaders()
    fit(search, loaders)
    assert loaders["weights"].dataset.fetched == 24
    assert search.weight_steps == 2 + 4  # those of the checkpoint are counted


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


# -- in the middle of an epoch ---------------------------------------------------------------------------------------


class Crash(Exception):
    """What a killed process does not raise."""


class CrashAt(Callback):
    """Ends a run at the start of a training batch, counted from 0 over all epochs."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            raise Crash


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Draws from all three global random number generators in every fetch."""

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs, self.labels = torch.randn(size, 4, generator=generator), torch.arange(size) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(4) + random.random() + np.random.rand()
        return self.inputs[index] + 0.1 * noise, self.labels[index]


class Streamed(IterableDataset[tuple[Tensor, Tensor]]):
    """The same without a length."""

    def __init__(self, size: int, seed: int) -> None:
        self.data = Augmented(size, seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.data[index] for index in range(len(self.data)))


class Stateful:
    """A loader that keeps its own place, as torchdata's does, and draws no random numbers."""

    def __init__(self, batches: int) -> None:
        self.batches, self.next, self.fetched, self.loaded = batches, 0, 0, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.next, self.loaded = self.loaded, 0
        while self.next < self.batches:
            self.next += 1
            self.fetched += 1
            yield torch.full((2, 4), float(self.next)), torch.tensor([0, 1])

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state["next"] % self.batches


def augmented(batches: int, seed: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(Augmented(4 * batches, seed), batch_size=4, **options)


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: {
        "weights": augmented(5, 1, shuffle=True),
        "architecture": augmented(3, 2, shuffle=True),
    },
    "alternate": lambda: SearchLoader({"weights": augmented(6, 1, shuffle=True)}, alternate=True),
    "own generators": lambda: {
        "weights": augmented(5, 1, shuffle=True, generator=torch.Generator().manual_seed(5)),
        "architecture": augmented(
            3, 2, sampler=RandomSampler(range(12), replacement=True, generator=torch.Generator().manual_seed(6))
        ),
    },
    "workers": lambda: {
        "weights": augmented(5, 1, shuffle=True, num_workers=1),
        "architecture": augmented(3, 2, num_workers=1),
    },
    "streams": lambda: {
        "weights": DataLoader(Streamed(20, 1), batch_size=4),
        "architecture": DataLoader(Streamed(12, 2), batch_size=4),
    },
    "stateful": lambda: {"weights": Stateful(5), "architecture": augmented(3, 2, shuffle=True)},
}


def go(
    search: LightningModule,
    loaders: Any,
    folder: Path,
    fit: Callable[..., Trainer],
    *callbacks: Callback,
    **options: Any,
) -> tuple[dict[str, Any], list[list[tuple[str, str]]]]:
    """A run's last checkpoint, and its log; one that crashes leaves a checkpoint between all batches."""
    log = RunLog(folder)
    crashes = any(isinstance(each, CrashAt) for each in callbacks)
    with suppress(Crash):
        fit(
            search,
            loaders,
            **{"max_epochs": 4, **options},
            enable_checkpointing=True,
            logger=log,
            callbacks=[LastCheckpoint(folder, every_n_steps=1 if crashes else None), *callbacks],
        )
    return torch.load(folder / "last.ckpt", weights_only=True), read_log(log.path)


def read_log(path: Path) -> list[list[tuple[str, str]]]:
    """What was logged, whatever the order of the columns."""
    if not path.exists():
        return []
    with path.open() as file:
        return [sorted((key, value) for key, value in row.items() if value) for row in csv.DictReader(file)]


def check_crash(
    build: Callable[[], LightningModule],
    loaders: Callable[[], Any],
    crash: int,
    fit: Callable[..., Trainer],
    assert_same: Make,
    tmp_path: Path,
    **options: Any,
) -> None:
    seed_everything(0, verbose=False)
    straight, rows = go(build(), loaders(), tmp_path / "straight", fit, **options)
    seed_everything(0, verbose=False)
    broken, half = go(build(), loaders(), tmp_path / "broken", fit, CrashAt(crash), **options)
    assert broken["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == crash
    seed_everything(99, verbose=False)
    resumed, all_rows = go(
        build(), loaders(), tmp_path / "broken", fit, ckpt_path=tmp_path / "broken" / "last.ckpt", **options
    )
    assert_same(state(resumed), state(straight))
    assert all_rows[: len(half)] == half
    assert all_rows == rows
    assert rows


def crashes(name: str, batches: int) -> int:
    """Another batch for each name, none of them the first of an epoch."""
    place = crc32(name.encode()) % (batches - 4)
    return place + 1 + place // (batches // 4 - 1)


@pytest.mark.parametrize("name", EVERY)
def test_every_strategy_resumes_within_an_epoch(
    name: str, make_search: Make, fit: Callable[..., Trainer], assert_same: Make, tmp_path: Path
) -> None:
    check_crash(
        lambda: make_search(name, **OPTIMIZERS, warmup_epochs=1),
        LOADERS["shuffled"],
        crashes(name, 20),
        fit,
        assert_same,
        tmp_path,
    )


@pytest.mark.parametrize(
    ("loaders", "crash"),
    slow_but(
        itertools.product(LOADERS, (3, 7, 13)),
        [("own generators", 13), ("workers", 3), ("stateful", 13)],
    ),
)
def test_whatever_the_loaders_draw(
    loaders: str, crash: int, make_search: Make, fit: Callable[..., Trainer], assert_same: Make, tmp_path: Path
) -> None:
    def build() -> SearchStrategy:
        return make_search("advantage-ema", **OPTIMIZERS, warmup_epochs=1)

    check_crash(build, LOADERS[loaders], crash, fit, assert_same, tmp_path)


@pytest.mark.parametrize("crash", slow_but([5, 10], [10]))  # before and after the first epoch in which θ moves
def test_a_stream_whose_first_batch_is_fetched_before_the_epoch_is_counted(
    crash: int, make_search: Make, fit: Callable[..., Trainer], assert_same: Make, tmp_path: Path
) -> None:
    def build() -> SearchStrategy:
        return make_search("advantage-ema", **OPTIMIZERS, warmup_epochs=1)

    check_crash(build, LOADERS["streams"], crash, fit, assert_same, tmp_path)


def test_a_loader_with_a_place_of_its_own_is_not_read_twice(
    make_search: Make, fit: Callable[..., Trainer], tmp_path: Path
) -> None:
    first, second = Stateful(5), Stateful(5)
    go(make_search("reinforce"), {"weights": first, "architecture": Stateful(2)}, tmp_path, fit, CrashAt(8))
    resume = {"ckpt_path": tmp_path / "last.ckpt"}
    go(make_search("reinforce"), {"weights": second, "architecture": Stateful(2)}, tmp_path, fit, **resume)
    assert (first.fetched, second.fetched) == (9, 12)  # of 20; what was fetched for the batch of the crash is lost


class Theirs(LightningModule):
    """A user's module, with everything that Lightning keeps for the end of an epoch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.accuracy = MulticlassAccuracy(3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.net(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("mean", loss, on_step=True, on_epoch=True)
        if batch_idx % 2 == 0:
            self.log("sum", loss, on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("end", float(self.global_step), on_step=False, on_epoch=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": StepLR(optimizer, 3), "interval": "step"}]


OFTEN: list[dict[str, Any]] = [{}, {"val_check_interval": 2}, {"log_every_n_steps": 3, "val_check_interval": 1}]


@pytest.mark.parametrize(
    ("crash", "options"),
    slow_but(
        itertools.product([3, 5, 6, 10, 12], OFTEN),
        [(12, OFTEN[2])],
    ),
)
def test_a_users_module_logs_the_same(
    crash: int,
    options: dict[str, Any],
    small_net: Make,
    fit: Callable[..., Trainer],
    assert_same: Make,
    tmp_path: Path,
) -> None:
    def build() -> SearchStrategy:
        torch.manual_seed(1)
        return AdvantageNAS(Theirs(small_net()), architecture_optimizer=partial(Adam, lr=0.1))

    def run(folder: str, *callbacks: Callback, **more: Any) -> tuple[dict[str, Any], list[list[tuple[str, str]]]]:
        seed_everything(99 if more else 0, verbose=False)
        validate = augmented(2, 3, shuffle=True)  # draws from the generators that training goes on with
        return go(
            build(), LOADERS["shuffled"](), tmp_path / folder, fit, *callbacks, val=validate,
            **{"log_every_n_steps": 1, **options, **more},
        )  # fmt: skip

    straight, rows = run("straight")
    _, half = run("broken", CrashAt(crash))
    resumed, all_rows = run("broken", ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert_same(state(resumed), state(straight))
    assert half
    assert all_rows == rows


@pytest.mark.parametrize(("devices", "warnings"), [(1, 0), (2, 1)])
def test_means_of_an_epoch_in_several_processes_are_warned_of(
    devices: int, warnings: int, recwarn: pytest.WarningsRecorder
) -> None:
    resumption = Resumption(LightningModule(), EpochMeans())
    resumption.remember({"partial_epoch": {"means": {}}}, optimizers=False)
    resumption.start(Trainer(accelerator="cpu", devices=devices, strategy="ddp", logger=False))
    assert sum("earlier batches of the first process" in str(each.message) for each in recwarn) == warnings


@pytest.mark.parametrize("crash", slow_but([3, 5, 7, 13], [13]))
def test_persistent_workers_and_generators_of_validation(
    crash: int, small_net: Make, fit: Callable[..., Trainer], assert_same: Make, tmp_path: Path
) -> None:
    def persistent(batches: int, seed: int, **options: Any) -> DataLoader[Any]:
        torch.manual_seed(seed)  # what is drawn within workers is not restored, so the data are fixed
        data = [(torch.randn(4), label % 3) for label in range(4 * batches)]
        return DataLoader(data, 4, shuffle=True, num_workers=1, persistent_workers=True, **options)

    def run(folder: str, *callbacks: Callback, **more: Any) -> tuple[dict[str, Any], list[list[tuple[str, str]]]]:
        loaders = {"weights": persistent(5, 1), "architecture": persistent(3, 2)}
        validate = persistent(3, 3, generator=torch.Generator().manual_seed(7))
        torch.manual_seed(1)
        search = AdvantageNAS(Theirs(small_net()), architecture_optimizer=partial(Adam, lr=0.1))
        seed_everything(99 if more else 0, verbose=False)
        return go(
            search, loaders, tmp_path / folder, fit, *callbacks, val=validate, limit_val_batches=1, log_every_n_steps=1,
            **more,
        )  # fmt: skip

    straight, rows = run("straight")
    run("broken", CrashAt(crash))
    resumed, all_rows = run("broken", ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert_same(state(resumed), state(straight))
    assert all_rows == rows


class Initializing(Theirs):
    """Initializes its weights when its training begins, as a run that goes on does once more."""

    def on_train_start(self) -> None:
        for parameter in self.parameters():
            nn.init.normal_(parameter)


def test_weights_that_are_initialized_when_training_begins(
    small_net: Make, fit: Callable[..., Trainer], assert_same: Make, tmp_path: Path
) -> None:
    def build() -> SearchStrategy:
        torch.manual_seed(1)
        return AdvantageNAS(Initializing(small_net()), architecture_optimizer=partial(Adam, lr=0.1))

    check_crash(build, LOADERS["shuffled"], 8, fit, assert_same, tmp_path)


class OneCycle(Theirs):
    """Asks how many steps there will be, for which Lightning loads the data before the run begins."""

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.1, momentum=0.9)
        self.steps = self.trainer.estimated_stepping_batches
        schedule = OneCycleLR(optimizer, 0.2, total_steps=20 if self.steps < 0 else int(self.steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@pytest.mark.parametrize(  # GDAS asks for the search's length in every step, and a stream's is not known
    ("kind", "loaders", "steps"),
    slow_but(
        [(kind, *each) for kind in (AdvantageNAS, GDAS) for each in (("shuffled", 20), ("streams", -1))],
        [(GDAS, "shuffled", 20)],
    ),
)
def test_a_schedule_that_depends_on_the_number_of_steps(
    kind: type[SearchStrategy],
    loaders: str,
    steps: int,
    small_net: Make,
    fit: Callable[..., Trainer],
    assert_same: Make,
    tmp_path: Path,
) -> None:
    built: list[SearchStrategy] = []

    def build() -> SearchStrategy:
        torch.manual_seed(1)
        built.append(kind(OneCycle(small_net()), architecture_optimizer=partial(Adam, lr=0.1), warmup_epochs=1))
        return built[-1]

    limit = {"limit_train_batches": 5} if kind is GDAS and loaders == "streams" else {}
    check_crash(build, LOADERS[loaders], 8, fit, assert_same, tmp_path, **limit)
    assert [search.model.steps for search in built] == [20 if limit else steps] * 3
    assert [search.architecture_steps for search in built] == [15, 3, 15]  # none in the warm-up


class InterruptAfter(Callback):
    """Presses Ctrl-C at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def _heeds_interrupts() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT, and so would the tests in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_interrupts")
@pytest.mark.parametrize("epoch", slow_but([0, 2, 3], [3]))  # the last one, too: an evaluation may follow it
def test_an_interrupt_at_the_end_of_an_epoch(
    epoch: int, small_net: Make, fit: Callable[..., Trainer], assert_same: Make, tmp_path: Path
) -> None:
    def run(folder: str, *callbacks: Callback, **more: Any) -> tuple[dict[str, Any], list[list[tuple[str, str]]]]:
        torch.manual_seed(1)
        search = AdvantageNAS(Theirs(small_net()), architecture_optimizer=partial(Adam, lr=0.1))
        seed_everything(99 if more else 0, verbose=False)
        return go(search, LOADERS["shuffled"](), tmp_path / folder, fit, *callbacks, log_every_n_steps=1, **more)

    straight, rows = run("straight")
    with pytest.raises(SystemExit):
        run("broken", InterruptAfter(epoch))
    saved = torch.load(tmp_path / "broken" / "last.ckpt", weights_only=True)
    assert saved["epoch"] == epoch
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 5 * (epoch + 1)
    resumed, all_rows = run("broken", ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert_same(state(resumed), state(straight))
    assert all_rows == rows


@pytest.mark.parametrize("every", slow_but([3, 4], [4]))
def test_lightnings_own_checkpoints_within_an_epoch(
    every: int, make_search: Make, fit: Callable[..., Trainer], assert_same: Make, tmp_path: Path
) -> None:
    def run(**options: Any) -> dict[str, Any]:
        seed_everything(99 if "ckpt_path" in options else 0, verbose=False)
        saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1)
        search = make_search("gdas", **OPTIMIZERS)
        trainer = fit(search, LOADERS["shuffled"](), max_epochs=3, callbacks=[saving], **options)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return torch.load(tmp_path / "end.ckpt", weights_only=True)

    straight = run(enable_checkpointing=True)
    for step in range(every, 13, every):
        resumed = run(enable_checkpointing=True, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert_same(state(resumed), state(straight))
