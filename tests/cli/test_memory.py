"""Memory does not creep: a long run from the command line, with all that a run has, stays as large as it was."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

SETTLED, STEPS = 1000, 6000
FILE = "resident.json"


class Resident(Callback):
    """Notes the process's resident size every so many steps, in bytes."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.sizes: dict[int, int] = {}

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        step = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if step % self.every == 0:
            pages = Path("/proc/self/statm").read_text().split()[1]
            self.sizes[step] = int(pages) * resource.getpagesize()

    def on_train_end(self, *_: Any) -> None:
        Path(FILE).write_text(json.dumps(self.sizes))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell a process's size so")
def test_memory_does_not_creep(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    arguments = [
        f"task.epochs={STEPS // 100}",
        "task.data.batches=100",
        "checkpoint.every_n_steps=70",  # besides those at the ends of epochs
        f"+trainer.callbacks=[{{_target_: tests.cli.test_memory.Resident, every: {SETTLED}}}]",
        "hydra.run.dir=run",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "advnas_lightning", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "epoch 60/60" in run.stdout  # it showed how far it was
    assert (tmp_path / "run" / "checkpoints" / "previous.ckpt").exists()
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) > STEPS // 10
    sizes = {int(step): size for step, size in json.loads((tmp_path / FILE).read_text()).items()}
    assert list(sizes) == list(range(SETTLED, STEPS + 1, SETTLED))
    growth = sizes[STEPS] - sizes[SETTLED]
    mebibytes = ", ".join(f"{step}: {size / 2**20:.2f}" for step, size in sizes.items())
    print(f"\nresident MiB by step: {mebibytes}; grown by {growth / sizes[SETTLED]:.3%}")
    assert growth < 0.01 * sizes[SETTLED]
    assert growth < 800 * (STEPS - SETTLED)  # less than one small object a step, however much torch takes
