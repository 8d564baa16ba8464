"""What the suite has measured: its rows, the machine, and how two of its files compare."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from advnas_lightning.cli.cost_measuring import device_name
from advnas_lightning.runs import write_json

ROOT = Path(__file__).parents[1]
PACKAGES = ("advnas-lightning", "lightning", "torchvision", "torchmetrics", "hydra-core")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        case: The name of the case.
        what: What was measured in it.
        ours: The median for this package.
        unit: The unit of ``ours`` and ``other``.
        against: What was measured beside it; empty if there was nothing.
        other: The median for that.
        ratio: The median of the ratios of pairs, ours to the other.
        quartiles: The first and the third quartile of these ratios.
        memory: The peak of our memory in MiB.
        other_memory: The peak of the other's.
        n: The number of pairs, or of single measurements.
        places: Where in the code it happens, of a row that counts something.

    Example:
        >>> Row.of_pairs("toy", "iteration", "bare loop", [0.002, 0.004, 0.006], [0.001, 0.001, 0.002]).ratio
        3.0
    """

    case: str
    what: str
    ours: float
    unit: str = "ms"
    against: str = ""
    other: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    memory: float | None = None
    other_memory: float | None = None
    n: int = 1
    places: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_pairs(
        cls, case: str, what: str, against: str, ours: Sequence[float], other: Sequence[float], **values: Any
    ) -> Row:
        """The row of seconds that were measured in turns."""
        ratios = [mine / its for mine, its in zip(ours, other, strict=True)]
        low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return cls(
            case,
            what,
            1e3 * median(ours),
            against=against,
            other=1e3 * median(other),
            ratio=median(ratios),
            quartiles=(low, high),
            n=len(ratios),
            **values,
        )

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells the row from the others of a file."""
        return self.case, self.what, self.against

    def cells(self) -> list[str]:
        """The cells of the row, as texts."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3f}"
        if self.quartiles is not None:
            ratio += " ({:.3f} to {:.3f})".format(*self.quartiles)
        other = "" if self.other is None else _number(self.other, self.unit)
        memory = ["" if size is None else f"{size:.1f}" for size in (self.memory, self.other_memory)]
        return [self.case, self.what, _number(self.ours, self.unit), self.against, other, ratio, *memory, str(self.n)]


HEADER = ["case", "what", "ours", "beside it", "its", "ours / its (quartiles)", "our MiB", "its MiB", "n"]


@dataclass(frozen=True)
class Results:
    """The rows of a run of the suite, and where they were measured.

    Attributes:
        hardware: The machine, as far as times depend on it.
        versions: The versions of Python and of the libraries.
        commit: The commit of this repository, with a note if files were changed.
        small: Whether the cases were tiny, so that the numbers say nothing.
        rows: The rows.

    Example:
        >>> Results.here(small=True).rows
        []
    """

    hardware: dict[str, Any]
    versions: dict[str, str]
    commit: str
    small: bool
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def here(cls, *, small: bool) -> Results:
        """No rows yet, on this machine."""
        on_gpu = torch.cuda.is_available()
        hardware = {
            "cpu": device_name(torch.device("cpu")),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": device_name(torch.device("cuda")) if on_gpu else None,
        }
        versions = {"python": platform.python_version(), "torch": torch.__version__}  # with the build
        versions |= {name: version(name) for name in PACKAGES}
        return cls(hardware, versions, _commit(), small)

    @classmethod
    def read(cls, path: Path) -> Results:
        """The results in a file.

        Raises:
            ValueError: It is missing, or no file of the suite.
        """
        try:
            values = json.loads(path.read_text())
            rows = [Row(**{**row, "quartiles": row["quartiles"] and tuple(row["quartiles"])}) for row in values["rows"]]
            return cls(**{**values, "rows": rows})
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{path} is no file that python -m benchmarks --output has written") from None

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        write_json(path, asdict(self))

    def differences(self, other: Results) -> list[str]:
        """What is different on the machine of the other results, one text for each thing."""
        return [
            f"{name}: {theirs.get(name)} there, {ours.get(name)} here"
            for ours, theirs in ((self.hardware, other.hardware), (self.versions, other.versions))
            for name in {**ours, **theirs}
            if ours.get(name) != theirs.get(name)
        ]

    def compared(self, before: Results) -> list[list[str]]:
        """A table of the rows that another file has, too. The first line is the header.

        Raises:
            ValueError: One of them is small, or they have no row in common.
        """
        if self.small != before.small:
            raise ValueError("only one of the two was measured with --small: measure both in the same way")
        there = {row.key: row for row in before.rows}
        common = [(there[row.key], row) for row in self.rows if row.key in there]
        if not common:
            raise ValueError("the two have no row in common: measure the same cases")
        same_machine = self.hardware == before.hardware
        lines = [["case", "what", "beside it", "before", "now", "now / before", "ratio before", "ratio now", "MiB"]]
        for old, new in common:
            change = f"{new.ours / old.ours:.3f}" if same_machine and old.ours else ""
            ratios = ["" if row.ratio is None else f"{row.ratio:.3f}" for row in (old, new)]
            sizes = ["" if row.memory is None else f"{row.memory:.1f}" for row in (old, new)]
            times = [_number(row.ours, row.unit) for row in (old, new)]
            memory = " to ".join(sizes) if any(sizes) else ""
            lines.append([new.case, new.what, new.against, *times, change, *ratios, memory])
        return lines


def markdown(lines: Sequence[Sequence[str]], *, header: bool = True) -> str:
    """A table in Markdown.

    Example:
        >>> print(markdown([["case", "n"], ["toy", "3"]]))
        | case | n |
        | --- | --- |
        | toy | 3 |
    """
    texts = [f"| {' | '.join(line)} |" for line in lines]
    if header:
        texts.insert(1, "| --- " * len(lines[0]) + "|")
    return "\n".join(texts)


def _number(value: float, unit: str) -> str:
    digits = 0 if value == int(value) else 1 if value >= 100 else 2 if value >= 10 else 3
    return f"{value:.{digits}f} {unit}"


def _commit() -> str:
    """The commit of the repository, if it is one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty= with changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
