"""Batches for the two kinds of step: ``{"weights": batch, "architecture": batch}``, each only where it is used."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal, SupportsIndex, TypeVar, overload

import torch
from lightning import LightningDataModule
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
)

from advnas_lightning import rng

KEYS = ("weights", "architecture")
BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
INSTEAD = 'use architecture="val", or train on {"weights": loader, "architecture": loader}'

Data = TypeVar("Data", bound=LightningDataModule)


class SearchLoader(CombinedLoader):
    """Pairs training batches with the steps they are for. The strategy wraps whatever loaders it is given in one.

    An epoch is one pass over the ``"weights"`` loader (the ``"architecture"`` loader where that is the only one). The
    architecture loader starts anew with each epoch and is cycled; while ``searching()`` is false, as in the warm-up, it
    is not touched: no batch of it is loaded or moved.

    Args:
        loaders: a loader under ``"weights"`` or ``"architecture"``, or under both.
        alternate: share the ``"weights"`` loader: its batches go to weight and architecture steps in turn, and all of
            them to weight steps while ``searching()`` is false.

    Raises:
        MisconfigurationException: other keys, or ``alternate`` with more than a ``"weights"`` loader.

    Example:
        >>> loader = SearchLoader({"weights": "abc", "architecture": "xy"})
        >>> [tuple(batch.values()) for batch, _, _ in loader]
        [('a', 'x'), ('b', 'y'), ('c', 'x')]
        >>> [batch for batch, _, _ in SearchLoader({"weights": "ab"}, alternate=True)]
        [{'weights': 'a'}, {'architecture': 'b'}]
    """

    def __init__(self, loaders: dict[str, Iterable[Any]], *, alternate: bool = False) -> None:
        keys = set(loaders) if isinstance(loaders, dict) else set()
        if not keys or not keys <= set(KEYS) or (alternate and keys != {"weights"}):
            given = sorted(map(str, keys)) if keys else type(loaders).__name__
            raise MisconfigurationException(
                f'a search trains on {{"weights": loader, "architecture": loader}}, not on {given}: name them so'
            )
        for key, loader in loaders.items():
            if isinstance(loader, list | tuple | dict):  # to Lightning that is a collection of loaders
                raise MisconfigurationException(
                    f"the {key} loader is a {type(loader).__name__}: give one DataLoader, or another single iterable"
                )
        super().__init__(loaders, "min_size")
        self.alternate = alternate
        self.searching: Callable[[], bool] = lambda: True
        self.between_batches: Callable[[], None] = lambda: None  # called before each batch but an epoch's first
        self._epoch: Iterator[dict[str, Any]] | None = None
        self._index = 0  # of the next batch
        self._passes: dict[str, _Pass] = {}
        self._before_fetch: dict[str, Any] | None = None  # only where Lightning fetches ahead
        self._place: dict[str, Any] | None = None  # to go on from

    @classmethod
    def wrap(cls, loaders: Any) -> SearchLoader:
        """A SearchLoader of whatever a ``train_dataloader`` may return; a single loader is for weight steps."""
        if isinstance(loaders, SearchLoader):
            return loaders
        if isinstance(loaders, CombinedLoader):
            loaders = loaders.iterables
        return cls(loaders if isinstance(loaders, dict) else {"weights": loaders})

    def check_roles(self, strategy: str, *, weights: bool, architecture: bool) -> None:
        """Check that there are batches for the steps that a strategy takes.

        Args:
            strategy: its name, for the message.
            weights: whether it takes weight steps.
            architecture: whether it takes architecture steps.

        Raises:
            MisconfigurationException: there are none for one of them.
        """
        asked = 'train on {"weights": loader, "architecture": loader}'
        if architecture and not (self.alternate or "architecture" in self.iterables):
            raise MisconfigurationException(f"{strategy} has no batches for its architecture steps: {asked}")
        if "weights" in self.iterables and sized_len(self.iterables["weights"]) == 0:
            raise MisconfigurationException("the weights loader is empty: an epoch is one pass over it")
        if "weights" not in self.iterables and weights:
            raise MisconfigurationException(f"{strategy} has no batches for its weight steps: {asked}")

    def architecture_steps(self, batches: int) -> int:
        """How many of an epoch's first ``batches`` are for an architecture step."""
        if self.alternate:
            return batches // 2
        return batches if "architecture" in self.iterables else 0

    @property
    def fetches_ahead(self) -> bool:
        """Whether Lightning asks for a batch before it has used the one before: to know which one is the last."""
        return self._length() == float("inf")

    def place(self, used: int | None) -> dict[str, Any]:
        """Where the loaders are, for :meth:`go_on_from` in another process.

        Args:
            used: how many batches of the running epoch were; ``None`` between epochs.
        """
        return {
            "generators": {key: _states(loader) for key, loader in self.iterables.items()},
            "running": None if used is None else self._running(used),
        }

    def go_on_from(self, place: dict[str, Any]) -> None:
        """Let the next epoch begin where another one was: bit for bit, whatever random numbers its loaders draw.

        The batches until there are loaded once more, and dropped; but for loaders that keep their own place
        (``state_dict`` and ``load_state_dict``, as torchdata's), which Lightning restores.
        """
        for key, loader in self.iterables.items():
            _set_states(loader, place["generators"].get(key, []))
        self._place = place["running"]

    def _running(self, used: int) -> dict[str, Any]:
        if self._before_fetch is not None and self._index == used + 1:
            return self._before_fetch
        return {"index": self._index, "passes": {key: each.place() for key, each in self._passes.items()}, "rng": None}

    def __iter__(self) -> SearchLoader:
        self._epoch = self._alternate() if self.alternate else self._pair()
        self._index = 0 if self._place is None else self._place["index"]
        self._passes = {}
        return self

    def __next__(self) -> tuple[dict[str, Any], int, int]:
        if self._epoch is None:
            iter(self)
        assert self._epoch is not None
        if self._index and self._place is None:
            self.between_batches()
        if self._index >= self._length():
            raise StopIteration
        if self._place is not None:
            batch = self._next_from(self._place)
            self._place = None
        else:
            if self.fetches_ahead:
                self._before_fetch = {**self._running(self._index), "rng": rng.collect()}
            batch = next(self._epoch)
        self._index += 1
        return batch, self._index - 1, 0

    def _next_from(self, place: dict[str, Any]) -> dict[str, Any]:
        assert self._epoch is not None
        for key, pass_place in place["passes"].items():
            with rng.kept():
                self._passes[key] = _Pass.again(self.iterables[key], pass_place)
        if place["rng"] is None:
            return next(self._epoch)
        with rng.kept():  # the batch had been fetched when the numbers that training goes on with were noted
            rng.restore(place["rng"])
            self._before_fetch = place
            return next(self._epoch)

    def __len__(self) -> int:
        length = self._length()
        if length == float("inf"):
            raise TypeError("this loader has no length")
        return int(length)

    def _length(self) -> float:
        leader = "weights" if "weights" in self.iterables else "architecture"
        length = sized_len(self.iterables[leader])
        # Lightning fills the limits in, in the order of the loaders
        limit = self.limits[list(self.iterables).index(leader)] if self.limits else float("inf")
        return min(float("inf") if length is None else length, limit)

    def reset(self) -> None:
        """Forget the running epoch and shut its workers down."""
        self._epoch = None
        self._passes = {}
        super().reset()

    def _pass(self, key: str) -> _Pass:
        """The running pass over a loader, or a new one."""
        if key not in self._passes:
            self._passes[key] = _Pass(self.iterables[key])
        return self._passes[key]

    def _pair(self) -> Iterator[dict[str, Any]]:
        architecture = self._cycle()
        if "weights" not in self.iterables:
            while True:
                yield {"architecture": next(architecture)} if self.searching() else {}
        running = self._pass("weights")
        for batch in running:
            pair = {"weights": batch}
            if "architecture" in self.iterables and self.searching():
                pair["architecture"] = next(architecture)
            yield pair
        if not running.taken:
            raise MisconfigurationException("the weights loader is empty: an epoch is one pass over it")

    def _cycle(self) -> Iterator[Any]:
        while True:
            running = self._pass("architecture")
            yield from running
            if not running.taken:
                raise MisconfigurationException(
                    "the architecture loader is empty: a search needs at least one batch of it"
                )
            del self._passes["architecture"]

    def _alternate(self) -> Iterator[dict[str, Any]]:
        for batch in self._pass("weights"):
            yield {"architecture" if self._index % 2 and self.searching() else "weights": batch}


