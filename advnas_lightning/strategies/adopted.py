"""A user's own LightningModule in a search: its steps, optimizer, schedules, hooks, metrics and logs, as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from lightning import LightningModule
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from lightning.pytorch.core.optimizer import _configure_optimizers, _configure_schedulers_automatic_opt
from lightning.pytorch.trainer.call import _call_callback_hooks
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from advnas_lightning.loaders import BATCH_HOOKS, KEYS
from advnas_lightning.strategies.base import SearchStrategy, SkippedStep, as_loss
from advnas_lightning.tasks import Outcome

STEPS = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}
# What the search itself calls of the module, each at its place in a step.
CALLED = ("on_before_zero_grad", "on_before_optimizer_step", "optimizer_zero_grad", "optimizer_step")
HOOKS = (
    *(name for kind in (ModelHooks, DataHooks, CheckpointHooks) for name in vars(kind) if name not in CALLED),
    *("configure_callbacks", "backward", "lr_scheduler_step", *STEPS.values()),
)


def is_trainable(model: Any) -> bool:
    """Whether a model says itself how it is trained."""
    return isinstance(model, LightningModule) and is_overridden("training_step", model)


def adopt(search: SearchStrategy) -> None:
    """Give a search the hooks of the LightningModule that it searches.

    Raises:
        MisconfigurationException: the module optimizes by hand, which a search cannot take over.
    """
    module = search.model
    assert isinstance(module, LightningModule)
    name = type(module).__name__
    if not module.automatic_optimization:
        raise MisconfigurationException(
            f"{name} optimizes by hand (automatic_optimization=False), so a search does not know what its weight step"
            " is: override weight_step(batch) in a subclass of the strategy, and give it weight_optimizer=…"
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise MisconfigurationException(
            f"{name}.training_step takes the iterator of a loader, and a search has batches: let it take a batch"
        )
    hooks = tuple(hook for hook in HOOKS if not hook.startswith("_") and is_overridden(hook, module))
    search.__class__ = _adopting(type(search), hooks)


class Adopted(SearchStrategy):
    """Mixed into a strategy whose model is a LightningModule with a ``training_step``.

    The module's own hooks are called as in its own training, its hooks for training batches with its own batches: those
    of the weight steps. What it logs and counts in an architecture step is dropped. In evaluations, and while its hooks
    run, its network is that of the arg max.
    """

    trains_weights = True
    _output: Any = None  # what training_step returned in the weight step

    @property
    def module(self) -> LightningModule:
        """The user's module."""
        return cast(LightningModule, self.model)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Both steps; returns what the module's own step did."""
        self._output = None
        super().training_step(batch, batch_idx)
        output, self._output = self._output, None
        return output

    @property
    def loss_name(self) -> str:
        """The module's own."""
        return f"{type(self.module).__name__}.training_step"

    def loss(self, batch: Any) -> Outcome:
        """The loss of the module's ``training_step``.

        Raises:
            ValueError: the step returns none.
            SkippedStep: it returned ``None``.
        """
        loop = self.trainer.fit_loop.epoch_loop
        with self._as_current():
            results: Any = self.trainer._results  # which infers the size of a batch that is logged of
            results.batch, results.batch_size = batch, None
            output = _call_step(self.module.training_step, batch, loop.batch_idx)
        if output is None:
            raise SkippedStep
        loss = output.get("loss") if isinstance(output, Mapping) else output
        loss = as_loss(loss, self.loss_name)
        detached = loss.detach()
        self._output = {**output, "loss": detached} if isinstance(output, Mapping) else detached
        outcome: Outcome = self.as_outcome(loss, batch)
        return outcome

    def architecture_step(self, batch: Any) -> None:
        """As in every strategy, and without a trace in the module's logs and metrics."""
        output = self._output
        with self._silent():
            super().architecture_step(batch)
        self._output = output

    def _note_loss(self, name: str, loss: Tensor, size: int) -> None:
        if name != "train/loss":  # the module logs its own
            super()._note_loss(name, loss, size)

    # -- optimization --------------------------------------------------------------------------------------------------

    def weight_optimization(self) -> tuple[Optimizer | None, list[LRSchedulerConfig]]:
        """The module's own ``configure_optimizers``, unless the search was given a weight optimizer.

        Raises:
            MisconfigurationException: there is none, or there are several.
        """
        if self.weight_optimizer is not None:
            return super().weight_optimization()
        name = f"{type(self.module).__name__}.configure_optimizers"
        configured: Any = (
            self.module.configure_optimizers() if is_overridden("configure_optimizers", self.module) else None
        )
        if configured is None:
            raise MisconfigurationException(f"{name} gives no optimizer: define it, or pass weight_optimizer=…")
        optimizers, schedulers, monitor = _configure_optimizers(configured)
        if len(optimizers) != 1:
            raise MisconfigurationException(
                f"{name} gives {len(optimizers)} optimizers, and a weight step has one: override weight_step(batch) in"
                " a subclass of the strategy, and give it weight_optimizer=…"
            )
        return optimizers[0], _configure_schedulers_automatic_opt(schedulers, monitor)

    def zero_weight_gradients(self, optimizer: Any) -> None:
        """As in the module's own training."""
        _call_callback_hooks(self.trainer, "on_before_zero_grad", optimizer.optimizer)
        with self._as_current():
            self.module.on_before_zero_grad(optimizer.optimizer)
            loop = self.trainer.fit_loop.epoch_loop
            self.module.optimizer_zero_grad(self.module.current_epoch, loop.batch_idx, optimizer.optimizer)

    def step_weights(self, optimizer: Any, differentiate: Callable[[], Tensor | None]) -> None:
        """As in the module's own training, where the optimizer's step calls for the passes."""
        loop = self.trainer.fit_loop.epoch_loop
        with self._as_current():
            self.module.optimizer_step(self.module.current_epoch, loop.batch_idx, optimizer, differentiate)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """The module's hook, for its own optimizer, and then the clipping."""
        if "weights" in self._roles and self._optimizer("weights").optimizer is optimizer:
            with self._as_current():
                self.module.on_before_optimizer_step(optimizer)
                if is_overridden("configure_gradient_clipping", self.module):
                    self.module.configure_gradient_clipping(
                        optimizer, self.weight_clip, self.clip_algorithms["weights"]
                    )
                    return
        super().on_before_optimizer_step(optimizer)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def _log_evaluation(self, stage: str) -> None:
        step = "validation_step" if stage == "val" else "test_step"
        if not is_overridden(step, self.module):  # else the module has logged what it wants
            super()._log_evaluation(stage)

    # -- inside --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _as_current(self) -> Iterator[None]:
        """Let the module log as what the trainer is calling, with an architecture where none is bound."""
        modules = [module for module in self.model.modules() if isinstance(module, LightningModule)]
        for module in modules:
            module._current_fx_name = self._current_fx_name
        try:
            with self.bound():
                yield
        finally:
            for module in modules:
                module._current_fx_name = None

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Drop what the module logs, and give its metrics back the state that they had."""
        modules = [module for module in self.model.modules() if isinstance(module, LightningModule)]
        saved = [(metric, dict(vars(metric))) for metric in self.model.modules() if isinstance(metric, Metric)]
        for module in modules:
            module.log = _drop  # type: ignore[method-assign]
        for metric, attributes in saved:
            for name in metric._defaults:
                state = attributes[name]
                setattr(metric, name, list(state) if isinstance(state, list) else state.clone())
        try:
            yield
        finally:
            for module in modules:
                del module.log
            for metric, attributes in saved:
                vars(metric).clear()
                vars(metric).update(attributes)


def _drop(*_: Any, **__: Any) -> None:
    """A log that forgets."""


def _call_step(step: Callable[..., Any], batch: Any, batch_idx: int, *rest: int) -> Any:
    """Steps need not take the number of the batch."""
    takes_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)
    return step(batch, batch_idx, *rest) if takes_index else step(batch)


def _forwarding(name: str, own: bool) -> Callable[..., Any]:
    """A method that calls the module's hook, and then the search's ``own``."""

    def hook(self: Any, *arguments: Any, **keywords: Any) -> Any:
        method = getattr(self.module, name)
        with self._as_current():
            if name in STEPS.values():
                return _call_step(method, *arguments, **keywords)
            if name in BATCH_HOOKS and self.trainer.training:
                batch, *rest = arguments
                return {role: method(part, *rest, **keywords) for role, part in batch.items()}
            if name in ("on_train_batch_start", "on_train_batch_end"):
                arguments = tuple(_of_weights(each) for each in arguments)
            result = method(*arguments, **keywords)
        if own:
            getattr(super(Adopted, self), name)(*arguments, **keywords)
        return result

    hook.__name__ = name
    return hook


def _of_weights(argument: Any) -> Any:
    """The module's own batch, of a pair of batches."""
    pair = isinstance(argument, dict) and bool(argument) and argument.keys() <= set(KEYS)
    return argument.get("weights") if pair else argument


_CLASSES: dict[tuple[type[SearchStrategy], tuple[str, ...]], type[SearchStrategy]] = {}


def _adopting(kind: type[SearchStrategy], hooks: tuple[str, ...]) -> type[SearchStrategy]:
    """The strategy with these hooks: Lightning looks at a class for which of them there are."""
    if (kind, hooks) in _CLASSES:
        return _CLASSES[kind, hooks]
    methods = {
        hook: _forwarding(
            hook, hook not in STEPS.values() and getattr(kind, hook) is not getattr(LightningModule, hook)
        )
        for hook in hooks
    }

    def reduce(self: Any) -> tuple[Any, ...]:  # a class made on the fly has no name to be pickled by
        return _restore, (kind, hooks), self.__getstate__()

    made = type(kind.__name__, (Adopted, kind), {**methods, "__reduce__": reduce, "__module__": kind.__module__})
    return _CLASSES.setdefault((kind, hooks), made)


def _restore(kind: type[SearchStrategy], hooks: tuple[str, ...]) -> SearchStrategy:
    made = _adopting(kind, hooks)
    return made.__new__(made)
