"""The log of a run's metrics, in a file that survives crashes."""

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
    """Writes a row of ``metrics.csv`` for every call, at once, and continues the file if there is one.

    Lightning's CSVLogger would delete an existing file. A
    :class:`~advnas_lightning.callbacks.checkpoint.LastCheckpoint` saves the number of rows, so that a resumed run drops
    the rows that it is about to write again.

    Args:
        folder: The folder of the file.

    Attributes:
        rows: The number of rows.

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
        self._is_torn = False  # whether the last line is not whole
        kept = self._read()
        self.rows = len(kept)
        self._columns = list(kept[0]) if kept else []

    @property
    def name(self) -> str:
        """An empty text: a run has no name but its folder's."""
        return ""

    @property
    def version(self) -> str:
        """An empty text: a folder holds one run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing, since the run's folder holds its whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row of values by name."""
        row = {name: float(value) if name != "epoch" else int(value) for name, value in metrics.items()}
        row["step"] = self.rows if step is None else step
        new = row.keys() - set(self._columns)
        if new or self._is_torn:
            columns = sorted({*self._columns, *new})
            self._write(columns, self._read())
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines(self._columns, [row]))
        self.rows += 1

    @rank_zero_only
    def cut(self, first: int, end: int) -> None:
        """Drop the rows from ``first`` to before ``end``."""
        if first < end:
            rows = self._read()
            self._write(self._columns, rows[:first] + rows[end:])

    def _read(self) -> list[dict[str, Any]]:
        """The rows. A last line that is not whole, as a full disk may leave it, is none."""
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self._is_torn = len(whole) < len(content)
        try:
            return list(csv.DictReader(io.StringIO(whole.decode(), newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{self.path} is damaged ({error}): move it away, and the run begins a new one") from None

    def _write(self, columns: list[str], rows: list[dict[str, Any]]) -> None:
        """Replace the file by a new one, which is complete under another name before it takes the old one's place."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as unfinished:
            header = dict(zip(columns, columns, strict=True))
            unfinished.write_text(_lines(columns, [header, *rows]), encoding="utf-8", newline="")
        self._columns, self.rows, self._is_torn = columns, len(rows), False


@contextmanager
def run_loggers(logger: Any, folder: Path) -> Iterator[list[Logger]]:
    """A context that gives a run's loggers, of which the first is the log in its folder.

    Args:
        logger: The configured logger. A value that is no logger adds none.
        folder: The folder of the run.

    Example:
        >>> from tempfile import mkdtemp
        >>> with run_loggers(None, Path(mkdtemp())) as loggers:
        ...     [type(logger).__name__ for logger in loggers]
        ['RunLog']
    """
    others = [logger] if isinstance(logger, Logger) and not isinstance(logger, RunLog) else []
    try:
        yield [RunLog(folder), *others]
    finally:
        if isinstance(logger, WandbLogger):  # the next job of a sweep in this process is another run
            import wandb

            wandb.finish()


def _lines(columns: list[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
