"""Elastic sizes by rule, in networks that were written without any."""

from advnas_lightning.space.elastic.rules.configs import fit_config
from advnas_lightning.space.elastic.rules.descriptions import Heads, Stack, Width
from advnas_lightning.space.elastic.rules.widths import Widths, widths

__all__ = ["Heads", "Stack", "Width", "Widths", "fit_config", "widths"]
