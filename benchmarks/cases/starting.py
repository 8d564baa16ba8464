"""How long a process takes until it can begin: the import, the help, and the first step of a search."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.rows import ROOT, Row

COMMAND = ["-m", "advnas_lightning"]
LIBRARIES = "import hydra, lightning, torch, torchmetrics, torchvision"


def seconds(arguments: Sequence[str]) -> float:
    """The seconds of a process of this Python.

    Raises:
        RuntimeError: The process fails.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        taken = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)} fails: {done.stderr.strip()[-500:]}")
    return taken


def in_turns(case: str, what: str, against: str, ours: Sequence[str], other: Sequence[str], *, small: bool) -> Row:
    """Measure two processes in turns, after one of each that fills the caches of the file system."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(1 if small else 11):
        for side, arguments in zip(times, (ours, other), strict=True):
            taken = seconds(arguments)
            if turn or small:
                side.append(taken)
    return Row.of_pairs(case, what, against, *times)


def importing(case: str, *, small: bool) -> list[Row]:
    """Measure ``import advnas_lightning`` beside ``import lightning``."""
    ours, other = (["-c", f"import {name}"] for name in ("advnas_lightning", "lightning"))
    return [in_turns(case, "import advnas_lightning", "import lightning", ours, other, small=small)]


def help_text(case: str, *, small: bool) -> list[Row]:
    """Measure ``advnas --help`` beside a Python that does nothing."""
    return [in_turns(case, "advnas --help", "python -c pass", [*COMMAND, "--help"], ["-c", "pass"], small=small)]


def first_step(case: str, *, small: bool) -> list[Row]:
    """Measure the command until its first step is done, beside the imports of the libraries that it needs."""
    end = "trainer.callbacks=[{_target_: benchmarks.first_step.EndAtFirstStep}]"
    command = [*COMMAND, "task=toy", end]
    return [in_turns(case, "advnas until its first step", LIBRARIES, command, ["-c", LIBRARIES], small=small)]
