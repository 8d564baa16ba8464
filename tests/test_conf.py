"""Every member of every configuration group composes and builds what it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli import write_ptb
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from advnas_lightning.app import build_strategy
from advnas_lightning.strategies import SearchStrategy

CONF = Path(__file__).parents[1] / "conf"


def members(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def configure(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*overrides, "hydra.runtime.output_dir=run"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return config


def test_the_groups_are_what_the_readme_says() -> None:
    assert members("strategy") == [
        "advantage", "darts", "enas", "fixed", "gdas", "nasp", "parsec", "proxylessnas", "random", "reinforce", "snas",
    ]  # fmt: skip
    assert members("task") == ["ptb", "toy"]


@pytest.mark.parametrize("preset", members("preset"))
@pytest.mark.parametrize("task", members("task"))
@pytest.mark.parametrize("strategy", members("strategy"))
def test_strategy_task_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, task: str, preset: str
) -> None:
    write_ptb(tmp_path)
    small = ["task.model.hidden_size=8", "task.model.embedding_size=8", "task.data.batch_size=2"]
    config = configure(f"strategy={strategy}", f"task={task}", f"preset={preset}", *(small if task == "ptb" else []))
    if task == "ptb":
        config.task.data.root = str(tmp_path)
    data = instantiate(config.task.data)
    assert isinstance(data, LightningDataModule)
    data.prepare_data()
    data.setup("fit")
    if strategy == "fixed":
        model = instantiate(config.task.model)
        config.strategy.genotype = {edge.name: edge.names[0] for edge in model.modules() if hasattr(edge, "candidates")}
    search = build_strategy(config, data)
    assert isinstance(search, SearchStrategy)
    assert search.searches == (strategy not in {"random", "fixed"})
    assert config.preset == preset


def test_the_authors_code_preset_is_the_sum_of_its_options() -> None:
    paper, authors = (configure("task=ptb", f"preset={preset}") for preset in ("paper", "authors_code"))
    assert (paper.strategy.zero_op, authors.strategy.zero_op) == ("paper", "authors_code")
    assert (paper.task.model.hidden_max_norm, authors.task.model.hidden_max_norm) == (25.0, None)
    assert (paper.task.objective.loss_reduction, authors.task.objective.loss_reduction) == ("mean", "sum_time")
    assert configure("strategy=parsec", "preset=authors_code").strategy.weights == "authors_code"
    chosen = configure("strategy=parsec", "preset=authors_code", "strategy.weights=importance")
    assert chosen.strategy.weights == "importance"  # the command line has the last word


@pytest.mark.parametrize("trainer", members("trainer"))
def test_trainer(trainer: str) -> None:
    config = configure(f"trainer={trainer}")
    if trainer == "gpu" and not torch.cuda.is_available():
        with pytest.raises(InstantiationException, match=r"(?i)gpu"):
            instantiate(config.trainer)
    else:
        assert isinstance(instantiate(config.trainer), Trainer)


@pytest.mark.parametrize("logger", members("logger"))
def test_logger(logger: str) -> None:
    assert isinstance(instantiate(configure(f"logger={logger}").logger), Logger)


def test_paper_epochs_and_schedules() -> None:
    assert configure("task=ptb").trainer.max_epochs == 30
    assert configure("task=ptb", "strategy=fixed").trainer.max_epochs == 100
    assert configure("task=ptb", "strategy=fixed", "trainer.max_epochs=2").trainer.max_epochs == 2
    warm = configure("task=ptb", "task.optimization.warmup_epochs=10").task.optimization
    assert (warm.weight_scheduler.T_max, warm.architecture_scheduler.T_max) == (30, 20)
