"""Run the command line in this process, as a user would type it."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advnas_lightning.cli.main import main

SMALL_TOY = ["task.epochs=2", "task.data.batches=10", "task.data.batch_size=10", "task.data.test_batches=2"]
SMALL_PTB = [
    "task=ptb",
    "task.epochs=2",
    "task.retrain_epochs=2",
    "task.data.batch_size=4",
    "task.data.bptt=5",
    "task.model.embedding_size=8",
    "task.model.hidden_size=8",
    "task.optimization.weight_optimizer.lr=1.0",
]
SMALL_CIFAR10 = [
    "task=cifar10",
    "task.epochs=2",
    "task.retrain_epochs=2",
    "task.data.root=images",
    "task.data.batch_size=6",
    "task.model.cells=1",
    "task.model.channels=2",
    "task.optimization.warmup_epochs=1",
]
COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 50, 40)}
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "saw", "the", "cat", "that", "sat", "there"]


def launch(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """``python -m advnas_lightning ARGUMENTS`` in the current folder.

    Raises:
        SystemExit: the run failed.
    """
    monkeypatch.setattr(sys, "argv", ["advnas_lightning", *arguments, "trainer.enable_progress_bar=false"])
    main()


def has_plugin(launcher: str) -> bool:
    """Whether Hydra's plugin for a launcher is installed."""
    name = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    return find_spec("hydra_plugins") is not None and find_spec(name) is not None


def runs(folder: Path) -> list[Path]:
    """The folders of finished runs, in order."""
    return sorted(path.parent for path in folder.rglob("summary.json"))


def read(run: Path, name: str) -> Any:
    """A run's JSON file."""
    return json.loads((run / name).read_text())


def write_ptb(folder: Path) -> None:
    """A small text in Penn Treebank's three files."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, lines in (("train", 12), ("valid", 4), ("test", 3)):
        text = [" ".join(WORDS[(3 * line + k) % len(WORDS)] for k in range(4 + line % 5)) for line in range(lines)]
        (folder / f"ptb.{part}.txt").write_text("\n".join(text if part != "train" else [" ".join(WORDS), *text]) + "\n")


def write_images(folder: Path) -> None:
    """Small pictures of three colours: 12 of each to train with, and 6 to test with."""
    noise = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        for name, colour in COLOURS.items():
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = np.array(colour) + noise.integers(-40, 41, size=(8, 8, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
