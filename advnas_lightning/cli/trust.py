"""What a configuration that somebody else may have written is allowed to make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from lightning import LightningDataModule
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from advnas_lightning.cost.meters import UNITS
from advnas_lightning.engine.distillation import Distillation
from advnas_lightning.texts import shortened

# The parts that are instantiated.
MADE = ("task.data", "task.model", "task.objective", "task.optimization", "strategy", "teacher")
PACKAGES = ("advnas_lightning.", "torch.optim.")
# Other classes of this package do other things: one reads pickles, which may run code.
KINDS = (LightningDataModule, nn.Module, Optimizer, LRScheduler, Distillation)


def without_strangers(config: DictConfig, source: Path) -> DictConfig:
    """The configuration of a run, if it makes nothing but this package's data, networks and strategies, and optimizers.

    Its interpolations are resolved, so that what was checked is what will be made.

    Args:
        config: The configuration.
        source: Its file, for the message.

    Raises:
        ValueError: If it makes something else, which might be any function with any arguments.

    Example:
        >>> config = OmegaConf.create({"task": {"data": {"_target_": "os.system", "command": "ls"}}})
        >>> without_strangers(config, Path("config.yaml"))
        Traceback (most recent call last):
            ...
        ValueError: config.yaml makes 'os.system' (task.data), which may run any code: trust=true allows it
    """
    resolved = config.copy()
    for key in MADE:
        try:
            content = _plain(OmegaConf.select(config, key, throw_on_missing=True))
        except RecursionError:
            raise ValueError(f"{source} is nested too deeply ({key})") from None
        for stranger in _strangers(content):
            raise _refusal(source, f"makes {shortened(repr(stranger), 80)} ({key})")
        OmegaConf.update(resolved, key, content, merge=False, force_add=True)
    cost = config.get("cost")
    is_named = cost in UNITS or config.get("cost_file") is not None  # the name of a cost in that file
    if cost is not None and not is_named and not Path(cost).is_file():
        raise _refusal(source, f"measures by {shortened(repr(cost), 80)} (cost)")
    return resolved


def _refusal(source: Path, what: str) -> ValueError:
    return ValueError(f"{source} {what}, which may run any code: trust=true allows it")


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _strangers(content: Any) -> Iterator[Any]:
    """Yield each target that may not be made, and each text that would be resolved only afterwards."""
    if isinstance(content, dict):
        if "_target_" in content and not _is_ours(content["_target_"]):
            yield content["_target_"]
        for value in content.values():
            yield from _strangers(value)
    elif isinstance(content, list):
        for value in content:
            yield from _strangers(value)
    elif isinstance(content, str) and "${" in content:
        yield content


def _is_ours(target: Any) -> bool:
    """Whether a target is one of the allowed classes. Its name alone does not tell: a module of ours has an ``os``."""
    if not isinstance(target, str) or not target.startswith(PACKAGES):
        return False
    try:
        kind = get_class(target)
    except (ImportError, ValueError):
        return False
    return issubclass(kind, KINDS) and f"{kind.__module__}.".startswith(PACKAGES)
