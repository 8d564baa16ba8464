"""The settings of the paper, and in which of them a run departs from it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from advnas_lightning.report.palette import STRATEGIES
from advnas_lightning.report.runs import Run, resolved
from advnas_lightning.report.settings import described, in_order
from advnas_lightning.runs import flatten

__all__ = ["Departure", "departures", "is_papers", "paper_settings"]

# What Lightning does by default. A configuration that does not have these settings has these values.
TRAINER = {
    "trainer.limit_train_batches": None, "trainer.max_steps": -1, "trainer.max_time": None,
    "trainer.overfit_batches": 0.0, "trainer.fast_dev_run": False, "trainer.precision": None,
}  # fmt: skip
SAME = {"trainer.limit_train_batches": (None, 1.0), "trainer.precision": (None, "32-true", "32", 32)}
TASKS = ("toy", "cifar10", "ptb")
# The zero operation is in the paper, with tables and panels of its own. What is searched for is not how.
OWN_TABLES = ("task.zero_op", "preset", "select", "task.retrain_epochs")


@cache
def paper_settings(strategy: str, task: str) -> Mapping[str, Any] | None:
    """The paper's settings by dotted key, as ``conf/`` has them; ``None`` for a task or strategy that is not in it.

    Args:
        strategy: The name of the strategy.
        task: The name of the task.

    Example:
        >>> paper_settings("gdas", "toy")["strategy.tau_max"], paper_settings("gdas", "my_task")
        (10.0, None)
    """
    if task not in TASKS:
        return None
    settings = _composed(strategy, task) if strategy == "fixed" else _composed("advantage", task)
    if settings is None or strategy in ("fixed", "advantage"):
        return settings
    own = _composed(strategy, "toy") if strategy in STRATEGIES else None
    if own is None:  # a strategy of one's own has no settings of the paper's
        return {key: value for key, value in settings.items() if not key.startswith("strategy.")}
    parts = settings, own
    return {
        key: value
        for part, is_own in zip(parts, (False, True), strict=True)
        for key, value in part.items()
        if key.startswith("strategy.") == is_own
    }


@cache
def _composed(strategy: str, task: str) -> Mapping[str, Any] | None:
    from hydra import compose, initialize_config_dir, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import ConfigCompositionException
    from omegaconf import OmegaConf

    from advnas_lightning.cli.config import CONFIG_PATH

    module = CONFIG_PATH.removeprefix("pkg://")
    start = initialize_config_dir if module == CONFIG_PATH else initialize_config_module
    others = GlobalHydra.instance().hydra  # of a run or a notebook that makes this report
    GlobalHydra.instance().clear()
    try:
        with start(module, version_base="1.3"):
            config = compose("config", [f"strategy={strategy}", f"task={task}"])
    except ConfigCompositionException:
        return None
    finally:
        GlobalHydra.instance().hydra = others
    found: Any = OmegaConf.to_container(config)
    return {**TRAINER, **dict(flatten(found))}


class Departure(NamedTuple):
    """A setting of a run that is not the paper's.

    Attributes:
        ours: The run's value, in words.
        theirs: The paper's value, in words.

    Example:
        >>> str(Departure("4 epochs", "20 epochs")), str(Departure("1 epoch", "20 epochs"))
        ('4 epochs (paper: 20)', '1 epoch (paper: 20 epochs)')
    """

    ours: str
    theirs: str

    def __str__(self) -> str:
        ours, theirs = self.ours.split(), self.theirs.split()
        while len(theirs) > 1 and len(ours) > 1 and ours[0] == theirs[0]:  # the words that both have are said once
            ours, theirs = ours[1:], theirs[1:]
        while len(theirs) > 1 and len(ours) > 1 and ours[-1] == theirs[-1]:
            ours, theirs = ours[:-1], theirs[:-1]
        return f"{self.ours} (paper: {' '.join(theirs)})"


def departures(run: Run) -> list[Departure]:
    """The settings of a run that are not the paper's, the most important ones first.

    Args:
        run: The run. One of a task of one's own has none, because the paper says nothing of it.
    """
    paper = _of(run)
    if paper is None:
        return []
    keys = [key for key in run.binding if key not in OWN_TABLES and not is_papers(run, key)]
    found = []
    for key in in_order(keys):
        value = run.setting(key)
        if key in paper:
            found.append(Departure(described(key, value), described(key, resolved(paper, key))))
        elif value is not None or any(each.startswith(f"{key}.") for each in paper):  # something more, or a part less
            found.append(Departure(described(key, value), "not set" if value is not None else "on"))
    if run.setting("preset") == "authors_code":
        found.insert(0, Departure(described("preset", "authors_code"), "its text"))
    return list(dict.fromkeys(found))


def _of(run: Run) -> Mapping[str, Any] | None:
    """The paper's settings for a run. A retraining, which may stand under its search's name, has a genotype."""
    return paper_settings("fixed" if "strategy.genotype" in run.settings else run.strategy, run.task)


def is_papers(run: Run, key: str) -> bool:
    """Whether a setting of a run has the paper's value, or one that comes to the same.

    Args:
        run: The run.
        key: The setting's dotted key.
    """
    paper = _of(run)
    if paper is None or key not in paper:
        return False
    ours, theirs = run.settings.get(key), paper[key]
    if ours == theirs and (key != "trainer.max_epochs"):
        return True  # also two references to the same setting, whose own values are compared
    values = run.setting(key), resolved(paper, key)
    return values[0] == values[1] or (key in SAME and all(value in SAME[key] for value in values))
