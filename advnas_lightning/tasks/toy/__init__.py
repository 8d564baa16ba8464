"""The toy task (§5.1): a student searches its teacher's filters."""

from advnas_lightning.tasks.toy.data import TeacherData
from advnas_lightning.tasks.toy.model import ToyNetwork

__all__ = ["TeacherData", "ToyNetwork"]
