"""What a search refuses of its Trainer and of its model, with what to use instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from advnas_lightning.engine.lightning_private import compiled_module, saves_by_time
from advnas_lightning.other_lightning import other_classes, refuse_other_package

AVERAGING_OR_FREEZING: tuple[type[Callback], ...] = (
    BaseFinetuning,
    callbacks.StochasticWeightAveraging,
    callbacks.WeightAveraging,
)
SHARDING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


def check_trainer_options(trainer: Trainer, own: Iterable[Callback], *, rate: bool) -> None:
    """Refuse options that work under automatic optimization alone, before Lightning refuses them in other words.

    Args:
        trainer: The Trainer of a search.
        own: The callbacks that the searched module adds to the Trainer's.
        rate: Whether there is a learning rate that Lightning can find.

    Raises:
        MisconfigurationException: The Trainer is to clip or accumulate gradients, has such a callback, or lets each
            process have a part of the parameters.
    """
    options: Any = trainer
    clip, algorithm = options.gradient_clip_val, options.gradient_clip_algorithm
    rule = "" if algorithm is None else f', weight_clip_algorithm="{algorithm.value}"'
    if clip is not None:
        raise MisconfigurationException(
            f"Trainer(gradient_clip_val={clip}) is for automatic optimization: give the strategy weight_clip={clip}"
            f"{rule}, and architecture_clip=… if θ's gradients are to be clipped, too"
        )
    if algorithm is not None:
        raise MisconfigurationException(
            f"Trainer(gradient_clip_algorithm={algorithm.value}) is for automatic optimization: give the strategy"
            f" weight_clip=…{rule}"
        )
    if options.accumulate_grad_batches != 1:
        raise MisconfigurationException(
            f"Trainer(accumulate_grad_batches={options.accumulate_grad_batches}) is for automatic optimization:"
            f" give the strategy accumulate={options.accumulate_grad_batches}"
        )
    if isinstance(trainer.strategy, SHARDING):
        raise MisconfigurationException(
            f"Trainer(strategy={type(trainer.strategy).__name__}) gives each process a part of the parameters, and a"
            ' search needs all of them in each: use strategy="ddp_find_unused_parameters_true", and the search\'s'
            " offload=True where memory is short"
        )
    for callback in (*options.callbacks, *own):
        reject_callback(callback)
        if isinstance(callback, LearningRateFinder) and not rate:
            raise MisconfigurationException(
                f"{type(callback).__name__} sees the loss that training_step of a LightningModule returns, and here"
                " there is none, because the search has a loss of its own: compare a few rates in weight_optimizer=…"
            )


def reject_callback(callback: Callback) -> None:
    """Refuse a callback that takes part in automatic optimization.

    Under manual optimization Lightning does run these callbacks, but they silently do nothing, or the wrong thing.

    Raises:
        MisconfigurationException: It is one of them.
    """
    name = type(callback).__name__
    if [kind.__name__ for kind in other_classes(type(callback))] not in ([], ["Callback"]):
        refuse_other_package(callback, "callback")  # one of a user's own, which is a mere Callback, is called
    if isinstance(callback, GradientAccumulationScheduler):
        instead = "give the strategy accumulate=…"
    elif isinstance(callback, AVERAGING_OR_FREEZING):
        instead = "use it in the training of the network that search.derive() gives"
    elif isinstance(callback, ModelCheckpoint) and saves_by_time(callback):
        name += "(train_time_interval=…)"
        instead = "use advnas_lightning.callbacks.LastCheckpoint(folder, every_n_minutes=…)"
    else:
        return
    raise MisconfigurationException(f"{name} is for automatic optimization: {instead}")


def warn_of_long_warmup(trainer: Trainer, warmup_epochs: int) -> None:
    """Warn of a warm-up that is as long as the training."""
    last = trainer.max_epochs
    if last is not None and 0 <= last <= warmup_epochs and warmup_epochs:
        rank_zero_warn(f"θ never moves: warmup_epochs={warmup_epochs} leave nothing of max_epochs={last}")


def warn_of_our_name(name: str, *, has_cost: bool) -> None:
    """Warn of a name that a module logs and that the search logs, too.

    Args:
        name: What the module logs.
        has_cost: Whether the search has a cost, which it logs.
    """
    if name in ("entropy", "architecture/loss", *(("cost", "cost_penalty") if has_cost else ())):
        rank_zero_warn(
            f"the module logs {name!r}, and the search logs its own {name!r}: loggers and monitors have both under one"
            " name, so let the module log it under another one"
        )


def check_model(model: Any) -> nn.Module:
    """A network that can be searched.

    Raises:
        ValueError: It is no module, or a LightningModule inside of what ``torch.compile`` returns.
    """
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ValueError(f"the model is {given}: give an nn.Module that has MixedOps")
    if isinstance(compiled_module(model), LightningModule):
        raise ValueError(
            "the module was given through torch.compile, which hides its hooks: compile it in place with"
            " module.compile(), or compile the candidates"
        )
    return model
