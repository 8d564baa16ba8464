"""How much of a training is done."""

from __future__ import annotations

import math

from lightning import Trainer
from lightning.pytorch.callbacks import Timer


def share_done(trainer: Trainer, batches: int) -> float | None:
    """The share of a training that is done, from 0 to 1, by the limit of the Trainer that is nearest.

    Args:
        trainer: The Trainer.
        batches: The number of batches of the current epoch that are done.

    Returns:
        ``None`` if the Trainer has no limit, or one that nobody can foresee.

    Example:
        >>> share_done(Trainer(max_epochs=-1, logger=False, enable_checkpointing=False), 5) is None
        True
    """
    shares = []
    each = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        within = batches / each if 0 < each < math.inf else 0.0
        shares.append((trainer.current_epoch + within) / trainer.max_epochs)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):  # type: ignore[attr-defined]
        elapsed, left = timer.time_elapsed(), timer.time_remaining()  # in this order the share never falls
        if left is not None:
            shares.append(elapsed / max(elapsed + left, 1e-9))
    return min(max(shares), 1.0) if shares else None
