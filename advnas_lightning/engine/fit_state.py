"""How far a fit has come, which training steps may ask for after it, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from lightning import Trainer


class FitState(NamedTuple):
    """What a Trainer says of its fit: ``current_epoch``, ``global_step``, ``max_epochs`` and ``num_training_batches``.

    Attributes:
        epochs: The state of the progress in epochs.
        steps: The state of the progress in steps, of a module that optimizes by hand.
        max_epochs: The number of epochs there are to be; ``None`` or −1 for no limit.
        max_batches: The number of batches in an epoch; infinite for a stream without a length.

    Example:
        >>> FitState.of(Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)).max_epochs
        3
    """

    epochs: dict[str, Any]
    steps: dict[str, Any]
    max_epochs: int | None
    max_batches: int | float

    @classmethod
    def of(cls, trainer: Trainer) -> FitState:
        """The state of a Trainer's fit.

        Args:
            trainer: The Trainer.
        """
        loop = trainer.fit_loop
        steps = loop.epoch_loop.manual_optimization.optim_step_progress
        return cls(loop.epoch_progress.state_dict(), steps.state_dict(), loop.max_epochs, loop.max_batches)

    @contextmanager
    def told_by(self, trainer: Trainer) -> Iterator[None]:
        """A context in which another Trainer says this of its fit.

        Args:
            trainer: The other Trainer.
        """
        before = FitState.of(trainer)
        _tell(self, trainer)
        try:
            yield
        finally:
            _tell(before, trainer)


def _tell(state: FitState, trainer: Trainer) -> None:
    loop = trainer.fit_loop
    loop.epoch_progress.load_state_dict(state.epochs)
    loop.epoch_loop.manual_optimization.optim_step_progress.load_state_dict(state.steps)
    loop.max_epochs, loop.max_batches = state.max_epochs, state.max_batches
