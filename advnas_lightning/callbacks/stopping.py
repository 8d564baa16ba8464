"""A callback that ends a search whose choice is made."""

from __future__ import annotations

import sys

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.validate import check_positive


class ConvergenceStopping(EarlyStopping):
    """Ends a search whose choice is made, which is when the mean entropy of its edges is small (Appendix H).

    The mean is over the edges with a choice, since an edge with one candidate has no entropy.

    Args:
        entropy: The entropy below which the search ends, in nats. 0.1 is the entropy of an edge with four candidates,
            if one has p = 0.984 and the others are equal.

    Raises:
        ValueError: ``entropy`` is not above 0.

    Example:
        >>> ConvergenceStopping(entropy=0.05).monitor
        'entropy'
    """

    def __init__(self, entropy: float = 0.1) -> None:
        check_positive("entropy", entropy)
        super().__init__(
            "entropy",
            stopping_threshold=entropy,
            patience=sys.maxsize,  # the entropy may rise for any number of epochs
            check_on_train_epoch_end=True,
        )
        self.entropy = entropy

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compute how far the logged mean, which is over all edges, must fall."""
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, SearchStrategy)
        candidates = pl_module.space.candidates
        self.stopping_threshold = self.entropy * sum(len(row) > 1 for row in candidates) / len(candidates)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the entropy, unless θ has not moved yet."""
        assert isinstance(pl_module, SearchStrategy)
        if pl_module.architecture_steps:
            super().on_train_epoch_end(trainer, pl_module)
