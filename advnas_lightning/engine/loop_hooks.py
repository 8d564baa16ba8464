"""Calls a module's hooks of the loops at their places in a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lightning import Callback, LightningModule, Trainer

from advnas_lightning.engine.lightning_private import forget_results


class LoopHooks(Callback):
    """Forwards the hooks of the loops to the module that is searched, after all other callbacks had theirs.

    The Trainer loses it when the fit or the evaluation is over, since it may train the found network next.

    Args:
        hooks: What to call, by the names of the hooks.

    Example:
        >>> started = []
        >>> LoopHooks({"on_train_start": lambda: started.append("yes")}).on_train_start(Trainer(logger=False), None)
        >>> started
        ['yes']
    """

    def __init__(self, hooks: Mapping[str, Callable[..., Any]]) -> None:
        for name, hook in hooks.items():
            setattr(self, name, partial(_without_search, hook))
        self._setup, self.setup = self.setup, self._go_last  # type: ignore[method-assign,assignment]
        self._teardown, self.teardown = self.teardown, self._leave  # type: ignore[method-assign,assignment]

    def _go_last(self, trainer: Trainer, search: LightningModule, stage: str) -> None:
        # Lightning moves checkpoints to the end of its list, and calls a module's hook after all callbacks'.
        forget_results(trainer)
        trainer.callbacks = [*_others(trainer, self), self]  # type: ignore[attr-defined]
        self._setup(trainer, search, stage)

    def _leave(self, trainer: Trainer, search: LightningModule, stage: str) -> None:
        self._teardown(trainer, search, stage)
        forget_results(trainer)
        trainer.callbacks = _others(trainer, self)  # type: ignore[attr-defined]

    def on_exception(self, trainer: Trainer, search: LightningModule, exception: BaseException) -> None:
        """Leave the Trainer: Lightning calls no teardown here."""
        trainer.callbacks = _others(trainer, self)  # type: ignore[attr-defined]


def _others(trainer: Trainer, callback: Callback) -> list[Callback]:
    return [each for each in trainer.callbacks if each is not callback]  # type: ignore[attr-defined]


def _without_search(
    hook: Callable[..., Any], _: Trainer, search: LightningModule, *arguments: Any, **named: Any
) -> None:
    hook(*arguments, **named)
