"""Ending a search whose choice is made."""

from __future__ import annotations

import sys

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.validate import check_positive


class ConvergenceStopping(EarlyStopping):
    """Ends a search whose choice is made: when the mean entropy of the edges' probabilities is small (Appendix H).

    The mean is that of the edges with a choice: an edge with one candidate has no entropy.

    Args:
        entropy: in nats; 0.1 is that of an edge with four candidates, one of them with p = 0.984 and the rest alike.

    Raises:
        ValueError: not above 0.
    """

    def __init__(self, entropy: float = 0.1) -> None:
        check_positive("entropy", entropy)
        super().__init__(
            "entropy",
            stopping_threshold=entropy,
            patience=sys.maxsize,  # entropy may rise as long as it likes
            check_on_train_epoch_end=True,
        )
        self.entropy = entropy

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell how far the logged mean over all edges must fall for that."""
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, SearchStrategy)
        candidates = pl_module.space.candidates
        self.stopping_threshold = self.entropy * sum(len(row) > 1 for row in candidates) / len(candidates)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, unless θ has not moved yet."""
        assert isinstance(pl_module, SearchStrategy)
        if pl_module.architecture_steps:
            super().on_train_epoch_end(trainer, pl_module)
