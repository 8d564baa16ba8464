"""Architecture search for PyTorch Lightning projects: AdvantageNAS and everything it was compared with."""

from advnas_lightning.loaders import SearchLoader
from advnas_lightning.space import Architecture, Genotype, MixedOp, SearchSpace
from advnas_lightning.strategies import (
    DARTS,
    ENAS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
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
    "Fixed",
    "Genotype",
    "MixedOp",
    "ProxylessNAS",
    "RandomSearch",
    "SearchLoader",
    "SearchSpace",
    "SearchStrategy",
    "Trial",
]
