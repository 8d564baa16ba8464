"""The progress of a search: a live bar in a terminal, and elsewhere a line for each epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.texts import encodable

PERIOD = 0.25  # seconds between two drawings; a step of the toy task takes a hundredth of that time


def progress_display(job: str = "") -> ProgressBar:
    """The progress display that suits the standard output.

    Args:
        job: The name of a run that may share the output with others. Each line begins with it.

    Example:
        >>> type(progress_display("job 3")).__name__
        'EpochLines'
    """
    return SearchProgressBar() if sys.stdout.isatty() and not job else EpochLines(job)


def cell(search: SearchStrategy) -> str:
    """The candidates of the arg max in the order of the edges, as one text.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> edges = (MixedOp(name, {"skip": nn.Identity(), "relu": nn.ReLU()}) for name in ("first", "second"))
        >>> len(cell(RandomSearch(nn.Sequential(*edges))).split())  # a tie, broken by the seed
        2
    """
    return encodable(" ".join(search.genotype().values()))


class SearchProgressBar(RichProgressBar):
    """Lightning's rich bar with the entropy and the current cell beside the logged losses and scores.

    It is drawn only a few times a second, so that it does not slow short steps down.

    Example:
        >>> SearchProgressBar().refresh_rate
        4
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=round(1 / PERIOD))  # rich draws so often a second, in its own thread
        self._drawn = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Draw the bar, unless it was drawn just before."""
        now = time.monotonic()
        if now - self._drawn >= PERIOD or trainer.is_last_batch:
            self._drawn = now
            super().on_train_batch_end(trainer, *args)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The logged values, the entropy and the cell, without a version number, which a run's folder does not have."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if isinstance(pl_module, SearchStrategy):
            metrics |= {"entropy": float(pl_module.entropy), "cell": cell(pl_module)}
        return metrics


class EpochLines(ProgressBar):
    """Prints a line at the end of each epoch, for files and pipes.

    Args:
        job: The name of the run, with which each line begins.

    Example:
        >>> EpochLines("job 3").state_key
        'EpochLines'
    """

    def __init__(self, job: str = "") -> None:
        super().__init__()
        self._job = job
        self._is_enabled = True

    def disable(self) -> None:
        """Print nothing from now on. Lightning calls this in all processes but the first one."""
        self._is_enabled = False

    def enable(self) -> None:
        """Print lines again from now on."""
        self._is_enabled = True

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's values and the current cell."""
        if not self._is_enabled:
            return
        assert isinstance(pl_module, SearchStrategy)
        values = {
            "step": str(pl_module.clock.batches),
            **{name: f"{value:.4g}" for name, value in trainer.callback_metrics.items()},
            "entropy": f"{pl_module.entropy:.4g}",  # the search logs it after its callbacks have run
            "cell": cell(pl_module),
        }
        place = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        parts = [self._job, place, *(f"{name} {value}" for name, value in values.items())]
        print(encodable("  ".join(filter(None, parts))), flush=True)
