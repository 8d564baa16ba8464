"""Callbacks that a user may add to a Trainer that runs a search."""

from advnas_lightning.callbacks.checkpoint import LastCheckpoint
from advnas_lightning.callbacks.stopping import ConvergenceStopping

__all__ = ["ConvergenceStopping", "LastCheckpoint"]
