"""A lock on a folder, so that no two processes write the files of one run."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

if sys.platform == "win32":
    import msvcrt

    FAR_BYTE = 2**30  # bytes are locked here, and those that are locked cannot be read

    def _lock(file: IO[str]) -> None:
        """Lock a file, or raise BlockingIOError if somebody else has."""
        file.seek(FAR_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        """Lock a file, or raise BlockingIOError if somebody else has."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


LOCK = ".lock"
WAIT = 0.02  # seconds between two looks at a lock
_held: set[FolderLock] = set()  # by this process


class FolderLock:
    """Holds a folder for this process, until it is released or the process ends in whatever way.

    The operating system frees the lock of a killed process. Processes that were forked meanwhile, such as the workers
    of a DataLoader, do not keep it. While the folder is held, its file ``.lock`` says by whom. A file system without
    locks is warned about, and then nothing is held.

    Args:
        folder: The folder, which is made if it is not there.
        name: The name of the file. Locks of different names do not know of each other.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> with FolderLock(folder):
        ...     print([path.name for path in folder.iterdir()])
        ['.lock']
        >>> list(folder.iterdir())
        []
    """

    def __init__(self, folder: str | Path, name: str = LOCK) -> None:
        self.path = Path(folder) / name
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Hold the folder, and write into its file by which process.

        Raises:
            ValueError: Another one holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self._file is None:
            file = self.path.open("a+")
            try:
                _lock(file)
            except BlockingIOError:
                file.seek(0)
                owner = file.read() or "another process"
                file.close()
                raise ValueError(
                    f"{self.path.parent} is in use by {owner}: wait for its end, or use another folder"
                ) from None
            except OSError as error:
                from lightning.pytorch.utilities import rank_zero_warn  # here, since its import takes seconds

                rank_zero_warn(f"{self.path.parent} cannot be locked ({error}): let no other process write into it")
            if _is_at(file, self.path):  # and its last owner has not removed it meanwhile
                self._file = file
            else:
                file.close()
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()
        _held.add(self)

    def release(self) -> None:
        """Let go of the folder, if this lock holds it."""
        if self._file is not None:
            if sys.platform != "win32":  # where a file that is open cannot be removed
                self.path.unlink(missing_ok=True)
            self.drop()

    def drop(self) -> None:
        """Close the lock's file without removing it, as a forked process must, since it does not hold the folder."""
        if self._file is not None:
            self._file.close()
        self._file = None
        _held.discard(self)

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def turn_in(folder: Path, name: str = LOCK) -> Iterator[None]:
    """A context in which no other process has its turn in a folder. It waits until none has.

    Args:
        folder: The folder, which is made if it is not there.
        name: The name of the lock's file.

    Example:
        >>> from tempfile import mkdtemp
        >>> with turn_in(Path(mkdtemp())):
        ...     print("alone")
        alone
    """
    lock = FolderLock(folder, name)
    while True:
        try:
            lock.acquire()
            break
        except ValueError:  # another process has its turn
            time.sleep(WAIT)
    try:
        yield
    finally:
        lock.release()


def is_first_process() -> bool:
    """Whether this process is the first one of its run, which locks the folder. No Trainer is needed to know it.

    Example:
        >>> is_first_process()
        True
    """
    node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    return _rank() == 0 and node == "0"


def _rank() -> int:
    """Lightning's rank of this process. Before Lightning is imported, it is read where Lightning will read it."""
    utilities = sys.modules.get("lightning.fabric.utilities.rank_zero")
    if utilities is not None:
        return int(getattr(utilities.rank_zero_only, "rank", 0))
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _drop_all() -> None:
    for lock in list(_held):
        lock.drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all)  # or a worker that outlives its killed parent would keep the folder
