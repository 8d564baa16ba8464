"""A sweep on a Ray cluster of two nodes on this machine, one of which dies in the middle."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.callbacks import slow
from tests.support.command_line import has_plugin, launch, runs
from tests.support.ends_of_runs import assert_same_end, steps
from tests.support.processes import descendants, free_ports, kill_with_descendants, wait_until

ROOT = Path(__file__).parents[2]
TOY = ["task.epochs=2", "task.data.batches=20", "task.data.batch_size=10", "task.data.test_batches=2"]
PATIENCE = 900.0  # seconds
STRATEGIES = ("gdas", "parsec")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_plugin("ray"), reason="no plugin: pip install advnas-lightning[ray]"),
]


@pytest.fixture
def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "600"}
    return {**os.environ, "PYTHONPATH": paths, **ray}


@contextmanager
def node(log: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node of one core. All of its processes are below the one that is returned."""
    program = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert program is not None
    small = ["--num-cpus=1", "--object-store-memory=100000000", f"--node-ip-address={own_address()}", "--block"]
    with log.open("wb") as file:
        process = subprocess.Popen([program, "start", *small, *arguments], env=environment, stdout=file, stderr=file)
    try:

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            return "Ray runtime started" in log.read_text()

        wait_until(is_up, "Ray's node", seconds=PATIENCE)
        yield process
    finally:
        kill_with_descendants(process.pid)
        process.wait()


def own_address() -> str:
    """The address that Ray takes for this machine, where it does not take the one of the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # which sends nothing
        return str(probe.getsockname()[0])


def owner(run: Path) -> int | None:
    """The process that holds a run's folder."""
    try:
        found = re.match(r"process (\d+) on", (run / ".lock").read_text())
    except FileNotFoundError:
        return None
    return None if found is None else int(found[1])


def test_the_jobs_of_a_node_that_dies_go_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], assert_same: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (port,) = free_ports(1)
    address = f"{own_address()}:{port}"
    folders = [tmp_path / "sweep/toy" / name / str(number) for number, name in enumerate(STRATEGIES)]
    sweep = [sys.executable, "-m", "advnas_lightning", "-m", "launcher=ray", *TOY, f"strategy={','.join(STRATEGIES)}"]
    sweep += [f"hydra.launcher.ray.init.address={address}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    sweep += ["checkpoint.every_n_steps=1", slow(GDAS=2.0, PARSEC=2.0)]
    with ExitStack() as stack:
        files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)))
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={files}"]
        stack.enter_context(node(tmp_path / "head.txt", environment, *head))
        other = stack.enter_context(node(tmp_path / "other.txt", environment, f"--address={address}"))
        out, err = (stack.enter_context((tmp_path / name).open("wb")) for name in ("out.txt", "err.txt"))
        process = subprocess.Popen(sweep, env=environment, stdout=out, stderr=err)
        stack.callback(process.kill)

        def both_train() -> bool:
            assert process.poll() is None, (tmp_path / "err.txt").read_text()
            return all((folder / "checkpoints/previous.ckpt").exists() and steps(folder) > 2 for folder in folders)

        wait_until(both_train, "the training of both jobs", seconds=PATIENCE)
        below = descendants(other.pid)
        (lost,) = (folder for folder in folders if owner(folder) in below)
        first = owner(lost)
        kill_with_descendants(other.pid)
        reached = steps(lost)
        wait_until(lambda: owner(lost) not in (None, first), "another process for the job", seconds=PATIENCE)
        assert process.wait(timeout=PATIENCE) == 0, (tmp_path / "err.txt").read_text()

    assert 2 < reached < 40
    assert runs(tmp_path / "sweep") == folders
    assert "2 of 2 jobs have finished" in (tmp_path / "out.txt").read_text()
    starts = [line.split() for line in (lost / "starts.txt").read_text().splitlines()]
    assert [int(batches) for batches, _ in starts] == [0, reached]
    for name, folder in zip(STRATEGIES, folders, strict=True):
        launch(monkeypatch, *TOY, f"strategy={name}", f"hydra.run.dir=straight/{name}")
        assert_same_end(folder, tmp_path / "straight" / name, assert_same)
