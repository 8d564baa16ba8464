"""Any project's data as the two loaders that a search trains on: its own two loaders, or a split of one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, SupportsIndex, TypeVar, overload

import torch
from lightning import LightningDataModule
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
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
from advnas_lightning.loaders import BATCH_HOOKS, KEYS, hook_seed
from advnas_lightning.other_lightning import refuse_other_package
from advnas_lightning.own_data import seen
from advnas_lightning.validate import check_seed

INSTEAD = 'use architecture="val", or train on {"weights": loader, "architecture": loader}'

SPECIAL = {"__len__", "__iter__", "__getitem__", "__contains__", "__call__", "__bool__"}  # of containers and functions

Data = TypeVar("Data", bound=LightningDataModule)


@overload
def search_loaders(data: Data, architecture: Literal["val"] | float = "val", *, seed: int = 0) -> Data: ...


@overload
def search_loaders(
    data: DataLoader[Any] | tuple[Any, Any], architecture: Literal["val"] | float = "val", *, seed: int = 0
) -> dict[str, Any]: ...


def search_loaders(data: Any, architecture: Literal["val"] | float = "val", *, seed: int = 0) -> Any:
    """Any project's data, unmodified, as the two loaders that a search trains on.

    A split depends on ``seed`` and the number of samples alone, so it is the same in every epoch and in a resumed run.
    Both parts are loaded as the whole was, with the same sampling, workers, ``drop_last`` and so on. Every epoch starts
    both loaders anew. If a validation loader is longer than the training loader and does not shuffle, the search
    therefore sees its first batches only.

    Args:
        data: A LightningDataModule, or a training DataLoader, or the pair of a training and a validation loader.
        architecture: The source of the batches of the architecture steps. It is ``"val"`` for the validation loader, or
            the share of the training set that the weight steps leave to them.
        seed: The seed of the split.

    Returns:
        ``{"weights": loader, "architecture": loader}``. For a LightningDataModule it is a module that stands in for it:
        its ``train_dataloader`` returns that dict, and everything else is the given module's own. The given module's
        batch hooks are called with each batch as it would come from the module's own loaders. For a batch of an
        architecture step each of them draws random numbers from a seed of its own.

    Raises:
        ValueError: ``architecture`` or ``seed`` is invalid.
        MisconfigurationException: The loaders do not allow it; a stand-in raises it when it is asked for loaders. Or
            the data module is of the package ``pytorch_lightning``.

    Example:
        >>> loaders = search_loaders(DataLoader(range(10), batch_size=2, shuffle=True), 0.4)
        >>> {role: len(loader) for role, loader in loaders.items()}
        {'weights': 3, 'architecture': 2}
        >>> from advnas_lightning import SearchLoader
        >>> both = search_loaders((DataLoader("abc", batch_size=None), DataLoader("xy", batch_size=None)))
        >>> [tuple(batch.values()) for batch, _, _ in SearchLoader(both)]
        [('a', 'x'), ('b', 'y'), ('c', 'x')]
    """
    if architecture != "val" and not (isinstance(architecture, float) and 0 < architecture < 1):
        raise ValueError(
            f'architecture={architecture!r} must be "val", or a share of the training set between 0 and 1, such as 0.5'
        )
    check_seed("seed", seed)
    refuse_other_package(data, "data module")
    if isinstance(data, LightningDataModule):
        return _stand_in(_SearchData, data, architecture, seed)
    train, val = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    return _both(train, val, architecture, seed)


def with_hooks_for_each(data: Any) -> Any:
    """A data module whose batch hooks are called with each batch of a search by itself, and not with the pair.

    For a batch of an architecture step each of them draws random numbers from a seed of its own.

    Args:
        data: The data module of a Trainer, or ``None``.

    Returns:
        What stands in for the data module, and shows a module its own training loader alone; or what was given, if it
        has no batch hooks and no training loader.

    Example:
        >>> class Doubled(LightningDataModule):
        ...     def on_after_batch_transfer(self, batch, dataloader_idx):
        ...         return 2 * batch
        >>> data = with_hooks_for_each(Doubled())
        >>> data.trainer = type("Training", (), {"training": True, "lightning_module": None})
        >>> data.on_after_batch_transfer({"weights": 3, "architecture": 4}, 0)
        {'weights': 6, 'architecture': 8}
    """
    if not isinstance(data, LightningDataModule) or issubclass(type(data), _StandIn):
        return data
    changed = (*BATCH_HOOKS, "train_dataloader")
    return _stand_in(_StandIn, data) if any(is_overridden(name, data) for name in changed) else data


class _StandIn(LightningDataModule):
    """Stands in for a data module, and changes only the batches that its hooks get and the loaders that a module sees.

    Its attributes, class and state are those of the module: what is set here is set there.
    """

    def __init__(self, data: LightningDataModule, *more: Any) -> None:
        object.__setattr__(self, "_stands_for", (data, *more))

    def __getattribute__(self, name: str) -> Any:
        if name in ("_stands_for", "__reduce_ex__"):
            return object.__getattribute__(self, name)
        data = self._stands_for[0]
        # Lightning calls the LightningModule's hook where the data module has none.
        if name in BATCH_HOOKS and is_overridden(name, data):
            return partial(_call_hook, data, name)
        return partial(_seen_of, data) if name == "train_dataloader" else getattr(data, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._stands_for[0], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._stands_for[0], name)

    def __str__(self) -> str:
        return str(self._stands_for[0])

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _stand_in, (_SearchData if issubclass(type(self), _SearchData) else _StandIn, *self._stands_for)


class _SearchData(_StandIn):
    """Changes the training loaders of a data module, too: it has one for each kind of step."""

    def __init__(self, data: LightningDataModule, architecture: Literal["val"] | float, seed: int) -> None:
        super().__init__(data, architecture, seed)

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name) if name == "train_dataloader" else super().__getattribute__(name)

    def train_dataloader(self) -> Any:
        """The training loader of each kind of step; or what a search's module sees of them."""
        data, architecture, seed = self._stands_for
        val = data.val_dataloader() if architecture == "val" and is_overridden("val_dataloader", data) else None
        return seen(_both(data.train_dataloader(), val, architecture, seed))


