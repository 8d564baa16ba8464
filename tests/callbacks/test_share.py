"""The share of a training that is done."""

from __future__ import annotations

import random
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Timer

from advnas_lightning.callbacks.share import share_done


class SlowClock(Timer):
    """A limit of 100 seconds, and a clock at which each look takes up to a second."""

    def __init__(self) -> None:
        super().__init__(duration={"seconds": 100})
        self.now, self.draws = 0.0, random.Random(0)

    def time_elapsed(self, *stage: Any) -> float:
        self.now += self.draws.random()
        return self.now

    def time_remaining(self, *stage: Any) -> float:
        return 100 - self.time_elapsed()


def test_the_share_by_time_never_falls() -> None:
    trainer = Trainer(max_epochs=-1, callbacks=[SlowClock()], logger=False, enable_checkpointing=False)
    shares = [share_done(trainer, 0) for _ in range(90)]
    assert None not in shares
    assert shares == sorted(shares)  # type: ignore[type-var]
    assert shares[0] < 0.02 < 0.8 < shares[-1] < 1  # type: ignore[operator]
