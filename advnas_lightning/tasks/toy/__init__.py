"""The toy task (§5.1), in which a student searches for the filters of its teacher."""

from advnas_lightning.tasks.toy.data import TeacherData
from advnas_lightning.tasks.toy.model import ToyNetwork

__all__ = ["TeacherData", "ToyNetwork"]