def _stand_in(kind: type[_StandIn], data: LightningDataModule, *more: Any) -> Any:
    """A stand-in with those special methods that a data module has, since Python looks for them in the class alone."""
    has = {name for base in type(data).__mro__ for name in vars(base)}
    return type(kind.__name__, (kind,), {name: _special(name) for name in SPECIAL & has})(data, *more)


def _special(name: str) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
        data = self._stands_for[0]
        return getattr(type(data), name)(data, *arguments, **keywords)

    return method


def _seen_of(data: LightningDataModule) -> Any:
    """The training loaders of a data module; or what a search's module sees of them, where there are both kinds."""
    loaders = data.train_dataloader()
    return seen(loaders) if isinstance(loaders, dict) and loaders and loaders.keys() <= set(KEYS) else loaders


def _call_hook(data: LightningDataModule, name: str, batch: Any, *arguments: Any) -> Any:
    hook, trainer = getattr(data, name), data.trainer
    if trainer is None or not trainer.training or not isinstance(batch, dict) or not batch.keys() <= set(KEYS):
        return hook(batch, *arguments)
    step_seed = getattr(trainer.lightning_module, "step_seed", None)  # what is no search has none
    changed = {}
    for role, part in batch.items():
        own = nullcontext() if role == "weights" or step_seed is None else rng.seeded(hook_seed(step_seed(), name))
        with own:
            changed[role] = hook(part, *arguments)
    return changed


