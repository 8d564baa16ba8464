"""Architecture search for PyTorch Lightning projects: AdvantageNAS and everything it was compared with."""

from advnas_lightning.cost import ArchitectureCost
from advnas_lightning.loaders import SearchLoader, search_loaders
from advnas_lightning.space import Architecture, Genotype, MixedOp, SearchSpace, choices, make_searchable
from advnas_lightning.strategies import (
    DARTS,
    ENAS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    CounterfactualNAS,
    Fixed,
    ProxylessNAS,
    RandomSearch,
    SearchStrategy,
    Trial,
)

__all__ = [
    "DARTS",
    "ENAS",
    "GDAS",
    "NASP",
    "PARSEC",
    "REINFORCE",
    "SNAS",
    "AdvantageNAS",
    "Architecture",
    "ArchitectureCost",
    "CounterfactualNAS",
    "Fixed",
    "Genotype",
    "MixedOp",
    "ProxylessNAS",
    "RandomSearch",
    "SearchLoader",
    "SearchSpace",
    "SearchStrategy",
    "Trial",
    "choices",
    "make_searchable",
    "search_loaders",
]
