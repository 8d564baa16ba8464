"""What a module's own methods see of a Trainer's optimizers and schedules: its own, as in its own training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning import Trainer

from advnas_lightning.engine.lightning_private import without_optimizer
from advnas_lightning.engine.optimization import Optimization


class OwnOptimizers:
    """Hides the optimizer of the architecture and its schedules from a module's own methods.

    Args:
        trainer: Gives the Trainer, or ``None`` where there is none.
        hidden: The architecture's optimizer and schedules. A Trainer has them after all others.

    Example:
        >>> own = OwnOptimizers(lambda: None, Optimization("architecture", None))
        >>> with own.shown():
        ...     own.complete(checkpoint := {})
        >>> checkpoint
        {}
    """

    def __init__(self, trainer: Callable[[], Trainer | None], hidden: Optimization) -> None:
        self._trainer, self._hidden = trainer, hidden
        self._is_hiding = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        """A context in which the Trainer has the module's optimizers and schedules alone.

        Raises:
            MisconfigurationException: Within the context, the Trainer got other ones.
        """
        trainer, optimizer = self._trainer(), self._hidden.made
        if trainer is None or optimizer is None or self._is_hiding:
            yield
            return
        self._is_hiding = True
        try:
            with without_optimizer(trainer, optimizer):
                yield
        finally:
            self._is_hiding = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which the Trainer has these alone, and may exchange them; afterwards it has all."""
        trainer, optimizer = self._trainer(), self._hidden.made
        if trainer is None or optimizer is None:
            yield
            return
        strategy = trainer.strategy
        optimizers, schedules = strategy.optimizers, strategy.lr_scheduler_configs
        strategy.optimizers = [each for each in optimizers if each is not optimizer]
        strategy.lr_scheduler_configs = [each for each in schedules if each.scheduler.optimizer is not optimizer]
        self._is_hiding = True
        try:
            yield
        finally:
            self._is_hiding = False
            strategy.optimizers, strategy.lr_scheduler_configs = optimizers, schedules

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Add what is hidden to a checkpoint that is saved within the context."""
        trainer, optimizer = self._trainer(), self._hidden.made
        if self._is_hiding and trainer is not None and optimizer is not None and "optimizer_states" in checkpoint:
            checkpoint["optimizer_states"].append(trainer.strategy.optimizer_state(optimizer))
            checkpoint["lr_schedulers"] += [each.scheduler.state_dict() for each in self._hidden.schedules]
