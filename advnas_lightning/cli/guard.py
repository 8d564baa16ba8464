"""Keeps a run from being changed: by another process at the same time, or by going on with other settings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from advnas_lightning.callbacks.checkpoint import LastCheckpoint
from advnas_lightning.callbacks.intact import intact_checkpoint
from advnas_lightning.engine.resume import refuse_past_end
from advnas_lightning.folder_lock import FolderLock, is_first_process
from advnas_lightning.runs import HYDRA, MAY_CHANGE, RunFolder, decides_result, differences, flatten


@dataclass
class Held:
    """A folder that this command line holds, and what a run that goes on in it has found there.

    Attributes:
        lock: The lock on the folder.
        checkpoint: The checkpoint to go on from.
        written: When that was written, in ns.
        settings: Hydra's files in the folder.

    Example:
        >>> Held(FolderLock("outputs")).settings
        {}
    """

    lock: FolderLock
    checkpoint: Path | None = None
    written: int = 0
    settings: dict[Path, bytes] = field(default_factory=dict)

    def restore_settings(self) -> None:
        """Put Hydra's files back, unless a checkpoint was saved since then."""
        if self.checkpoint is not None and self.checkpoint.stat().st_mtime_ns == self.written:
            for path, content in self.settings.items():
                path.write_bytes(content)


_held: list[Held] = []


class RunGuard(Callback):
    """Holds a run's folder and compares its settings, before Hydra writes the new ones over those that are there.

    ``conf/config.yaml`` sets it as ``hydra.callbacks.run``.

    Example:
        >>> from hydra.utils import instantiate
        >>> type(instantiate({"_target_": "advnas_lightning.cli.guard.RunGuard"})).__name__
        'RunGuard'
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hold the folder of a run, and compare its settings with those of its checkpoint.

        Raises:
            SystemExit: Another process uses the folder, or it has a run that was made with other settings.
        """
        _guard(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hold the folder of a sweep.

        Raises:
            SystemExit: Another process uses it.
        """
        _guard(config, "sweep")


@contextmanager
def guarded() -> Iterator[None]:
    """A context for the command line, after which it holds no folder.

    A run that goes on and fails before it saves anything leaves Hydra's files in its folder as they were.

    Example:
        >>> with guarded():
        ...     print("running")
        running
    """
    try:
        yield
    except BaseException:
        for each in _held:
            each.restore_settings()
        raise
    finally:
        while _held:
            _held.pop().lock.release()


def find_checkpoint(ckpt_path: str | None, saving: LastCheckpoint) -> Path | None:
    """The checkpoint from which a run goes on, or ``None``.

    Args:
        ckpt_path: The checkpoint's file. ``"last"`` stands for the newest one in the run's own folder, if it has one.
        saving: The callback that saves the run's own checkpoints.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or if the folder has another run.
    """
    found = saving.newest() if ckpt_path == "last" else None if ckpt_path is None else intact_checkpoint(ckpt_path)
    is_ours = found is not None and found.resolve().parent == saving.folder.resolve()
    if is_ours:
        return found
    run = RunFolder(saving.folder.parent)
    if any(saving.folder.glob("*.ckpt")):
        raise ValueError(
            f"{saving.folder} has a run's checkpoints: go on with ckpt_path=last, or set another hydra.run.dir"
        )
    if run.has_summary:
        raise ValueError(f"{run.path} has a run's results and no checkpoint to go on from: set another hydra.run.dir")
    return found


def settings_to_keep(config: DictConfig) -> dict[str, Any]:
    """The settings that a run keeps when it goes on, by dotted key, with their interpolations resolved.

    Example:
        >>> config = OmegaConf.create({"seed": 1, "threads": 2, "task": {"epochs": 5, "size": "${seed}"}})
        >>> settings_to_keep(config)
        {'seed': 1, 'task.size': 1}
    """
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    keys = [key for key, _ in flatten(content) if decides_result(key) and key not in MAY_CHANGE]
    values = {key: OmegaConf.select(config, key) for key in keys if not key.startswith("hydra.")}
    return {
        key: OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value
        for key, value in values.items()
    }


def refuse_other_settings(config: DictConfig, checkpoint: Path) -> None:
    """Check that a run was made with the settings with which it is to go on.

    Args:
        config: The settings now.
        checkpoint: The file to go on from.

    Raises:
        ValueError: They differ.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    found = differences(saved["settings"], settings_to_keep(config)) if saved.get("settings") else []
    length = saved.get("search", {}).get("settings", {}).get("max_epochs")
    if length is not None:  # the strategy depends on it
        found += differences({"trainer.max_epochs": length}, {"trainer.max_epochs": config.trainer.max_epochs})
    if found:
        raise ValueError(
            f"{checkpoint} is of a run with other settings ({'; '.join(found)}): go on with those that it had, or set"
            " another hydra.run.dir"
        )
    refuse_past_end(saved, config.trainer.max_epochs)


def _guard(config: DictConfig, mode: Literal["run", "sweep"]) -> None:
    if not is_first_process():
        return
    HydraConfig.instance().set_config(config)  # as Hydra does it next; the folder's name depends on it
    folder = Path(config.hydra[mode].dir)
    held = Held(FolderLock(folder))
    try:
        if mode == "run":
            saving = LastCheckpoint(RunFolder(folder).checkpoints)
            with warnings.catch_warnings(action="ignore"):  # the run says it again
                checkpoint = find_checkpoint(config.ckpt_path, saving)
            if checkpoint is not None and checkpoint.resolve().parent == saving.folder.resolve():
                refuse_other_settings(config, checkpoint)  # of another folder's, the search itself refuses them
                held.checkpoint, held.written = checkpoint, checkpoint.stat().st_mtime_ns
                held.settings = {path: path.read_bytes() for path in (folder / HYDRA).glob("*.yaml")}
        held.lock.acquire()  # which makes the folder
        _held.append(held)
    except (OSError, ValueError, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
