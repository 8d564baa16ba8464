"""The validation batches of a search's data, changed and moved as in its own validation."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from advnas_lightning import rng
from advnas_lightning.engine.found import FoundNetwork
from advnas_lightning.engine.lightning_private import attached_trainer
from advnas_lightning.interruptible import Interruptible
from advnas_lightning.loader_pass import generator_states, refuse_one_batch, set_generator_states
from advnas_lightning.modes import modes_kept
from advnas_lightning.other_lightning import refuse_other_package

__all__ = ["with_validation_batches"]

Result = TypeVar("Result")
SEED = 0  # of what loaders and hooks draw
# What a module does around its validation steps, such as to reduce what they have kept. Here no step keeps anything.
AROUND_STEPS = tuple(
    f"on_validation_{place}" for place in ("start", "epoch_start", "batch_start", "batch_end", "epoch_end", "end")
)


def with_validation_batches(
    search: FoundNetwork,
    use: Callable[[list[Any]], Result],
    dataloaders: Any = None,
    *,
    datamodule: LightningDataModule | None = None,
    batches: int,
    precision: Any = None,
) -> Result:
    """Call a function with the first validation batches, while a Trainer validates the search.

    So the hooks of the module and of the data have changed and moved the batches as in the search's own validation, and
    the Trainer says how far the search's fit has come. No step is taken, and the module's hooks around the steps are
    not called. Of several loaders, the first one counts; of the loaders of a search, that of its architecture steps.

    Args:
        search: The search.
        use: The function.
        dataloaders: The loaders, as in ``Trainer.validate``; a list or tuple without a DataLoader is one of batches.
        datamodule: The data module, as in ``Trainer.validate``.
        batches: How many batches at most.
        precision: The Trainer's precision.

    Returns:
        What the function returned.

    Raises:
        ValueError: There is no batch, or something else was given as the data module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> search = RandomSearch(MixedOp("edge", {"skip": nn.Identity(), "relu": nn.ReLU()}))
        >>> with_validation_batches(search, len, [torch.ones(2), torch.ones(2), torch.ones(2)], batches=2)
        2
    """
    device, attached, fit = search.device, attached_trainer(search), search.fit_state()
    if attached is not None and attached.training:
        raise ValueError("this search is in a fit: rank and export what it finds when the fit is over")
    refuse_one_batch(dataloaders)
    refuse_other_package(datamodule, "data module")
    if datamodule is not None and not isinstance(datamodule, LightningDataModule):
        raise ValueError(
            f"datamodule= takes a LightningDataModule, and here is a {type(datamodule).__name__}: give loaders"
            " or batches as the first argument, without datamodule="
        )
    found: list[Any] = []
    work = Interruptible(use)

    def collect(batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            found.append(batch)

    def end() -> None:
        if found:
            work.do(found)

    methods: dict[str, Callable[..., None]] = {"validation_step": collect, "on_validation_epoch_end": end}
    methods |= dict.fromkeys(("on_validation_epoch_start", "on_validation_end"), _nothing)
    own = [each for each in search.children() if isinstance(each, LightningModule)]
    if isinstance(dataloaders, Mapping):  # the weights have been trained on the other one's batches
        dataloaders = dataloaders.get("architecture", dataloaders)
    is_batches = isinstance(dataloaders, list | tuple) and not any(isinstance(each, DataLoader) for each in dataloaders)
    given = _Batches(dataloaders) if is_batches else dataloaders
    loaders = CombinedLoader(given).flattened
    states = [generator_states(each) for each in loaders]
    try:
        with modes_kept(search), rng.seeded(SEED), _quiet(), warnings.catch_warnings(), ExitStack() as stack:
            stack.enter_context(search.calibration.paused())  # hooks need no statistics of the arg max's own
            for each in own:
                stack.enter_context(_instead(each, dict.fromkeys(AROUND_STEPS, _nothing)))
            stack.enter_context(_instead(search, methods))
            warnings.filterwarnings("ignore", module="lightning")  # about an evaluation, which is none here
            trainer = Trainer(
                accelerator=device.type if device.type != "cuda" else "gpu",
                devices=1 if device.index is None else [device.index],
                limit_val_batches=batches,
                inference_mode=False,  # its tensors could be no part of a network that trains afterwards
                precision=precision,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            if fit is not None:
                stack.enter_context(fit.told_by(trainer))
            trainer.validate(search, given, verbose=False, datamodule=datamodule)
    finally:
        search.to(device)  # Lightning leaves the network on the CPU
        search.trainer = attached
        for loader, own_states in zip(loaders, states, strict=True):
            set_generator_states(loader, own_states)
    if not found:
        raise ValueError("the data has no validation batch")
    return work.result()


def _nothing(*_: Any) -> None:
    """In the place of a hook."""


@contextmanager
def _instead(search: LightningModule, methods: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    """Let a module have other methods, as attributes of its own."""
    own = {name: vars(search)[name] for name in methods if name in vars(search)}
    try:
        for name, method in methods.items():
            setattr(search, name, method)
        yield
    finally:
        for name in methods:
            vars(search).pop(name, None)
        vars(search).update(own)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from saying which devices there are."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Batches:
    """Batches as a loader. Lightning takes a list for several loaders."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
