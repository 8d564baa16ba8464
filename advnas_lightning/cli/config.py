"""The place of the Hydra configuration, and those parts of it that are written in Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from advnas_lightning.cli.signatures import NO_VALUE, signature

INSTALLED = "advnas_lightning.conf"


def config_folder() -> Path:
    """The folder of the package's configuration. In a bare checkout it lies beside the package, otherwise within it.

    Example:
        >>> (config_folder() / "config.yaml").is_file()
        True
    """
    installed = find_spec(INSTALLED)
    places = [] if installed is None else list(installed.submodule_search_locations or ())
    return Path(places[0]) if places else Path(__file__).parents[2] / "conf"


CONFIG_PATH = f"pkg://{INSTALLED}" if find_spec(INSTALLED) else str(config_folder())  # as Hydra takes it


@dataclass
class Saving:
    """When a run saves a checkpoint within an epoch. At SIGTERM and at Ctrl-C it saves one in any case.

    Example:
        >>> Saving(every_n_steps=100)
        Saving(every_n_minutes=5, every_n_steps=100)
    """

    every_n_minutes: float | None = 5
    every_n_steps: int | None = None  # a step is one training batch


@dataclass
class Config:
    """The top level of a run's configuration.

    Example:
        >>> OmegaConf.merge(OmegaConf.structured(Config), {"seed": 3}).seed
        3
    """

    seed: int = 0  # decides the initial weights, the data's order, dropout and the draws
    select: str | None = None  # the genotype to select or retrain; null: the strategy's default
    retrain: bool = False  # after a search its result is trained from scratch, as a run in the folder retrained
    refine: str | None = None  # finalists or neighbours: after a search short trainings decide, as in advnas refine
    refine_minutes: float | None = None  # is the largest number of minutes of these trainings
    export: Any = None  # is onnx, pt2, torchscript, source, or a list: writes what was found into such files at the end
    retraining: bool = False  # strategy=fixed sets this: it trains a found architecture and searches nothing
    cost: str | None = None  # is params, macs, latency, memory, a file of costs, or a function's dotted path
    cost_file: str | None = None  # is a file with the costs of that kind, which are then not measured
    cost_penalty: float | None = None  # is λ, the weight with which the cost is added to the loss
    cost_budget: float | None = None  # keeps the cost below this value, in the cost's unit, in place of a penalty
    cost_rate: float = 0.003  # is the step size of λ's dual ascent to the budget
    cost_damping: float = 10.0  # damps the swings of that ascent
    beta_decay: float = 0.0  # is the final λ of β-decay, which keeps θ small; 0: none
    sampling: str = "one"  # what a weight step runs: one draw, or a sandwich of the widest, the narrowest and draws
    sandwich_draws: int = 2  # how many draws a sandwich has
    warmup_sizes: str = "all"  # shrinking: the warm-up begins with the widest sizes alone, and others join them
    teacher: Any = None  # widest, or {_target_: …} of a module or a Distillation: what weight steps learn from
    calibrate: int = 10  # training batches on which running statistics are computed for what is evaluated; 0: none
    offload: bool = False  # keeps the candidates' parameters and their optimizer's state in host memory
    ckpt_path: str | None = None  # resumes from a checkpoint or a run's folder; last: from this run's own, if any
    optimized_metric: str | None = None  # is the name of the result that a run returns to a sweeper that optimizes
    checkpoint: Saving = field(default_factory=Saving)
    preset: str = "paper"  # is paper or authors_code
    threads: int | None = "${oc.select:task.threads,null}"  # type: ignore[assignment]  # CPU; null: torch's default
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Add the schemas on which conf/ builds to Hydra's store. The import of this module calls this function."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    # The names come from the installed Lightning, so that the command line can set every argument of its Trainer.
    trainer = signature("lightning.Trainer")
    arguments = {} if trainer is None else trainer.arguments
    defaults = {name: None if each.default is NO_VALUE else each.default for name, each in arguments.items()}
    store.store(group="trainer", name="signature", node=defaults)
    OmegaConf.register_new_resolver("minus", lambda left, right: max(left - right, 1), replace=True)


register()
