"""Exports what a run has found or trained, as a part of the run."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from advnas_lightning.cli.export import OPTIONS
from advnas_lightning.cli.exporting import export_run
from advnas_lightning.cli.run import speaks
from advnas_lightning.export.formats import check_formats
from advnas_lightning.folder_lock import is_first_process
from advnas_lightning.runs import RunFolder, is_retrained


def export_found(config: DictConfig, folder: Path) -> None:
    """Export as the setting ``export`` says: what a run has trained at last, or what its refinement has found.

    Args:
        config: The configuration of the run.
        folder: The folder of the run.

    Raises:
        ValueError: The network cannot be written in one of the formats. The other results of the run are there.
    """
    if not is_first_process():
        return
    retrained = is_retrained(config)
    refined = config.refine and not config.retraining and not retrained
    chosen = {
        "RUN": str(RunFolder(folder).retrained.path if retrained else folder),
        "formats": check_formats("export", config.export),
        "select": "refined" if refined else None,
        "threads": None,  # those of the run
    }
    options = {name: option.default for name, option in OPTIONS.items()}
    export_run({**options, **chosen, "trust": True}, shows=speaks(), advises=False)  # the user has just named all of it
