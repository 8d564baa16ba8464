"""A folder is held by one process, for as long as that lives."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advnas_lightning.folder_lock import FolderLock

HOLD = """
import sys, time
from pathlib import Path
from advnas_lightning.folder_lock import FolderLock
lock = FolderLock(sys.argv[1])
lock.acquire()
{more}
print("held", flush=True)
time.sleep(600)
"""
WORKERS = """
import os
import torch
from torch.utils.data import DataLoader, Dataset
class Slow(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, index):
        Path(sys.argv[1], f"worker{os.getpid()}").touch()
        time.sleep(600 if index > 3 else 0)
        return index
batches = iter(DataLoader(Slow(), num_workers=2))
next(batches)
"""


def hold(folder: Path, more: str = "") -> subprocess.Popen[str]:
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(more=more), str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_process_is_refused_in_one_line_and_a_third_is_not(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(ValueError, match=rf"{tmp_path} is in use by process {process.pid} on .+: wait") as no:
            FolderLock(tmp_path).acquire()
        assert "\n" not in str(no.value)
        os.kill(process.pid, signal.SIGSTOP)  # one that does not run holds it still
        with pytest.raises(ValueError, match="is in use by"):
            FolderLock(tmp_path).acquire()
    finally:
        kill(process)
    with FolderLock(tmp_path):
        pass


def test_a_killed_process_lets_go_though_its_workers_live(tmp_path: Path) -> None:
    process = hold(tmp_path, WORKERS)
    workers = [int(re.sub(r"\D", "", path.name)) for path in tmp_path.glob("worker*")]
    try:
        assert workers
        kill(process)
        with FolderLock(tmp_path):
            for worker in workers:
                os.kill(worker, 0)  # is there
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)


def test_a_forked_process_can_neither_keep_nor_release_it(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(ValueError, match="is in use by"):
        FolderLock(tmp_path).acquire()
    lock.release()


def test_one_process_holds_it_once(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "new"), pytest.raises(ValueError, match=f"process {os.getpid()}"):
        FolderLock(tmp_path / "new").acquire()
    assert list((tmp_path / "new").iterdir()) == []
    lock = FolderLock(tmp_path)
    lock.release()  # of one that is not held


def test_of_many_that_want_it_at_once_one_gets_it_at_a_time(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from advnas_lightning.folder_lock import FolderLock
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready{name}").touch()
while len(list(folder.glob("ready*"))) < 3:
    time.sleep(0.01)
end = time.monotonic() + 1
while time.monotonic() < end:
    try:
        with FolderLock(folder):
            (folder / "alone").mkdir()  # fails if somebody else is in here
            (folder / "alone").rmdir()
    except ValueError:
        pass
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        )
        for name in "abc"
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]


def test_a_file_system_without_locks_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("advnas_lightning.folder_lock._lock", no_locks)
    with pytest.warns(UserWarning, match=r"cannot be locked \(.*Operation not supported\): let no other process"):
        FolderLock(tmp_path).acquire()
