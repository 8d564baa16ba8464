"""What a module's own methods see of a Trainer's optimizers and schedules: its own, as in its own training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from lightning import Trainer
from torch import Tensor
from torch.optim import Optimizer

from advnas_lightning.engine.lightning_private import without_optimizer
from advnas_lightning.engine.optimization import Optimization


class OwnOptimizers:
    """Hides the optimizer of the architecture and its schedules from a module's own methods.

    Args:
        trainer: Gives the Trainer, or ``None`` where there is none.
        own: The module's optimizer and schedules.
        hidden: The architecture's optimizer and schedules. A Trainer has them after all others.

    Example:
        >>> own = OwnOptimizers(lambda: None, Optimization("weights", None), Optimization("architecture", None))
        >>> with own.shown():
        ...     own.complete(checkpoint := {})
        >>> checkpoint
        {}
    """

    def __init__(self, trainer: Callable[[], Trainer | None], own: Optimization, hidden: Optimization) -> None:
        self._trainer, self._own, self._hidden = trainer, own, hidden

    def _places(self) -> tuple[Trainer, Optimizer, bool] | None:
        """The Trainer, what is to be hidden, and whether the Trainer shows it; ``None`` if one of them is not there."""
        trainer, optimizer = self._trainer(), self._hidden.made
        if trainer is None or optimizer is None:
            return None
        return trainer, optimizer, any(each is optimizer for each in trainer.strategy.optimizers)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """A context in which the Trainer has the module's optimizers and schedules alone.

        Raises:
            MisconfigurationException: Within the context, the Trainer got other ones.
        """
        places = self._places()
        with without_optimizer(*places[:2]) if places is not None and places[2] else nullcontext():
            yield

    @contextmanager
    def lent(self) -> Iterator[None]:
        """A context in which a Trainer without optimizers has the module's own ones of the last fit.

        A training step outside of a fit, such as one that ranks architectures, may log the learning rate.
        """
        trainer, made = self._trainer(), self._own.made
        if trainer is None or made is None or trainer.strategy.optimizers:
            yield
            return
        strategy = trainer.strategy
        strategy.optimizers, strategy.lr_scheduler_configs = [made], self._own.schedules
        try:
            yield
        finally:
            strategy.optimizers, strategy.lr_scheduler_configs = [], []

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A context after which the module's optimizer has the options that it had, and its schedules are as before.

        A training step may set a learning rate, or step a schedule.
        """
        groups = [] if self._own.made is None else self._own.made.param_groups
        options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        rates = [(value, value.clone()) for group in options for value in group.values() if isinstance(value, Tensor)]
        schedules = [(each.scheduler, each.scheduler.state_dict()) for each in self._own.schedules]
        try:
            yield
        finally:
            for group, before in zip(groups, options, strict=True):
                group.update(before)
            for rate, value in rates:
                rate.copy_(value)
            for schedule, state in schedules:
                schedule.load_state_dict(state)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which the Trainer has these alone, and may exchange them; afterwards it has all."""
        places = self._places()
        if places is None:
            yield
            return
        trainer, optimizer, _ = places
        strategy = trainer.strategy
        optimizers, schedules = strategy.optimizers, strategy.lr_scheduler_configs
        strategy.optimizers = [each for each in optimizers if each is not optimizer]
        strategy.lr_scheduler_configs = [each for each in schedules if each.scheduler.optimizer is not optimizer]
        try:
            yield
        finally:
            strategy.optimizers, strategy.lr_scheduler_configs = optimizers, schedules

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Add what is hidden to a checkpoint that is saved within the context."""
        places = self._places()
        if places is None or places[2] or "optimizer_states" not in checkpoint:
            return
        checkpoint["optimizer_states"].append(places[0].strategy.optimizer_state(places[1]))
        checkpoint["lr_schedulers"] += [each.scheduler.state_dict() for each in self._hidden.schedules]
