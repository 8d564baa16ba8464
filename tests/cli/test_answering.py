"""How a command ends that a signal has ended: with one line, and never with the status of success."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from advnas_lightning.cli.answering import working


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


def test_another_exit_stays_as_it_is() -> None:
    with pytest.raises(SystemExit) as end, working():
        raise SystemExit(3)
    assert end.value.code == 3
