"""The callbacks of a run: whole files, seconds that go on after a resumption."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from lightning import LightningModule, Trainer

from advnas_lightning.callbacks import PeriodicTest, Stopwatch, write_json


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(TypeError):
        write_json(path, {"loss": object()})
    assert json.loads(path.read_text()) == {"loss": 1.0}


def test_the_stopwatch_adds_what_was_before_a_resumption() -> None:
    trainer, module = Trainer(logger=False, enable_checkpointing=False), LightningModule()
    first, second = Stopwatch(), Stopwatch()
    first.on_train_start(trainer, module)
    time.sleep(0.05)
    second.load_state_dict(first.state_dict())
    assert second.seconds >= 0.05
    stopped = second.seconds
    second.on_train_start(trainer, module)
    time.sleep(0.05)
    second.on_train_end(trainer, module)
    assert second.seconds >= stopped + 0.05


def test_a_period_is_a_whole_number() -> None:
    with pytest.raises(ValueError, match="every_n_batches=0"):
        PeriodicTest(0)