class _Pass:
    """A pass over a loader, and what it takes to repeat it up to any of its batches."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.start = {"rng": rng.collect(), "generators": _states(loader)}
        self.taken = 0
        self._loader = loader
        self._batches = iter(loader)

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        self.taken += 1
        return batch

    def place(self) -> dict[str, Any]:
        return {**self.start, "taken": self.taken}

    @classmethod
    def again(cls, loader: Iterable[Any], place: dict[str, Any]) -> _Pass:
        rng.restore(place["rng"])
        _set_states(loader, place["generators"])
        running = cls(loader)
        if hasattr(loader, "load_state_dict"):
            running.taken = place["taken"]
        while running.taken < place["taken"]:
            next(running)
        return running


def _generators(loader: Any) -> list[torch.Generator]:
    """The random number generators that a DataLoader was given."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def _states(loader: Any) -> list[Tensor]:
    return [generator.get_state() for generator in _generators(loader)]


def _set_states(loader: Any, states: list[Tensor]) -> None:
    for generator, state in zip(_generators(loader), states, strict=False):  # another loader may have fewer
        generator.set_state(state.cpu())


@overload
def search_loaders(data: Data, architecture: Literal["val"] | float = "val", *, seed: int = 0) -> Data: ...


@overload
def search_loaders(
    data: DataLoader[Any] | tuple[Any, Any], architecture: Literal["val"] | float = "val", *, seed: int = 0
) -> dict[str, Any]: ...


