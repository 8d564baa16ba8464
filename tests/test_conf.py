"""Every member of every configuration group composes and builds what it names."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from advnas_lightning import MixedOp
from advnas_lightning.cli import sweeps
from advnas_lightning.cli.run import build_strategy
from advnas_lightning.strategies import SearchStrategy
from advnas_lightning.tasks.cifar10.scores import CellScores
from tests.support.command_line import write_images, write_ptb
from tests.support.speed import slow_but

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
        "advantage", "counterfactual", "darts", "drnas", "enas", "fixed", "gdas", "nasp", "parsec", "proxylessnas",
        "random", "reinforce", "snas",
    ]  # fmt: skip
    assert members("task") == ["cifar10", "ptb", "toy"]
    assert members("task/training") == ["nasbench201", "search"]
    assert members("experiment") == [
        "cifar10_small", "fig1", "table2", "table2_small", "table3", "table3_small", "table4", "table4_small",
    ]  # fmt: skip
    assert members("logger") == ["csv", "mlflow", "tensorboard", "wandb"]
    assert members("launcher") == ["joblib", "ray", "submitit_local", "submitit_slurm"]


EVERYWHERE = list(itertools.product(members("strategy"), members("task"), members("preset")))
# each strategy, each task and each preset, but not all of them with each other
QUICK = [each for each in EVERYWHERE if each[0] == "fixed" or each[1:] == ("toy", "paper")]


@pytest.mark.parametrize(("strategy", "task", "preset"), slow_but(EVERYWHERE, QUICK))
def test_strategy_task_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, task: str, preset: str
) -> None:
    write_ptb(tmp_path)
    write_images(tmp_path)
    small = {
        "ptb": ["task.model.hidden_size=8", "task.model.embedding_size=8", "task.data.batch_size=2"],
        "cifar10": ["task.model.cells=1", "task.model.channels=2", "task.data.batch_size=2"],
    }
    config = configure(f"strategy={strategy}", f"task={task}", f"preset={preset}", *small.get(task, []))
    if task != "toy":
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
    if task == "cifar10":
        assert search.model.head[-1].out_features == 3  # as many as the images have classes
        assert isinstance(instantiate(config.task.callbacks.scores), CellScores)
    assert config.preset == preset


@pytest.mark.parametrize("strategy", ["advantage", "fixed"])
def test_offload(strategy: str) -> None:
    cell = json.dumps({f"input->{node}": "filter0" for node in range(1, 11)})
    given = [f"strategy.genotype='{cell}'"] if strategy == "fixed" else []
    config = configure(f"strategy={strategy}", "offload=true", *given)
    data = instantiate(config.task.data)
    data.setup("fit")
    built = build_strategy(config, data)
    assert (built.offloaded is not None) == (strategy == "advantage")  # of a fixed choice there is nothing to keep away


def test_weight_steps_of_a_network_of_elastic_sizes() -> None:
    teacher = "{_target_: advnas_lightning.Distillation, temperature: 2, teacher: {_target_: torch.nn.Linear, \
in_features: 4, out_features: 3}}"
    config = configure("sampling=sandwich", "sandwich_draws=1", "warmup_sizes=shrinking", f"teacher={teacher}")
    config.task.model = {"_target_": "tests.support.elastic_net.ElasticNet"}
    config.task.optimization.warmup_epochs = 2
    search = build_strategy(config, LightningDataModule())
    assert (search.sampling, search.sandwich_draws, search.warmup_sizes) == ("sandwich", 1, "shrinking")
    assert isinstance(search.teacher.module, torch.nn.Linear)
    assert (search.teacher.temperature, search.teacher.share) == (2, 0.5)
    config.teacher = "widest"
    assert build_strategy(config, LightningDataModule()).teacher.is_of_widest


def test_a_task_without_elastic_sizes_has_no_sandwich() -> None:
    config = configure("sampling=sandwich")
    with pytest.raises(InstantiationException, match="sampling='sandwich' needs edges whose candidates have an order"):
        build_strategy(config, LightningDataModule())


def test_the_authors_code_preset_is_the_sum_of_its_options() -> None:
    paper, authors = (configure("task=ptb", f"preset={preset}") for preset in ("paper", "authors_code"))
    assert (paper.strategy.zero_op, authors.strategy.zero_op) == ("paper", "authors_code")
    assert (paper.task.model.hidden_max_norm, authors.task.model.hidden_max_norm) == (25.0, None)
    assert (paper.task.objective.loss_reduction, authors.task.objective.loss_reduction) == ("mean", "sum_time")
    assert configure("strategy=parsec", "preset=authors_code").strategy.weighting == "authors_code"
    chosen = configure("strategy=parsec", "preset=authors_code", "strategy.weighting=importance")
    assert chosen.strategy.weighting == "importance"  # the command line has the last word


@pytest.mark.parametrize("trainer", members("trainer"))
def test_trainer(trainer: str) -> None:
    config = configure(f"trainer={trainer}")
    if trainer == "gpu" and not torch.cuda.is_available():
        with pytest.raises(InstantiationException, match=r"(?i)gpu"):
            instantiate(config.trainer)
    else:
        assert isinstance(instantiate(config.trainer), Trainer)


@pytest.mark.parametrize("logger", members("logger"))
def test_logger(logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if logger != "csv":
        pytest.importorskip(logger)
    monkeypatch.chdir(tmp_path)
    assert isinstance(instantiate(configure(f"logger={logger}").logger), Logger)


def cifar10(tmp_path: Path, *overrides: str) -> tuple[DictConfig, LightningDataModule, SearchStrategy]:
    """The cifar10 task on small images, but with its own settings."""
    write_images(tmp_path)
    config = configure("task=cifar10", f"task.data.root={tmp_path}", *overrides)
    data = instantiate(config.task.data)
    data.setup("fit")
    return config, data, build_strategy(config, data)


def edges(search: SearchStrategy, name: str) -> list[MixedOp]:
    return [module for module in search.model.modules() if isinstance(module, MixedOp) and module.name == name]


def norms(search: SearchStrategy) -> list[torch.nn.BatchNorm2d]:
    return [module for module in search.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_the_papers_settings_on_cifar10(tmp_path: Path) -> None:
    config, data, search = cifar10(tmp_path, "seed=3")
    assert config.trainer.max_epochs == 100
    assert (data.batch_size, data.split, data.padding, data.architecture_share) == (64, "random", 4, 0.5)
    assert (data.seed, data.retraining) == (3, False)
    assert len(edges(search, "0->1")) == 15  # 5 cells in each of 3 stages
    assert [edges(search, "2->3")[cell].candidates["nor_conv_3x3"][1].out_channels for cell in (0, 5, 10)] == [
        16,
        32,
        64,
    ]
    assert search.space.candidates == (("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),) * 6
    assert not any(norm.track_running_stats for norm in norms(search))
    assert (search.warmup_epochs, search.optimizations["weights"].clip, search.optimizations["architecture"].clip) == (
        50,
        1.0,
        1.0,
    )
    (weights, architecture), schedules = search.configure_optimizers()
    assert isinstance(weights, torch.optim.SGD)
    assert weights.param_groups[0].items() >= {
        "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "dampening": 0
    }.items()  # fmt: skip
    assert isinstance(architecture, torch.optim.Adam)
    (group,) = architecture.param_groups
    assert group.items() >= {"lr": 3e-4, "weight_decay": 3e-3}.items()
    assert tuple(group["betas"]) == (0.5, 0.999)  # PyTorch 2.6 leaves the list that it gets
    assert group["params"] == [search.theta]
    schedules = [each["scheduler"] for each in schedules]
    assert all(isinstance(schedule, torch.optim.lr_scheduler.CosineAnnealingLR) for schedule in schedules)
    assert [(schedule.T_max, schedule.eta_min) for schedule in schedules] == [(100, 0), (50, 0)]


def test_the_zero_operation_is_an_option(tmp_path: Path) -> None:
    _, _, search = cifar10(tmp_path, "task.zero_op=true", "task.model.cells=1")
    assert search.space.candidates == (("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),) * 6
    assert search.space.zero_ops.tolist() == [[True, False, False, False, False]] * 6


def test_the_benchmarks_training(tmp_path: Path) -> None:
    cell = '"|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"'
    overrides = ("strategy=fixed", f"strategy.genotype={cell}", "task.zero_op=true")
    config, data, search = cifar10(tmp_path, *overrides, "task/training=nasbench201")
    assert config.trainer.max_epochs == 200
    assert (data.batch_size, data.retraining) == (256, True)
    assert all(norm.affine and norm.track_running_stats for norm in norms(search))
    assert len(norms(search)) == 2 * 15 + 2 * 2 + 2
    assert search.optimizations["weights"].clip is None
    (weights,), (schedule,) = search.configure_optimizers()
    assert weights.param_groups[0].items() >= {
        "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4
    }.items()  # fmt: skip
    assert schedule["scheduler"].T_max == 200
    config, data, search = cifar10(tmp_path, *overrides)
    assert (config.trainer.max_epochs, data.batch_size, search.optimizations["weights"].clip) == (100, 64, 1.0)
    assert all(norm.affine and norm.track_running_stats for norm in norms(search))  # whatever the settings


@pytest.mark.parametrize("experiment", members("experiment"))
@pytest.mark.parametrize("strategy", slow_but(["advantage", "fixed"], ["advantage"]))
def test_experiment(experiment: str, strategy: str) -> None:
    config = configure(f"experiment={experiment}", f"strategy={strategy}", "seed=2", "task.data.batch_size=32")
    assert (config.seed, config.task.data.batch_size) == (2, 32)  # the command line has the last word
    assert config.trainer.max_epochs == (config.task.retrain_epochs if strategy == "fixed" else config.task.epochs)
    assert isinstance(instantiate(config.trainer), Trainer)


GRIDS = {  # strategies, seeds
    "fig1": (10, 10), "table2": (5, 3), "table3": (5, 3), "table4": (5, 3),
    "table2_small": (5, 3), "table3_small": (5, 2), "table4_small": (5, 1),
}  # fmt: skip


@pytest.mark.parametrize("experiment", GRIDS)
def test_grid(experiment: str) -> None:
    config = configure(f"experiment={experiment}")
    parameters = config.hydra.sweeper.params
    assert config.hydra.mode == RunMode.MULTIRUN
    strategies, seeds = GRIDS[experiment]
    assert list(parameters)[:2] == ["strategy", "seed"]  # an additional strategy leaves the numbers of the others
    assert set(parameters.strategy.split(",")) <= set(members("strategy")) - {"fixed"}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        jobs = sweeps.jobs(compose("config", [f"experiment={experiment}"], return_hydra_config=True))
    assert len(jobs) == len({tuple(job) for job in jobs}) == strategies * seeds
    assert all("ckpt_path=last" in job for job in jobs)


def test_the_grids_take_the_papers_settings() -> None:
    for experiment, task in {"fig1": "toy", "table2": "cifar10", "table3": "ptb", "table4": "cifar10"}.items():
        config, plain = configure(f"experiment={experiment}"), configure(f"task={task}")
        if experiment == "table4":
            assert config.task.zero_op is True
            config.task.zero_op = False
        assert config.task == plain.task
        assert config.trainer == plain.trainer
    zero, small = configure("experiment=table4_small"), configure("experiment=table2_small")
    assert zero.task.zero_op is True
    zero.task.zero_op = False
    assert (zero.task, zero.trainer) == (small.task, small.trainer)


def test_the_small_cifar10_search(tmp_path: Path) -> None:
    config, data, search = cifar10(tmp_path, "experiment=cifar10_small")
    assert (config.trainer.max_epochs, search.warmup_epochs, len(edges(search, "0->1"))) == (10, 5, 3)
    assert (data.batch_size, data.image_size, data.padding, config.threads) == (64, None, 4, 1)
    (weights, architecture), schedules = search.configure_optimizers()
    assert weights.param_groups[0]["lr"] == 0.1
    group = architecture.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.003, 0.003)
    assert [each["scheduler"].T_max for each in schedules] == [10, 5]


def test_paper_epochs_and_schedules() -> None:
    assert configure("task=ptb").trainer.max_epochs == 30
    assert configure("task=ptb", "strategy=fixed").trainer.max_epochs == 100
    assert configure("task=ptb", "strategy=fixed", "trainer.max_epochs=2").trainer.max_epochs == 2
    warm = configure("task=ptb", "task.optimization.warmup_epochs=10").task.optimization
    assert (warm.weight_scheduler.T_max, warm.architecture_scheduler.T_max) == (30, 20)
