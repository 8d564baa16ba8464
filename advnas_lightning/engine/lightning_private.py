"""Every private name of Lightning and torchmetrics that the package uses, with the reason why no public one will do.

All functions were tried with Lightning 2.6.0 and torchmetrics 1.4.0, and with Lightning 2.6.6 and torchmetrics 1.9.0.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.apply_func import apply_to_collection  # type: ignore[attr-defined]  # re-exported
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import (
    _configure_optimizers,
    _configure_schedulers_automatic_opt,
    do_nothing_closure,
)
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from lightning.pytorch.utilities.types import LRSchedulerConfig
from omegaconf import Container
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torchmetrics import Metric

from advnas_lightning.loaders import raising_later
from advnas_lightning.own_data import own_data

NormalizationLayer = _NormBase  # what BatchNorm and InstanceNorm of all kinds have in common, which has no public name


def attached_trainer(module: LightningModule) -> Trainer | None:
    """The Trainer of a module, or ``None``: the public ``module.trainer`` raises an error where there is none."""
    return module._trainer


def compiled_module(model: nn.Module) -> nn.Module | None:
    """The module inside of what ``torch.compile`` returns, or ``None``: torch has no public name for it."""
    return getattr(model, "_orig_mod", None)


# -- data --------------------------------------------------------------------------------------------------------------


def wrap_train_loaders(trainer: Trainer, wrap: Callable[[Any], Any]) -> None:
    """Let the Trainer train on ``wrap(loaders)`` of whatever loaders it asks for, now and when it reloads them.

    The loaders may be arguments of ``fit``, a data module's or a module's own. No hook sees all of these.
    """
    source, fitted = trainer.fit_loop._data_source, trainer.lightning_module
    request = partial(type(source).dataloader, source)

    def wrapped() -> Any:
        if trainer.lightning_module is not fitted:  # it trains another one now, such as the found network
            return request()
        with own_data(False):  # a module's hook may have made the Trainer ask
            return wrap(request())

    source.dataloader = raising_later(wrapped)  # type: ignore[method-assign]


def training_batch(search: LightningModule, batch: Any) -> Any:
    """A batch of a weight step's loader as a training step gets it: converted, changed by hooks, and on the device.

    Lightning's loops do it, and they call the first hook by a private name. Without a Trainer the hooks are called.
    """
    trainer, device = search._trainer, search.device
    if trainer is None:
        batch = search.transfer_batch_to_device(search.on_before_batch_transfer(batch, 0), device, 0)
        return search.on_after_batch_transfer(batch, 0)
    batch = trainer.precision_plugin.convert_input({"weights": batch})
    batch = search._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, device=device, dataloader_idx=0)["weights"]


def copied_batch(batch: Any, device: torch.device) -> Any:
    """A batch in containers of its own, with tensors of its own where they are on a device already.

    Lightning's hooks and a module's steps may change a batch, and the function that Lightning moves batches with is
    public in a package that it needs, but not in Lightning.
    """
    return apply_to_collection(batch, Tensor, lambda each: each.clone() if each.device == device else each)


def reload_train_loaders(trainer: Trainer) -> None:
    """Let the Trainer ask for its training loaders again, though it has some: it keeps them for all epochs."""
    trainer.fit_loop._combined_loader = None


# -- hyperparameters ---------------------------------------------------------------------------------------------------


def logs_hyperparameters(module: LightningModule) -> bool:
    """Whether loggers get what ``save_hyperparameters`` kept: its argument ``logger`` is in a private attribute."""
    return module._log_hyperparams


def checkpointed_hyperparameters(module: LightningModule) -> dict[str, Any]:
    """What Lightning would put into a checkpoint of this module for its ``hparams``, whose name is private."""
    if not module.hparams:
        return {}
    found: dict[str, Any] = {}
    if hasattr(module, "_hparams_name"):
        found[module.CHECKPOINT_HYPER_PARAMS_NAME] = module._hparams_name
    if isinstance(module.hparams, Container):
        found[module.CHECKPOINT_HYPER_PARAMS_TYPE] = type(module.hparams)
        return {**found, module.CHECKPOINT_HYPER_PARAMS_KEY: module.hparams}
    return {**found, module.CHECKPOINT_HYPER_PARAMS_KEY: dict(module.hparams)}


# -- optimizers --------------------------------------------------------------------------------------------------------


def parse_optimizers(configured: Any) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """What a ``configure_optimizers`` returned, in any of its forms, as Lightning reads it for automatic optimization.

    There is no public reader, and the search itself optimizes by hand, for which Lightning reads less.
    """
    optimizers, schedulers, monitor = _configure_optimizers(configured)
    return optimizers, _configure_schedulers_automatic_opt(schedulers, monitor)


@contextmanager
def without_optimizer(trainer: Trainer, optimizer: Optimizer) -> Iterator[None]:
    """A context in which the Trainer has not this optimizer, nor its schedules.

    Lightning's property for them cannot be set without wrapping all optimizers anew.

    Raises:
        MisconfigurationException: Within the context, the Trainer got other ones.
    """
    strategy = trainer.strategy
    every = strategy._optimizers, strategy._lightning_optimizers, strategy.lr_scheduler_configs
    shown = (
        [each for each in every[0] if each is not optimizer],
        [each for each in every[1] if each.optimizer is not optimizer],
        [each for each in every[2] if each.scheduler.optimizer is not optimizer],
    )
    strategy._optimizers, strategy._lightning_optimizers, strategy.lr_scheduler_configs = shown
    try:
        yield
    finally:
        found = strategy._optimizers, strategy._lightning_optimizers, strategy.lr_scheduler_configs
        strategy._optimizers, strategy._lightning_optimizers, strategy.lr_scheduler_configs = every
    if any(one is not other for one, other in zip(found, shown, strict=True)):
        raise MisconfigurationException(
            "a hook has given the Trainer other optimizers or schedules, and a search goes on with those that it has:"
            " change them in place"
        )


@contextmanager
def one_step(trainer: Trainer, optimizer: Any) -> Iterator[None]:
    """A context that counts as one step of an optimizer, however often it steps; as none if an exception leaves it.

    So automatic optimization counts for ``trainer.global_step``. Manual optimization does it with private attributes of
    the optimizer, which it sets.
    """
    counting = optimizer._on_before_step, optimizer._on_after_step
    optimizer._on_before_step = optimizer._on_after_step = do_nothing_closure
    try:
        yield
    finally:
        optimizer._on_before_step, optimizer._on_after_step = counting
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()


def saves_by_time(callback: Callback) -> bool:
    """Whether a ModelCheckpoint has ``train_time_interval``, which it keeps in a private attribute alone."""
    return isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None


# -- logging -----------------------------------------------------------------------------------------------------------


@contextmanager
def logs_as(module: LightningModule, search: LightningModule) -> Iterator[None]:
    """Let a module that overrides ``log`` reach ``LightningModule.log`` of its own in the hook that the search is in.

    ``log`` of other modules is redirected to the search's, as Lightning does it for callbacks.
    """
    module._trainer, module._current_fx_name = search._trainer, search._current_fx_name
    try:
        yield
    finally:
        module._current_fx_name = None
        module._metric_attributes = None  # names by the ids of metrics, which a copy of the module does not have


def log_on(search: LightningModule, name: str, value: Any, **options: Any) -> None:
    """Log in a training step after its backward pass, without losing what it has logged before.

    In the first batch of an epoch Lightning drops what a hook has logged, once the hook logs again and another hook has
    logged in between. A hook such as ``on_before_optimizer_step`` is such a one where the step itself optimizes.
    """
    search.trainer._logger_connector._current_fx = "training_step"
    search.log(name, value, **options)


def log_whole_steps(trainer: Trainer, accumulate: int) -> None:
    """Let the Trainer log a step's values at its last batch alone, as it does under automatic optimization."""
    trainer.accumulate_grad_batches = accumulate  # it was validated before, and only counts steps from now on
    connector = trainer._logger_connector

    def log() -> None:
        if not trainer.fit_loop._should_accumulate():
            type(connector).update_train_step_metrics(connector)

    connector.update_train_step_metrics = log  # type: ignore[method-assign]


