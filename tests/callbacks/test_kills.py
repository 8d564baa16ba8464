"""A user's own script, killed again and again, ends where an undisturbed one does."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
KILLS = 24


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.killed_module", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(folder: Path) -> list[list[tuple[str, str]]]:
    with (folder / "metrics.csv").open() as file:
        return [sorted((key, value) for key, value in row.items() if value) for row in csv.DictReader(file)]


def written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # it is renamed before the next one is
        return 0


@pytest.mark.slow
def test_a_users_module_survives_many_kills(tmp_path: Path, assert_same: Any) -> None:
    dice = random.Random(0)
    begun = time.monotonic()
    straight = start(tmp_path / "straight")
    while straight.poll() is None and not (tmp_path / "straight" / "last" / "last.ckpt").exists():
        time.sleep(0.005)
    start_up = time.monotonic() - begun
    _, errors = straight.communicate()
    assert straight.returncode == 0, errors
    training = time.monotonic() - begun - start_up
    broken, places = tmp_path / "broken", []
    last = broken / "last" / "last.ckpt"
    while True:
        process = start(broken)
        moment = dice.uniform(0, start_up / 2)
        if len(places) % 2 == 0:  # while it trains; so early that all kills come before its end, at thrice the speed
            for _ in range(dice.randrange(1, 8)):  # checkpoints
                before = written(last)
                while process.poll() is None and written(last) == before:
                    time.sleep(0.005)
            moment = dice.uniform(0, training / 100)
        try:
            _, errors = process.communicate(timeout=moment if len(places) < KILLS else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            places.append(len(rows(broken)) if (broken / "metrics.csv").exists() else 0)
        else:
            assert process.returncode == 0, errors
            break
    print(f"{len(places)} kills, after so many rows of the log: {places}; {len(rows(tmp_path / 'straight'))} in all")
    assert len(places) >= 20
    assert len(set(places)) > 5
    ends = [torch.load(folder / "result.pt") for folder in (broken, tmp_path / "straight")]
    assert_same(*ends)
    assert rows(broken) == rows(tmp_path / "straight")
