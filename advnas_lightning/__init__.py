"""Architecture search for PyTorch Lightning projects: AdvantageNAS and everything it was compared with."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advnas_lightning.cost.budget import ArchitectureCost
    from advnas_lightning.engine.distillation import Distillation
    from advnas_lightning.engine.evaluation import Trial
    from advnas_lightning.engine.strategy import SearchStrategy
    from advnas_lightning.loaders import SearchLoader
    from advnas_lightning.other_lightning import use_one_lightning
    from advnas_lightning.space.elastic.making import elastic
    from advnas_lightning.space.elastic.rules.widths import widths
    from advnas_lightning.space.elastic.stacks import Depth
    from advnas_lightning.space.genotype import Genotype
    from advnas_lightning.space.mixed_op import MixedOp
    from advnas_lightning.space.rules import choices, make_searchable
    from advnas_lightning.space.search_space import Architecture, SearchSpace
    from advnas_lightning.split import search_loaders
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
    "Architecture",
    "ArchitectureCost",
    "CounterfactualNAS",
    "Depth",
    "Distillation",
    "DrNAS",
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
    "elastic",
    "make_searchable",
    "search_loaders",
    "use_one_lightning",
    "widths",
]

# A name is imported when it is first used, so that the command line can answer without PyTorch, whose import takes
# seconds.
_PLACES = {
    "ArchitectureCost": "cost.budget",
    "Distillation": "engine.distillation",
    "Trial": "engine.evaluation",
    "SearchStrategy": "engine.strategy",
    "SearchLoader": "loaders",
    "use_one_lightning": "other_lightning",
    "elastic": "space.elastic.making",
    "widths": "space.elastic.rules.widths",
    "Depth": "space.elastic.stacks",
    "Genotype": "space.genotype",
    "MixedOp": "space.mixed_op",
    "choices": "space.rules",
    "make_searchable": "space.rules",
    "Architecture": "space.search_space",
    "SearchSpace": "space.search_space",
    "search_loaders": "split",
    "AdvantageNAS": "strategies.advantage",
    "CounterfactualNAS": "strategies.counterfactual",
    "DARTS": "strategies.darts",
    "DrNAS": "strategies.drnas",
    "ENAS": "strategies.enas",
    "Fixed": "strategies.fixed",
    "GDAS": "strategies.gdas",
    "NASP": "strategies.nasp",
    "PARSEC": "strategies.parsec",
    "ProxylessNAS": "strategies.proxylessnas",
    "RandomSearch": "strategies.random_search",
    "REINFORCE": "strategies.reinforce",
    "SNAS": "strategies.snas",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("advnas-lightning")
    elif name in _PLACES:
        value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
