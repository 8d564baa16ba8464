"""A run that has been saved, and its data."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from advnas_lightning.cli.loading import build_saved_data
from advnas_lightning.runs import RunFolder
from tests.support.command_line import write_ptb
from tests.support.refusals import one_line


@pytest.mark.parametrize("kind", ["relative", "gone", "absolute and gone"])
def test_data_that_are_not_there_say_where_to_start_or_where_the_setting_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, start = RunFolder(tmp_path / "run"), tmp_path / "start"
    run.config.parent.mkdir(parents=True)
    (run.path / ".hydra" / "hydra.yaml").write_text(f"hydra: {{runtime: {{cwd: {start}}}}}")
    write_ptb(start / "text")
    root = {"relative": "text", "gone": "other", "absolute and gone": str(tmp_path / "text")}[kind]
    data = {"_target_": "advnas_lightning.tasks.ptb.PennTreebank", "root": root, "batch_size": 2}
    config = OmegaConf.create({"task": {"data": data}})
    monkeypatch.chdir(tmp_path)
    hint = f"(start this command in {start}, " if kind == "relative" else f"(this run's settings are in {run.config})"
    with one_line("there is no ptb.train.txt", hint):
        build_saved_data(config, run)
    monkeypatch.chdir(start)
    if kind == "relative":
        build_saved_data(config, run)
