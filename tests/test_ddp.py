"""Two processes hold one search, and it is the search of one process with the doubled batch.

Run as a script, this file is one of the two processes: ``test_ddp.py FOLDER NAME…``.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLASSES, STRATEGIES, CountingData, SmallNet
from lightning.pytorch import Trainer
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

import advnas_lightning
from advnas_lightning import SearchStrategy
from advnas_lightning.tasks import Classification

BATCH = 8
TOLERANCE = 1e-6


def batches(data: CountingData, rank: int, ranks: int) -> DataLoader[Any]:
    """A rank's share of each batch of 8."""
    starts = range(0, len(data), BATCH)
    return DataLoader(data, batch_sampler=[list(range(start + rank, start + BATCH, ranks)) for start in starts])


def build(name: str) -> SearchStrategy:
    kind, options = STRATEGIES[name]
    torch.manual_seed(0)
    return kind(
        SmallNet(dropout=0.0, norm=False),  # what is random, or averaged over a rank's batch alone, would differ
        weight_optimizer=partial(SGD, lr=0.1, momentum=0.9),
        # Adam's first steps are the signs of its gradients; with this ε a rounding error cannot turn one
        architecture_optimizer=partial(Adam, lr=0.1, eps=1e-2),
        weight_clip=1.0,
        architecture_clip=0.5,
        warmup_epochs=1,
        task=Classification(CLASSES),
        **options,
    )


def trainer_of(ranks: int, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="auto" if ranks == 1 else "ddp_find_unused_parameters_true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def result(name: str, *, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """Fit a strategy and tell what it ends with."""
    search = build(name)
    loaders = {
        "weights": batches(CountingData(3 * BATCH, seed=1), rank, ranks),
        "architecture": batches(CountingData(2 * BATCH, seed=2), rank, ranks),
    }
    trainer = trainer_of(ranks, max_epochs=3, use_distributed_sampler=False)
    trainer.fit(search, loaders, loaders["architecture"])
    assert trainer.world_size == ranks
    state = search.state_dict()
    steps = state.pop("_extra_state")["steps"]
    best = search.process_best
    return {
        "state": {key: value for key, value in state.items() if not key.startswith("task.")},
        "steps": steps,
        "metrics": {key: value.double() for key, value in trainer.callback_metrics.items()},
        "argmax": dict(search.genotype()),
        "process_best": None if best is None else dict(best),
    }


def shares(ranks: int) -> dict[str, Any]:
    """How many points a rank reads where Lightning distributes them."""
    search = build("advantage")
    data = {"weights": CountingData(3 * BATCH, seed=1), "architecture": CountingData(2 * BATCH, seed=2)}
    loaders = {key: DataLoader(points, batch_size=2, shuffle=True) for key, points in data.items()}
    trainer_of(ranks, max_epochs=2).fit(search, loaders)
    return {"theta": search.theta.detach(), **{key: points.fetched for key, points in data.items()}}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks end with, by strategy."""
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(advnas_lightning.__file__).parents[1]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), *STRATEGIES],
            env={**shared, "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_all_ranks_hold_the_same_search(
    name: str, ranks: list[dict[str, Any]], assert_same: Callable[..., None]
) -> None:
    first, second = (rank[name] for rank in ranks)
    for part in ("state", "steps", "argmax", "process_best"):
        assert_same(first[part], second[part])


@pytest.mark.slow
def test_two_ranks_equal_one_process_with_the_doubled_batch(name: str, ranks: list[dict[str, Any]]) -> None:
    both, one = ranks[0][name], result(name)
    assert both["steps"] == one["steps"]
    assert both["steps"][0] + both["steps"][2] == 9
    assert both["steps"][1] == (6 if STRATEGIES[name][0].searches else 0)
    for key in both["state"]:
        torch.testing.assert_close(
            both["state"][key],
            one["state"][key],
            rtol=TOLERANCE,
            atol=TOLERANCE,
            msg=lambda text, key=key: f"{key}: {text}",
        )
    assert both["argmax"] == one["argmax"]
    assert both["process_best"] == one["process_best"]
    for key in both["metrics"]:
        torch.testing.assert_close(
            both["metrics"][key], one["metrics"][key], rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.slow
def test_lightning_distributes_both_loaders(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["shares"] for rank in ranks)
    assert torch.equal(first["theta"], second["theta"])
    for share in (first, second):
        assert share["weights"] == 2 * 3 * BATCH // 2
        assert share["architecture"] == 3 * BATCH // 2  # the epoch in which θ moves: as many batches of 2


if __name__ == "__main__":
    rank = int(os.environ["LOCAL_RANK"])
    results = {name: result(name, rank=rank, ranks=2) for name in sys.argv[2:]}
    torch.save({**results, "shares": shares(ranks=2)}, f"{sys.argv[1]}/rank{rank}.pt")
