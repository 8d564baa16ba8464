"""Loads a search from the folder of its run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule
from omegaconf import DictConfig, OmegaConf

from advnas_lightning.callbacks.intact import intact_checkpoint
from advnas_lightning.cli.config import Config
from advnas_lightning.cli.run import build_data, build_strategy
from advnas_lightning.cli.trust import without_strangers
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.reading import read_yaml
from advnas_lightning.runs import RunFolder, checkpoint_in, flatten

__all__ = ["SavedRun", "build_saved_data", "load", "read_settings", "saved_settings", "saved_state", "settings_of"]


class SavedRun(NamedTuple):
    """What the folder of a run has.

    Attributes:
        search: The search as a checkpoint has saved it.
        data: Its data, set up for a fit.
        config: The configuration of the run.
        checkpoint: The checkpoint's file.

    Example:
        >>> SavedRun._fields
        ('search', 'data', 'config', 'checkpoint')
    """

    search: SearchStrategy
    data: LightningDataModule
    config: DictConfig
    checkpoint: Path

    @property
    def folder(self) -> RunFolder:
        """The folder of the run."""
        return RunFolder.of(self.checkpoint)


def load(path: str | Path, *, trust: bool = False) -> SavedRun:
    """The search as a checkpoint of its run has saved it, its data, and its configuration.

    The configuration in the folder of the run names the classes that are made. A folder from somebody else may name any
    function, so that by default only this package's classes and PyTorch's optimizers are made.

    Args:
        path: The folder of the run, or the checkpoint in it.
        trust: Whether to make whatever the configuration names, such as a task of one's own.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged, if it is not in the folder of a run, if the configuration names other
            classes, or if the data cannot be read.
    """
    config, checkpoint = saved_settings(path, trust=trust)
    data = build_saved_data(config, RunFolder.of(checkpoint))
    search = build_strategy(config, data)
    saved = _content(checkpoint)
    search.on_load_checkpoint(saved)  # as Lightning does: a module may keep more than its state
    search.load_state_dict(saved["state_dict"])
    return SavedRun(search, data, config, checkpoint)


def build_saved_data(config: DictConfig, run: RunFolder) -> LightningDataModule:
    """Build the data module of a run that has been saved, set up for a fit.

    Args:
        config: The configuration of the run.
        run: Its folder.

    Raises:
        ValueError: The data cannot be read, as where their folder is a relative one, and the current folder is another
            one than that of the run's start.
    """
    try:
        return build_data(config)
    except (OSError, ValueError) as error:
        hint, started = f"this run's settings are in {run.config}", run.started_in
        paths = [str(value) for _, value in flatten({"data": OmegaConf.to_container(config.task.data)})]
        if started is not None and any((started / path).exists() and not Path(path).exists() for path in paths):
            hint = f"start this command in {started}, where the run was started, since paths are relative to it"
        raise ValueError(f"{error} ({hint})") from error


def saved_settings(
    path: str | Path, *, trust: bool, changes: Mapping[str, Any] | None = None
) -> tuple[DictConfig, Path]:
    """The configuration of a run, and its newest intact checkpoint.

    Args:
        path: The folder of the run, or the checkpoint in it.
        trust: Whether the configuration may name whatever there is.
        changes: Settings that get other values.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged, or as :func:`settings_of` raises it.
    """
    checkpoint = intact_checkpoint(checkpoint_in(path))
    return settings_of(checkpoint, trust=trust, changes=changes), checkpoint


def settings_of(checkpoint: Path, *, trust: bool, changes: Mapping[str, Any] | None = None) -> DictConfig:
    """The configuration of the run that has saved a checkpoint.

    Args:
        checkpoint: The checkpoint, in the folder of its run.
        trust: Whether the configuration may name whatever there is.
        changes: Settings that get other values.

    Raises:
        ValueError: If the checkpoint is not in the folder of a run, or if the configuration names classes that are not
            trusted.
    """
    settings = RunFolder.of(checkpoint).config
    if not settings.is_file():
        raise ValueError(f"{checkpoint} is of no run's folder: {settings} is missing")
    # The configuration of an older run lacks newer settings.
    config = OmegaConf.merge(OmegaConf.structured(Config), read_settings(settings), dict(changes or {}))
    assert isinstance(config, DictConfig)
    return config if trust else without_strangers(config, settings)


def saved_state(checkpoint: Path) -> dict[str, Any]:
    """The state of a search in its checkpoint."""
    state: dict[str, Any] = _content(checkpoint)["state_dict"]
    return state


def _content(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return content


def read_settings(path: Path) -> DictConfig:
    """The content of a run's configuration.

    Raises:
        ValueError: If it cannot be read, or is no mapping.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "config.yaml")
        >>> _ = path.write_text("seed: 3")
        >>> read_settings(path).seed
        3
    """
    try:
        read_yaml(path)  # refuses what would wait or take all memory
        content = OmegaConf.load(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, DictConfig) or not content:
        raise ValueError(f"{path} cannot be read: it is {'empty' if not content else 'no mapping'}")
    return content
