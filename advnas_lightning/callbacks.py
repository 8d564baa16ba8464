"""What a run does beside its steps: its genotype file, its test curve, its scores."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_only

from advnas_lightning.benchmarks.nasbench201 import TEST_COLUMNS, measure, open_table
from advnas_lightning.report.published import TABLE_2, TABLE_4
from advnas_lightning.space import Genotype
from advnas_lightning.strategies import SearchStrategy
from advnas_lightning.strategies.base import positive


def write_json(path: Path, content: Any) -> None:
    """Write a file that is always whole: under a temporary name first, then renamed."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


class ConvergenceStopping(EarlyStopping):
    """Ends a search whose choice is made: when the mean entropy of the edges' probabilities is small (Appendix H).

    The mean is that of the edges with a choice: an edge with one candidate has no entropy.

    Args:
        entropy: in nats; 0.1 is that of an edge with four candidates, one of them with p = 0.984 and the rest alike.

    Raises:
        ValueError: not above 0.
    """

    def __init__(self, entropy: float = 0.1) -> None:
        positive("entropy", entropy)
        super().__init__(
            "entropy",
            stopping_threshold=entropy,
            patience=sys.maxsize,  # entropy may rise as long as it likes
            check_on_train_epoch_end=True,
        )
        self.entropy = entropy

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell how far the logged mean over all edges must fall for that."""
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, SearchStrategy)
        candidates = pl_module.space.candidates
        self.stopping_threshold = self.entropy * sum(len(row) > 1 for row in candidates) / len(candidates)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, unless θ has not moved yet."""
        assert isinstance(pl_module, SearchStrategy)
        if pl_module.architecture_steps:
            super().on_train_epoch_end(trainer, pl_module)


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


class PeriodicTest(Callback):
    """Logs ``test/loss`` of the arg-max architecture on a fresh test batch every few training batches.

    The batches are the data module's ``test_batch(index)``.

    Args:
        every_n_batches: how often.

    Raises:
        ValueError: not a positive whole number.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        if not isinstance(every_n_batches, int) or every_n_batches < 1:
            raise ValueError(f"every_n_batches={every_n_batches!r} must be a whole number of at least 1")
        self.every_n_batches = every_n_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate, if it is time."""
        batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if batches % self.every_n_batches:
            return
        assert isinstance(pl_module, SearchStrategy)
        batch = trainer.datamodule.test_batch(batches)  # type: ignore[attr-defined]
        batch = trainer.precision_plugin.convert_input(batch)
        batch = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
        with torch.no_grad(), pl_module.space.bind(pl_module.one_hot(pl_module.argmax_choice())):
            pl_module.log_now({"test/loss": pl_module.outcome(batch).loss}, prog_bar=False)


class Findings(Callback):
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


class TeacherComparison(Findings):
    """Counts the edges that equal the teacher's, on the toy task."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the teacher.

        Raises:
            MisconfigurationException: the student has other edges or candidates.
        """
        self._teacher: Genotype = trainer.datamodule.teacher  # type: ignore[attr-defined]
        assert isinstance(pl_module, SearchStrategy)
        try:
            pl_module.space.choice(self._teacher)
        except ValueError as error:
            raise MisconfigurationException(f"the teacher is not of the student's space: {error}") from None

    def summary(self, search: SearchStrategy) -> dict[str, Any]:
        """How many edges there are, and are right."""
        return {
            "edges_right": sum(self._right(search.genotype(search.selected))),
            "argmax/edges_right": sum(self._right(search.genotype())),
            "edges": len(self._teacher),
        }

    def columns(self, search: SearchStrategy) -> dict[str, list[str]]:
        """The teacher's choice, and whether it was found."""
        marks = ["✓" if right else "" for right in self._right(search.genotype(search.selected))]
        return {"teacher": list(self._teacher.values()), "": marks}

    def lines(self, search: SearchStrategy) -> dict[str, str]:
        """The count."""
        return {"edges right": f"{sum(self._right(search.genotype(search.selected)))} of {len(self._teacher)}"}

    def _right(self, found: Genotype) -> list[bool]:
        return [found[edge] == candidate for edge, candidate in self._teacher.items()]


class CellScores(Findings):
    """Scores the found cells, argmax and process_best, by NAS-Bench-201's table.

    After every epoch it logs the accuracy on CIFAR-10's test images as ``nasbench201/argmax`` and
    ``nasbench201/process_best``; at the end it adds all the table's scores to the summary, and the paper's own result.

    Args:
        table: see :func:`~advnas_lightning.benchmarks.nasbench201.open_table`; without one there are no scores.
        strategy: the strategy's name in the paper's tables.
        zero_op: whether the operation ``none`` is among the candidates: the paper's Table 4, else its Table 2.

    Raises:
        ValueError: the table cannot be read.
    """

    column = "cifar10_test"

    def __init__(self, table: str | Path | None = None, *, strategy: str = "", zero_op: bool = False) -> None:
        self._table = open_table(table) if table else None  # an empty environment variable names none
        self._published = (TABLE_4 if zero_op else TABLE_2).get(strategy, {})
        self._strategy = strategy

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracy of both kinds of cell, as far as they and it are known."""
        assert isinstance(pl_module, SearchStrategy)
        scores = {f"nasbench201/{kind}": self._scores(cell) for kind, cell in _kinds(pl_module).items()}
        known = {name: score[self.column] for name, score in scores.items() if self.column in score}
        if known:
            pl_module.log_now(known)

    def summary(self, search: SearchStrategy) -> dict[str, Any]:
        """Each cell as a string, with its scores, its rank, and the size of the benchmark's network with it."""
        summary: dict[str, Any] = {}
        for kind, cell in _kinds(search).items():
            found = {"arch": cell.to_nasbench201(), **measure(cell), **self._scores(cell)}
            rank = self._rank(cell)
            if rank is not None:
                found["rank"] = rank[0]
            summary |= {f"{kind}/{name}": value for name, value in found.items()}
        return summary

    def lines(self, search: SearchStrategy) -> dict[str, str]:
        """Each cell, its scores, and the paper's."""
        lines = {}
        for kind, cell in _kinds(search).items():
            lines[kind] = cell.to_nasbench201()
            scores, rank = self._scores(cell), self._rank(cell)
            for column, dataset in TEST_COLUMNS.items():
                if column in scores:
                    place = f" (rank {rank[0]} of {rank[1]})" if rank and column == self.column else ""
                    lines[f"{kind}, {dataset}"] = f"{scores[column]:.2f} %{place}"
            if scores and kind in self._published:
                lines[f"{kind}, the paper's {self._strategy}"] = f"{self._published[kind]} %"
        return lines

    def _scores(self, cell: Genotype) -> Mapping[str, float]:
        return {} if self._table is None else self._table.scores(cell)

    def _rank(self, cell: Genotype) -> tuple[int, int] | None:
        return None if self._table is None else self._table.rank(cell, self.column)


def _kinds(search: SearchStrategy) -> dict[str, Genotype]:
    best = search.process_best
    return {"argmax": search.genotype(), **({} if best is None else {"process_best": best})}
