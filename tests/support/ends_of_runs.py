"""What a run's folder holds in the end, and that two runs have ended alike."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from tests.support.command_line import read


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return loaded


def steps(run: Path) -> int:
    """How many batches the run's last checkpoint has behind it."""
    progress = checkpoint(run)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    return int(progress["completed"])


def log(run: Path) -> list[list[tuple[str, str]]]:
    """Each row's names and values; of the seconds, which are never the same, only that there are some."""
    with (run / "metrics.csv").open() as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [sorted({**row, **({"seconds": "some"} if "seconds" in row else {})}.items()) for row in rows]


def state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """θ or controller, weights, buffers, running means, generators, optimizers, schedules and progress."""
    keys = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
    return {**{key: checkpoint[key] for key in keys}, "rng": checkpoint["advnas_lightning"]["rng"]}


def assert_same_end(run: Path, other: Path, assert_same: Any) -> None:
    assert_same(state(checkpoint(run)), state(checkpoint(other)))
    assert log(run) == log(other)
    assert read(run, "genotype.json") == read(other, "genotype.json")
    assert {**read(run, "summary.json"), "seconds": 0} == {**read(other, "summary.json"), "seconds": 0}
