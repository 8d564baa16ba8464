"""The command line of a diagnosis, which compares the estimators of ∇θ on a search.

    python -m advnas_lightning.diagnose ckpt_path=RUN/checkpoints/last.ckpt [strategies=a,b,…] [draws=N] [batches=N]
        [trust=true]
    python -m advnas_lightning.diagnose task=linear

It prints a table and a recommendation, and writes ``diagnosis.json``, ``.png`` and ``.svg`` into the folder ``output``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import LightningDataModule
from omegaconf import DictConfig, OmegaConf

from advnas_lightning.callbacks.intact import intact_checkpoint
from advnas_lightning.cli.config import Config
from advnas_lightning.cli.main import USER_ERRORS, explain
from advnas_lightning.cli.run import build_strategy
from advnas_lightning.diagnose.linear import linear
from advnas_lightning.diagnose.output import draw, show
from advnas_lightning.diagnose.quality import ESTIMATORS, check_settings, diagnose_fit
from advnas_lightning.diagnose.trust import without_strangers
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.reading import read_yaml
from advnas_lightning.runs import RunFolder, write_json
from advnas_lightning.validate import check_bool, check_int

OPTIONS: dict[str, Any] = {
    "ckpt_path": None, "task": None, "strategies": None, "draws": 200, "batches": 4, "progress": 0.5, "seed": 0,
    "exact_draws": 2000, "output": "diagnosis", "threads": None, "trust": False,
}  # fmt: skip


def load(path: str | Path, *, trust: bool = False) -> tuple[SearchStrategy, LightningDataModule]:
    """The search as a checkpoint of its run has saved it, and its data.

    The configuration in the folder of the run names the classes that are made. A folder from somebody else may name any
    function, so that by default only this package's classes and PyTorch's optimizers are made.

    Args:
        path: The checkpoint, in the folder of its run.
        trust: Whether to make whatever the configuration names, such as a task of one's own.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is damaged, if it is not in the folder of a run, or if the configuration names
            other classes.
    """
    checkpoint = intact_checkpoint(path)
    settings = RunFolder(checkpoint.resolve().parents[1]).config
    if not settings.is_file():
        raise ValueError(f"ckpt_path={path} is of no run's folder: {settings} is missing")
    # The configuration of an older run lacks newer settings.
    config = OmegaConf.merge(OmegaConf.structured(Config), read_settings(settings))
    assert isinstance(config, DictConfig)
    if not trust:
        config = without_strangers(config, settings)
    data: LightningDataModule = instantiate(config.task.data)
    data.prepare_data()
    data.setup("fit")
    search = build_strategy(config, data)
    search.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    return search, data


def read_settings(path: Path) -> DictConfig:
    """The content of a run's configuration.

    Raises:
        ValueError: If it cannot be read, or is no mapping.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "config.yaml")
        >>> _ = path.write_text("seed: 3")
        >>> read_settings(path).seed
        3
    """
    try:
        read_yaml(path)  # refuses what would wait or take all memory
        content = OmegaConf.load(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, DictConfig):
        raise ValueError(f"{path} cannot be read: it is no mapping")
    return content


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
    """Read options of the form KEY=VALUE, as in the rest of the package.

    Args:
        arguments: The arguments of the command line.

    Returns:
        The value of every option of ``OPTIONS``.

    Raises:
        ValueError: If a key is unknown, if a value is invalid, or if neither a checkpoint nor a task is given.
    """
    options = dict(OPTIONS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in OPTIONS or not equals:
            raise ValueError(f"{argument!r} is unknown: give {', '.join(f'{name}=…' for name in OPTIONS)}")
        options[key] = OmegaConf.to_container(OmegaConf.from_dotlist([argument]))[key] if value else None  # type: ignore[index, call-overload]
    if (options["ckpt_path"] is None) == (options["task"] is None):
        raise ValueError("give ckpt_path=RUN/checkpoints/last.ckpt, or task=linear")
    if options["task"] not in (None, "linear"):
        raise ValueError(f"task={options['task']} is unknown: use linear, or ckpt_path=… of any task's run")
    names = options["strategies"]
    options["strategies"] = list(ESTIMATORS) if names is None else str(names).split(",")
    check_settings(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The arguments; by default those of the process.

    Raises:
        SystemExit: With status 1, after one line of explanation, if the input is bad.
    """
    try:
        options = read_options(sys.argv[1:] if arguments is None else arguments)
        if options["threads"] is not None:
            torch.set_num_threads(check_int("threads", options["threads"], least=1))
        folder = Path(options["output"])
        if options["task"] == "linear":
            found = linear(options["strategies"], options["draws"], options["seed"], folder)
            write_json(folder / "diagnosis.json", found)
        else:
            search, data = load(options["ckpt_path"], trust=check_bool("trust", options["trust"]))
            names = ("strategies", "draws", "exact_draws", "progress", "seed", "batches")
            on_progress = partial(print, "…", file=sys.stderr, flush=True)
            logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
            settings = {name: options[name] for name in names}
            truth, statistics, credit = diagnose_fit(search, datamodule=data, on_progress=on_progress, **settings)
            show(truth, statistics, credit)
            draw(statistics, folder)
            kept = {"exact": truth.by, "exact_error": truth.error, "exact_raises": truth.raises}
            kept["credit"] = asdict(credit)
            write_json(
                folder / "diagnosis.json", {**kept, "estimators": {each.name: asdict(each) for each in statistics}}
            )
        print(folder / "diagnosis.png")
    except USER_ERRORS as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
