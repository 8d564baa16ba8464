"""The data of the paper's tasks."""

from advnas_lightning.data.cifar10 import CIFAR10
from advnas_lightning.data.ptb import PennTreebank
from advnas_lightning.data.toy import TeacherData

__all__ = ["CIFAR10", "PennTreebank", "TeacherData"]
