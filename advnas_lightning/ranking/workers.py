"""Several processes that do the same kind of work, each on its own copy of everything."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch

from advnas_lightning.validate import check_workers

__all__ = ["Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Generic[Item, Result]):
    """Maps a function over items, in this process or in several others.

    The others are forked, so that each has a copy of the network without a copy being made. What they change stays in
    them. They end with this process, however that ends.

    Args:
        work: The function.
        jobs: The number of processes; 1 is this one.

    Raises:
        ValueError: There are to be several processes, and this system cannot fork one, or the GPU is in use.

    Example:
        >>> with Workers(lambda number: number**2, jobs=2) as workers:
        ...     list(workers.map([1, 2, 3]))
        [1, 4, 9]
    """

    def __init__(self, work: Callable[[Item], Result], jobs: int = 1) -> None:
        if check_workers("jobs", jobs) > 1:
            if "fork" not in multiprocessing.get_all_start_methods():
                raise ValueError(f"jobs={jobs}: this system cannot copy a process: use jobs=1")
            if torch.cuda.is_initialized():
                raise ValueError(f"jobs={jobs}: processes that share a GPU would be no faster: use jobs=1")
        self._work, self._jobs = work, jobs
        self._ends: list[Connection] = []
        self._processes: list[Any] = []

    def __enter__(self) -> Workers[Item, Result]:
        context: Any = multiprocessing.get_context("fork") if self._jobs > 1 else None
        for _ in range(self._jobs if self._jobs > 1 else 0):
            here, there = context.Pipe()
            # A worker that kept the ends of the others would let them live when this process is killed.
            process = context.Process(target=_serve, args=(self._work, there, [*self._ends, here]), daemon=True)
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            if kind is not None:
                process.terminate()
            process.join()

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the order of the items.

        Raises:
            ChildProcessError: A process has ended.
        """
        if not self._ends:
            yield from map(self._work, items)
            return
        waiting = iter(enumerate(items))
        running: dict[Connection, int] = {}
        done: dict[int, Any] = {}
        following = 0
        for end in self._ends:
            self._send_next(end, waiting, running)
        while running:
            for ready in wait(list(running)):
                end = next(each for each in running if each is ready)
                index = running.pop(end)
                with self._talking():
                    is_right, result = end.recv()
                if not is_right:
                    raise result
                done[index] = result
                self._send_next(end, waiting, running)
            while following in done:
                yield done.pop(following)
                following += 1

    def _send_next(self, end: Connection, waiting: Iterator[tuple[int, Any]], running: dict[Connection, int]) -> None:
        for index, item in waiting:
            with self._talking():
                end.send_bytes(pickle.dumps(item))  # of send, an error would crash Python 3.12.1 when it is collected
            running[end] = index
            return

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """A context in which another process is written to or read from, which may have ended."""
        try:
            yield
        except (EOFError, OSError):
            raise ChildProcessError(
                f"one of the {self._jobs} processes has ended, perhaps for want of memory: use fewer jobs"
            ) from None


def _serve(work: Callable[[Any], Any], there: Connection, others: Iterable[Connection]) -> None:
    for end in others:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, and ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the first process has ended
        while True:
            item = there.recv()
            try:
                there.send((True, work(item)))
            except Exception as error:
                try:
                    there.send((False, error))
                except Exception:  # it cannot be sent
                    there.send((False, RuntimeError(f"{type(error).__name__}: {error}")))
