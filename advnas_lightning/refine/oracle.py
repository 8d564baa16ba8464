"""A table of the benchmark in the place of trainings, so that a refinement takes a second."""

from __future__ import annotations

from pathlib import Path

from advnas_lightning.refine.climb import Train
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.tables import Table

__all__ = ["COLUMN", "EPOCHS", "table_oracle"]

COLUMN, EPOCHS = "cifar10_valid_12ep", 12  # the score, and what such a training takes


def table_oracle(table: Table, source: str = "the table") -> Train:
    """A function that looks a cell's score up in NAS-Bench-201's table: the validation accuracy after 12 epochs.

    Args:
        table: The table.
        source: What the table is called in messages.

    Raises:
        ValueError: The table has no such scores, or a cell is not in it.

    Example:
        >>> from advnas_lightning.tasks.cifar10.tables import MemoryTable
        >>> train = table_oracle(MemoryTable(["cifar10_valid_12ep"], {"|none~0|": [9.8]}))
        >>> train(Genotype({"0->1": "none"}), Path(), 12)
        9.8
    """
    if COLUMN not in table.columns:
        raise ValueError(f"{source} has no column {COLUMN}: convert NATS-Bench's own files with advnas table")

    def score(genotype: Genotype, folder: Path, epochs: int, repeat: int = 0) -> float:
        scores = table.scores(genotype)
        if COLUMN not in scores:
            raise ValueError(f"{source} has no cell {genotype.to_nasbench201()}")
        return scores[COLUMN]

    return score
