"""The networks of the paper's tasks."""

from advnas_lightning.models.nasbench201 import NASBench201
from advnas_lightning.models.recurrent import RecurrentLM
from advnas_lightning.models.toy import ToyNetwork

__all__ = ["NASBench201", "RecurrentLM", "ToyNetwork"]
