"""One search on two nodes, which are two starts of torchrun on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.callbacks import slow
from tests.support.ends_of_runs import assert_same_end, steps
from tests.support.processes import free_ports, kill_with_descendants, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SEARCH = [
    *("task.epochs=2", "task.data.batches=20", "task.data.batch_size=10", "task.data.test_batches=2"),
    *("trainer=ddp", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "checkpoint.every_n_steps=1"),
]
NODES = ["trainer.devices=1", "trainer.num_nodes=2", slow(AdvantageNAS=1.5)]
STEPS = 20  # of each process
PATIENCE = 600  # seconds


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


@contextmanager
def two_nodes(*arguments: str) -> Iterator[Sequence[subprocess.Popen[str]]]:
    """A search on two nodes, each of which is all that is below a process."""
    (port,) = free_ports(1)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    place = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    program = ["-m", "advnas_lightning", *SEARCH, *NODES, *arguments]
    nodes = [
        subprocess.Popen(
            [*torchrun, f"--node-rank={rank}", *place, *program],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield nodes
    finally:
        for node in nodes:
            kill_with_descendants(node.pid)


def ends(nodes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """The exit status and the output of each node."""
    outputs = [node.communicate(timeout=PATIENCE)[0] for node in nodes]
    return [(node.returncode, output) for node, output in zip(nodes, outputs, strict=True)]


def test_two_nodes_go_on_after_one_was_lost_and_end_as_two_devices_of_one_node(folder: Path, assert_same: Any) -> None:
    with two_nodes("hydra.run.dir=broken", "ckpt_path=last") as nodes:
        saved = folder / "broken/checkpoints/previous.ckpt"

        def both_train() -> bool:
            assert [node.poll() for node in nodes] == [None, None], ends(nodes)
            return saved.exists() and steps(folder / "broken") > 2

        wait_until(both_train, "the training of both nodes", seconds=PATIENCE)
        kill_with_descendants(nodes[1].pid)
        (status, output), _ = ends(nodes)
    assert status != 0
    assert "a process of this run has died" in output
    reached = steps(folder / "broken")
    assert 2 < reached < STEPS
    assert not (folder / "broken/summary.json").exists()

    with two_nodes("hydra.run.dir=broken", "ckpt_path=last") as nodes:
        found = ends(nodes)
    assert [status for status, _ in found] == [0, 0], found
    starts = (folder / "broken/starts.txt").read_text().splitlines()
    assert [int(line.split()[0]) for line in starts] == [0, 0, reached, reached]

    straight = [sys.executable, "-m", "advnas_lightning", *SEARCH, "trainer.devices=2", "hydra.run.dir=straight"]
    subprocess.run(straight, env=environment(), check=True, capture_output=True, timeout=PATIENCE)
    assert_same_end(folder / "broken", folder / "straight", assert_same)
