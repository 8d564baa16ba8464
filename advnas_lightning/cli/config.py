"""Where the Hydra configuration is, and the parts of it that are not written in YAML."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from lightning import Trainer
from omegaconf import OmegaConf

# In a bare checkout conf/ lies beside the package; an installed package carries it as advnas_lightning.conf.
CONFIG_PATH = (
    "pkg://advnas_lightning.conf" if find_spec("advnas_lightning.conf") else str(Path(__file__).parents[2] / "conf")
)


@dataclass
class Saving:
    """When a run saves within an epoch, beside SIGTERM and Ctrl-C."""

    every_n_minutes: float | None = 5
    every_n_steps: int | None = None  # a step: one training batch


@dataclass
class Config:
    """The top level of a run's configuration."""

    seed: int = 0  # of the weights, the data's order, dropout and the draws
    select: str | None = None  # argmax or process_best: the genotype to select, or to retrain; default: the strategy's
    retrain: bool = False  # after a search, what it found is trained from scratch: a run in the folder retrained
    retraining: bool = False  # strategy=fixed: a found architecture is trained, nothing is searched
    cost: str | None = None  # params, macs, latency, memory, a file of costs, or a function's dotted path
    cost_penalty: float | None = None  # λ: the cost is added to the loss
    cost_budget: float | None = None  # or the cost is kept below this, in its own unit
    cost_rate: float = 0.003  # of λ's dual ascent to the budget
    cost_damping: float = 10.0  # of it, against swings
    offload: bool = False  # candidates' parameters and their optimizer's state stay in host memory
    ckpt_path: str | None = None  # a run's checkpoints/last.ckpt, to resume it; last: that of this run's folder, if any
    checkpoint: Saving = field(default_factory=Saving)
    preset: str = "paper"  # or authors_code
    threads: int | None = "${task.threads}"  # type: ignore[assignment]  # of the CPU; null: torch's default
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)


def check_trainer(arguments: Mapping[Any, Any]) -> None:
    """Refuse what no Trainer takes; Lightning itself would stumble over some of it only later.

    Raises:
        ValueError: an argument of the wrong type.
    """
    hints = get_type_hints(Trainer.__init__)
    for name, value in arguments.items():
        types = {get_origin(hint) or hint for hint in get_args(hints.get(name)) or (hints.get(name),)}
        if float in types:
            types.add(int)
        if name in ("val_check_interval", "check_val_every_n_epoch") and value == 0:
            raise ValueError(f"trainer.{name}={value!r} must be above 0: trainer.limit_val_batches=0 skips validation")
        plain = isinstance(value, str | int | float)
        if plain and types <= {str, int, float, bool, type(None)} and type(value) not in types:
            allowed = ", ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in types))
            raise ValueError(f"trainer.{name}={value!r} is of the wrong type: use {allowed}")


def register() -> None:
    """Add to Hydra's store what conf/ builds on. Importing this module does it once."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    # Taken from the installed Lightning, so that every Trainer argument can be set from the command line.
    arguments = list(inspect.signature(Trainer.__init__).parameters.values())[1:]
    store.store(group="trainer", name="signature", node={argument.name: argument.default for argument in arguments})
    OmegaConf.register_new_resolver("minus", lambda left, right: max(left - right, 1), replace=True)


register()
