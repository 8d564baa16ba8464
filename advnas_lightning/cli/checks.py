"""Refuses wrong settings before PyTorch is imported: unknown keys, wrong types and choices, missing extras."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from advnas_lightning.cli.config import Config, Saving
from advnas_lightning.cli.signatures import Signature, signature
from advnas_lightning.export import formats
from advnas_lightning.refine.packages import missing_package
from advnas_lightning.runs import flatten
from advnas_lightning.validate import check_one_of, check_positive

# What a run reads of these parts of the configuration. Anything else in them is read if an interpolation names it.
READ = {
    "": (*(each.name for each in fields(Config)), "hydra"),
    "task.": (
        "callbacks",
        "data",
        "epochs",
        "model",
        "objective",
        "optimization",
        "refine",
        "retrain_epochs",
        "threads",
    ),
    "checkpoint.": tuple(each.name for each in fields(Saving)),
}
# The extras that the choices of groups need: the modules of which one must be there.
EXTRAS = {
    "logger=mlflow": ("mlflow", ("mlflow",)),
    "logger=tensorboard": ("tensorboard", ("tensorboard", "tensorboardX")),
    "logger=wandb": ("wandb", ("wandb",)),
    "hydra/launcher=joblib": ("joblib", ("hydra_plugins.hydra_joblib_launcher",)),
    "hydra/launcher=ray": ("ray", ("hydra_plugins.hydra_ray_launcher",)),
    "hydra/launcher=submitit_local": ("submitit", ("hydra_plugins.hydra_submitit_launcher",)),
    "hydra/launcher=submitit_slurm": ("submitit", ("hydra_plugins.hydra_submitit_launcher",)),
    "hydra/sweeper=optuna": ("optuna", ("hydra_plugins.hydra_optuna_sweeper",)),
}
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dri", "/dev/dxg")
LIKE = 0.6  # from this likeness on a name counts as a slip for another one
SHOWN = 12  # the most names that a message lists


def check_settings(config: DictConfig) -> None:
    """Refuse settings that nothing reads, values that nothing takes, and choices whose packages are missing.

    Args:
        config: The composed configuration of a run, Hydra's part included.

    Raises:
        ValueError: There is one. What only a constructor knows, such as the range of a number, is not looked at.
    """
    choices = config.hydra.runtime.choices
    for group in ("logger", "hydra/launcher", "hydra/sweeper"):
        hint = missing_extra(group, str(choices.get(group)))
        if hint:
            raise ValueError(hint)
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    _check_keys(content)
    values = {key: _values(config.get(key)) for key in ("trainer", "strategy", "logger", "task")}
    for key, value in values.items():
        _check_arguments(value, key)
    strategy = signature(str((values["strategy"] or {}).get("_target_")))
    if strategy is not None:
        _check_call("task.optimization", values["task"].get("optimization", {}), strategy)
        _check_call("", {key: config.get(key) for key in ("select", "offload", "seed")}, strategy)
    _check_trainer(values["trainer"])
    _check_refinement(config)
    _check_export(config)


def missing_extra(group: str, choice: str) -> str | None:
    """What to install for a choice of a group, or ``None`` if all that it needs is there.

    Example:
        >>> missing_extra("logger", "csv")
    """
    extra, modules = EXTRAS.get(f"{group}={choice}", ("", ()))
    if not modules or any(map(_is_installed, modules)):
        return None
    typed = f"{group.removeprefix('hydra/')}={choice}"
    return f'{typed} needs an extra: pip install "advnas-lightning[{extra}]"'


def closest(name: str, known: Iterable[str]) -> list[str]:
    """The names that a wrong one is most like, by their parts behind the last dot; none if it is like none.

    Args:
        name: The name that is wrong.
        known: The names that would be right.

    Example:
        >>> closest("strategy.gama", ["strategy.gamma", "strategy.zero_op"])
        ['strategy.gamma']
    """
    likeness = {each: SequenceMatcher(None, _last(name), _last(each)).ratio() for each in known}
    best = max(likeness.values(), default=0.0)
    close = [each for each, value in likeness.items() if value >= max(LIKE, best - 0.05)]
    return sorted(close, key=lambda each: -likeness[each])[:2]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def suggestion(name: str, known: Sequence[str]) -> str:
    """What was probably meant, as the end of a message; otherwise the names that are known.

    Args:
        name: The name that is wrong.
        known: The names that would be right.

    Example:
        >>> suggestion("gama", ["gamma", "zero_op"])
        'did you mean gamma?'
        >>> suggestion("x", ["gamma", "zero_op"])
        'use gamma, zero_op'
    """
    close = closest(name, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = "" if len(known) <= SHOWN else f" and {len(known) - SHOWN} more"
    return f"use {', '.join(known[:SHOWN])}{more}"


def function_at(path: str, refusal: str) -> Any:
    """The function of a dotted path, not by Hydra, which writes what is wrong into its log as well.

    Args:
        path: The path.
        refusal: How the error begins if there is none.

    Raises:
        ValueError: There is none.

    Example:
        >>> function_at("math.prod", "no function")([2, 3])
        6
    """
    try:
        found = resolve_name(path)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"{refusal}: {' '.join(str(error).split())}") from None
    if not callable(found):
        raise ValueError(f"{refusal}, but a {type(found).__name__}")
    return found


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


def _values(node: Any) -> Any:
    """The values of a part of the configuration. One that is not known yet is an object of no type."""
    if isinstance(node, DictConfig):
        return {key: _values(_value(node, key)) for key in node}
    if isinstance(node, ListConfig):
        return [_values(_value(node, number)) for number in range(len(node))]
    return node


def _value(node: Any, key: Any) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException:  # the folder of the run, for example; what is really wrong, the run says
        return object()


def _check_keys(content: Mapping[Any, Any]) -> None:
    """Refuse keys at the top and in the parts of :data:`READ` that nothing reads."""
    named = set(_interpolated(content))
    everything = [key for key, _ in flatten({key: value for key, value in content.items() if key != "hydra"})]
    for part, known in READ.items():
        node: Any = content.get(part.rstrip("."), {}) if part else content
        for name in node:
            key = f"{part}{name}"
            if name in known or any(other == key or other.startswith(f"{key}.") for other in named):
                continue
            longer = [other for other in everything if other.endswith(f".{name}") and other != key]
            hint = f"did you mean {' or '.join(longer[:3])}?" if longer else suggestion(str(name), list(known))
            raise ValueError(f"nothing reads {key}: {hint}")


def _interpolated(content: Any) -> Iterator[str]:
    """The keys that the interpolations of a configuration name."""
    if isinstance(content, Mapping):
        for value in content.values():
            yield from _interpolated(value)
    elif isinstance(content, list):
        for value in content:
            yield from _interpolated(value)
    elif isinstance(content, str):
        yield from re.findall(r"\$\{([\w.]+)\}", content)


def _check_arguments(content: Any, key: str) -> None:
    """Check all that a part of the configuration will call, at any depth."""
    if isinstance(content, list):
        for number, value in enumerate(content):
            _check_arguments(value, f"{key}[{number}]")
    if not isinstance(content, dict):
        return
    for name, value in content.items():
        _check_arguments(value, f"{key}.{name}")
    called = signature(content["_target_"]) if isinstance(content.get("_target_"), str) else None
    if called is not None:
        _check_call(key, content, called)


def _check_call(key: str, given: Mapping[Any, Any], called: Signature) -> None:
    """Check the arguments that the configuration ``key`` gives to a class or function."""
    for name, value in given.items():
        if name in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_"):
            continue
        argument = called.arguments.get(name)
        if argument is None:
            if not called.takes_others:
                known = [f"{key}.{each}" for each in called.arguments]
                raise ValueError(f"nothing reads {key}.{name}: {suggestion(f'{key}.{name}', known)}")
        elif (wanted := argument.refuses(value)) is not None:
            text = "null" if value is None else value
            raise ValueError(f"{key}.{name}={text}: give {wanted}".removeprefix("."))


def _check_trainer(arguments: Mapping[str, Any]) -> None:
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        if arguments.get(name) == 0:
            raise ValueError(f"trainer.{name}=0 must be above 0: trainer.limit_val_batches=0 skips validation")
    if arguments.get("enable_checkpointing") is False:
        raise ValueError(
            "trainer.enable_checkpointing=false: a run saves checkpoints, by which it can go on: leave it out"
        )
    wants_gpu = arguments.get("accelerator") in ("gpu", "cuda")
    if wants_gpu and sys.platform == "linux" and not any(Path(device).exists() for device in GPU_DEVICES):
        raise ValueError(f"trainer.accelerator={arguments['accelerator']}: this machine has no GPU: use trainer=cpu")


def _check_refinement(config: DictConfig) -> None:
    """Refuse a refinement that is of no known kind, that has nothing to refine, or that lacks its packages."""
    if config.refine is None:
        if config.refine_minutes is not None:
            raise ValueError(f"refine_minutes={config.refine_minutes} of what? Say refine=neighbours, or finalists")
        return
    check_one_of("refine", config.refine, ("finalists", "neighbours"))
    if config.refine_minutes is not None:
        check_positive("refine_minutes", config.refine_minutes)
    if config.retraining:
        raise ValueError(f"refine={config.refine}: strategy=fixed has one architecture, so there is nothing to refine")
    if (config.trainer.get("devices"), config.trainer.get("num_nodes") or 1) != (1, 1):
        raise ValueError(
            f"refine={config.refine} trains in one process, and this run has several: use advnas refine RUN afterwards"
        )
    missing = missing_package()
    if missing is not None:
        raise ValueError(missing)


def _check_export(config: DictConfig) -> None:
    """Refuse formats that there are not, and those whose packages are missing."""
    if config.export is not None:
        missing = formats.missing_extra(formats.check_formats("export", config.export))
        if missing is not None:
            raise ValueError(f"export={missing}")
