"""What the commands after a search know of its run: scores from elsewhere, costs, and what to type next."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from advnas_lightning.callbacks.summary import SummaryCallback
from advnas_lightning.cli.process import line_to_train
from advnas_lightning.cost.files import read_costs
from advnas_lightning.cost.table import CostTable
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.reading import Unreadable, read_json, read_yaml
from advnas_lightning.runs import CHOICES, COSTS, OVERRIDES, RunFolder, in_run
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.genotype_file import write_found
from advnas_lightning.texts import plain

__all__ = ["Known", "keep_found", "known_costs", "known_of_run", "training_line"]

Known = Callable[[Genotype], Mapping[str, float]]


def known_of_run(config: DictConfig, run: RunFolder, *, trust: bool) -> tuple[Known, list[str]]:
    """What the callbacks of the task know of an architecture, and a note on each that may not be made.

    Args:
        config: The configuration of the run.
        run: The folder of the run.
        trust: Whether to make whatever callback it names.
    """
    found, notes, choices = [], [], run.choices
    for name, settings in (config.task.get("callbacks") or {}).items():
        content = _resolved(settings, choices)
        target = str(content.get("_target_"))
        if not trust:
            if not target.startswith("advnas_lightning.") or not issubclass(get_class(target), SummaryCallback):
                continue
            files = [value for key, value in content.items() if key != "_target_" and _may_run_code(value)]
            if files:
                notes.append(f"task.callbacks.{name} would read {plain(str(files[0]))}: trust=true allows it")
                continue
        callback = instantiate(content)
        if isinstance(callback, SummaryCallback):
            found.append(callback)
    return lambda genotype: {key: value for each in found for key, value in each.known(genotype).items()}, notes


def _resolved(settings: Any, choices: Mapping[str, Any]) -> dict[Any, Any]:
    """The settings of a callback, in which the choices of the run's groups are filled in, as Hydra does in a run."""
    for key, value in OmegaConf.to_container(settings, resolve=False).items():  # type: ignore[union-attr]
        if isinstance(value, str) and "${hydra:" in value:
            settings[key] = re.sub(
                r"\$\{hydra:runtime\.choices\.(\w+)\}", lambda match: str(choices.get(match[1])), value
            )
    content = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(content, dict)
    return content


def known_costs(search: SearchStrategy, run: RunFolder, file: str | Path | None = None) -> dict[str, CostTable]:
    """The costs that are known: those of the search, those in the run's folder, and those in a file that was named.

    Args:
        search: The search.
        run: The folder of the run.
        file: A file of costs, or the folder that has it.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is malformed, or it is of another network.
    """
    found: dict[str, CostTable] = {}
    if search.cost is not None and search.cost.is_measured:
        table = search.cost.result()
        found[table.kind] = table
    files = [run.costs] if run.costs.is_file() else []
    files += [] if file is None else [in_run(str(file), COSTS)]
    for path in files:
        found |= {name: each.table for name, each in read_costs(path, search.space).items()}
    return found


def keep_found(search: SearchStrategy, run: RunFolder) -> None:
    """Write what a search has found into its run's ``genotype.json``, where that file is missing or damaged.

    A search writes it at the end of each epoch, so that one that was interrupted in its first epoch has none.

    Args:
        search: The search, as its checkpoint has saved it.
        run: The folder of the run.
    """
    try:
        read_json(run.genotype)
    except (FileNotFoundError, Unreadable):
        write_found(run.genotype, search.selected, search.genotype(), search.process_best)


def _may_run_code(value: Any) -> bool:
    """Whether a file may be a pickle of another package's objects, as NATS-Bench's own files are."""
    return isinstance(value, str) and Path(value).exists() and Path(value).suffix != ".csv"


def training_line(run: RunFolder, select: str | None = None, *, genotype: Path | None = None) -> str:
    """What to type to train an architecture that a command has found in a run.

    Args:
        run: The folder of the run.
        select: Which one in the run's ``genotype.json``, such as ``"ranked"``.
        genotype: The file that has it alone, if it is in none of the run's.
    """
    place = os.path.relpath(run.path if genotype is None else genotype)
    chosen = [] if select is None else [f"select={select}"]
    try:
        overrides = [str(each) for each in read_yaml(run.path / OVERRIDES)]
        sources = read_yaml(run.path / CHOICES)["hydra"]["runtime"]["config_sources"]
        return line_to_train(overrides, sources, place, *chosen)
    except (OSError, Unreadable, KeyError, TypeError):
        return line_to_train([], [], place, *chosen)
