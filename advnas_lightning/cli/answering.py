"""How the commands beside a run end when something is wrong: with one line, and a status other than 0."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from advnas_lightning.cli.errors import explain
from advnas_lightning.texts import encodable

__all__ = ["reading_options", "working"]


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

    Args:
        goes_on: Whether the same line goes on where Ctrl-C has interrupted the command.

    Example:
        >>> with working(goes_on=True):
        ...     raise KeyboardInterrupt
        Traceback (most recent call last):
            ...
        SystemExit: 130
    """
    try:
        yield
    except KeyboardInterrupt:
        if not goes_on:
            raise
        print("error: interrupted; the same line goes on where it was", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        _stop(line)


def _stop(line: str) -> NoReturn:
    print(f"error: {encodable(line, sys.stderr)}", file=sys.stderr)
    sys.exit(1)
