"""A run that goes on: the checkpoint from which it does, and the settings that must be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from omegaconf import Container, DictConfig, OmegaConf

from advnas_lightning.callbacks.checkpoint import LastCheckpoint
from advnas_lightning.callbacks.intact import intact_checkpoint
from advnas_lightning.checkpoint_part import kept_in
from advnas_lightning.engine.resume import refuse_past_end
from advnas_lightning.runs import MAY_CHANGE, RunFolder, decides_result, differences, flatten


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
    if ckpt_path == "last":
        rank_zero_info(f"{saving.folder} has no checkpoint: the run starts from the beginning")
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
    part = kept_in(saved)
    kept = {key: value for key, value in (part.get("settings") or {}).items() if key not in MAY_CHANGE}
    found = differences(kept, settings_to_keep(config)) if kept else []
    length = part.get("search", {}).get("settings", {}).get("max_epochs")
    if length is not None:  # the strategy depends on it
        found += differences({"trainer.max_epochs": length}, {"trainer.max_epochs": config.trainer.max_epochs})
    if found:
        raise ValueError(
            f"{checkpoint} is of a run with other settings ({'; '.join(found)}): go on with those that it had, or set"
            " another hydra.run.dir"
        )
    refuse_past_end(saved, config.trainer.max_epochs)
