"""The file of scores, so that a ranking that was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from advnas_lightning.cost.plan import Choice
from advnas_lightning.ranking.scoring import Score

__all__ = ["ScoresFile", "content_key"]

FORMAT = b"1"  # another one where the same weights and batches give other scores


class ScoresFile:
    """Scores by architecture, each of which is a line of a file as soon as it is known.

    A score counts only if its key is this one's: it has been computed with the same weights, batches and calibration.
    Others stay in the file for their time. A last line that is not whole, as a killed process may leave it, is dropped.

    Args:
        path: The file; ``None`` to keep the scores in memory alone.
        key: What decides the scores, see :func:`content_key`.
        candidates: The names of each edge's candidates.
        canonical: Gives the choice that stands for all those that are one network.

    Attributes:
        known: The scores of this key, by that choice.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "scores.jsonl")
        >>> ScoresFile(path, "a", [("x", "y")]).add((1,), Score(0.5, (0.25, 0.75), {"accuracy": 0.9}))
        >>> ScoresFile(path, "a", [("x", "y")]).known
        {(1,): Score(loss=0.5, halves=(0.25, 0.75), metrics={'accuracy': 0.9})}
        >>> ScoresFile(path, "b", [("x", "y")]).known
        {}
    """

    def __init__(
        self,
        path: Path | None,
        key: str,
        candidates: Sequence[Sequence[str]],
        canonical: Callable[[Choice], Choice] = lambda choice: choice,
    ) -> None:
        self._path, self._key, self._candidates, self._canonical = path, key, candidates, canonical
        self.known: dict[Choice, Score] = {}
        if path is not None and path.is_file():
            self._read(path)

    def add(self, choice: Choice, score: Score) -> None:
        """Keep a score, and write its line."""
        self.known[choice] = score
        if self._path is None:
            return
        line = {
            "key": self._key,
            "architecture": [row[index] for row, index in zip(self._candidates, choice, strict=True)],
            "loss": _written(score.loss),
            "halves": [_written(half) for half in score.halves],
            "metrics": {name: _written(value) for name, value in score.metrics.items()},
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # one write of the system, so that the line is there or it is not

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            try:
                entry: Any = json.loads(line)
                if entry["key"] == self._key:
                    names = zip(self._candidates, entry["architecture"], strict=True)
                    first, second = map(_read, entry["halves"])
                    metrics = {str(name): _read(value) for name, value in entry["metrics"].items()}
                    score = Score(_read(entry["loss"]), (first, second), metrics)
                    self.known[self._canonical(tuple(list(row).index(name) for row, name in names))] = score
            except (KeyError, TypeError, ValueError, AttributeError):  # damaged: that architecture is scored again
                continue


def content_key(*parts: Any) -> str:
    """A text that differs where the contents of tensors, or other values, differ.

    Args:
        parts: Mappings, sequences, tensors and plain values. Of objects of other kinds only the tensors in them count,
            as far as they can be found.

    Example:
        >>> content_key([torch.ones(2)], 3) == content_key([torch.ones(2)], 3)
        True
        >>> content_key([torch.ones(2)]) == content_key([torch.zeros(2)])
        False
    """
    found = hashlib.sha256(FORMAT)
    for part in parts:
        _add(found, part)
    return found.hexdigest()[:24]


def _add(found: Any, part: Any) -> None:
    if isinstance(part, Tensor):
        found.update(f"{part.dtype} {tuple(part.shape)} ".encode())
        plain = part.detach().cpu().contiguous()
        found.update(plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    elif isinstance(part, Mapping):
        for name, value in part.items():
            found.update(f"{name!r}:".encode())
            _add(found, value)
    elif isinstance(part, list | tuple):
        found.update(f"{len(part)} ".encode())
        for value in part:
            _add(found, value)
    elif part is None or isinstance(part, str | int | float | bool):
        found.update(f"{part!r} ".encode())
    else:
        apply_to_collection(part, Tensor, partial(_added, found))


def _added(found: Any, tensor: Tensor) -> Tensor:
    _add(found, tensor)
    return tensor  # for a copy of the dataclass that has it, which may take nothing but tensors


def _written(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _read(value: float | str) -> float:
    return float(value)
