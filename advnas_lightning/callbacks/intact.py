"""Checkpoint files that are known to be as they were written."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn

from advnas_lightning.runs import CHECKPOINTS, LAST, in_run

PREVIOUS = "previous.ckpt"
# A file of torch.save is a zip archive. Its last record ends with the length of the archive's comment.
END_OF_ARCHIVE, LENGTH = b"PK\x05\x06", struct.Struct("<H")
END_SIZE = 22  # bytes, without a comment
CHECKSUM = re.compile(rb"sha256 of all before it: ([0-9a-f]{64})")
CHECKSUM_SIZE = len("sha256 of all before it: ") + 64
BLOCK = 2**20  # bytes that are read at once


def seal(path: Path) -> None:
    """Add a checksum of the whole content to a file of ``torch.save``, as the comment of the zip archive that it is.

    So the checksum goes wherever the file goes, and is replaced together with it. ``torch.load`` does not read it. The
    file is read once more, which takes about a second for each GB, and is never held in memory. When this function
    returns, it is on the disk.

    Args:
        path: The file, which is changed. One that is no zip archive is left as it is.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "weights.ckpt")
        >>> torch.save(torch.ones(2), path)
        >>> seal(path)
        >>> torch.load(path), damage(path)
        (tensor([1., 1.]), None)
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - END_SIZE, 0))
        if file.read(len(END_OF_ARCHIVE)) == END_OF_ARCHIVE:
            file.seek(size - LENGTH.size)
            file.write(LENGTH.pack(CHECKSUM_SIZE))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(size)
            file.write(f"sha256 of all before it: {digest}".encode())
        file.flush()
        os.fsync(file.fileno())


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, in words, or ``None``.

    A file that :func:`seal` has closed is intact if its checksum is right. Of another file the checksums of its parts,
    which ``torch.load`` does not look at, must be right. Both must load.

    Args:
        path: The file.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "empty.ckpt")
        >>> path.touch()
        >>> damage(path)
        'it is empty'
    """
    try:
        if not path.is_file():
            return "it is a folder" if path.is_dir() else "it is no file"
        if path.stat().st_size == 0:
            return "it is empty"
        is_sealed, reason = _checksum_damage(path)
        if reason is None:
            has_own_classes(path, mmap=is_sealed)
    except Exception as error:  # whatever a reader makes of a damaged file
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return reason


def intact_checkpoint(path: str | Path) -> Path:
    """Find an intact checkpoint: the one at this path; or, if a ``last.ckpt`` is damaged or missing, the previous one.

    Args:
        path: The path of the file, or the folder of a run.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The checkpoint is damaged, and there is no intact one before it.

    Example:
        >>> intact_checkpoint("missing.ckpt")
        Traceback (most recent call last):
            ...
        FileNotFoundError: there is no checkpoint missing.ckpt: name the checkpoints/last.ckpt of a run
    """
    path = Path(path)
    if path.suffix != ".ckpt":
        path = in_run(path, f"{CHECKPOINTS}/{LAST}")
    candidates = [path, path.with_name(PREVIOUS)] if path.name == LAST else [path]
    present = [each for each in candidates if each.exists()]
    if not present:
        raise FileNotFoundError(f"there is no checkpoint {path}: name the checkpoints/{LAST} of a run")
    reasons: list[str] = []
    for each in present:
        reason = damage(each)
        if reason is None:
            if reasons:
                rank_zero_warn(f"{'; '.join(reasons)}: going on from {each}, saved before it")
            return each
        reasons.append(f"{each} is damaged ({reason})")
    raise ValueError(f"the checkpoint {'; '.join(reasons)}: start anew, or name another")


def _checksum_damage(path: Path) -> tuple[bool, str | None]:
    """Whether a file is sealed, and which of its checksums is wrong."""
    with path.open("rb") as file:
        end = max(file.seek(0, os.SEEK_END) - CHECKSUM_SIZE, 0)
        file.seek(end)
        checksum = CHECKSUM.fullmatch(file.read())
        if checksum is not None:
            file.seek(0)
            digest = hashlib.sha256()
            while block := file.read(min(BLOCK, end - file.tell())):
                digest.update(block)
            return True, None if digest.hexdigest() == checksum[1].decode() else "its checksum is wrong"
    with zipfile.ZipFile(path) as archive:
        wrong = archive.testzip()
    return False, None if wrong is None else f"the checksum of {wrong} is wrong"


def has_own_classes(path: Path, *, mmap: bool = True) -> bool:
    """Whether a checkpoint holds objects of a user's classes, which only ``weights_only=False`` loads.

    Args:
        path: The file.
        mmap: Whether what is in the tensors is left unread.

    Raises:
        Exception: The file cannot be loaded, for whatever reason.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "last.ckpt")
        >>> torch.save({"epoch": 1}, path)
        >>> has_own_classes(path)
        False
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if not re.search("Unsupported (global|class)", str(error)):
            raise
        return True
    return False
