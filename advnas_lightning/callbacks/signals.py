"""The signals that ask a training to end, which are obeyed between two batches."""

from __future__ import annotations

import signal
import threading
from enum import IntEnum
from types import FrameType
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException


class Request(IntEnum):
    """An action that is requested between two batches. Of several processes' requests the largest one is obeyed.

    Example:
        >>> max(Request.SAVE, Request.TERMINATE).name
        'TERMINATE'
    """

    GO_ON = 0
    SAVE = 1
    INTERRUPT = 2  # save, and then end as at Ctrl-C
    TERMINATE = 3  # save, and then end as at SIGTERM

    def obey(self) -> None:
        """End the run as the signal would have done, if a signal was received.

        Raises:
            KeyboardInterrupt: It was Ctrl-C.
            SIGTERMException: It was SIGTERM.
        """
        if self == Request.INTERRUPT:
            raise KeyboardInterrupt
        if self == Request.TERMINATE:
            raise SIGTERMException


class Signals:
    """Turns Ctrl-C, and with several processes SIGTERM, into requests while a training runs.

    Attributes:
        request: What the signals so far ask for.

    Example:
        >>> signals = Signals()
        >>> signals.begin(several=False)
        >>> signals.request.name
        'GO_ON'
        >>> signals.end()
    """

    def __init__(self) -> None:
        self.request = Request.GO_ON
        self._handler: Any = None  # the handler of Ctrl-C before this one
        self._is_training = False

    def begin(self, *, several: bool) -> None:
        """Begin to listen: to Ctrl-C, unless somebody else does.

        Args:
            several: Whether the run has several processes.
        """
        self.request, self._is_training = Request.GO_ON, True
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and handler is signal.default_int_handler:
            self._handler = handler
            signal.signal(signal.SIGINT, self._on_interrupt)
        self.take_sigterm(several=several)

    def end(self) -> None:
        """Stop listening to Ctrl-C, and end at once at SIGTERM."""
        self._is_training = False
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def take_sigterm(self, *, several: bool) -> None:
        """Handle SIGTERM in the place of Lightning, if there are several processes.

        Args:
            several: Whether the run has several processes.
        """
        # Lightning's handler communicates with the other processes at once, also in the middle of other communication.
        # The processes may then wait for each other for ever.
        if several and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: request the end of a training, or end at once if no training runs."""
        if not self._is_training:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.request = Request.TERMINATE

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C: request the end of the training, and let a second Ctrl-C end it at once."""
        self.request = max(self.request, Request.INTERRUPT)
        signal.signal(signal.SIGINT, self._handler)
        rank_zero_info("interrupted: saving a checkpoint after this step; press Ctrl-C again to stop at once")
