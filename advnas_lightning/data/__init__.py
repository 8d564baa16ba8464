"""The data of the paper's tasks."""

from advnas_lightning.data.ptb import PennTreebank
from advnas_lightning.data.toy import TeacherData

__all__ = ["PennTreebank", "TeacherData"]
