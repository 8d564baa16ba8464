"""Refines what a run has just found, as a part of the run."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from advnas_lightning.cli.refine import OPTIONS
from advnas_lightning.cli.refining import refine_run
from advnas_lightning.cli.run import speaks
from advnas_lightning.folder_lock import is_first_process


def refine_found(config: DictConfig, folder: Path) -> None:
    """Refine what a run has found, as its settings ``refine`` and ``refine_minutes`` say.

    Args:
        config: The configuration of the run.
        folder: The folder of the run.
    """
    if is_first_process():
        options = {name: option.default for name, option in OPTIONS.items()}
        chosen = {"RUN": str(folder), "minutes": config.refine_minutes, "neighbours": config.refine == "neighbours"}
        refine_run({**options, **chosen, "trust": True}, shows=speaks())  # the user has just named all of it
