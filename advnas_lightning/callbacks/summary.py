"""What a run does beside its steps for its files and its report at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.runs import write_json


class Stopwatch(Callback):
    """Seconds of training, those before a resumption included; logs them as ``seconds`` after each epoch."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        assert isinstance(pl_module, SearchStrategy)
        pl_module.log_now({"seconds": self.seconds}, prog_bar=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self._before, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._before = state_dict["seconds"]


class GenotypeFile(Callback):
    """Writes ``{"selected": …, "argmax": {…}, "process_best": {…} or null}`` at the end of every epoch.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both genotypes."""
        assert isinstance(pl_module, SearchStrategy)
        best = pl_module.process_best
        write_json(
            self.path,
            {
                "selected": pl_module.selected,
                "argmax": pl_module.genotype().edges,
                "process_best": None if best is None else best.edges,
            },
        )


class SummaryCallback(Callback):
    """A callback that has something to add to what a run reports at its end."""

    def summary(self, search: SearchStrategy) -> dict[str, Any]:
        """Entries of ``summary.json``."""
        return {}

    def columns(self, search: SearchStrategy) -> dict[str, list[str]]:
        """Columns beside the selected architecture's, by title: a text for each edge."""
        return {}

    def lines(self, search: SearchStrategy) -> dict[str, str]:
        """Lines below that table, by name."""
        return {}
