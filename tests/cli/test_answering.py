"""How a command ends that a signal has ended: with one line, and never with the status of success."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from advnas_lightning.cli.answering import working
from tests.support.command_line import SMALL_TOY, launch


class Signalled(LightningModule):
    """A training that gets a signal in its first step."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.layer, self.number = nn.Linear(2, 1), number

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), self.number)
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SignalledRun(Callback):
    """What a run gets before its first step."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Lightning lets Ctrl-C be ignored from then on. A shell's background job, as tests may be, ignores it already."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_in_a_training_is_said_and_is_no_success(
    number: signal.Signals, word: str, goes_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end, working(goes_on=goes_on):
        trainer.fit(Signalled(number), DataLoader(torch.ones(4, 2)))
    assert end.value.code == 128 + number
    hint = "; the same line goes on where it was" if goes_on else ""
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {word}{hint}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_ends_with_the_status_of_the_signal_and_has_saved_a_checkpoint(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    callback = f"{{_target_: tests.cli.test_answering.SignalledRun, number: {int(number)}}}"
    with pytest.raises(SystemExit) as end:
        launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", f"+trainer.callbacks=[{callback}]")
    assert end.value.code == 128 + number
    assert Path("run/checkpoints/last.ckpt").is_file()


def test_another_exit_stays_as_it_is() -> None:
    with pytest.raises(SystemExit) as end, working():
        raise SystemExit(3)
    assert end.value.code == 3