def _both(train: Any, val: Any, architecture: Literal["val"] | float, seed: int) -> dict[str, Any]:
    weights = _only(train, "training", 'join their datasets, or train on {"weights": loader, "architecture": loader}')
    if architecture != "val":
        return _split(weights, architecture, seed)
    loader = _only(val, "validation", "give one, or use a share of the training set, such as architecture=0.5")
    # A copy, since validation runs on the loader itself, and with persistent workers a loader gives one pass at a time.
    return {"weights": weights, "architecture": _copy(loader) if isinstance(loader, DataLoader) else loader}


def _only(loaders: Any, kind: str, instead: str) -> Any:
    """The single loader in anything that a ``*_dataloader`` method may return."""
    if isinstance(loaders, list | tuple | dict) and not loaders:  # Lightning would take it for a loader
        loaders = None
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)
    found = [loader for loader in combined.flattened if loader is not None]
    if len(found) != 1:
        raise MisconfigurationException(f"there are {len(found)} {kind} loaders where a search needs one: {instead}")
    return found[0]


def _split(loader: Any, share: float, seed: int) -> dict[str, Any]:
    """Make two loaders like this one, each over its part of the dataset, which keeps the dataset's order."""
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"a {type(loader).__name__} cannot be split, as it is no DataLoader: give one, {INSTEAD}"
        )
    dataset, batches = loader.dataset, _batches(loader)
    length = None if isinstance(dataset, IterableDataset) else sized_len(dataset)
    if length is None:
        raise MisconfigurationException(
            f"the dataset {type(dataset).__name__} cannot be split, as it is a stream or has no length: {INSTEAD}"
        )
    if length < 2:
        raise MisconfigurationException(
            f"a training set of {length} sample(s) cannot be split: give at least 2, {INSTEAD}"
        )
    if batches is not None and type(batches) is not BatchSampler:
        raise MisconfigurationException(
            f"the batch_sampler {type(batches).__name__} cannot be split: give the DataLoader a batch_size instead,"
            f" {INSTEAD}"
        )
    sampler = loader.sampler if batches is None else batches.sampler
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


def _batches(loader: DataLoader[Any]) -> Any:
    """What makes batches of a loader's samples: its ``batch_sampler``, or a sampler that gives batches."""
    by_sampler = loader.batch_sampler is None and isinstance(loader.sampler, BatchSampler)
    return loader.sampler if by_sampler else loader.batch_sampler


def _part(loader: DataLoader[Any], members: list[int]) -> DataLoader[Any]:
    """Make a loader like this one over some samples of its dataset."""
    part, own = Subset(loader.dataset, members), _batches(loader)
    whole = loader.sampler if own is None else own.sampler
    sampler: Sampler[int] = SequentialSampler(part)
    draws = len(part)
    if isinstance(whole, RandomSampler):
        draws = max(round(whole.num_samples * len(part) / len(whole.data_source)), 1)
        sampler = RandomSampler(part, whole.replacement, draws, whole.generator)
    changes: dict[str, Sampler[Any]] = {"sampler": sampler}
    if own is not None:
        batches = BatchSampler(sampler, own.batch_size, own.drop_last)
        if not len(batches):
            raise MisconfigurationException(
                f"drop_last leaves no batch of {own.batch_size} of a part with {draws} sample(s): lower"
                " batch_size, set drop_last=False, or change the share of the architecture steps"
            )
        changes["sampler" if own is loader.sampler else "batch_sampler"] = batches
    copied = _copy(loader, dataset=part, **changes)
    # When Lightning rebuilds a loader, it reads the attributes only if there are no arguments that it recorded under
    # names with two leading underscores, and the recorded arguments hold the whole dataset.
    for name in [name for name in vars(copied) if name.startswith("__")]:
        del vars(copied)[name]
    return copied


def _copy(loader: DataLoader[Any], **changes: Any) -> DataLoader[Any]:
    """A copy of a loader, of any subclass, with changed attributes and worker processes of its own."""
    copied = copy.copy(loader)
    vars(copied).update(changes, _iterator=None)  # a DataLoader forbids setting these attributes
    return copied
