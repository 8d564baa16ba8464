"""Callbacks of the toy task: the curve of the test loss, and the number of edges that equal the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from advnas_lightning.callbacks.summary import SummaryCallback
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.validate import check_int


class PeriodicTest(Callback):
    """Logs ``test/loss`` of the arg-max architecture on a fresh test batch every few training batches.

    The batches are the data module's ``test_batch(index)``.

    Args:
        every_n_batches: The interval between two tests in training batches.

    Raises:
        ValueError: ``every_n_batches`` is not a positive whole number.

    Example:
        >>> PeriodicTest(every_n_batches=20).every_n_batches
        20
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        self.every_n_batches = check_int("every_n_batches", every_n_batches, least=1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate the arg max if a test is due."""
        assert isinstance(pl_module, SearchStrategy)
        batches = pl_module.clock.batches
        if batches % self.every_n_batches:
            return
        batch = trainer.datamodule.test_batch(batches)  # type: ignore[attr-defined]
        batch = trainer.precision_plugin.convert_input(batch)
        batch = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
        with torch.no_grad(), pl_module.space.bind(pl_module.one_hot(pl_module.argmax_choice())):
            pl_module.log_now({"test/loss": pl_module.outcome(batch).loss}, prog_bar=False)


class TeacherComparison(SummaryCallback):
    """Counts the edges whose candidate equals the teacher's.

    Example:
        >>> from types import SimpleNamespace
        >>> from advnas_lightning import Fixed
        >>> from advnas_lightning.tasks.toy.data import TeacherData
        >>> from advnas_lightning.tasks.toy.model import ToyNetwork
        >>> data = TeacherData(nodes=2, candidates=2, batch_size=1)
        >>> comparison, found = TeacherComparison(), Fixed(ToyNetwork(nodes=2, candidates=2), genotype=data.teacher)
        >>> comparison.setup(SimpleNamespace(datamodule=data), found, "fit")
        >>> comparison.lines(found)
        {'edges right': '2 of 2'}
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the teacher from the data module.

        Raises:
            MisconfigurationException: The student has other edges or candidates than the teacher.
        """
        self._teacher: Genotype = trainer.datamodule.teacher  # type: ignore[attr-defined]
        assert isinstance(pl_module, SearchStrategy)
        try:
            pl_module.space.choice(self._teacher)
        except ValueError as error:
            raise MisconfigurationException(f"the teacher is not of the student's space: {error}") from None

    def summary(self, search: SearchStrategy) -> dict[str, Any]:
        """The number of edges, and the numbers of those that equal the teacher's."""
        return {
            "edges_right": sum(self._right(search.genotype(search.selected))),
            "argmax/edges_right": sum(self._right(search.genotype())),
            "edges": len(self._teacher),
        }

    def score(self, search: SearchStrategy) -> str:
        """The number of edges of the selected architecture that equal the teacher's."""
        return f"{sum(self._right(search.genotype(search.selected)))}/{len(self._teacher)} right"

    def columns(self, search: SearchStrategy) -> dict[str, list[str]]:
        """The teacher's choice, and a mark where it was found."""
        marks = ["✓" if right else "" for right in self._right(search.genotype(search.selected))]
        return {"teacher": list(self._teacher.values()), "": marks}

    def lines(self, search: SearchStrategy) -> dict[str, str]:
        """The number of edges of the selected architecture that equal the teacher's."""
        return {"edges right": f"{sum(self._right(search.genotype(search.selected)))} of {len(self._teacher)}"}

    def _right(self, found: Genotype) -> list[bool]:
        """Whether each edge equals the teacher's."""
        return [found[edge] == candidate for edge, candidate in self._teacher.items()]
