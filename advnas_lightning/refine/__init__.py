"""Lets short trainings decide between the finalists of a search, and looks around the best one: ``advnas refine``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advnas_lightning.refine.finalists import finalists_of
    from advnas_lightning.refine.ladder import Ladder, Trial
    from advnas_lightning.refine.own import refine
    from advnas_lightning.refine.ties import Decision, decide

__all__ = ["Decision", "Ladder", "Trial", "decide", "finalists_of", "refine"]

# A name is imported when it is first used, so that the command answers without PyTorch.
_PLACES = {
    "finalists_of": "finalists",
    "Ladder": "ladder",
    "Trial": "ladder",
    "refine": "own",
    "Decision": "ties",
    "decide": "ties",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