def search_loaders(data: Any, architecture: Literal["val"] | float = "val", *, seed: int = 0) -> Any:
    """Any project's data, unmodified, as the two loaders that a search trains on.

    A split depends on ``seed`` and the number of samples alone: it is the same in every epoch, and in a resumed run.
    Both parts are loaded as the whole was, with the same sampling, workers, ``drop_last``, … . Every epoch starts them
    anew: of a validation loader that is longer than the training loader and does not shuffle, only the first batches
    are ever seen.

    Args:
        data: a LightningDataModule, or a training DataLoader, or the pair of a training and a validation loader.
        architecture: where the architecture steps' batches come from: ``"val"``, the validation loader, or the share
            of the training set that the weight steps leave to them.
        seed: of the split.

    Returns:
        ``{"weights": loader, "architecture": loader}``; or, for a LightningDataModule, one that stands in for it: its
        ``train_dataloader`` returns that dict, and everything else is the given module's own. Hooks that the module
        has for batches are called with each batch as it would come from its own loaders.

    Raises:
        ValueError: another ``architecture`` or ``seed``.
        MisconfigurationException: the loaders do not allow it. A stand-in raises it when it is asked for loaders.

    Example:
        >>> loaders = search_loaders(DataLoader(range(10), batch_size=2, shuffle=True), 0.4)
        >>> {role: len(loader) for role, loader in loaders.items()}
        {'weights': 3, 'architecture': 2}
        >>> both = search_loaders((DataLoader("abc", batch_size=None), DataLoader("xy", batch_size=None)))
        >>> [tuple(batch.values()) for batch, _, _ in SearchLoader(both)]
        [('a', 'x'), ('b', 'y'), ('c', 'x')]
    """
    if architecture != "val" and not (isinstance(architecture, float) and 0 < architecture < 1):
        raise ValueError(
            f'architecture={architecture!r} must be "val", or a share of the training set between 0 and 1, such as 0.5'
        )
    if not isinstance(seed, int):
        raise ValueError(f"seed={seed!r} must be a whole number")
    if isinstance(data, LightningDataModule):
        return _SearchData(data, architecture, seed)
    train, val = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    return _both(train, val, architecture, seed)


class _SearchData(LightningDataModule):
    """Stands in for a data module: all but the training loaders, and what hooks are called with, is the module's own.

    So are its attributes, its class and its state: whatever is set here is set there.
    """

    def __init__(self, data: LightningDataModule, architecture: Literal["val"] | float, seed: int) -> None:
        object.__setattr__(self, "_stands_for", (data, architecture, seed))

    def __getattribute__(self, name: str) -> Any:
        if name in ("_stands_for", "train_dataloader", "__reduce_ex__"):
            return object.__getattribute__(self, name)
        data = self._stands_for[0]
        # Lightning calls the LightningModule's hook where the data module has none
        if name in BATCH_HOOKS and is_overridden(name, data):
            return partial(_call_hook, data, name)
        return getattr(data, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._stands_for[0], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._stands_for[0], name)

    def __str__(self) -> str:
        return str(self._stands_for[0])

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _SearchData, self._stands_for

    def train_dataloader(self) -> dict[str, Any]:
        """The training loader of each kind of step."""
        data, architecture, seed = self._stands_for
        val = data.val_dataloader() if architecture == "val" and is_overridden("val_dataloader", data) else None
        return _both(data.train_dataloader(), val, architecture, seed)


