"""The engine's time beside a bare PyTorch loop that does the same work, in one run.

    python -m benchmarks.overhead [toy|ptb] [--steps N] [--data DIR]

Prints the time of one AdvantageNAS iteration: on the toy task the architecture step, on Penn Treebank a weight and an
architecture step. Both sides see the same data, draw alike and are timed in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from lightning import Callback, Trainer
from torch.nn import functional as F

from advnas_lightning import AdvantageNAS
from advnas_lightning.data import TeacherData
from advnas_lightning.models import ToyNetwork
from advnas_lightning.tasks import Regression

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Clock(Callback):
    """Seconds from one batch's end to the next, the loading of the batch included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def toy(steps: int) -> None:
    """One toy iteration: a batch from the teacher, a draw, forward, gate gradient, θ step."""
    torch.set_num_threads(1)
    engine, bare = [], []
    for _ in range(3):
        data, clock = TeacherData(batches=steps), Clock()
        adam = partial(torch.optim.Adam, lr=1e-3)
        search = AdvantageNAS(ToyNetwork(), architecture_optimizer=adam, task=Regression(), zero_op="none")
        trainer = Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, callbacks=[clock], **QUIET)
        trainer.fit(search, datamodule=data)
        engine += clock.seconds
        bare += list(bare_toy(data))
    report("toy iteration", engine, bare)


def bare_toy(data: TeacherData) -> Iterator[float]:
    """The same iteration by hand: no engine, no Lightning."""
    network = ToyNetwork()
    filters = [[op.matrix for op in edge.candidates.values()] for edge in network.edges]
    theta = torch.nn.Parameter(torch.ones(10, 10))
    optimizer = torch.optim.Adam([theta], lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    last = time.perf_counter()
    for images, outputs in data.train_dataloader()["architecture"]:
        p = theta.detach().softmax(-1)
        draw = torch.multinomial(p, 1, generator=generator).squeeze(1).tolist()
        gates = torch.ones(10, requires_grad=True)
        flat = images.flatten(1)
        nodes = [
            F.linear(flat, filters[i][j]) * gate for i, (j, gate) in enumerate(zip(draw, gates.unbind(), strict=True))
        ]
        loss = F.mse_loss(torch.cat(nodes, -1).tanh() @ network.heads, outputs)
        (credit,) = torch.autograd.grad(loss, gates)
        theta.grad = credit[:, None] * (F.one_hot(torch.tensor(draw), 10) - p)
        optimizer.step()
        now = time.perf_counter()
        yield now - last
        last = now


def report(what: str, engine: list[float], bare: list[float]) -> None:
    """Medians, in milliseconds."""
    ours, theirs = 1e3 * median(engine), 1e3 * median(bare)
    print(
        f"{what:<24} engine {ours:9.2f} ms  bare {theirs:9.2f} ms  overhead {ours - theirs:7.2f} ms"
        f" ({100 * (ours / theirs - 1):5.1f} %)  n = {len(engine)} and {len(bare)}",
        flush=True,
    )


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["toy", "ptb"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--data", help="folder of ptb.*.txt")
    arguments = parser.parse_args()
    toy(arguments.steps)


if __name__ == "__main__":
    main()