def forget_results(trainer: Trainer) -> None:
    """Let the loops forget what was logged under which name: a metric has another place in a search than in its module.

    Lightning keeps that for as long as there is the Trainer, and refuses the same name for a metric at another place.
    """
    training = trainer.fit_loop.epoch_loop
    for loop in (training, training.val_loop, trainer.validate_loop, trainer.test_loop):
        loop._results.clear()


def collect_logs(trainer: Trainer, *, within_epoch: bool) -> dict[str, Any]:
    """What was logged so far, in what ``torch.load(weights_only=True)`` reads. Lightning keeps it in no checkpoint.

    Without it the mean over an epoch is that over its batches after the resumption, and a callback does not find the
    value that it monitors until that is logged again.

    Args:
        trainer: The Trainer.
        within_epoch: Whether the sums of the running epoch are needed, too.
    """
    connector = trainer._logger_connector
    shown = {
        "callback": dict(trainer.callback_metrics),  # which computes the newest values
        "log": dict(connector._logged_metrics),
        "pbar": dict(connector._progress_bar_metrics),
    }
    results = trainer.fit_loop.epoch_loop._results if within_epoch else {}
    return {
        "shown": shown,
        "results": {key: _collect_result(each) for key, each in results.items() if not each.has_reset},
    }


def restore_logs(trainer: Trainer, module: LightningModule, logs: Mapping[str, Any]) -> None:
    """Go on with the logs of :func:`collect_logs`, as in the epoch in which they were collected."""
    connector, device = trainer._logger_connector, trainer.strategy.root_device
    connector._callback_metrics = {name: value.to(device) for name, value in logs["shown"]["callback"].items()}
    connector._logged_metrics, connector._progress_bar_metrics = dict(logs["shown"]["log"]), dict(logs["shown"]["pbar"])
    for key, saved in logs["results"].items():
        reduce = getattr(builtins if saved["is_builtin"] else torch, saved["reduce"])
        meta = _Metadata(**saved["meta"], reduce_fx=reduce)
        should, rank_zero_only = saved["sync"]
        meta.sync = _Sync(fn=trainer.strategy.reduce, _should=should, rank_zero_only=rank_zero_only)
        trainer.fit_loop.epoch_loop._results[key] = result = _ResultMetric(meta, saved["value"] is not None)
        if result.is_tensor:
            result.value = saved["value"].to(device)
            if meta.is_mean_reduction:
                result.cumulated_batch_size = saved["size"].to(device)
        else:
            result.value = module.get_submodule(saved["meta"]["metric_attribute"])
        result._forward_cache = None if saved["last"] is None else saved["last"].to(device)
        result._update_count = 1  # or it warns that it has no value
    if logs["results"]:
        connector._first_loop_iter = True  # or the next batch would be taken for an epoch's first, which drops the sums


