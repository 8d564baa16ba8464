"""Candidates for what a rule replaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

Rules = Mapping[Any, Callable[[Any], Any]]


def activations(relu: nn.Module) -> dict[str, nn.Module]:
    return {"relu": relu, "gelu": nn.GELU(), "silu": nn.SiLU()}
