"""The search space: searchable edges in a network, architectures drawn from them, and the choice that is found."""

from advnas_lightning.space.genotype import Genotype, Probabilities
from advnas_lightning.space.mixed_op import MixedOp, mixed_ops
from advnas_lightning.space.rules import choices, make_searchable
from advnas_lightning.space.search_space import Architecture, SearchSpace

__all__ = [
    "Architecture",
    "Genotype",
    "MixedOp",
    "Probabilities",
    "SearchSpace",
    "choices",
    "make_searchable",
    "mixed_ops",
]
