"""What tests of several processes need: ports, waiting, and the death of a process with all that it has started."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def free_ports(count: int) -> Sequence[int]:
    """So many ports that nobody listens to now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_until(is_so: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Look a few times a second until something is so.

    Raises:
        TimeoutError: It is not so after so many seconds.
    """
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was not there within {seconds:.0f} s")
        time.sleep(0.2)


def descendants(process: int) -> list[int]:
    """All processes below one, by Linux's files."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:  # it has ended
            continue
        for child in map(int, children):
            found += [child, *descendants(child)]
    return found


def kill_with_descendants(process: int) -> None:
    """End a process and all below it at once, as a machine does that loses its power."""
    for each in [process, *descendants(process)]:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue
