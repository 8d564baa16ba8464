"""Architecture search for PyTorch Lightning projects: AdvantageNAS and everything it was compared with."""

from advnas_lightning.cost.budget import ArchitectureCost
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.loaders import SearchLoader
from advnas_lightning.other_lightning import use_one_lightning
from advnas_lightning.space.genotype import Genotype
from advnas_lightning.space.mixed_op import MixedOp
from advnas_lightning.space.rules import choices, make_searchable
from advnas_lightning.space.search_space import Architecture, SearchSpace
from advnas_lightning.split import search_loaders
from advnas_lightning.strategies.advantage import AdvantageNAS
from advnas_lightning.strategies.counterfactual import CounterfactualNAS
from advnas_lightning.strategies.darts import DARTS
from advnas_lightning.strategies.enas import ENAS
from advnas_lightning.strategies.fixed import Fixed
from advnas_lightning.strategies.gdas import GDAS
from advnas_lightning.strategies.nasp import NASP
from advnas_lightning.strategies.parsec import PARSEC
from advnas_lightning.strategies.proxylessnas import ProxylessNAS
from advnas_lightning.strategies.random_search import RandomSearch
from advnas_lightning.strategies.reinforce import REINFORCE
from advnas_lightning.strategies.snas import SNAS

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
    "use_one_lightning",
]