def _collect_result(result: Any) -> dict[str, Any]:
    meta = result.meta
    names = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx")
    return {
        "meta": {name: getattr(meta, name) for name in (*names, "dataloader_idx", "metric_attribute")},
        "reduce": meta.reduce_fx.__name__,
        "is_builtin": meta.reduce_fx in (min, max, sum),
        "sync": [meta.sync.should, meta.sync.rank_zero_only],
        "value": result.value.clone() if result.is_tensor else None,
        "size": result.cumulated_batch_size.clone() if result.is_tensor and meta.is_mean_reduction else None,
        "last": result._forward_cache if isinstance(result._forward_cache, Tensor) else None,
    }


def has_workers(loader: Any) -> bool:
    """Whether a loader's persistent workers have been started, which PyTorch keeps in a private attribute."""
    return getattr(loader, "_iterator", None) is not None


# -- metrics -----------------------------------------------------------------------------------------------------------


def collect_metrics(module: nn.Module, trainer: Trainer, *, within_epoch: bool) -> dict[str, list[Any]]:
    """The states of all metrics in a module, and how often each was updated.

    ``state_dict`` has a state only where a metric was told to be persistent, and never the number of updates. At the
    end of an epoch those that were logged in it are left out: Lightning resets them, after the checkpoint is written.
    """
    results = {} if within_epoch else trainer.fit_loop.epoch_loop._results
    logged = {id(each.value) for each in results.values() if not each.is_tensor}
    return {
        name: [metric._update_count, {state: getattr(metric, state) for state in metric._defaults}]
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and id(metric) not in logged
    }


