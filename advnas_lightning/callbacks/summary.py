"""Callbacks for the files of a run and for its report at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.genotype_file import write_found
from advnas_lightning.texts import encodable

MARKS = {"✓": "green", "yes": "green", "✗": "red", "no": "red"}  # the colours of marks in the terminal


class Stopwatch(Callback):
    """Counts the seconds of training, including those before a resumption, and logs them as ``seconds`` each epoch.

    Example:
        >>> Stopwatch().seconds
        0.0
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """The seconds of training so far."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting the seconds."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the seconds so far."""
        assert isinstance(pl_module, SearchStrategy)
        pl_module.log_now({"seconds": self.seconds}, prog_bar=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting, and keep the seconds so far."""
        self._before, self._started = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far, for a checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the seconds of a checkpoint."""
        self._before = state_dict["seconds"]


class GenotypeFile(Callback):
    """Writes ``{"selected": …, "argmax": {…}, "process_best": {…} or null}`` at the end of every epoch.

    A fit that has nothing left to train writes the file if it is missing.

    The genotypes that commands have added, ``ranked`` and ``refined``, are of the search as it was before that epoch.
    They are taken out, and a warning says so.

    Args:
        path: The path of the file.

    Example:
        >>> GenotypeFile("genotype.json").path.name
        'genotype.json'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both genotypes to the file."""
        assert isinstance(pl_module, SearchStrategy)
        outdated = write_found(self.path, pl_module.selected, pl_module.genotype(), pl_module.process_best)
        if outdated:
            rank_zero_warn(
                f"{self.path}: {' and '.join(outdated)} came from this search before it went on, and are taken out:"
                " run the command that adds them again"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file if there is none."""
        if not self.path.exists():
            self.on_train_epoch_end(trainer, pl_module)


def mark(right: bool) -> str:
    """A mark for what is right or wrong, in signs that the standard output can write.

    Example:
        >>> mark(True), mark(False)
        ('✓', '✗')
    """
    signs = "✓" if right else "✗"
    return signs if encodable(signs) == signs else "yes" if right else "no"


class SummaryCallback(Callback):
    """The base class of callbacks that add to a run's final report.

    Example:
        >>> class CountSkips(SummaryCallback):
        ...     def summary(self, search):
        ...         return {"skips": list(search.genotype().values()).count("skip")}
        >>> from torch import nn
        >>> from advnas_lightning import Fixed, MixedOp
        >>> edge = MixedOp("edge", {"skip": nn.Identity(), "relu": nn.ReLU()})
        >>> CountSkips().summary(Fixed(edge, genotype={"edge": "skip"}))
        {'skips': 1}
    """

    def summary(self, search: SearchStrategy) -> dict[str, Any]:
        """The entries of ``summary.json`` that this callback adds."""
        return {}

    def score(self, search: SearchStrategy) -> str:
        """What the display shows beside the losses while it searches, of the architecture that it would report now."""
        return ""

    def known(self, genotype: Genotype) -> dict[str, float]:
        """What is known of an architecture from elsewhere, by name, such as its accuracy in a benchmark."""
        return {}

    def right(self, search: SearchStrategy) -> dict[str, bool]:
        """Whether the choice of the selected architecture is right, by edge; empty where nobody knows that."""
        return {}

    def columns(self, search: SearchStrategy) -> dict[str, list[str]]:
        """The columns to add beside the selected architecture, by title, with a text for each edge."""
        return {}

    def lines(self, search: SearchStrategy) -> dict[str, str]:
        """The lines to add below that table, by name."""
        return {}
