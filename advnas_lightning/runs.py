"""A run's folder: the names of its files, how they are written, and which settings decide what a run finds."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advnas_lightning.reading import read_yaml

SUMMARY, GENOTYPE, METRICS, COSTS = "summary.json", "genotype.json", "metrics.csv", "costs.json"
BATCH = "batch.json"
PICTURE, ERROR, CHECKPOINTS, RETRAINED = "architecture.png", "error.txt", "checkpoints", "retrained"
RANKING, REFINEMENT, EXPORTED = "ranking.json", "refine.json", "export.json"
LAST = "last.ckpt"
HYDRA = ".hydra"  # Hydra's own folder
CONFIG, CHOICES, OVERRIDES = f"{HYDRA}/config.yaml", f"{HYDRA}/hydra.yaml", f"{HYDRA}/overrides.yaml"
SWEEP = "multirun.yaml"  # Hydra's file in the folder of a sweep
UNFINISHED = ".part"  # the ending of a file that is being written

# These settings decide where and how a run is made, but not what it finds.
INCIDENTAL = (
    "callbacks",
    "checkpoint",
    "ckpt_path",
    "export",
    "logger",
    "offload",
    "optimized_metric",
    "refine",
    "refine_minutes",
    "task.callbacks",
    "task.data.num_workers",
    "task.data.root",
    "task.refine",
    "task.table",
    "task.threads",
    "threads",
)
# Only these of the Trainer's arguments decide what a run finds.
DECIDING_TRAINER = (
    "max_epochs",
    "max_steps",
    "max_time",
    "limit_train_batches",
    "overfit_batches",
    "fast_dev_run",
    "precision",
)
REPEATED = ("retrain", "seed", "strategy.genotype")  # these differ between repetitions of one setting
# A run that goes on may train longer, and what it has found may be trained. What depends on a run's length has settings
# of its own, such as a schedule's, or is known to the strategy, such as a temperature. The file of a genotype may have
# been moved; a checkpoint has the genotype itself, and does not go on with another one.
MAY_CHANGE = ("retrain", "strategy.genotype", "task.epochs", "task.retrain_epochs", "trainer.max_epochs")


def decides_result(key: str, *, repetitions: bool = False) -> bool:
    """Whether a setting decides what a run finds.

    Args:
        key: The setting's dotted key.
        repetitions: Whether runs that differ only in their seed count as alike.

    Example:
        >>> [decides_result(key) for key in ("strategy.gamma", "seed", "threads", "trainer.devices")]
        [True, True, False, False]
    """
    if key.startswith("trainer."):
        return key.removeprefix("trainer.") in DECIDING_TRAINER
    others = (*INCIDENTAL, *REPEATED) if repetitions else INCIDENTAL
    return not any(key == other or key.startswith(f"{other}.") for other in others)


def flatten(nested: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested configuration, each with its dotted key. A list or an empty mapping is a value.

    Args:
        nested: The configuration.
        prefix: What each key begins with.

    Example:
        >>> dict(flatten({"task": {"data": {"batches": 5}, "nodes": [1, 2]}, "logger": {}}))
        {'task.data.batches': 5, 'task.nodes': [1, 2], 'logger': {}}
    """
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings that differ, each in words with both of its values. A missing setting is like one that is null.

    Args:
        saved: What a run was made with, by dotted key.
        wanted: What is asked for now.

    Example:
        >>> differences({"seed": 0, "select": None, "task.nodes": 3}, {"seed": 5})
        ['seed is 0, not 5', 'task.nodes is 3, not None']
    """
    found = []
    for key in sorted({*saved, *wanted}):
        values = saved.get(key), wanted.get(key)
        if values[0] != values[1]:
            texts = [str(value).replace("\n", " ") for value in values]
            was, now = texts if texts[0] != texts[1] else map(repr, values)
            found.append(f"{key} is {was}, not {now}")
    return found


def is_retrained(settings: Mapping[str, Any]) -> bool:
    """Whether what a run finds is trained from scratch afterwards. A run of ``strategy=fixed`` is such a training.

    Args:
        settings: The settings of the run.

    Example:
        >>> is_retrained({"retrain": True, "retraining": False}), is_retrained({"retrain": True, "retraining": True})
        (True, False)
    """
    return settings.get("retrain") is True and settings.get("retraining") is not True


@dataclass(frozen=True)
class RunFolder:
    """The files that a run leaves in its folder. Scripts rely on their names.

    Attributes:
        path: The folder.

    Example:
        >>> RunFolder(Path("outputs/toy")).summary.as_posix()
        'outputs/toy/summary.json'
    """

    path: Path

    @classmethod
    def of(cls, checkpoint: Path) -> RunFolder:
        """The folder of the run that has saved a checkpoint.

        Args:
            checkpoint: The path of the checkpoint, which need not be there.

        Example:
            >>> RunFolder.of(Path("toy/checkpoints/last.ckpt")).path.name
            'toy'
        """
        return cls(checkpoint.resolve().parents[1])

    @property
    def summary(self) -> Path:
        """The results, one flat JSON object. A run writes this file last."""
        return self.path / SUMMARY

    @property
    def genotype(self) -> Path:
        """The architectures that the search has found."""
        return self.path / GENOTYPE

    @property
    def metrics(self) -> Path:
        """The values that were logged during training."""
        return self.path / METRICS

    @property
    def costs(self) -> Path:
        """The costs of the candidates, as they were measured."""
        return self.path / COSTS

    @property
    def batch(self) -> Path:
        """The shapes and types of a batch, without its contents."""
        return self.path / BATCH

    @property
    def picture(self) -> Path:
        """A drawing of the found architecture."""
        return self.path / PICTURE

    @property
    def error(self) -> Path:
        """The reason why a job of a sweep has failed."""
        return self.path / ERROR

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def config(self) -> Path:
        """The full configuration of the run."""
        return self.path / CONFIG

    @property
    def refinement(self) -> Path:
        """The short trainings that have decided between what the search has found."""
        return self.path / REFINEMENT

    @property
    def retrained(self) -> RunFolder:
        """The folder of a second run, which trains the found architecture from scratch."""
        return RunFolder(self.path / RETRAINED)

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen from each of Hydra's groups, such as the task; empty if the folder does not say it."""
        return dict(self._runtime("choices") or {})

    @property
    def started_in(self) -> Path | None:
        """The folder in which the run was started, from which its relative paths are; ``None`` if it is not known."""
        found = self._runtime("cwd")
        return None if found is None else Path(str(found))

    def _runtime(self, name: str) -> Any:
        try:
            return read_yaml(self.path / CHOICES)["hydra"]["runtime"][name]
        except (KeyError, OSError, TypeError, ValueError):
            return None

    @property
    def has_summary(self) -> bool:
        """Whether the run has left a complete summary."""
        try:
            return isinstance(json.loads(self.summary.read_text(encoding="utf-8")), dict)
        except (FileNotFoundError, ValueError):
            return False

    def results(self) -> dict[str, float]:
        r"""The last value of everything that was logged, and the numbers of the summary, by name.

        Example:
            >>> from tempfile import mkdtemp
            >>> run = RunFolder(Path(mkdtemp()))
            >>> _ = run.metrics.write_text("step,train/loss\n1,0.5\n2,0.25\n3,\n")
            >>> run.results()["train/loss"]
            0.25
        """
        found: dict[str, Any] = {}
        if self.metrics.exists():
            with self.metrics.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    found |= {name: float(value) for name, value in row.items() if value}
        summary = json.loads(self.summary.read_text(encoding="utf-8")) if self.has_summary else {}
        found |= {name: value for name, value in summary.items() if value is not None}  # the log has what is not finite
        if "loss" in summary:
            found.setdefault("loss", found.get("selected/test/loss"))
        return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}

    def save_error(self, line: str, error: Exception) -> None:
        """Write an error to its file: one line, and below it the traceback."""
        text = f"{line}\n\n{''.join(traceback.format_exception(error))}"
        self.error.write_text(text, encoding="utf-8", errors="backslashreplace")

    def read_error(self) -> str:
        """The first line of the error file; ``interrupted`` if there is no such file."""
        return self.error.read_text(encoding="utf-8").splitlines()[0] if self.error.exists() else "interrupted"


