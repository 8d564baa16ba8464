"""The two checkpoint files in the folder of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from advnas_lightning.callbacks.intact import PREVIOUS, intact_checkpoint, seal
from advnas_lightning.folder_lock import FolderLock
from advnas_lightning.runs import LAST, UNFINISHED


class CheckpointFiles:
    """``last.ckpt`` and ``previous.ckpt``, the one before it; and who may write them.

    Args:
        folder: The folder of the two files.

    Attributes:
        last: The path of the newest checkpoint.
        previous: The path of the one before it.
        unfinished: The path of a checkpoint until it is complete.
        lock: Keeps other processes from the folder.

    Example:
        >>> from tempfile import mkdtemp
        >>> files = CheckpointFiles(mkdtemp())
        >>> files.continue_from(None)
        >>> for content in "ab":
        ...     _ = files.unfinished.write_text(content)
        ...     files.replace()
        >>> files.last.read_text(), files.previous.read_text()
        ('b', 'a')
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.last, self.previous = self.folder / LAST, self.folder / PREVIOUS
        self.unfinished = self.folder / f"{LAST}{UNFINISHED}"
        self.lock = FolderLock(self.folder)
        self._continued: Path | None = None  # the file that this run has gone on from, or that it has written last

    def newest(self) -> Path | None:
        """The newest intact file, or ``None`` if there is no file; a warning tells if it is not the last one.

        Raises:
            ValueError: All files are damaged.
        """
        there_is_one = self.last.exists() or self.previous.exists()
        return intact_checkpoint(self.last) if there_is_one else None

    def hold(self) -> None:
        """Keep other processes from the folder.

        Raises:
            ValueError: One of them has it, or there is a folder in the place of a file.
        """
        if self.last.is_dir():
            raise ValueError(f"{self.last} is a folder, where a checkpoint is to be saved: remove it")
        self.lock.acquire()

    def continue_from(self, path: str | Path | None) -> None:
        """Note what a run continues; the checkpoint of another folder becomes this run's own first one.

        Args:
            path: The checkpoint that was loaded, or ``None`` for a new run.
        """
        if path is None and self.last.exists():
            rank_zero_warn(f"{self.folder} has the checkpoints of a run, which a new run replaces")
        self._continued = None if path is None else Path(path).resolve()
        if self._continued is not None and self._continued.parent != self.folder.resolve() and self._continued.exists():
            shutil.copyfile(self._continued, self.unfinished)
            self.replace()

    def replace(self) -> None:
        """Put the unfinished file, which is complete now, in the place of the last one.

        The last one becomes the previous one, if it is of this run and this run has gone on from it. So a damaged file
        never replaces an intact one, and no other run's file is kept beside this run's.
        """
        seal(self.unfinished)
        ours = self.last.resolve(), self.previous.resolve()
        if self._continued == ours[0] and self.last.exists():
            os.replace(self.last, self.previous)
        os.replace(self.unfinished, self.last)
        if self._continued not in ours:
            self.previous.unlink(missing_ok=True)
        self._continued = ours[0]
