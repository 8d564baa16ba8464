"""Measures how well each strategy estimates the gradient of θ: ``advnas diagnose``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advnas_lightning.diagnose.output import show
    from advnas_lightning.diagnose.quality import diagnose, diagnose_fit
    from advnas_lightning.diagnose.statistics import Credit, EstimatorStatistics, Truth, recommend

__all__ = ["Credit", "EstimatorStatistics", "Truth", "diagnose", "diagnose_fit", "recommend", "show"]

# A name is imported when it is first used, so that the command answers without PyTorch.
_PLACES = dict.fromkeys(("diagnose", "diagnose_fit"), "quality") | {"show": "output"}
_PLACES |= dict.fromkeys(("Credit", "EstimatorStatistics", "Truth", "recommend"), "statistics")


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
