"""How the commands beside a run end when something is wrong: with one line, and a status other than 0."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from advnas_lightning.cli.errors import explain
from advnas_lightning.texts import encodable

__all__ = ["reading_options", "signal_of", "working"]

ENDED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@contextmanager
def reading_options() -> Iterator[None]:
    """A context in which a wrong option ends the command.

    Example:
        >>> with reading_options():
        ...     raise ValueError("draw=3 is unknown: did you mean draws=3?")
        Traceback (most recent call last):
            ...
        SystemExit: 1
    """
    try:
        yield
    except (OSError, ValueError) as error:
        _stop(str(error))


@contextmanager
def working(*, goes_on: bool = False) -> Iterator[None]:
    """A context in which an error that the user can mend ends the command. Others keep their traceback.

    A signal ends it with the status of that signal, also in a training, where Lightning ends with another one.

    Args:
        goes_on: Whether the same line goes on where a signal has ended the command.

    Example:
        >>> with working(goes_on=True):
        ...     raise KeyboardInterrupt
        Traceback (most recent call last):
            ...
        SystemExit: 130
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:
        number = signal_of(end)
        if number is None:
            raise
        hint = "; the same line goes on where it was" if goes_on else ""
        print(f"error: {ENDED[number]}{hint}", file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        _stop(line)


def signal_of(end: BaseException) -> signal.Signals | None:
    """The signal that has ended a command; ``None`` if none has. At Ctrl-C a Trainer exits with 1, at SIGTERM with 0.

    Example:
        >>> signal_of(KeyboardInterrupt()).name
        'SIGINT'
    """
    if isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt):
        return signal.SIGINT
    return signal.SIGTERM if type(end).__name__ == "SIGTERMException" else None  # Lightning's


def _stop(line: str) -> NoReturn:
    print(f"error: {encodable(line, sys.stderr)}", file=sys.stderr)
    sys.exit(1)
