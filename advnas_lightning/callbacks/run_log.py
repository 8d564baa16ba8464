"""A run's curves, in a file that outlives crashes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from advnas_lightning.runs import METRICS, replacing


class RunLog(Logger):
    """Writes ``metrics.csv``, a row for every call, at once; goes on with the file where there is one.

    Lightning's CSVLogger deletes the file that it finds. A
    :class:`~advnas_lightning.checkpoints.LastCheckpoint` remembers how many rows there were when it saved, so that a
    resumed run drops those that it is about to write again.

    Args:
        folder: where the file is.

    Attributes:
        rows: how many there are.

    Example:
        >>> from tempfile import mkdtemp
        >>> log = RunLog(mkdtemp())
        >>> log.log_metrics({"loss": 0.5}, step=1)
        >>> log.log_metrics({"accuracy": 0.25}, step=2)
        >>> print(log.path.read_text().strip())
        accuracy,loss,step
        ,0.5,1
        0.25,,2
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / METRICS
        kept = self._read()
        self.rows = len(kept)
        self._columns = list(kept[0]) if kept else []

    @property
    def name(self) -> str:
        """A run has no name but its folder's."""
        return ""

    @property
    def version(self) -> str:
        """A run is its folder's only one."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a run's folder has its whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        row = {name: float(value) if name != "epoch" else int(value) for name, value in metrics.items()}
        row["step"] = self.rows if step is None else step
        new = row.keys() - set(self._columns)
        if new:
            columns = sorted({*self._columns, *new})
            self._write(columns, self._read())
        with self.path.open("a", newline="") as file:
            file.write(_lines(self._columns, [row]))
        self.rows += 1

    @rank_zero_only
    def cut(self, rows: int) -> None:
        """Keep so many rows, the first ones."""
        if rows < self.rows:
            self._write(self._columns, self._read()[:rows])

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, columns: list[str], rows: list[dict[str, Any]]) -> None:
        """Put a whole file in the place of the old one, under another name first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as unfinished:
            unfinished.write_text(_lines(columns, [dict(zip(columns, columns, strict=True)), *rows]), newline="")
        self._columns, self.rows = columns, len(rows)


@contextmanager
def run_loggers(logger: Any, folder: Path) -> Iterator[list[Logger]]:
    """A run's loggers: the log in its folder is always one of them.

    Args:
        logger: as configured; none, where it is not a logger.
        folder: the run's.
    """
    others = [logger] if isinstance(logger, Logger) and not isinstance(logger, RunLog) else []
    try:
        yield [RunLog(folder), *others]
    finally:
        if isinstance(logger, WandbLogger):  # a sweep's next job in this process is a run of its own
            import wandb

            wandb.finish()


def _lines(columns: list[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
