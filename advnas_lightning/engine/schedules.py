"""Schedules of learning rates in the forms in which Lightning takes them, with their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from advnas_lightning.validate import check_bool, check_int, check_one_of

Scheduler = LRScheduler | ReduceLROnPlateau
SchedulerFactory = Callable[[Optimizer], Scheduler | Mapping[str, Any]]
KEYS = tuple(field.name for field in fields(LRSchedulerConfig))


def schedule(optimizer: Optimizer, scheduler: SchedulerFactory, **options: Any) -> dict[str, Any]:
    """Make a schedule with Lightning's options. With some arguments given it is a factory, also in a YAML file.

    Args:
        optimizer: What it is a schedule of.
        scheduler: Makes it.
        options: ``interval="step"`` steps it after each training batch instead of each epoch, ``frequency`` after each
            so many of them; ``monitor`` is what a ``ReduceLROnPlateau`` watches, and with ``strict=False`` it need not
            be there; ``name`` is how a LearningRateMonitor calls it.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from torch.optim.lr_scheduler import OneCycleLR
        >>> factory = partial(schedule, scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=100), interval="step")
        >>> found = factory(torch.optim.SGD([torch.zeros(1)], lr=0.1))
        >>> type(found["scheduler"]).__name__, found["interval"]
        ('OneCycleLR', 'step')
    """
    return {"scheduler": scheduler(optimizer), **options}


def read_schedule(made: Any, argument: str, role: str) -> LRSchedulerConfig:
    """What a factory made: a schedule, or Lightning's dictionary with one.

    Args:
        made: What it made.
        argument: The name of the factory.
        role: What it is a schedule of.

    Raises:
        MisconfigurationException: It is neither.
        ValueError: An option has a value that it cannot have.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> config = read_schedule(ReduceLROnPlateau(sgd), "weight_scheduler", "weights")
        >>> config.name, config.interval, config.monitor
        ('lr/weights', 'epoch', 'val/loss')
    """
    options = dict(made) if isinstance(made, Mapping) else {"scheduler": made}
    unknown = options.keys() - set(KEYS)
    if unknown:
        raise MisconfigurationException(
            f"{argument} makes a dictionary with {', '.join(sorted(map(repr, unknown)))}: use {', '.join(KEYS)} alone"
        )
    scheduler = options.get("scheduler")
    if not isinstance(scheduler, Scheduler):
        raise MisconfigurationException(
            f"{argument} makes a {type(scheduler).__name__}: let it return a schedule of the optimizer, or a dictionary"
            ' such as {"scheduler": schedule, "interval": "step"}'
        )
    watches = isinstance(scheduler, ReduceLROnPlateau)
    config = LRSchedulerConfig(
        **{"name": f"lr/{role}", "reduce_on_plateau": watches, "monitor": "val/loss" if watches else None, **options}
    )
    check_one_of(f"{argument}: interval", config.interval, ("epoch", "step"))
    check_int(f"{argument}: frequency", config.frequency, least=1)
    check_bool(f"{argument}: strict", config.strict)
    check_bool(f"{argument}: reduce_on_plateau", config.reduce_on_plateau)
    return config
