"""The validation batches of a search's data, changed and moved as in its own validation."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from advnas_lightning import rng
from advnas_lightning.engine.lightning_private import attached_trainer
from advnas_lightning.loaders import BATCH_HOOKS

__all__ = ["with_validation_batches"]

Result = TypeVar("Result")
SEED = 0  # of what loaders and hooks draw


def with_validation_batches(
    search: LightningModule,
    use: Callable[[list[Any]], Result],
    dataloaders: Any = None,
    *,
    datamodule: LightningDataModule | None = None,
    batches: int,
    precision: Any = None,
) -> Result:
    """Call a function with the first validation batches, while a Trainer validates the search.

    So the hooks of the module and of the data have changed and moved the batches as in the search's own validation. No
    step is taken. Of several loaders, the first one counts.

    Args:
        search: The search, which is a LightningModule.
        use: The function.
        dataloaders: The loaders, as in ``Trainer.validate``; a list or tuple is taken for batches.
        datamodule: The data module, as in ``Trainer.validate``.
        batches: How many batches at most.
        precision: The Trainer's precision.

    Returns:
        What the function returned.

    Raises:
        ValueError: There is no batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> search = RandomSearch(MixedOp("edge", {"skip": nn.Identity(), "relu": nn.ReLU()}))
        >>> with_validation_batches(search, len, [torch.ones(2), torch.ones(2), torch.ones(2)], batches=2)
        2
    """
    device, attached = search.device, attached_trainer(search)
    if attached is not None and attached.training:
        raise ValueError("architectures are ranked after a fit, and this search is in one: rank them when it is over")
    modes = {module: module.training for module in search.modules()}
    collector = _Collector(search, use)
    try:
        with rng.seeded(SEED), _quiet(), warnings.catch_warnings():
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
            given = _Batches(dataloaders) if isinstance(dataloaders, list | tuple) else dataloaders
            trainer.validate(collector, given, verbose=False, datamodule=datamodule)
    finally:
        search.to(device)  # Lightning leaves the network on the CPU
        search.trainer = attached
        for module, training in modes.items():
            module.training = training
    if not collector.found:
        raise ValueError("the data has no validation batch to rank architectures by")
    return collector.result[0]


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


class _Collector(LightningModule, Generic[Result]):
    """Goes through the validation batches of a search as its own validation does, but takes no step."""

    def __init__(self, search: LightningModule, use: Callable[[list[Any]], Result]) -> None:
        super().__init__()
        self.search = search
        self.found: list[Any] = []
        self.result: list[Result] = []
        self._use = use
        for name in (*BATCH_HOOKS, "prepare_data", "val_dataloader"):  # Lightning calls these on the validated module
            if is_overridden(name, search):
                setattr(self, name, getattr(search, name))

    def configure_callbacks(self) -> list[Callback]:
        found: Any = self.search.configure_callbacks()
        return list(found)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            self.found.append(batch)

    def on_validation_epoch_end(self) -> None:
        if self.found:
            self.result.append(self._use(self.found))
