"""A job in a cluster's queue: it saves a checkpoint before the queue takes it back."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch.utilities.exceptions import SIGTERMException

EXECUTOR = "SUBMITIT_EXECUTOR"  # submitit sets this variable in its jobs: slurm or local
SIGNAL = "SUBMITIT_PREEMPT_SIGNAL"  # the user may set this one, to the signal that submitit is to use
PATIENCE = 60.0  # seconds until a job is queued again without a new checkpoint, of the 120 that SLURM gives by default


@contextmanager
def saved_before_requeue() -> Iterator[None]:
    """A context in which a job of submitit saves a checkpoint before it is queued again; elsewhere it does nothing.

    At the signal that a job is out of time, submitit's handler queues it again at once, in the middle of a step. Here
    the training ends as at SIGTERM first, which saves a checkpoint.

    A job that is preempted gets SIGTERM, and some time to end in. SLURM queues it again when that time is over, but it
    counts a job that has ended by itself as one that has failed. So the process saves, and waits for the next SIGTERM.

    Raises:
        SIGTERMException: Outside of SLURM, the job has got SIGTERM.
        SystemExit: The job is queued again, or SLURM ends it.
        TimeoutError: The job has run out of time, and submitit does not queue it again.

    Example:
        >>> with saved_before_requeue():
        ...     print("running")
        running
    """
    number = getattr(signal, f"SIG{os.environ.get(SIGNAL, 'USR2')}", None)
    handler = signal.getsignal(number) if EXECUTOR in os.environ and number is not None else None
    if number is None or not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = _Asked(handler)
    signal.signal(number, asked.receive)
    try:
        yield
    except SIGTERMException:
        if asked.is_asked:
            asked.requeue(number)
        if os.environ[EXECUTOR] == "slurm":
            asked.wait()
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, handler)


class _Asked:
    """Whether the queue has asked for the job, and the handler with which submitit gives it back.

    Args:
        handler: Submitit's handler.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.is_asked = False
        self._handler = handler
        self._without_training = signal.getsignal(signal.SIGTERM)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """End the training as at SIGTERM, or give the job back at once if none runs."""
        if signal.getsignal(signal.SIGTERM) == self._without_training:
            self.requeue(number)
        self.is_asked = True
        signal.signal(signal.SIGALRM, lambda *_: self.requeue(number))
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        signal.raise_signal(signal.SIGTERM)

    def wait(self) -> NoReturn:
        """Wait until SLURM ends the job, or asks for it."""

        def end(number: int, frame: FrameType | None) -> NoReturn:
            sys.exit(128 + number)

        self._without_training = end
        signal.signal(signal.SIGTERM, end)
        while True:
            signal.pause()

    def requeue(self, number: int) -> NoReturn:
        """Give the job back, and end: in the first process at once, in the others when the queue ends them."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            self._handler(number, None)
        except Exception as error:
            raise TimeoutError(
                f"the job has run out of time and is not queued again ({error}): the sweep's line goes on with it, with"
                " a larger hydra.launcher.timeout_min or hydra.launcher.max_num_timeout"
            ) from error
        self.wait()
