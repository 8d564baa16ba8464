"""A run's folder: the names of its files, how they are written, and which settings decide what a run finds."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUMMARY, GENOTYPE, METRICS, COSTS = "summary.json", "genotype.json", "metrics.csv", "costs.json"
PICTURE, ERROR, CHECKPOINTS, RETRAINED = "architecture.png", "error.txt", "checkpoints", "retrained"
CONFIG, CHOICES, OVERRIDES = ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"

# These settings decide where and how a run is made, and not what it finds.
INCIDENTAL = (
    "callbacks",
    "checkpoint",
    "ckpt_path",
    "logger",
    "offload",
    "task.callbacks",
    "task.data.num_workers",
    "task.data.root",
    "task.table",
    "task.threads",
    "threads",
)
# Of the Trainer's arguments, those that decide what a run finds.
DECIDING_TRAINER = (
    "max_epochs",
    "max_steps",
    "max_time",
    "limit_train_batches",
    "overfit_batches",
    "fast_dev_run",
    "precision",
)
REPEATED = ("retrain", "seed", "strategy.genotype")  # what differs between repetitions of one setting


def decides_result(key: str, *, repetitions: bool = False) -> bool:
    """Whether a setting decides what a run finds.

    Args:
        key: the setting, dotted.
        repetitions: whether runs that differ in their seed alone count as alike.

    Example:
        >>> [decides_result(key) for key in ("strategy.gamma", "seed", "threads", "trainer.devices")]
        [True, True, False, False]
    """
    if key.startswith("trainer."):
        return key.removeprefix("trainer.") in DECIDING_TRAINER
    others = (*INCIDENTAL, *REPEATED) if repetitions else INCIDENTAL
    return not any(key == other or key.startswith(f"{other}.") for other in others)


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves in its folder; scripts rely on these names.

    Attributes:
        path: the folder.

    Example:
        >>> RunFolder(Path("outputs/toy")).summary.as_posix()
        'outputs/toy/summary.json'
    """

    path: Path

    @property
    def summary(self) -> Path:
        """The last file that a run writes: one flat object."""
        return self.path / SUMMARY

    @property
    def genotype(self) -> Path:
        """The found architectures."""
        return self.path / GENOTYPE

    @property
    def costs(self) -> Path:
        """What the candidates cost."""
        return self.path / COSTS

    @property
    def picture(self) -> Path:
        """The found architecture, drawn."""
        return self.path / PICTURE

    @property
    def error(self) -> Path:
        """Why a job of a sweep failed."""
        return self.path / ERROR

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def config(self) -> Path:
        """The full configuration."""
        return self.path / CONFIG

    @property
    def retrained(self) -> RunFolder:
        """The training of what a search found, from scratch."""
        return RunFolder(self.path / RETRAINED)

    @property
    def has_summary(self) -> bool:
        """Whether the run has left a whole summary."""
        try:
            return isinstance(json.loads(self.summary.read_text()), dict)
        except (FileNotFoundError, ValueError):
            return False

    def save_error(self, line: str, error: Exception) -> None:
        """Leave an error: one line, and below it where it came from."""
        self.error.write_text(f"{line}\n\n{''.join(traceback.format_exception(error))}")

    def read_error(self) -> str:
        """The line that a job has left."""
        return self.error.read_text().splitlines()[0] if self.error.exists() else "interrupted"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A context that gives another path to write to, and then puts that file in the place of ``path``.

    So the file is always whole: a process that is killed leaves the old one.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "file")
        >>> with replacing(path) as unfinished:
        ...     _ = unfinished.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    unfinished = path.with_name(path.name + ".part")
    yield unfinished
    os.replace(unfinished, path)


def write_json(path: Path, content: Any) -> None:
    """Write a file of JSON that is always whole."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
