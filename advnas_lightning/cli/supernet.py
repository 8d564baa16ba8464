"""Trains the shared weights of a finished search further, by uniform draws, for a ranking."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from advnas_lightning import rng
from advnas_lightning.callbacks.progress import progress_display
from advnas_lightning.cli.loading import SavedRun, settings_of
from advnas_lightning.ranking.scores_file import content_key
from advnas_lightning.runs import replacing
from advnas_lightning.strategies.random_search import RandomSearch

__all__ = ["train_supernet"]

HERE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "limit_val_batches": 0, "enable_progress_bar": True}


def train_supernet(run: SavedRun, epochs: int, folder: Path, *, trust: bool, device: str = "cpu") -> None:
    """Train the network of a search further, with the weight optimizer and schedule of its run made anew.

    Each weight step draws its architecture with equal chances, as random search does. The weights are kept in a file,
    so that another ranking of the same checkpoint takes them from there. The checkpoint of the run is not touched.

    Args:
        run: The run, whose search has the trained weights afterwards.
        epochs: The number of epochs.
        folder: The folder for the file.
        trust: Whether to make whatever the configuration names.
        device: Where the network is trained.

    Raises:
        ValueError: The task of the run trains no weights.
    """
    search = run.search
    if not search.trains_weights:
        raise ValueError(f"supernet_epochs={epochs}: the task of this run trains no weights: leave it out")
    key = content_key(search.model.state_dict(), epochs, run.config.seed)
    path = folder / f"supernet-{epochs}.pt"
    saved = _saved(path, key)
    if saved is None:
        print(f"training the supernet further by uniform draws, for supernet_epochs={epochs}", file=sys.stderr)
        other_length = {"trainer": {"max_epochs": epochs}}  # on which the schedules depend
        saved = _trained(run, settings_of(run.checkpoint, trust=trust, changes=other_length), device)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            torch.save({"key": key, "state": saved}, unfinished)
    search.model.load_state_dict(saved)


def _saved(path: Path, key: str) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content["state"] if content["key"] == key else None


def _trained(run: SavedRun, config: DictConfig, device: str) -> dict[str, Any]:
    with rng.seeded(rng.mixed(config.seed, config.trainer.max_epochs)):
        settings: Any = OmegaConf.to_container(config.trainer, resolve=True)
        optimization: dict[str, Any] = {**instantiate(config.task.optimization, _convert_="all"), "warmup_epochs": 0}
        strategy = RandomSearch(
            copy.deepcopy(run.search.model),
            objective=copy.deepcopy(run.search.objective),
            offload=config.offload,
            seed=config.seed,
            **optimization,
        )
        trainer: Trainer = instantiate(
            {**settings, **HERE, "callbacks": None, "accelerator": "gpu" if device == "cuda" else device},
            callbacks=[progress_display()],
            logger=False,
            enable_checkpointing=False,
        )
        trainer.fit(strategy, datamodule=run.data)
    return {name: value.cpu() for name, value in strategy.model.state_dict().items()}
