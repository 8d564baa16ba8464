"""What Lightning's own callbacks need to go on beside a search, and do not keep in a checkpoint themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from advnas_lightning.engine.lightning_private import last_save, overwrites, restore_last_save


def collect(trainer: Trainer) -> dict[str, Any]:
    """What the callbacks of a Trainer need, in what ``torch.load(weights_only=True)`` reads.

    Example:
        >>> collect(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))
        {'is_stopped': False, 'last_saves': {}}
    """
    saving = [each for each in trainer.callbacks if isinstance(each, ModelCheckpoint)]  # type: ignore[attr-defined]
    return {"is_stopped": trainer.should_stop, "last_saves": {each.state_key: last_save(each) for each in saving}}


def restore(trainer: Trainer, state: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Let the callbacks of a Trainer go on where they were.

    A training that EarlyStopping has ended stays ended. It would else go on for an epoch if it was killed just before
    its own end. A ModelCheckpoint does not save again what it has saved last.

    Args:
        trainer: The Trainer.
        state: What :func:`collect` returned.
        checkpoint: The checkpoint, for the states of the callbacks.

    Example:
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        >>> restore(trainer, collect(trainer), {"callbacks": {}, "epoch": 0})
        >>> trainer.should_stop
        False
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.state_key in state["last_saves"]:
            restore_last_save(callback, state["last_saves"][callback.state_key])
        if isinstance(callback, EarlyStopping) and state["is_stopped"]:
            own = checkpoint["callbacks"].get(callback.state_key, {})
            trainer.should_stop |= own.get("stopped_epoch") == checkpoint["epoch"]


def refuse_same_file(callbacks: list[Callback], path: Path) -> None:
    """Check that no ModelCheckpoint writes over a file.

    Args:
        callbacks: All callbacks, when Lightning has set them up.
        path: The file.

    Raises:
        MisconfigurationException: One of them would.

    Example:
        >>> saving = ModelCheckpoint("checkpoints", save_last=True, enable_version_counter=False)
        >>> refuse_same_file([saving], Path("checkpoints/last.ckpt"))
        Traceback (most recent call last):
            ...
        lightning.fabric.utilities.exceptions.MisconfigurationException: ModelCheckpoint(save_last=True, \
enable_version_counter=False) would write over LastCheckpoint's checkpoints/last.ckpt: give it another dirpath
    """
    for each in callbacks:
        if isinstance(each, ModelCheckpoint) and each.save_last and overwrites(each) and each.dirpath is not None:
            own = Path(each.dirpath) / f"{each.CHECKPOINT_NAME_LAST}{each.FILE_EXTENSION}"
            if own.resolve() == path.resolve():
                raise MisconfigurationException(
                    f"ModelCheckpoint(save_last={each.save_last}, enable_version_counter=False) would write over"
                    f" LastCheckpoint's {path}: give it another dirpath"
                )
