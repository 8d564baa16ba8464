"""How long the rest of a training will take."""

from __future__ import annotations

from collections import deque

KEPT = 3  # the pace is that of the last epochs: at least two of them, where there are so many


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
