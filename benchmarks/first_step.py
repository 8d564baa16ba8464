"""A callback that ends a process after its first step. It imports nothing that a search has not imported."""

from __future__ import annotations

import os
from typing import Any

from lightning import Callback


class EndAtFirstStep(Callback):
    """Ends the process when the first batch is done."""

    def on_train_batch_end(self, *_: Any) -> None:
        """End it, without what a process does at its end."""
        os._exit(0)
