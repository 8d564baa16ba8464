"""Measures a search through ``Trainer.fit``, and loops that do the same work, in turns in one process."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from advnas_lightning import SearchStrategy
from benchmarks.rows import Row

OURS = "ours"
BARE = "bare loop"
WARM_UP = 3  # the first turns, which are not counted
MEMORY_TURNS = 3  # of each side
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
    "max_epochs": 1,
}


def device() -> torch.device:
    """The device of all cases, which is a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Contest:
    """A search, and loops that do the same work.

    Attributes:
        search: The search, on the device.
        loaders: What it is fitted to, for one epoch.
        others: The steps of each loop. One step is what one batch of the search is.
        bare: The loop that is written by hand, to look at what it has trained.
        kinds: What successive batches are, in turn.
        trainer: Further arguments of the Trainer.
        verify: Raises an error if the loops have done other work than the search so far. It is called after the first
            turns, because later the two drift apart by their rounding.
    """

    search: SearchStrategy
    loaders: Any
    others: Mapping[str, Iterator[object]]
    bare: Any = None
    kinds: tuple[str, ...] = ("weight and architecture step",)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    verify: Callable[[], None] = lambda: None

    def fit(self, *callbacks: Callback) -> None:
        """Run the search."""
        place = {"accelerator": "cpu" if device().type == "cpu" else "gpu", "devices": 1}
        Trainer(callbacks=list(callbacks), **place, **QUIET, **self.trainer).fit(self.search, self.loaders)


class Turns(Callback):
    """Lets other loops take a step after each batch of the search, and measures both.

    The time of the search's batch is that from the end of the last turn, so it has all that Lightning does in between.

    Args:
        others: The steps of each loop.
        verify: Is called once, after so many turns as do not count.
        warm_up: The number of these turns.

    Attributes:
        seconds: The seconds of each step, by side.
    """

    def __init__(
        self, others: Mapping[str, Iterator[object]], verify: Callable[[], None] = lambda: None, warm_up: int = WARM_UP
    ) -> None:
        self.others, self.verify, self.warm_up = others, verify, warm_up
        self.seconds: dict[str, list[float]] = {side: [] for side in (OURS, *others)}
        self._last = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Begin to measure."""
        self._last = now()

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time of the batch, and let the others take their turns."""
        self.seconds[OURS].append(now() - self._last)
        for side, steps in self.others.items():
            started = now()
            next(steps)
            self.seconds[side].append(now() - started)
        if len(self.seconds[OURS]) == self.warm_up:
            self.verify()
        self._last = now()


def now() -> float:
    """The time in seconds, when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(case: str, make: Callable[[int], Contest], *, turns: int, what: str = "") -> list[Row]:
    """Measure the times in turns, and then the memory of each side alone.

    Args:
        case: The name of the case.
        make: Makes a new contest of so many steps of each kind.
        turns: The number of steps of each kind that count.
        what: What was measured, if it is not the kind of the step.
    """
    contest = make(turns + WARM_UP)
    watch = Turns(contest.others, contest.verify, WARM_UP * len(contest.kinds))
    contest.fit(watch)
    memory = {side: _memory(make, side) for side in watch.seconds}
    rows = []
    for index, kind in enumerate(contest.kinds):
        times = {side: every[index :: len(contest.kinds)][WARM_UP:] for side, every in watch.seconds.items()}
        for side in contest.others:
            sizes = {"memory": memory[OURS], "other_memory": memory[side]}
            rows.append(Row.of_pairs(case, what or kind, side, times[OURS], times[side], **sizes))
    return rows


def _memory(make: Callable[[int], Contest], side: str) -> float:
    """The peak in MiB of what one side takes while it trains, beyond its network and its data."""
    contest = make(MEMORY_TURNS)
    with peak_memory() as peak:
        if side == OURS:
            contest.fit()
        else:
            for _ in range(MEMORY_TURNS * len(contest.kinds)):
                next(contest.others[side])
    return peak[0] / 2**20


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """A context that adds the peak of the memory that was taken in it, in bytes, to the list that it gives.

    On a GPU it is that of PyTorch's allocator. On a CPU it is that of all tensors, without the memory that kernels need
    for themselves.
    """
    peak: list[int] = []
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.append(torch.cuda.max_memory_allocated() - before)
    else:
        with _Tensors() as tensors:
            yield peak
        peak.append(tensors.peak)


class _Tensors(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, until the last tensor that uses one is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {storage.data_ptr() for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            key, size = storage.data_ptr(), storage.nbytes()
            if size and key not in self._known and key not in given:
                self._known.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._release, key, size)
        return result

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(values: Any) -> Sequence[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]
