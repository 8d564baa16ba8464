"""Ranks architectures of one trained search by their losses with the shared weights and their probabilities."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advnas_lightning.ranking.enumeration import most_probable
    from advnas_lightning.ranking.evolution import Evolution
    from advnas_lightning.ranking.of_search import rank
    from advnas_lightning.ranking.result import RankedArchitecture, Ranking
    from advnas_lightning.ranking.trust import Trust

__all__ = ["Evolution", "RankedArchitecture", "Ranking", "Trust", "most_probable", "rank"]

# A name is imported when it is first used, so that the command answers without PyTorch.
_PLACES = {"most_probable": "enumeration", "Evolution": "evolution", "rank": "of_search", "Trust": "trust"}
_PLACES |= dict.fromkeys(("RankedArchitecture", "Ranking"), "result")


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
