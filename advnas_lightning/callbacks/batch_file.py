"""A callback that keeps the description of a batch, from which costs are measured where the data are not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from advnas_lightning.batch_description import write_description


class BatchFile(Callback):
    """Writes the shapes and types of the first batch of architecture steps, or of weight steps before there is one.

    Args:
        path: The path of the file.
        arguments: What else a network for such batches is made with.

    Example:
        >>> BatchFile("batch.json", {}).path.name
        'batch.json'
    """

    def __init__(self, path: str | Path, arguments: Mapping[str, Any]) -> None:
        self.path, self.arguments = Path(path), arguments
        self._written: str | None = None  # the kind of step whose batch was described

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Describe the batch, unless that was done."""
        role = next((role for role in ("architecture", "weights") if role in batch), None)
        if role is None or self._written in (role, "architecture"):
            return
        self._written = role
        if trainer.is_global_zero:
            write_description(self.path, batch[role], self.arguments)
