"""Work inside a hook of a Trainer, which Ctrl-C and SIGTERM end as they would end it outside."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

__all__ = ["Interruptible"]

Result = TypeVar("Result")


class Interruptible(Generic[Result]):
    """A function that is called in a hook of a Trainer, and whose result is taken when the Trainer has ended.

    A Trainer ends the whole process at Ctrl-C, and hears SIGTERM only at the end of its step, when the work is over.
    Here SIGTERM does at once what it did before there was the Trainer, and Ctrl-C raises its error where the result is
    asked for.

    Args:
        function: The function.

    Example:
        >>> work = Interruptible(sum)
        >>> work.do([1, 2])
        >>> work.is_done, work.result()
        (True, 3)
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self.is_done = False
        self._function = function
        self._results: list[Result] = []
        self._interrupt: KeyboardInterrupt | None = None
        self._sigterm = signal.getsignal(signal.SIGTERM)  # the Trainer will take another handler

    def do(self, *arguments: Any) -> None:
        """Call the function, and keep its result, or the Ctrl-C that has ended it."""
        self.is_done = True
        try:
            with _sigterm_to(self._sigterm):
                self._results.append(self._function(*arguments))
        except KeyboardInterrupt as error:
            self._interrupt = error

    def result(self) -> Result:
        """What the function has returned.

        Raises:
            KeyboardInterrupt: Ctrl-C has ended it.
        """
        if self._interrupt is not None:
            raise self._interrupt
        return self._results[0]


@contextmanager
def _sigterm_to(handler: Any) -> Iterator[None]:
    """Let a handler hear SIGTERM."""
    if handler is None or threading.current_thread() is not threading.main_thread():  # None: it is not Python's
        yield
        return
    trainers = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, trainers)
