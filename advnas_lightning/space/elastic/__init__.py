"""Elastic sizes: edges whose candidates are slices of one module's parameters."""

from advnas_lightning.space.elastic.edge import Elastic, Follower
from advnas_lightning.space.elastic.making import elastic
from advnas_lightning.space.elastic.stacks import Depth

__all__ = ["Depth", "Elastic", "Follower", "elastic"]
