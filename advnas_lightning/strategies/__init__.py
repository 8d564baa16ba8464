"""The search strategies. Each is one file over the same engine."""

from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.strategies.advantage import AdvantageNAS
from advnas_lightning.strategies.counterfactual import CounterfactualNAS
from advnas_lightning.strategies.darts import DARTS
from advnas_lightning.strategies.drnas import DrNAS
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
    "CounterfactualNAS",
    "DrNAS",
    "Fixed",
    "ProxylessNAS",
    "RandomSearch",
    "SearchStrategy",
    "Trial",
]
