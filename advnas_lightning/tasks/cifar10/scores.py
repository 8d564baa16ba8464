"""The scores of the cells that a search finds, from the table of NAS-Bench-201."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from advnas_lightning.callbacks.standing import WORDS
from advnas_lightning.callbacks.summary import SummaryCallback
from advnas_lightning.engine.policy import Selection
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.published import TABLE_2, TABLE_4
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.nasbench201 import measure, open_table
from advnas_lightning.tasks.cifar10.tables import ACCURACIES, score_column

TEST, LATENCY = "cifar10_test", "cifar10_latency_ms"
IMAGES = {"cifar10_test": "test", "cifar10_valid": "validation"}


class CellScores(SummaryCallback):
    """Scores the found cells, argmax and process_best, by the table of NAS-Bench-201.

    After every epoch it logs their test accuracies on CIFAR-10 as ``nasbench201/argmax`` and
    ``nasbench201/process_best``. A table without test accuracies gives validation accuracies in their place, as
    ``nasbench201_valid/argmax`` and ``nasbench201_valid/process_best``. At the end it adds all scores of the table to
    the summary, and the paper's own result beside a test accuracy.

    Args:
        table: A table, see :func:`~advnas_lightning.tasks.cifar10.nasbench201.open_table`. Without one
            there are no scores.
        strategy: The strategy's name in the paper's tables.
        zero_op: Whether the operation ``none`` is among the candidates, as in the paper's Table 4. Its Table 2 is
            without it.

    Raises:
        ValueError: The table cannot be read.

    Example:
        >>> from advnas_lightning import Fixed
        >>> from advnas_lightning.tasks.cifar10.model import NASBench201
        >>> cell = Genotype.from_nasbench201("|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|")
        >>> search = Fixed(NASBench201(channels=1, cells=1, stages=1, zero_op=True), genotype=cell)
        >>> CellScores().lines(search)
        {'arg max': '|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|', \
'arg max, size': '0.0733 M parameters, 7.78 M multiply-accumulates'}
    """

    def __init__(self, table: str | Path | None = None, *, strategy: str = "", zero_op: bool = False) -> None:
        self._table = open_table(table) if table else None  # an empty environment variable means no table
        self.column = score_column(self._table)
        self._published = (TABLE_4 if zero_op else TABLE_2).get(strategy, {})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracy of both cells, if the cell exists and the table has its accuracy."""
        assert isinstance(pl_module, SearchStrategy)
        name = "nasbench201" if self.column == TEST else "nasbench201_valid"
        scores = {f"{name}/{kind}": self._scores(cell) for kind, cell in _kinds(pl_module).items()}
        known = {name: score[self.column] for name, score in scores.items() if self.column in score}
        if known:
            pl_module.log_now(known)

    def score(self, search: SearchStrategy) -> str:
        """The accuracy of the selected cell in the benchmark, and on which images it is; empty without a score."""
        found = self._scores(_kinds(search)[search.selected])
        return f"{found[self.column]:.2f} % {IMAGES[self.column]}" if self.column in found else ""

    def known(self, genotype: Genotype) -> dict[str, float]:
        """The accuracy of a cell in the benchmark, if the table has it."""
        found = self._scores(genotype)
        return {self.column: found[self.column]} if self.column in found else {}

    def summary(self, search: SearchStrategy) -> dict[str, Any]:
        """Each cell as a text, with its scores, its rank, and the size of the benchmark's network with it."""
        summary: dict[str, Any] = {}
        for kind, cell in _kinds(search).items():
            found = {"arch": cell.to_nasbench201(), **measure(cell), **self._scores(cell)}
            rank = self._rank(cell)
            if rank is not None:
                found["rank" if self.column == TEST else "rank_valid"] = rank[0]
            summary |= {f"{kind}/{name}": value for name, value in found.items()}
        return summary

    def lines(self, search: SearchStrategy) -> dict[str, str]:
        """Each cell, its scores beside the paper's result, and the size of NAS-Bench-201's network with it."""
        lines = {}
        for kind, cell in _kinds(search).items():
            name = WORDS[kind]
            lines[name] = cell.to_nasbench201()
            scores, rank = self._scores(cell), self._rank(cell)
            if self._table is not None and not scores:
                lines[f"{name}, scores"] = "the table has no such cell"
            for column, title in ACCURACIES.items():
                if column in scores:
                    text = f"{scores[column]:.2f} %"
                    if column == self.column:
                        known = column == TEST and kind in self._published
                        text += f", the paper's {self._published[kind]} %" if known else ""
                        text += f" (rank {rank[0]} of {rank[1]})" if rank else ""
                    lines[f"{name}, {title}"] = text
            if LATENCY in scores:
                lines[f"{name}, CIFAR-10 latency"] = f"{scores[LATENCY]:.4g} ms per batch"
            size = measure(cell)
            parameters, macs = size["params_millions"], size["macs_millions"]
            lines[f"{name}, size"] = f"{parameters:.3g} M parameters, {macs:.3g} M multiply-accumulates"
        return lines

    def _scores(self, cell: Genotype) -> Mapping[str, float]:
        return {} if self._table is None else self._table.scores(cell)

    def _rank(self, cell: Genotype) -> tuple[int, int] | None:
        return None if self._table is None else self._table.rank(cell, self.column)


def _kinds(search: SearchStrategy) -> dict[Selection, Genotype]:
    """The found cells by kind; there may be no process-best one."""
    best = search.process_best
    return {"argmax": search.genotype(), **({} if best is None else {"process_best": best})}
