"""The page on the configuration has every group, every choice and every setting."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from advnas_lightning.cli.config import Config, Saving
from tests.support.pages import DOCS, ROOT

PAGE = (DOCS / "reference/configuration.md").read_text()
CONF = ROOT / "conf"
GROUPS = ["experiment", "launcher", "logger", "preset", "strategy", "task", "trainer"]
NAMED = set(re.findall(r"`([^`]+)`", PAGE))


def settings(content: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """The dotted names of the settings of a file, down to what it instantiates by ``_partial_``."""
    for key, value in content.items():
        if key in ("defaults", "hydra") or key.startswith("_"):
            continue
        name = f"{prefix}.{key}"
        if isinstance(value, dict) and value and "_partial_" not in value and not set(value) <= {"_target_"}:
            yield from settings(value, name)
        else:
            yield name


def is_named(setting: str) -> bool:
    """Whether a setting, or a group of settings that says what its settings are, has a row."""
    return any(name == setting or name.partition("=")[0] == setting for name in NAMED)


def test_the_top_level() -> None:
    fields = {field.name for field in dataclasses.fields(Config)} - {"checkpoint", "preset", *GROUPS}
    saving = {f"checkpoint.{field.name}" for field in dataclasses.fields(Saving)}
    assert sorted(name for name in fields | saving if not is_named(name)) == []


@pytest.mark.parametrize("group", GROUPS)
def test_the_choices_of_a_group(group: str) -> None:
    (section,) = (part for part in PAGE.split("\n## ") if part.startswith(f"`{group}`"))
    choices = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert [choice for choice in sorted(choices) if not re.search(rf"`(?:task=)?{choice}`", section)] == []


@pytest.mark.parametrize("task", [path.stem for path in (CONF / "task").glob("*.yaml")])
def test_the_settings_of_a_task(task: str) -> None:
    names = list(settings(yaml.safe_load((CONF / f"task/{task}.yaml").read_text()), "task"))
    for path in (CONF / "task/training").glob("*.yaml"):
        names += settings(yaml.safe_load(path.read_text()), "task") if task == "cifar10" else []
    own = PAGE.partition(f"### `task={task}`")[2].partition("\n### ")[0]
    inside = {"task.callbacks.scores": ("table", "strategy", "zero_op")}
    for whole, parts in inside.items():
        names = [name for name in names if name not in [f"{whole}.{part}" for part in parts]]
    assert names
    missing = [name for name in names if not is_named(name)]
    assert missing == []
    of_data = [name for name in names if name.startswith(("task.data.", "task.model."))]
    assert [name for name in of_data if name not in own] == []


def test_a_setting_that_is_missing_is_seen() -> None:
    assert not is_named("task.data.colour")
    assert list(settings({"data": {"_target_": "x", "size": 1}, "other": {}}, "task")) == [
        "task.data.size",
        "task.other",
    ]


def test_the_settings_of_the_loggers_and_launchers() -> None:
    for path in [*(CONF / "logger").glob("*.yaml"), *(CONF / "launcher").glob("*.yaml")]:
        content = yaml.safe_load(path.read_text())
        launcher = content.get("hydra", {}).get("launcher", {})
        names = [
            f"hydra.launcher.{key}"
            for key, value in launcher.items()
            if not isinstance(value, dict) and key != "_target_"
        ]
        if path.parent.name == "logger":
            fixed = {"folder", "save_dir", "version", "sub_dir"}  # where a run's files are
            names = [name for name in settings(content, "logger") if name.rpartition(".")[2] not in fixed]
            names = [] if path.stem == "tensorboard" else names
        assert [name for name in names if not is_named(name)] == [], Path(path).name
