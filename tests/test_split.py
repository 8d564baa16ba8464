"""Any project's loaders and data modules, prepared for a search."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from advnas_lightning.split import search_loaders, with_hooks_for_each
from tests.support.small_search import CountingData

Fit = Callable[..., Trainer]
Make = Callable[..., Any]
Item = tuple[Tensor, Tensor]
ROLES = ("weights", "architecture")


@dataclass
class Points:
    """A batch of which Lightning knows nothing but its ``to``."""

    inputs: Tensor
    labels: Tensor

    def to(self, *arguments: Any, **options: Any) -> Points:
        return Points(self.inputs.to(*arguments, **options), self.labels.to(*arguments, **options))


KINDS: dict[str, Callable[[Item], Any]] = {
    "tuple": tuple,
    "tensor": lambda item: item[0],
    "dict": lambda item: {"inputs": item[0], "labels": item[1]},
    "dict with a pair's names": lambda item: {"weights": item[0], "architecture": item[1]},
    "dataclass": lambda item: Points(*item),
}


def collate(kind: str, items: list[Item]) -> Any:
    return KINDS[kind](default_collate(items))


def tensors(batch: Any) -> list[Tensor]:
    """The tensors of any kind of batch, the inputs first."""
    match batch:
        case Tensor():
            return [batch]
        case dict():
            return list(batch.values())
        case Points():
            return [batch.inputs, batch.labels]
        case _:
            return list(batch)


class Data(LightningDataModule):
    """A project's data: batches of some kind, with a hook for everything that Lightning has one for."""

    def __init__(self, kind: str = "tuple", size: int = 24, shuffle: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.calls: list[str] = []
        self.kind, self.restored = kind, None
        self.shuffle = shuffle

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append("setup " + stage)
        self.sets = {name: CountingData(self.hparams.size, seed) for seed, name in enumerate(("train", "val", "test"))}

    def teardown(self, stage: str) -> None:
        self.calls.append("teardown " + stage)

    def loader(self, name: str, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(self.sets[name], 6, shuffle, collate_fn=partial(collate, self.kind))

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader("train", self.shuffle)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader("test")

    def change(self, batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
        inputs, labels = [*tensors(batch), torch.zeros(0)][:2]
        changed = KINDS[self.kind]((change(inputs), labels))
        assert type(changed) is type(batch)  # a hook may rely on its own kind of batch
        return changed

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.change(batch, lambda inputs: inputs + 1)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self.change(batch, lambda inputs: inputs.to(device) * 2)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        return self.change(batch, lambda inputs: inputs + 3)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restored = state


class PlainHooks(Data):
    """The same data, with nothing but Lightning's own batch hooks."""

    on_before_batch_transfer = LightningDataModule.on_before_batch_transfer
    transfer_batch_to_device = LightningDataModule.transfer_batch_to_device
    on_after_batch_transfer = LightningDataModule.on_after_batch_transfer


class Receiver(LightningModule):
    """A project's own module: notes the batches that its data gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.received: dict[str, list[Any]] = {"train": [], "val": []}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.received["train"].append(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.received["val"].append(batch)

    def configure_optimizers(self) -> None:
        return None


class Noting:
    """Makes a strategy note its batches."""

    def on_fit_start(self) -> None:
        self.received: dict[str, list[Any]] = {"weights": [], "architecture": [], "val": []}
        super().on_fit_start()  # type: ignore[misc]

    def loss(self, batch: Any) -> Tensor:
        return self.model(tensors(batch)[0]).square().mean()

    def weight_step(self, batch: Any) -> None:
        self.received["weights"].append(batch)
        super().weight_step(batch)  # type: ignore[misc]

    def architecture_step(self, batch: Any) -> None:
        self.received["architecture"].append(batch)
        super().architecture_step(batch)  # type: ignore[misc]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.received["val"].append(batch)
        super().validation_step(batch, batch_idx)  # type: ignore[misc]


@pytest.fixture
def noting(make_search: Make) -> Make:
    return partial(make_search, "advantage", mixin=Noting, objective=None)


def same(left: list[Any], right: list[Any]) -> bool:
    """Whether two lists of batches are equal, in kind too."""
    return list(map(type, left)) == list(map(type, right)) and all(
        torch.equal(a, b)
        for one, other in zip(left, right, strict=True)
        for a, b in zip(tensors(one), tensors(other), strict=True)
    )


def rows(batches: list[Any]) -> list[float]:
    """One number for each of the samples, which tells them apart."""
    return torch.cat([tensors(batch)[0][:, 0] for batch in batches]).tolist()


def samples(loader: Iterable[Tensor]) -> list[int]:
    return list(chain.from_iterable(batch.tolist() for batch in loader))


# -- splitting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "size"), [(0.5, 10), (0.25, 5), (0.001, 1), (0.999, 19)])
def test_a_split_is_two_parts_of_the_seed_in_the_loaders_order(share: float, size: int) -> None:
    def split(seed: int) -> dict[str, list[int]]:
        loaders = search_loaders(DataLoader(range(20), batch_size=3), share, seed=seed)
        return {role: samples(loader) for role, loader in loaders.items()}

    parts = split(1)
    assert list(parts) == list(ROLES)
    assert sorted(parts["weights"] + parts["architecture"]) == list(range(20))
    assert len(parts["architecture"]) == size
    assert all(part == sorted(part) for part in parts.values())
    assert parts == split(1) != split(2)


def test_shuffling_is_anew_in_each_epoch_and_stays_in_the_part() -> None:
    plain = search_loaders(DataLoader(range(40), batch_size=4), 0.5)
    shuffled = search_loaders(DataLoader(range(40), batch_size=4, shuffle=True), 0.5)
    for role in ROLES:
        epochs = [samples(shuffled[role]) for _ in range(2)]
        assert epochs[0] != epochs[1]
        assert sorted(epochs[0]) == sorted(epochs[1]) == samples(plain[role])


def test_a_random_sampler_keeps_its_options() -> None:
    generator = torch.Generator().manual_seed(0)
    sampler = RandomSampler(range(40), replacement=True, num_samples=100, generator=generator)
    for role, size in (("weights", 30), ("architecture", 10)):
        loader = search_loaders(DataLoader(range(40), batch_size=4, sampler=sampler), 0.25)[role]
        assert type(loader.sampler) is RandomSampler
        assert loader.sampler.replacement
        assert loader.sampler.generator is generator
        assert len(loader.dataset) == size
        assert len(samples(loader)) == len(loader.sampler) == 100 * size / 40


@pytest.mark.parametrize("place", ["sampler", "batch_sampler"])
def test_a_sampler_that_gives_batches_can_be_split(place: str) -> None:
    batches = BatchSampler(RandomSampler(range(40), generator=torch.Generator().manual_seed(0)), 4, drop_last=True)
    data = torch.arange(40)  # can be asked for several samples at once
    options: dict[str, Any] = {"batch_size": None} if place == "sampler" else {}
    whole: DataLoader[Tensor] = DataLoader(data, **options, **{place: batches})  # type: ignore[arg-type]
    parts = {role: list(loader) for role, loader in search_loaders(whole, 0.25).items()}
    assert [[len(batch) for batch in part] for part in parts.values()] == [[4] * 7, [4] * 2]
    plain = search_loaders(DataLoader(range(40)), 0.25)
    for role, part in parts.items():
        assert set(samples(part)) < set(samples(plain[role]))
        assert samples(part) != sorted(samples(part))


OPTIONS: dict[str, dict[str, Any]] = {
    "workers": {
        "num_workers": 1,
        "prefetch_factor": 3,
        "persistent_workers": True,
        "timeout": 60.0,
        "worker_init_fn": print,
        "multiprocessing_context": "fork",
    },
    "batches": {"batch_size": 3, "drop_last": True, "shuffle": True, "generator": torch.Generator()},
    "memory": {"pin_memory": True, "collate_fn": list},
    "no batches": {"batch_size": None},
    "defaults": {},
}
KEPT = (
    "batch_size drop_last num_workers pin_memory pin_memory_device collate_fn worker_init_fn persistent_workers"
    " prefetch_factor multiprocessing_context timeout generator"
)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_split_keeps_the_loaders_settings(options: dict[str, Any]) -> None:
    whole = DataLoader(range(20), **options)
    for loader in search_loaders(whole, 0.5).values():
        assert type(loader) is DataLoader
        for name in KEPT.split():
            assert getattr(loader, name) == getattr(whole, name), name
        assert type(loader.sampler) is type(whole.sampler)
        assert type(loader.batch_sampler) is type(whole.batch_sampler)
        assert len(loader) == {3: 3, None: 10, 1: 10}[whole.batch_size]
    assert len(whole.dataset) == 20  # type: ignore[arg-type]


def test_samples_without_batches() -> None:
    loader = search_loaders(DataLoader(range(4), batch_size=None), 0.5)["weights"]
    assert all(isinstance(sample, int) for sample in loader)


def test_subclasses_and_datasets_that_fetch_whole_batches() -> None:
    class Numbers(Dataset[int]):
        def __len__(self) -> int:
            return 8

        def __getitems__(self, indices: list[int]) -> list[int]:
            return [10 * index for index in indices]

    class Named(DataLoader[int]):
        def __init__(self, first: str, name: str) -> None:  # what Lightning could not build anew
            super().__init__(Numbers(), batch_size=2)
            self.title = first + name

        def __iter__(self) -> Iterator[Any]:
            return ((self.title, batch.tolist()) for batch in super().__iter__())

    loaders = search_loaders(Named("a", name="b"), 0.5)
    seen = [batch for role in ROLES for batch in loaders[role]]
    assert {title for title, _ in seen} == {"ab"}
    assert sorted(number for _, batch in seen for number in batch) == list(range(0, 80, 10))


def test_a_validation_in_the_middle_of_an_epoch_leaves_the_architecture_loader_where_it_is() -> None:
    whole = DataLoader(range(12), batch_size=2, num_workers=1, persistent_workers=True)
    assert samples(whole) == list(range(12))
    loaders = search_loaders((whole, whole))
    assert loaders["weights"] is whole
    architecture = iter(loaders["architecture"])
    begun = next(architecture).tolist()
    assert samples(whole) == list(range(12))
    assert begun + samples(architecture) == list(range(12))


# -- refusals ----------------------------------------------------------------------------------------------------------


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(8))


class SizedStream(Stream):
    def __len__(self) -> int:
        return 8


class Endless(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


class OwnBatches(BatchSampler):
    pass


class OwnOrder(SequentialSampler):
    pass


EIGHT = DataLoader(range(8), batch_size=2)

REFUSED: dict[str, tuple[Any, Any, str]] = {
    "stream": (DataLoader(Stream()), 0.5, "dataset Stream cannot be split"),
    "sized stream": (DataLoader(SizedStream()), 0.5, "dataset SizedStream cannot be split"),
    "no length": (DataLoader(Endless()), 0.5, "dataset Endless cannot be split"),
    "sampler": (
        DataLoader(range(8), sampler=WeightedRandomSampler([1.0] * 8, 8)),
        0.5,
        "sampler WeightedRandomSampler cannot be split: give the DataLoader shuffle=True or False instead",
    ),
    "sampler of a subset": (DataLoader(range(8), sampler=SubsetRandomSampler([1, 2])), 0.5, "SubsetRandomSampler"),
    "sampler of other data": (DataLoader(range(8), sampler=RandomSampler(range(4))), 0.5, "sampler RandomSampler"),
    "sampler's subclass": (DataLoader(range(8), sampler=OwnOrder(range(8))), 0.5, "sampler OwnOrder"),
    "batch_sampler": (
        DataLoader(range(8), batch_sampler=OwnBatches(SequentialSampler(range(8)), 2, False)),
        0.5,
        "batch_sampler OwnBatches cannot be split: give the DataLoader a batch_size instead",
    ),
    "batches of batches": (
        DataLoader(range(8), sampler=BatchSampler(SequentialSampler(range(8)), 2, False)),
        0.5,
        "sampler BatchSampler cannot be split",
    ),
    "no DataLoader": (range(8), 0.5, "a range cannot be split, as it is no DataLoader"),
    "several": ({"a": EIGHT, "b": EIGHT}, 0.5, "there are 2 training loaders where a search needs one: join"),
    "several for val": (([EIGHT, EIGHT], EIGHT), "val", "there are 2 training loaders"),
    "combined": (CombinedLoader([EIGHT, EIGHT, EIGHT]), 0.5, "there are 3 training loaders"),
    "none": (None, 0.5, "there are 0 training loaders"),
    "one sample": (DataLoader(range(1)), 0.5, r"a training set of 1 sample\(s\) cannot be split: give at least 2"),
    "no sample": (DataLoader([]), 0.5, r"a training set of 0 sample\(s\)"),
    "no batch": (
        DataLoader(range(8), batch_size=5, drop_last=True),
        0.5,
        r"drop_last leaves no batch of 5 of a part with 4 sample\(s\): lower batch_size",
    ),
    "no validation": (EIGHT, "val", "there are 0 validation loaders where a search needs one: give one, or"),
    "validation None": ((EIGHT, None), "val", "there are 0 validation loaders"),
    "validation empty": ((EIGHT, []), "val", "there are 0 validation loaders"),
    "several validations": ((EIGHT, [EIGHT, EIGHT]), "val", "there are 2 validation loaders"),
}


@pytest.mark.parametrize(("data", "architecture", "message"), REFUSED.values(), ids=REFUSED)
def test_what_will_not_do_is_refused_in_one_line(data: Any, architecture: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message) as error:
        search_loaders(data, architecture)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", [0.0, 1.0, -0.5, 1.5, float("nan"), 1, True, "valid", None])
def test_other_words_and_shares_are_refused(architecture: Any) -> None:
    for data in (EIGHT, Data()):
        with pytest.raises(ValueError, match=r'must be "val", or a share of the training set between 0 and 1'):
            search_loaders(data, architecture)


def test_another_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed=0.5 must be a whole number"):
        search_loaders(EIGHT, 0.5, seed=0.5)  # type: ignore[call-overload]


def test_a_data_modules_loaders_are_refused_when_asked_for(noting: Make, fit: Fit) -> None:
    class TrainingOnly(LightningDataModule):
        def train_dataloader(self) -> Any:
            return EIGHT

    with pytest.raises(MisconfigurationException, match="there are 0 validation loaders"):
        fit(noting(), search_loaders(TrainingOnly()))
    with pytest.raises(MisconfigurationException, match="there are 2 training loaders"):
        fit(noting(), search_loaders(search_loaders(Data(), 0.5), 0.5))


def test_any_single_loader_will_do_without_a_split() -> None:
    stream = DataLoader(Stream(), batch_size=4)
    loaders = search_loaders((CombinedLoader([stream]), {"all": range(3)}))
    assert loaders == {"weights": stream, "architecture": range(3)}


# -- under a trainer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hooks", [Data, PlainHooks])
@pytest.mark.parametrize("kind", KINDS)
def test_a_search_receives_the_batches_of_the_projects_own_training(
    noting: Make, fit: Fit, kind: str, hooks: type[Data]
) -> None:
    own = Receiver()
    fit(own, hooks(kind), num_sanity_val_steps=0)
    search = noting()
    fit(search, search_loaders(hooks(kind)), num_sanity_val_steps=0)
    assert len(own.received["train"]) == 4
    assert same(search.received["weights"], own.received["train"])
    assert same(search.received["architecture"], own.received["val"])
    assert same(search.received["val"], own.received["val"])

    search = noting()
    fit(search, search_loaders(hooks(kind), 0.5), num_sanity_val_steps=0)
    halves = search.received["weights"] + search.received["architecture"]
    assert len(halves) == 4
    assert sorted(rows(halves)) == sorted(rows(own.received["train"]))
    assert list(map(type, halves)) == list(map(type, own.received["train"]))
    assert same(search.received["val"], own.received["val"])


def test_a_hook_is_called_with_what_is_no_pair_too(noting: Make, fit: Fit) -> None:
    data = Data()
    stand_in = search_loaders(data, 0.5)
    trainer = fit(noting(), stand_in)
    batch = (torch.zeros(2), torch.ones(2))
    trainer.training = True  # as when a callback moves a batch of its own
    for each in (data, stand_in):
        assert each.on_after_batch_transfer(batch, 0)[0].tolist() == [3, 3]
    data.trainer = None
    with pytest.raises(AssertionError):  # the hook's own: it wants a trainer
        stand_in.on_after_batch_transfer(batch, 0)


@pytest.mark.parametrize("architecture", ["val", 0.5])
def test_plain_loaders_train_and_validate(make_search: Make, make_loaders: Make, fit: Fit, architecture: Any) -> None:
    train, val = make_loaders(weights=4, architecture=2).values()
    search = make_search("advantage")
    trainer = fit(search, search_loaders((train, val), architecture), val)
    assert "val/loss" in trainer.callback_metrics
    steps = 4 if architecture == "val" else 2
    assert (search.weight_steps, search.architecture_steps) == (steps, steps)
    assert train.dataset.fetched == 24


def test_a_data_module_trains_validates_and_tests(make_search: Make, fit: Fit) -> None:
    data, search = PlainHooks(), make_search("advantage")
    stand_in = search_loaders(data, 0.5)
    trainer = fit(search, stand_in)
    assert "val/loss" in trainer.callback_metrics
    assert (search.weight_steps, search.architecture_steps) == (2, 2)
    assert trainer.test(search, datamodule=stand_in, verbose=False)[0].keys() >= {"test/loss"}
    assert data.calls == ["prepare_data", "setup fit", "teardown fit", "prepare_data", "setup test", "teardown test"]


def test_in_the_warm_up_the_validation_data_are_not_touched(make_search: Make, fit: Fit) -> None:
    for epochs, fetched in ((1, 0), (2, 24)):
        data, search = PlainHooks(), make_search("advantage", warmup_epochs=1)
        fit(search, search_loaders(data), limit_val_batches=0, max_epochs=epochs)
        assert (data.sets["train"].fetched, data.sets["val"].fetched) == (epochs * 24, fetched)


@pytest.mark.parametrize("plain", [True, False])
def test_every_epoch_and_a_resumed_run_have_the_same_split(noting: Make, fit: Fit, tmp_path: Path, plain: bool) -> None:
    def run(epochs: int, **options: Any) -> tuple[Any, Trainer]:
        data: Any = Data(shuffle=True)
        if plain:
            data.setup("fit")
            data = data.train_dataloader()
        search = noting()
        torch.manual_seed(0)
        trainer = fit(search, search_loaders(data, 0.5, seed=3), max_epochs=epochs, **options)
        return search.received, trainer

    through, _ = run(2, reload_dataloaders_every_n_epochs=1)
    _, trainer = run(1)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    resumed, _ = run(2, ckpt_path=tmp_path / "first.ckpt")
    for role in ROLES:
        first, second = rows(through[role][:2]), rows(through[role][2:])
        assert first != second
        assert sorted(first) == sorted(second)
        assert sorted(rows(resumed[role])) == sorted(first)
    assert not set(rows(through["weights"])) & set(rows(through["architecture"]))


def test_loaders_that_lightning_builds_anew_keep_their_part(noting: Make, fit: Fit) -> None:
    expected, search = noting(), noting()
    fit(expected, search_loaders(Data(), 0.5))
    fit(search, search_loaders(Data(shuffle=True), 0.5), overfit_batches=1.0)  # which turns shuffling off
    for role in ROLES:
        assert same(search.received[role], expected.received[role])


# -- the stand-in ------------------------------------------------------------------------------------------------------


def test_a_stand_in_shares_all_attributes() -> None:
    data = Data()
    stand_in = search_loaders(data)
    assert isinstance(stand_in, Data)
    stand_in.kind = "tensor"
    assert data.kind == stand_in.kind == "tensor"
    data.shuffle = True
    assert stand_in.shuffle
    del stand_in.restored
    assert not hasattr(data, "restored")
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = stand_in.missing
    assert stand_in.hparams is data.hparams
    data.setup("fit")
    assert str(stand_in) == str(data)


def test_a_stand_ins_trainer_and_state_are_its_modules(noting: Make, fit: Fit, tmp_path: Path) -> None:
    data = Data(size=12)
    trainer = fit(noting(), search_loaders(data, 0.5))
    assert data.trainer is trainer
    trainer.save_checkpoint(tmp_path / "search.ckpt")
    checkpoint = torch.load(tmp_path / "search.ckpt", weights_only=False)
    assert checkpoint["Data"] == {"calls": 3}
    assert checkpoint["datamodule_hyper_parameters"] == {"kind": "tuple", "size": 12, "shuffle": False}
    again = Data(size=12)
    fit(noting(), search_loaders(again, 0.5), ckpt_path=tmp_path / "search.ckpt", max_epochs=2)
    assert again.restored == {"calls": 3}
    assert Data.load_from_checkpoint(tmp_path / "search.ckpt", weights_only=False).hparams.size == 12


def test_lightning_sees_which_hooks_a_module_has() -> None:
    class Some(LightningDataModule):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

    made = LightningDataModule.from_datasets(CountingData(8, 0), CountingData(4, 0))  # whose loaders are attributes
    hooks = [name for name in vars(LightningDataModule) | vars(LightningDataModule.__mro__[1]) if name[0] != "_"]
    hooks = [name for name in hooks if hasattr(getattr(LightningDataModule, name), "__code__")]
    assert {"prepare_data", "setup", "on_exception", "predict_dataloader", "on_after_batch_transfer"} <= set(hooks)
    for data in (Data(), PlainHooks(), Some(), made):
        stand_in = search_loaders(data)
        assert is_overridden("train_dataloader", stand_in)
        for name in set(hooks) - {"train_dataloader"}:
            assert is_overridden(name, stand_in) == is_overridden(name, data), name
    assert [len(loader) for loader in search_loaders(made, 0.25).train_dataloader().values()] == [6, 2]
    assert len(search_loaders(made).train_dataloader()["architecture"]) == 4


def test_a_stand_in_can_be_sent_to_another_process() -> None:
    stand_in = pickle.loads(pickle.dumps(search_loaders(Data(), 0.5, seed=5)))
    stand_in.setup("fit")
    data = Data()
    data.setup("fit")
    expected = search_loaders(data.train_dataloader(), 0.5, seed=5)
    assert stand_in.train_dataloader()["weights"].dataset.indices == expected["weights"].dataset.indices


class Container(Data):
    """Has as many items as its training set, and names its sets."""

    def __len__(self) -> int:
        return int(self.hparams.size)

    def __getitem__(self, name: str) -> Any:
        return self.sets[name]

    def __call__(self, name: str) -> str:
        return f"{self.kind} {name}"


@pytest.mark.parametrize("stand_for", [search_loaders, with_hooks_for_each])
def test_a_stand_in_has_the_special_methods_of_the_data_module(stand_for: Any) -> None:
    for stand_in in (stand_for(Container()), pickle.loads(pickle.dumps(stand_for(Container())))):
        stand_in.setup("fit")
        assert len(stand_in) == 24
        assert stand_in["train"] is stand_in.sets["train"]
        assert stand_in("train") == "tuple train"
    assert not stand_for(Container(size=0))
    with pytest.raises(TypeError):
        len(stand_for(Data()))
    assert stand_for(Data())
    assert not callable(stand_for(Data()))
