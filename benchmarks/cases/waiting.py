"""How often a training step lets the host wait for the device, outside of logging.

A wait is a number that is read from the device, a copy between host and device that is not asynchronous, or a result
whose size depends on numbers on the device. On a GPU PyTorch reports them. Elsewhere a device in software counts them
(``benchmarks/software_device.py``). The first batches, in which the engine learns what the network changes, do not
count. At the evaluations 16, 32, 64, … it looks again, and these count.

None is not possible. Which candidates run is decided on the host, and depends on θ after the last architecture step. So
the host waits once for θ in each batch. It also waits once in each step for the guard, which leaves out a step whose
loss is not finite. Such a step must change nothing, and only the host can keep any optimizer from its step.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch.optim import SGD, Adam

from advnas_lightning import GDAS, AdvantageNAS, CounterfactualNAS
from advnas_lightning.loaders import SearchLoader
from advnas_lightning.objectives import Classification, LanguageModelling
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.ptb import RecurrentLM
from advnas_lightning.tasks.ptb.data import Windows
from benchmarks.cases.cifar10 import loaders
from benchmarks.measuring import QUIET
from benchmarks.rows import ROOT, Row
from benchmarks.software_device import count_waits, on_device, software_device

LEARNING = 9  # the batches at the start that do not count
COUNTED = 40
OPTIMIZERS = {
    "weight_optimizer": partial(SGD, lr=0.01, momentum=0.9),
    "architecture_optimizer": partial(Adam, lr=3e-4),
    "weight_clip": 1.0,
    "architecture_clip": 1.0,
}


class Count(Callback):
    """Counts the waits of all batches but the first ones.

    Args:
        waits: What counts them.
        first: The index of the first batch that counts.

    Attributes:
        places: The number of waits by place in the code.
        batches: The number of batches that count.
    """

    def __init__(self, waits: Counter[str], first: int) -> None:
        self.waits, self.first, self.places, self.batches = waits, first, Counter[str](), 0

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the waits of this batch."""
        if batch_idx >= self.first:
            self.batches += 1
            self.places.update(self.waits)
        self.waits.clear()


@contextmanager
def gpu_waits() -> Iterator[Counter[str]]:
    """A context that counts what PyTorch reports on a GPU, by place in the code."""
    waits: Counter[str] = Counter()

    def note(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "synchroniz" in str(message):
            path = Path(filename)
            waits[f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{lineno}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")


def search_of(task: str, strategy: Any, batches: int) -> tuple[Any, Any]:
    """A small search and its loaders. The number of waits does not depend on sizes."""
    torch.manual_seed(0)
    if task == "cifar10":
        search = strategy(NASBench201(cells=1, channels=4), objective=Classification(10), **OPTIMIZERS)
        return search, loaders(batches, 4, 3, 8, 8)
    network = RecurrentLM(words=20, embedding_size=6, hidden_size=6, nodes=2)
    windows = Windows(torch.randint(20, (batches * 12,)), eos=0, batch_size=4, bptt=3, text="train")
    search = strategy(network, objective=LanguageModelling(), **OPTIMIZERS)
    return search, SearchLoader({"weights": windows}, alternate=True)


def waits(case: str, *, small: bool) -> list[Row]:
    """Count them for three strategies on CIFAR-10's network, and for AdvantageNAS on Penn Treebank's."""
    gpu = torch.cuda.is_available()
    first, counted = (1, 2) if small else (LEARNING, COUNTED)
    rows = []
    for task, strategy in (
        ("cifar10", AdvantageNAS),
        ("cifar10", GDAS),
        ("cifar10", CounterfactualNAS),
        ("ptb", AdvantageNAS),
    ):
        with nullcontext() if gpu else software_device():
            search, data = search_of(task, strategy, first + counted)
            place = {"accelerator": "gpu", "devices": 1} if gpu else on_device()
            with gpu_waits() if gpu else count_waits() as waits:
                count = Count(waits, first)
                Trainer(callbacks=[count], **QUIET, **place).fit(search, data)
        rate = {where: number / count.batches for where, number in count.places.most_common()}
        what = f"{strategy.__name__}, {task}, on {'a GPU' if gpu else 'the device in software'}"
        rows.append(Row(case, what, sum(rate.values()), "per batch", n=count.batches, places=rate))
    return rows