def in_run(path: str | Path, name: str) -> Path:
    """A file of a run, where a folder is named in its place.

    Args:
        path: The file itself, or a run's folder.
        name: The file's name in such a folder.

    Example:
        >>> in_run("genotype.json", GENOTYPE).as_posix(), in_run(".", GENOTYPE).as_posix()
        ('genotype.json', 'genotype.json')
    """
    return Path(path) / name if Path(path).is_dir() else Path(path)


def checkpoint_in(path: str | Path) -> Path:
    """The path of a run's newest checkpoint.

    Args:
        path: The folder of the run, or of its checkpoints, or a checkpoint itself.

    Raises:
        FileNotFoundError: If there is nothing at the path, or a folder without checkpoints.
        ValueError: If there is a file of another kind.

    Example:
        >>> from tempfile import mkdtemp
        >>> run = Path(mkdtemp())
        >>> (run / "checkpoints").mkdir()
        >>> checkpoint_in(run).relative_to(run).as_posix()
        'checkpoints/last.ckpt'
    """
    path = Path(path)
    if not path.is_dir():
        if path.name != LAST and not path.exists():  # where the last one is missing, the one before it is taken
            raise FileNotFoundError(f"{path}: there is no such folder or checkpoint")
        if path.suffix != Path(LAST).suffix:
            raise ValueError(f"{path} is no checkpoint: give the folder of a run")
        return path
    if (path / CHECKPOINTS).is_dir():
        return path / CHECKPOINTS / LAST
    if path.name == CHECKPOINTS:
        return path / LAST
    raise FileNotFoundError(f"{path} has no folder {CHECKPOINTS}: give the folder of one run")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "file")
        >>> _ = path.write_text("whole")
        >>> sha256(path)[:8]
        '5d5766cf'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A context that gives another path to write to, and at its end moves that file to ``path``.

    So the file at ``path`` is always complete. A process that is killed leaves the old one, and so does an error, as of
    a full disk. If that names no file, it gets the name of this one.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "file")
        >>> with replacing(path) as unfinished:
        ...     _ = unfinished.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    os.replace(unfinished, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is complete at any moment, see :func:`replacing`.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "file")
        >>> write_text(path, "whole")
        >>> path.read_text()
        'whole'
    """
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is complete at any moment, see :func:`replacing`. Numbers that are not finite are null.

    Example:
        >>> from tempfile import mkdtemp
        >>> run = RunFolder(Path(mkdtemp()))
        >>> write_json(run.summary, {"seed": 0})
        >>> run.has_summary
        True
    """
    text = json.dumps(_without_infinite(content), indent=2, allow_nan=False)
    write_text(path, f"{text}\n")


def _without_infinite(content: Any) -> Any:
    """Values for JSON, which has no NaN and no infinity."""
    if isinstance(content, Mapping):
        return {key: _without_infinite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_infinite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