def restore_metrics(module: nn.Module, states: Mapping[str, Any], device: Any) -> None:
    """Restore the states of :func:`collect_metrics`."""
    for name, metric in module.named_modules():
        if isinstance(metric, Metric) and name in states:
            metric._update_count, values = states[name]
            metric._computed = None
            for state, value in values.items():
                setattr(metric, state, move_data_to_device(value, device))


# -- checkpoints -------------------------------------------------------------------------------------------------------


def batches_used(trainer: Trainer) -> int | None:
    """How many batches of the running epoch are used; ``None`` at its end. The progress of the loops is private."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return None if progress.processed and trainer.is_last_batch else progress.processed


def is_to_validate(trainer: Trainer) -> bool:
    """Whether a validation follows the batch that is trained on: this is decided in a private method."""
    fetcher: Any = trainer.fit_loop._data_fetcher
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def modes_before_validation(trainer: Trainer) -> dict[str, bool]:
    """The modes that Lightning puts back after the validation that runs, which is later than checkpoints are saved."""
    return trainer.fit_loop.epoch_loop.val_loop._module_mode.mode if trainer.validating else {}


def is_between_batches(trainer: Trainer) -> bool:
    """Whether a batch of the running epoch is done, the next one has not begun, and there is a next one."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return progress.completed == progress.ready > 0 and not trainer.is_last_batch


def dump_checkpoint(trainer: Trainer) -> dict[str, Any]:
    """What ``trainer.save_checkpoint`` would write: kept to be written later, or with other counts."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def last_save(callback: ModelCheckpoint) -> dict[str, Any]:
    """When and where a ModelCheckpoint has saved last, which it does not keep in a checkpoint.

    It saves nothing at a ``global_step`` at which it has saved before. Without this a resumed run would, between two
    batches of which the second takes no weight step.
    """
    return {"step": callback._last_global_step_saved, "path": callback._last_checkpoint_saved}


def restore_last_save(callback: ModelCheckpoint, last: Mapping[str, Any]) -> None:
    """Restore what :func:`last_save` has given."""
    callback._last_global_step_saved, callback._last_checkpoint_saved = last["step"], last["path"]


def overwrites(callback: ModelCheckpoint) -> bool:
    """Whether a ModelCheckpoint writes over a file that is there, which it keeps in a private attribute alone."""
    return not callback._enable_version_counter


@contextmanager
def counted_once(trainer: Trainer) -> Iterator[None]:
    """A context for a checkpoint within an epoch, after which the batch before it is not counted twice for loggers.

    Lightning counts a batch for its loggers after the validation that may follow it, and when a run is resumed there,
    once more.
    """
    loop = trainer.fit_loop.epoch_loop
    twice = int(loop.batch_progress.current.ready > 0 and not trainer.is_last_batch and is_to_validate(trainer))
    loop._batches_that_stepped -= twice
    try:
        yield
    finally:
        loop._batches_that_stepped += twice


@contextmanager
def scripted(network: nn.Module) -> Iterator[None]:
    """A context in which TorchScript may read all attributes of a network, of which ``trainer`` is an error else."""
    modules = [module for module in network.modules() if isinstance(module, LightningModule)]
    try:
        for module in modules:
            vars(module)["_jit_is_scripting"] = True
        yield
    finally:
        for module in modules:
            del vars(module)["_jit_is_scripting"]
