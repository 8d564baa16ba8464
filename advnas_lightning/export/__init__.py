"""Writes found networks for use elsewhere: ONNX, PyTorch's own formats, and readable source; each file is checked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advnas_lightning.export.call import Call
    from advnas_lightning.export.latency import onnx_latency
    from advnas_lightning.export.network import Exported, export_network
    from advnas_lightning.export.of_search import export

__all__ = ["Call", "Exported", "export", "export_network", "onnx_latency"]

# A name is imported when it is first used, so that the command answers without PyTorch.
_PLACES = {
    "Call": "call",
    "Exported": "network",
    "export": "of_search",
    "export_network": "network",
    "onnx_latency": "latency",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
