"""A folder's configuration makes nothing but this package's classes and optimizers, unless its user trusts it."""

from __future__ import annotations

import itertools
import os
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import advnas_lightning.cli.config  # noqa: F401  # registers the schemas
from advnas_lightning.cli.config import config_folder
from advnas_lightning.cli.errors import explain
from advnas_lightning.cli.loading import read_settings
from advnas_lightning.cli.trust import MADE, without_strangers
from advnas_lightning.diagnose.__main__ import main
from tests.support.command_line import SMALL_TOY, launch
from tests.support.refusals import one_line
from tests.support.speed import slow_but

SOURCE = Path("config.yaml")
TASKS, STRATEGIES = ("toy", "ptb", "cifar10"), ("advantage", "enas", "gdas", "darts", "random", "fixed")
RUNS = list(itertools.product(TASKS, STRATEGIES))


@cache
def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture
def ours() -> Any:
    return composed("task=toy").copy()


@pytest.mark.parametrize(("task", "strategy"), slow_but(RUNS, RUNS[::4]))
def test_each_run_of_the_package_is_trusted(task: str, strategy: str) -> None:
    config = composed(f"task={task}", f"strategy={strategy}")
    checked = without_strangers(config, SOURCE)
    for key in MADE:
        own = OmegaConf.select(config, key)
        expected = None if own is None else OmegaConf.to_container(own, resolve=True)
        assert OmegaConf.select(checked, key) == expected


def test_another_optimizer_of_pytorch_is_trusted() -> None:
    config = composed(
        "task=cifar10",
        "task.optimization.weight_optimizer._target_=torch.optim.AdamW",
        "task.optimization.weight_scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
    )
    without_strangers(config, SOURCE)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.Popen",
        "hydra.utils.get_method",
        "hydra.utils.instantiate",
        "torch.load",
        "torch.hub.load",
        "torch.nn.Linear",
        "pathlib.Path",
        "lightning.Trainer",
        # What a module of ours or of PyTorch's optimizers has imported
        "advnas_lightning.cli.main.os.system",
        "advnas_lightning.cli.run.instantiate",
        "advnas_lightning.cli.run.get_method",
        "advnas_lightning.report.runs.Path",
        "advnas_lightning.tasks.cifar10.data.datasets.CIFAR10",
        "torch.optim.optimizer.torch.load",
        "torch.optim.lr_scheduler.types.FunctionType",
        # What is ours, and is no part of a search
        "advnas_lightning.tasks.cifar10.nasbench201.NATSBenchTable",
        "advnas_lightning.cli.main.main",
        "advnas_lightning.report.__main__.report",
        "advnas_lightning.functional.linear",
        "advnas_lightning.RandomSearch.derive",
        # Not there at all
        "advnas_lightning",
        "advnas_lightning.",
        "advnas_lightning.no_such_module.Class",
        "advnas_lightning..os.system",
        "advnas_lightningx.Class",
        "torch.optimx.Adam",
        "",
        3,
        None,
        ["os.system"],
        {"_target_": "torch.optim.Adam"},
    ],
)
@pytest.mark.parametrize("key", ["task.data", "task.optimization.weight_optimizer", "strategy", "teacher"])
def test_a_stranger_is_named(target: Any, key: str, ours: Any) -> None:
    OmegaConf.update(ours, f"{key}._target_", target, force_add=True)
    shown = "task.optimization" if key.startswith("task.optimization") else key
    with one_line("config.yaml makes ", f"({shown})", "which may run any code: trust=true allows it"):
        without_strangers(ours, SOURCE)


@pytest.mark.parametrize(
    "value",
    [
        {"_target_": "os.system"},
        {"inner": {"deeper": {"_target_": "os.system"}}},
        [1, {"_target_": "os.system"}],
        [[{"_target_": "os.system"}]],
        {"_args_": [{"_target_": "os.system"}]},
        {"_target_": "torch.optim.Adam", "_args_": [{"_target_": "os.system"}]},
        {"_target_": "torch.optim.Adam", "_partial_": True, "lr": {"_target_": "os.system"}},
        {"_target_": "os.system", "_recursive_": False},
        {"_target_": "${oc.env:STRANGER}"},
        {"_target_": "${stranger}"},
        "${oc.create:'{_target_: os.system}'}",
        "${oc.decode:'{_target_: os.system}'}",
        "${hidden}",
        "\\${hidden}",  # would be resolved when it is made
        "\\${oc.create:'{_target_: os.system}'}",
    ],
)
@pytest.mark.parametrize("key", ["task.data.extra", "task.model.extra", "task.objective.extra", "strategy.extra"])
def test_a_stranger_is_found_wherever_it_hides(
    value: Any, key: str, ours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRANGER", "os.system")
    OmegaConf.set_struct(ours, False)
    config = OmegaConf.create({**ours, "stranger": "os.system", "hidden": {"_target_": "os.system"}})
    OmegaConf.update(config, key, value, force_add=True)
    with one_line("config.yaml makes ", f"({key.removesuffix('.extra')})", "trust=true allows it"):
        without_strangers(config, SOURCE)


@pytest.mark.parametrize("cost", ["os.system", "my_module.my_function", "no_file.json"])
def test_a_function_that_measures_is_named(cost: str, ours: Any) -> None:
    ours.cost = cost
    with one_line(f"config.yaml measures by '{cost}' (cost)", "trust=true allows it"):
        without_strangers(ours, SOURCE)


def test_references_in_a_circle_are_one_line(ours: Any) -> None:
    config = OmegaConf.create({**ours, "a": "${b}", "b": "${a}"})
    config.task.data.root = "${a}"
    with pytest.raises(OmegaConfBaseException) as caught:
        without_strangers(config, SOURCE)
    assert explain(caught.value).startswith("Recursive interpolation detected")
    assert "\n" not in explain(caught.value)


# -- the command line ------------------------------------------------------------------------------------------------


def test_a_folder_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run")
    path = tmp_path / "run" / ".hydra" / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["task"]["data"] = {"_target_": "stranger.make"}
    path.write_text(yaml.safe_dump(content))
    (tmp_path / "stranger.py").write_text(
        textwrap.dedent("""
            import os
            os.mkdir("IMPORTED")

            def make(*args, **kwargs):
                raise ValueError("the stranger was called")
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def error(*options: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["ckpt_path=run/checkpoints/last.ckpt", *options])
        assert stop.value.code == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "makes 'stranger.make' (task.data), which may run any code: trust=true allows it" in error()
    assert "trust='maybe' must be true or false" in error("trust=maybe")
    assert not (tmp_path / "IMPORTED").exists()
    assert "the stranger was called" in error("trust=true")
    assert (tmp_path / "IMPORTED").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "it is a pipe or a device"),
        (b"a: [", "it is no YAML: "),
        (b"[" * 9999, "it is "),  # no YAML, or nested too deeply: PyYAML 6.0 sees the other one first
        (b"a: " + b"[" * 200 + b"]" * 200, "it is nested too deeply"),
        (b"a: &a [1]\nb: *a", "it has aliases, as in line 2"),
        (b"a: 1\na: 2", "it has the key 'a' twice"),
        (b"[1]", "it is no mapping"),
        (b"\xff\xfe", "it is no text"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with one_line(f"{path} cannot be read: {says}"):
        read_settings(path)
