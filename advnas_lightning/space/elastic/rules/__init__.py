"""Elastic sizes by rule, in networks that were written without any."""

from advnas_lightning.space.elastic.rules.descriptions import Stack, Width
from advnas_lightning.space.elastic.rules.widths import Widths, widths

__all__ = ["Stack", "Width", "Widths", "widths"]
