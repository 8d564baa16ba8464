"""Where the Hydra configuration is, and the parts of it that are not written in YAML."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from lightning import Trainer
from omegaconf import OmegaConf

# In a bare checkout conf/ lies beside the package; an installed package carries it as advnas_lightning.conf.
CONFIG_PATH = (
    "pkg://advnas_lightning.conf" if find_spec("advnas_lightning.conf") else str(Path(__file__).parents[1] / "conf")
)


@dataclass
class Config:
    """The top level of a run's configuration."""

    seed: int = 0  # of the weights, the data's order, dropout and the draws
    which: str | None = (
        None  # argmax or process_best: the genotype to select, or to retrain; default: the strategy's own
    )
    ckpt_path: str | None = None  # a run's checkpoints/last.ckpt, to resume it
    preset: str = "paper"  # or authors_code
    threads: int | None = "${task.threads}"  # type: ignore[assignment]  # of the CPU; null: torch's default
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Add to Hydra's store what conf/ builds on. Importing this module does it once."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    # Taken from the installed Lightning, so that every Trainer argument can be set from the command line.
    arguments = list(inspect.signature(Trainer.__init__).parameters.values())[1:]
    store.store(group="trainer", name="signature", node={argument.name: argument.default for argument in arguments})
    OmegaConf.register_new_resolver("minus", lambda left, right: max(left - right, 1), replace=True)


register()
