"""Checkpoint files: whatever happens to one is noticed, and the one before it is used."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from advnas_lightning.callbacks.files import CheckpointFiles
from advnas_lightning.callbacks.intact import damage, has_own_classes, intact_checkpoint, seal

CONTENT = {"weights": torch.arange(300.0), "steps": [1, 2, {"name": "search"}], "none": None}


class Own:
    """A class that ``torch.load`` does not know."""


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    """Two sealed checkpoints in a folder."""
    found = CheckpointFiles(tmp_path)
    found.continue_from(None)
    for step in (1, 2):
        torch.save({**CONTENT, "step": step}, found.unfinished)
        found.replace()
    return found


def cut(path: Path, dice: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def zeros(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = dice.randrange(len(content) - 64)
    content[place : place + 64] = bytes(64) if any(content[place : place + 64]) else b"x" * 64
    path.write_bytes(content)


def exchanged_blocks(path: Path, dice: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[256:512] + content[:256] + content[512:])


def other_content(path: Path, dice: random.Random) -> None:
    path.write_bytes(dice.randbytes(5000))


def empty(path: Path, dice: random.Random) -> None:
    path.write_bytes(b"")


def folder(path: Path, dice: random.Random) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, dice: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [cut, zeros, exchanged_blocks, other_content, empty, folder, pipe]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_named_in_one_line_and_the_one_before_is_used(
    how: Callable[[Path, random.Random], None], files: CheckpointFiles
) -> None:
    for seed in range(8 if how in (cut, zeros) else 1):
        original = files.last.read_bytes()
        how(files.last, random.Random(seed))
        with pytest.warns(UserWarning, match="is damaged") as caught:
            assert files.newest() == files.previous
        assert len(caught) == 1
        assert "\n" not in str(caught[0].message)
        if files.last.is_file():
            files.last.write_bytes(original)


@pytest.mark.parametrize("how", DAMAGES)
def test_if_both_are_damaged_one_line_says_so(
    how: Callable[[Path, random.Random], None], files: CheckpointFiles
) -> None:
    how(files.last, random.Random(0))
    how(files.previous, random.Random(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=r"last\.ckpt is damaged \(.+previous\.ckpt is damaged \(.+start anew"
        ) as no:
            files.newest()
    assert "\n" not in str(no.value)


def test_any_wrong_bit_is_noticed_or_changes_nothing(files: CheckpointFiles) -> None:
    good, dice = files.last.read_bytes(), random.Random(0)
    for _ in range(150):
        bad = bytearray(good)
        bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
        files.last.write_bytes(bad)
        if damage(files.last) is None:  # of the checksum's own mark
            assert torch.load(files.last)["step"] == 2
            assert torch.equal(torch.load(files.last)["weights"], CONTENT["weights"])


def test_a_wrong_bit_in_a_file_without_a_checksum_raises_nothing(tmp_path: Path) -> None:
    path, dice = tmp_path / "last.ckpt", random.Random(0)
    torch.save(CONTENT, path)
    good = path.read_bytes()
    for _ in range(60):
        bad = bytearray(good)
        bad[dice.randrange(len(bad) - 600, len(bad))] ^= 1 << dice.randrange(8)  # in the archive's directory
        path.write_bytes(bad)
        if damage(path) is None:
            torch.load(path)


def test_a_file_that_cannot_be_read_is_not_used(files: CheckpointFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def refuse(path: Path, *arguments: object, **keywords: object) -> object:  # chmod means nothing to root
        if path == files.last:
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.warns(UserWarning, match=r"PermissionError: .*Permission denied\): going on from"):
        assert files.newest() == files.previous


def test_a_copy_needs_nothing_beside_it(files: CheckpointFiles, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "mine.ckpt"
    copy.parent.mkdir()
    copy.write_bytes(files.last.read_bytes())
    assert intact_checkpoint(copy) == copy
    copy.write_bytes(copy.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"mine\.ckpt is damaged"):
        intact_checkpoint(copy)


def test_a_class_of_the_users_own_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"own": Own()}, path)
    assert damage(path) is None
    seal(path)
    assert damage(path) is None
    assert has_own_classes(path)  # so that the line to go on with has weights_only=False
    torch.save(CONTENT, path)
    assert not has_own_classes(path)


def test_what_is_sealed_loads_as_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(CONTENT, path)
    seal(path)
    once = path.read_bytes()
    seal(path)
    assert path.read_bytes() == once  # a second time changes nothing
    for mmap in (False, True):
        assert torch.equal(torch.load(path, mmap=mmap)["weights"], CONTENT["weights"])


# -- which files are kept --------------------------------------------------------------------------------------------


def write(files: CheckpointFiles, step: int) -> None:
    torch.save({"step": step}, files.unfinished)
    files.replace()


def steps(files: CheckpointFiles) -> tuple[int | None, int | None]:
    last, previous = (torch.load(each)["step"] if each.exists() else None for each in (files.last, files.previous))
    return last, previous


def test_a_damaged_file_never_replaces_the_intact_one(files: CheckpointFiles) -> None:
    empty(files.last, random.Random(0))
    again = CheckpointFiles(files.folder)
    with pytest.warns(UserWarning, match="is damaged"):
        again.continue_from(again.newest())
    write(again, 3)
    assert steps(again) == (3, 1)
    write(again, 4)
    assert steps(again) == (4, 3)


def test_a_new_run_says_that_it_replaces_another_and_keeps_nothing_of_it(files: CheckpointFiles) -> None:
    again = CheckpointFiles(files.folder)
    with pytest.warns(UserWarning, match="has the checkpoints of a run, which a new run replaces"):
        again.continue_from(None)
    write(again, 7)
    assert steps(again) == (7, None)


def test_a_run_that_goes_on_in_another_folder_begins_with_a_checkpoint(files: CheckpointFiles, tmp_path: Path) -> None:
    other = CheckpointFiles(tmp_path / "other")
    other.hold()
    other.continue_from(files.last)
    assert steps(other) == (2, None)
    assert damage(other.last) is None
    write(other, 3)
    assert steps(other) == (3, 2)
    other.lock.release()


def test_a_folder_in_the_place_of_the_file_is_refused(files: CheckpointFiles) -> None:
    folder(files.last, random.Random(0))
    with pytest.raises(ValueError, match=r"last\.ckpt is a folder, where a checkpoint is to be saved: remove it"):
        files.hold()
