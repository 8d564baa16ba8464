"""When the schedules of learning rates move on: as under automatic optimization, where Lightning moves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from advnas_lightning.engine.lightning_private import is_to_validate
from advnas_lightning.engine.optimization import Optimization

Step = Callable[[Any, Any], None]


class ScheduleSteps:
    """Moves schedules on. Those that watch for a plateau move after the validation that may follow a batch.

    Args:
        optimizations: Has the schedules, by role.
        trainer: Gives the Trainer.
        moving: Gives, by role, what moves one of its schedules on; roles whose parameters stay are left out.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> weights = Optimization("weights", partial(torch.optim.SGD, lr=1.0), partial(torch.optim.lr_scheduler.StepLR,
        ...     step_size=1, gamma=0.5))
        >>> weights.make([torch.nn.Parameter(torch.zeros(1))])
        >>> steps = ScheduleSteps({"weights": weights}, dict, lambda: {"weights": lambda each, _: each.step()})
        >>> steps.move("epoch", 0, {}, plateau=False)
        >>> weights.made.param_groups[0]["lr"]
        0.5
    """

    def __init__(
        self,
        optimizations: Mapping[str, Optimization],
        trainer: Callable[[], Any],
        moving: Callable[[], Mapping[str, Step]],
    ) -> None:
        self._optimizations, self._trainer, self._moving = optimizations, trainer, moving
        self._watched: int | None = None  # the batch after which schedules wait for a validation

    def after_batch(self, batch_idx: int, *, whole: bool, last: bool) -> None:
        """Move on what a training batch moves on.

        Args:
            batch_idx: Its number.
            whole: Whether it completes a step.
            last: Whether it ends the epoch; a validation then sees the rates of the next one.
        """
        if not any(each.schedules for each in self._optimizations.values()):
            return
        trainer = self._trainer()
        if whole:
            self.move("step", batch_idx, trainer.callback_metrics, plateau=False)
            self._watched = batch_idx
        if last:
            self.move("epoch", trainer.current_epoch, trainer.callback_metrics, plateau=False)
        if not is_to_validate(trainer):
            self.after_validation()

    def at_left_epoch(self, batch_idx: int) -> None:
        """Move on what moves where an epoch is left before a batch."""
        trainer = self._trainer()
        self.move("step", batch_idx, trainer.callback_metrics, plateau=False)
        self.move("epoch", trainer.current_epoch, trainer.callback_metrics, plateau=False)

    def after_validation(self) -> None:
        """Move on what has waited for the batch's validation."""
        batch_idx, self._watched = self._watched, None
        if batch_idx is not None:
            self.move("step", batch_idx, self._trainer().callback_metrics, plateau=True)

    def after_epoch(self) -> None:
        """Move on what watches for a plateau over epochs."""
        trainer = self._trainer()
        self.move("epoch", trainer.current_epoch, trainer.callback_metrics, plateau=True)

    def move(self, interval: str, index: int, metrics: Mapping[str, Any], *, plateau: bool) -> None:
        """Move on all schedules of an interval, those that watch for a plateau or the others."""
        for role, step in self._moving().items():
            self._optimizations[role].step_schedules(interval, index, metrics, step, plateau=plateau)
