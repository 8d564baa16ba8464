"""How much of a training is done, and how long the rest will take."""

from __future__ import annotations

import math
from collections import deque

from lightning import Trainer
from lightning.pytorch.callbacks import Timer

KEPT = 3  # the pace is that of the last epochs: at least two of them, where there are so many


def share_done(trainer: Trainer, batches: int) -> float | None:
    """The share of a training that is done, from 0 to 1, by the limit of the Trainer that is nearest.

    Args:
        trainer: The Trainer.
        batches: The number of batches of the current epoch that are done.

    Returns:
        ``None`` if the Trainer has no limit, or one that nobody can foresee.

    Example:
        >>> share_done(Trainer(max_epochs=-1, logger=False, enable_checkpointing=False), 5) is None
        True
    """
    shares = []
    each = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        within = batches / each if 0 < each < math.inf else 0.0
        shares.append((trainer.current_epoch + within) / trainer.max_epochs)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):  # type: ignore[attr-defined]
        left = timer.time_remaining()
        if left is not None:
            shares.append(timer.time_elapsed() / max(timer.time_elapsed() + left, 1e-9))
    return min(max(shares), 1.0) if shares else None


class Pace:
    """Foresees how long the rest of a training takes, by the pace of the last epochs.

    Example:
        >>> pace = Pace()
        >>> pace.note(0.0, now=100.0)
        >>> pace.left(0.25, now=110.0)
        30.0
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque(maxlen=KEPT)

    def note(self, share: float | None, now: float) -> None:
        """Note that an epoch begins here, or that training goes on here.

        Args:
            share: The share that is done.
            now: The time in seconds.
        """
        if share is not None:
            self._marks.append((share, now))

    def restart(self) -> None:
        """Forget the pace so far, because what follows has another one."""
        self._marks.clear()

    def left(self, share: float | None, now: float) -> float | None:
        """The seconds that are left; ``None`` as long as that is not known.

        Args:
            share: The share that is done.
            now: The time in seconds.
        """
        if share is None or not self._marks:
            return None
        first, began = self._marks[0]
        return (now - began) / (share - first) * (1 - share) if share > first else None


def as_clock(seconds: float) -> str:
    """A time span in minutes and seconds, or in hours and more where it is longer.

    Example:
        >>> [as_clock(seconds) for seconds in (7.4, 75, 3700, 100_000)]
        ['0:07', '1:15', '1:01:40', '1 d 3:46:40']
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days} d {text}" if days else text
