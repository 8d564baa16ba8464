"""Callbacks of the toy task: the curve of the test loss, and the number of edges that equal the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from advnas_lightning.callbacks.summary import SummaryCallback, mark
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.texts import encodable, plain
from advnas_lightning.validate import check_int

MOST = 40  # signs of a curve


def sparkline(values: Sequence[float], top: float) -> str:
    """A curve in one line of text, or its values where the standard output cannot write the blocks.

    Args:
        values: The values, from 0 to ``top``. Of more than ``MOST`` some are left out, but not the last one.
        top: The value of a full block.

    Example:
        >>> sparkline([0, 2, 5, 7, 9, 10], 10)
        '▁▂▅▆██ (0 to 10)'
    """
    step = -(-len(values) // MOST)
    kept = list(reversed(values[::-1][::step]))
    blocks = "".join("▁▂▃▄▅▆▇█"[min(int(8 * value / top), 7)] for value in kept)
    if encodable(blocks) != blocks:
        return " ".join(f"{value:g}" for value in kept)
    return f"{blocks} ({kept[0]:g} to {kept[-1]:g})"


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
    """Counts the edges whose candidate equals the teacher's, and says what the wrong ones cost.

    After every epoch it logs how many edges of the selected architecture are right as ``edges_right``, and those of the
    arg max as ``argmax/edges_right``.

    Args:
        every_n_batches: The interval between two points of the curve that is shown at the end, in training batches.

    Raises:
        ValueError: ``every_n_batches`` is not a positive whole number.

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

    def __init__(self, every_n_batches: int = 10) -> None:
        self.every_n_batches = check_int("every_n_batches", every_n_batches, least=1)
        self._curve: list[int] = []  # the numbers of right edges of the selected architecture

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the teacher from the data module.

        Raises:
            MisconfigurationException: The student has other edges or candidates than the teacher.
        """
        self._data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._teacher: Genotype = self._data.teacher
        assert isinstance(pl_module, SearchStrategy)
        try:
            pl_module.space.choice(self._teacher)
        except ValueError as error:
            raise MisconfigurationException(f"the teacher is not of the student's space: {error}") from None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the number of right edges now and then."""
        assert isinstance(pl_module, SearchStrategy)
        if pl_module.clock.batches % self.every_n_batches == 0:
            self._curve.append(sum(self._right(pl_module.genotype(pl_module.selected))))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the numbers of right edges."""
        assert isinstance(pl_module, SearchStrategy)
        counts = {"edges_right": pl_module.selected, "argmax/edges_right": "argmax"}
        pl_module.log_now(
            {name: float(sum(self._right(pl_module.genotype(kind)))) for name, kind in counts.items()}, prog_bar=False
        )

    def state_dict(self) -> dict[str, Any]:
        """The numbers of right edges so far, for a checkpoint."""
        return {"curve": list(self._curve)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the numbers of a checkpoint."""
        self._curve = list(state_dict["curve"])

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

    def right(self, search: SearchStrategy) -> dict[str, bool]:
        """Whether each edge of the selected architecture equals the teacher's."""
        return dict(zip(self._teacher, self._right(search.genotype(search.selected)), strict=True))

    def columns(self, search: SearchStrategy) -> dict[str, list[str]]:
        """The teacher's choice, and a mark that says whether it was found."""
        marks = [mark(right) for right in self._right(search.genotype(search.selected))]
        return {"teacher": list(self._teacher.values()), "": marks}

    def lines(self, search: SearchStrategy) -> dict[str, str]:
        """The number of right edges, its curve over the run, and what the wrong edge costs that costs most."""
        right = self._right(search.genotype(search.selected))
        lines = {"edges right": f"{sum(right)} of {len(right)}"}
        if len(self._curve) > 1:
            lines["over the run"] = sparkline(self._curve, len(right))
        if not all(right) and len(self._curve) and mixed_ops(search.model):  # a found network has no other candidates
            lines["wrong edges" if right.count(False) > 1 else "wrong edge"] = self._cost_of_errors(search)
        return lines

    def _cost_of_errors(self, search: SearchStrategy) -> str:
        """What would be gained most by the teacher's candidate on a single wrong edge, in a sentence."""
        found = search.genotype(search.selected)
        wrong = [edge for edge, candidate in self._teacher.items() if found[edge] != candidate]
        now = self._test_loss(search, found)
        better = {edge: self._test_loss(search, {**found, edge: self._teacher[edge]}) for edge in wrong}
        edge = min(better, key=better.__getitem__)
        right, loss = plain(self._teacher[edge]), f"{better[edge]:.3g}"
        if len(wrong) > 1:
            return f"{plain(edge)} costs most: with {right} there the test loss is {loss}, not {now:.3g}"
        return f"with {right} on {plain(edge)} the test loss is {loss}, not {now:.3g}"

    @torch.no_grad()
    def _test_loss(self, search: SearchStrategy, genotype: Mapping[str, str]) -> float:
        """The mean test loss of an architecture."""
        like = next(search.model.parameters())
        losses = []
        with search.space.bind(search.one_hot(search.space.choice(Genotype(genotype)))):
            for batch in self._data.test_dataloader():
                losses.append(search.outcome(tuple(part.to(like) for part in batch)).loss.item())
        return sum(losses) / len(losses)

    def _right(self, found: Genotype) -> list[bool]:
        """Whether each edge equals the teacher's."""
        return [found[edge] == candidate for edge, candidate in self._teacher.items()]
