"""Lightning's LearningRateFinder with a search: it finds the learning rate of the user's module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder

from advnas_lightning.engine.optimization import Optimization
from advnas_lightning.engine.own_optimizers import OwnOptimizers

Find = Callable[[Trainer, LightningModule], None]


class RateFinding:
    """Lets a finder train a user's module as it does without a search. Meanwhile θ stays.

    Args:
        module: The module, which has the learning rate.
        weights: The optimizer of its weights.
        optimizers: Hides the other one.
        paused: A context in which nothing is restored that belongs to a run that is resumed.
        hooks: Makes what forwards the hooks of the loops to the module.

    Attributes:
        is_running: Whether a finder trains the module now.

    Example:
        >>> hidden = OwnOptimizers(lambda: None, Optimization("weights", None), Optimization("architecture", None))
        >>> finding = RateFinding(LightningModule(), Optimization("weights", None), hidden, hidden.alone, Callback)
        >>> finding.let(finder := LearningRateFinder(), search=LightningModule())
        >>> finding.is_running
        False
    """

    def __init__(
        self,
        module: LightningModule,
        weights: Optimization,
        optimizers: OwnOptimizers,
        paused: Callable[[], AbstractContextManager[None]],
        hooks: Callable[[], Callback],
    ) -> None:
        self._module, self._weights, self._optimizers = module, weights, optimizers
        self._paused, self._hooks = paused, hooks
        self.is_running = False

    def let(self, finder: LearningRateFinder, search: LightningModule) -> None:
        """Let a finder find the rate of the module where it is called with the search."""
        finder.lr_find = partial(self._find, finder.lr_find, search)  # type: ignore[method-assign]

    def begin(self, trainer: Trainer) -> None:
        """Step the schedule of the finder that trains now, if there is one, and call the module's hooks."""
        if self.is_running:
            self._weights.schedules = trainer.lr_scheduler_configs
            hooks = self._hooks()
            trainer.callbacks.append(hooks)  # type: ignore[attr-defined]  # a finder has taken all others away
            hooks.on_train_start(trainer, trainer.lightning_module)

    def _find(self, find: Find, search: LightningModule, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module is search:
            with self._running(), self._paused(), self._optimizers.alone():
                find(trainer, self._module)
        else:  # the finder is used again, elsewhere
            find(trainer, pl_module)

    @contextmanager
    def _running(self) -> Iterator[None]:
        schedules, self.is_running = self._weights.schedules, True
        try:
            yield
        finally:
            self._weights.schedules, self.is_running = schedules, False
