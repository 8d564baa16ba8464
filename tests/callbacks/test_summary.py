"""The callbacks that sum a run up."""

from __future__ import annotations

import time

from lightning import LightningModule, Trainer

from advnas_lightning.callbacks.summary import Stopwatch, SummaryCallback
from advnas_lightning.tasks.toy import ToyNetwork
from tests.support.findings import search_that_found


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


# -- findings --------------------------------------------------------------------------------------------------------


def test_a_callback_may_have_nothing_to_say() -> None:
    search = search_that_found(ToyNetwork(nodes=1, candidates=2), {"input->1": "filter0"})
    findings = SummaryCallback()
    assert (findings.summary(search), findings.columns(search), findings.lines(search)) == ({}, {}, {})
