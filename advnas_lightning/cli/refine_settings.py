"""What a refinement of a run trains: by the run's settings, the task's defaults and the command's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from advnas_lightning.cli.checks import suggestion
from advnas_lightning.cli.config import config_folder
from advnas_lightning.cli.loading import saved_settings, settings_of
from advnas_lightning.reading import Unreadable, read_yaml
from advnas_lightning.refine.oracle import COLUMN, EPOCHS
from advnas_lightning.refine.rungs import check_rungs
from advnas_lightning.runs import RunFolder, flatten, sha256
from advnas_lightning.texts import plain
from advnas_lightning.validate import check_bool

__all__ = ["Plan", "read_plan"]

FOLDER = "refine"
DEFAULT = {"metric": "val/loss", "best": "lowest", "rungs": [1, 2, 4], "anneal": False, "proxy": []}
# The Trainer's settings that the trainings take over from the run.
TRAINER = ("accelerator", "precision", "deterministic", "benchmark", "limit_train_batches", "limit_val_batches")


@dataclass(frozen=True)
class Plan:
    """What is trained, and how.

    Attributes:
        run: The folder of the run.
        checkpoint: Its checkpoint.
        config: The configuration of the run.
        training: The configuration of the trainings.
        folder: The folder of the trainings.
        rungs: The numbers of epochs after which a training is scored.
        metric: The name of the score.
        maximize: Whether the highest score is the best one.
        anneal: Whether the learning rates fall to 0 up to each rung, in the place of the task's schedule.
        proxy: The settings that are smaller.
        inherited: Whether the trainings begin with the shared weights.
        oracle: Whether a table stands for the trainings.
        seed: The seed of the trainings.
        budgets: The largest costs that are allowed, by kind.
        trust: Whether to make whatever the configuration names.

    Example:
        >>> "rungs" in Plan.__annotations__
        True
    """

    run: RunFolder
    checkpoint: Path
    config: DictConfig
    training: DictConfig
    folder: Path
    rungs: tuple[int, ...]
    metric: str
    maximize: bool
    anneal: bool
    proxy: Sequence[str]
    inherited: bool
    oracle: bool
    seed: int
    budgets: Mapping[str, float]
    trust: bool

    @property
    def trainer(self) -> dict[str, Any]:
        """The arguments of the Trainer."""
        return {name: value for name in TRAINER if (value := self.training.trainer.get(name)) is not None}

    @property
    def decided(self) -> dict[str, Any]:
        """What decides the scores and the winner, in plain values."""
        further: dict[str, Any] = {"weights": "inherited" if self.inherited else "fresh"}
        if self.inherited:
            further["checkpoint"] = sha256(self.checkpoint)
        if self.budgets:
            further["cost_budget"] = dict(self.budgets)
        return {
            "scores": "table" if self.oracle else "trainings",
            "metric": self.metric,
            "best": "highest" if self.maximize else "lowest",
            "rungs": list(self.rungs),
            "anneal": self.anneal,
            "proxy": list(self.proxy),
            "seed": self.seed,
            **further,
        }


def read_plan(options: Mapping[str, Any]) -> Plan:
    """What the options of ``advnas refine`` ask for.

    Args:
        options: The value of each option.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The run cannot be loaded, or an option does not fit it.
    """
    trust, inherited = options["trust"], options["weights"] == "inherited"
    config, checkpoint = saved_settings(options["RUN"], trust=trust)
    run = RunFolder.of(checkpoint)
    task = {**DEFAULT, **_of_task(config, run)}
    chosen = {name: task[name] if options[name] is None else options[name] for name in DEFAULT}
    oracle = options["oracle"] is not None
    if oracle:
        chosen = {"metric": COLUMN, "best": "highest", "rungs": (EPOCHS,), "anneal": False, "proxy": []}
    rungs = check_rungs(tuple(chosen["rungs"]))
    proxy = [str(each) for each in chosen["proxy"]]
    if inherited:
        given = [each for each in options["proxy"] or () if each.startswith("task.model.")]
        if given:
            raise ValueError(f"proxy has {plain(given[0])}, and weights=inherited needs the network of the search")
        proxy = [each for each in proxy if not each.startswith("task.model.")]
    _check_proxy(proxy, config)
    changes = {
        "retraining": not inherited,
        "trainer": {"max_epochs": rungs[-1], "limit_train_batches": None, "limit_val_batches": None},
        "task": {"data": {"retraining": False}} if "retraining" in config.task.data else {},
    }
    changed: Any = OmegaConf.to_container(OmegaConf.merge(changes, OmegaConf.from_dotlist(proxy)))
    training = settings_of(checkpoint, trust=trust, changes=changed)
    output = options["output"]
    return Plan(
        run=run,
        checkpoint=checkpoint,
        config=config,
        training=training,
        folder=run.path / FOLDER if output is None else output,
        rungs=rungs,
        metric=str(chosen["metric"]),
        maximize=chosen["best"] == "highest",
        anneal=check_bool("anneal", chosen["anneal"]),
        proxy=proxy,
        inherited=inherited,
        oracle=oracle,
        seed=options["seed"],
        budgets=options["cost_budget"] or {},
        trust=trust,
    )


def _of_task(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """The task's own defaults, which the configuration of an older run lacks."""
    found: Any = config.task.get("refine")
    if found is not None:
        found = OmegaConf.to_container(found, resolve=True)
    else:
        try:
            found = read_yaml(config_folder() / "task" / f"{run.choices.get('task')}.yaml").get("refine")
        except (AttributeError, OSError, Unreadable):
            found = None
    return dict(found or {})


def _check_proxy(proxy: Sequence[str], config: DictConfig) -> None:
    """Refuse settings that the run does not have.

    Raises:
        ValueError: There is one.
    """
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    known = [key for key, _ in flatten(content) if key.startswith(("task.", "trainer."))]
    for each in proxy:
        key = each.partition("=")[0]
        if key not in known:
            raise ValueError(f"proxy has {plain(each)}, which is no setting of the run: {suggestion(key, known)}")
        try:
            OmegaConf.from_dotlist([each])
        except OmegaConfBaseException as error:
            raise ValueError(f"proxy has {plain(each)}: {' '.join(str(error).split())}") from None
