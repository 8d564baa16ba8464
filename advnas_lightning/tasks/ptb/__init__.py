"""The task of finding a recurrent cell for Penn Treebank (§5.3)."""

from advnas_lightning.tasks.ptb.data import PennTreebank
from advnas_lightning.tasks.ptb.model import RecurrentLM

__all__ = ["PennTreebank", "RecurrentLM"]