def _call_hook(data: LightningDataModule, name: str, batch: Any, *arguments: Any) -> Any:
    hook = getattr(data, name)
    if data.trainer is not None and data.trainer.training and isinstance(batch, dict) and batch.keys() <= set(KEYS):
        return {role: hook(part, *arguments) for role, part in batch.items()}
    return hook(batch, *arguments)


def _both(train: Any, val: Any, architecture: Literal["val"] | float, seed: int) -> dict[str, Any]:
    weights = _only(train, "training", 'join their datasets, or train on {"weights": loader, "architecture": loader}')
    if architecture != "val":
        return _split(weights, architecture, seed)
    loader = _only(val, "validation", "give one, or use a share of the training set, such as architecture=0.5")
    # not the loader that validation runs on: with persistent workers, a loader gives one pass at a time
    return {"weights": weights, "architecture": _copy(loader) if isinstance(loader, DataLoader) else loader}


def _only(loaders: Any, kind: str, instead: str) -> Any:
    """The loader in whatever a ``*_dataloader`` may return."""
    if isinstance(loaders, list | tuple | dict) and not loaders:  # which Lightning would take for a loader
        loaders = None
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)
    found = [loader for loader in combined.flattened if loader is not None]
    if len(found) != 1:
        raise MisconfigurationException(f"there are {len(found)} {kind} loaders where a search needs one: {instead}")
    return found[0]


def _split(loader: Any, share: float, seed: int) -> dict[str, Any]:
    """Two loaders like this one, each over its part of the dataset, in the dataset's order."""
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"a {type(loader).__name__} cannot be split, as it is no DataLoader: give one, {INSTEAD}"
        )
    dataset, sampler, batches = loader.dataset, loader.sampler, loader.batch_sampler
    length = None if isinstance(dataset, IterableDataset) else sized_len(dataset)
    if length is None:
        raise MisconfigurationException(
            f"the dataset {type(dataset).__name__} cannot be split, as it is a stream or has no length: {INSTEAD}"
        )
    if length < 2:
        raise MisconfigurationException(
            f"a training set of {length} sample(s) cannot be split: give at least 2, {INSTEAD}"
        )
    if batches is not None and (type(batches) is not BatchSampler or loader.batch_size is None):
        raise MisconfigurationException(
            f"the batch_sampler {type(batches).__name__} cannot be split: give the DataLoader a batch_size instead,"
            f" {INSTEAD}"
        )
    source = getattr(sampler, "data_source", ())
    if type(sampler) not in (SequentialSampler, RandomSampler) or len(source) != length:
        raise MisconfigurationException(
            f"the sampler {type(sampler).__name__} cannot be split: give the DataLoader shuffle=True or False instead,"
            f" {INSTEAD}"
        )
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    ours = min(max(round(length * (1 - share)), 1), length - 1)
    return {
        role: _part(loader, sorted(members)) for role, members in zip(KEYS, (order[:ours], order[ours:]), strict=True)
    }


def _part(loader: DataLoader[Any], members: list[int]) -> DataLoader[Any]:
    part, whole = Subset(loader.dataset, members), loader.sampler
    sampler: Sampler[int] = SequentialSampler(part)
    draws = len(part)
    if isinstance(whole, RandomSampler):
        draws = max(round(whole.num_samples * len(part) / len(whole.data_source)), 1)
        sampler = RandomSampler(part, whole.replacement, draws, whole.generator)
    batches = None
    if loader.batch_size is not None:
        batches = BatchSampler(sampler, loader.batch_size, loader.drop_last)
        if not len(batches):
            raise MisconfigurationException(
                f"drop_last leaves no batch of {loader.batch_size} of a part with {draws} sample(s): lower"
                " batch_size, set drop_last=False, or change the share of the architecture steps"
            )
    copied = _copy(loader, dataset=part, sampler=sampler, batch_sampler=batches)
    # Lightning builds a loader anew, as for a distributed sampler, with the arguments that it recorded of a data
    # module's loader: the whole dataset. Without a record it goes by the attributes.
    for name in [name for name in vars(copied) if name.startswith("__pl_")]:
        del vars(copied)[name]
    return copied


def _copy(loader: DataLoader[Any], **changes: Any) -> DataLoader[Any]:
    """The loader, of whatever subclass, with its own worker processes and other attributes."""
    copied = copy.copy(loader)
    vars(copied).update(changes, _iterator=None)  # a DataLoader forbids setting them
    return copied
