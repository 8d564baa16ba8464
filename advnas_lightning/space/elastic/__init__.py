"""Elastic sizes: edges whose candidates are slices of one module's parameters."""

from advnas_lightning.space.elastic.edge import Elastic, Follower
from advnas_lightning.space.elastic.making import elastic

__all__ = ["Elastic", "Follower", "elastic"]
