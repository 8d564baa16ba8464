"""Further processes of ``advnas refine``, which share its trainings. They have the same command line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["end_with_first", "is_further", "sharing"]

FIRST = "ADVNAS_LIGHTNING_REFINES"  # tells a further process the id of the first one


def is_further() -> bool:
    """Whether this is a further process, which trains and writes no results.

    Example:
        >>> is_further()
        False
    """
    return FIRST in os.environ


def end_with_first() -> None:
    """End this further process soon after the first one, however that has ended."""

    def watch() -> None:
        while os.getppid() == int(os.environ[FIRST]):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def sharing(arguments: Sequence[str], jobs: int, threads: int) -> Iterator[None]:
    """A context in which further processes share the work. At its end they have ended, too.

    Args:
        arguments: The arguments of the command.
        jobs: The number of processes, this one included.
        threads: The number of CPU threads of each.

    Raises:
        ValueError: One of them has failed; it has said why.
    """
    line = [sys.executable, "-m", "advnas_lightning", "refine", *arguments]
    environment = {**os.environ, FIRST: str(os.getpid()), "OMP_NUM_THREADS": str(threads)}
    further = [subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL) for _ in range(jobs - 1)]
    try:
        yield
        failed = [process for process in further if process.wait()]
        if failed:
            raise ValueError(f"{len(failed)} of the {jobs} processes failed: the same line goes on where they were")
    finally:
        for process in further:
            if process.poll() is None:
                process.terminate()
            process.wait()
