"""How many candidates of an edge a strategy runs in a step."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from advnas_lightning import MixedOp, SearchStrategy
from advnas_lightning.engine.clock import SearchClock
from advnas_lightning.objectives import Regression
from tests.support.small_search import STRATEGIES

EDGES, CANDIDATES = 3, 5


COUNTS: Counter[str] = Counter()  # outside of the network, since an architecture step leaves no trace in it


class _Counted(nn.Linear):
    """A candidate that counts its passes."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        COUNTS["forward"] += 1
        COUNTS["graph"] += y.requires_grad
        return y


def passes(name: str, **options: Any) -> dict[str, tuple[float, float]]:
    """The candidates' passes of one weight step and of one architecture step, per edge.

    The first number counts all passes, and the second one those that keep what a backward pass needs.
    """
    edges = [
        MixedOp(f"edge{edge}", {f"op{number}": _Counted(4, 4) for number in range(CANDIDATES)}) for edge in range(EDGES)
    ]
    kind, own = STRATEGIES[name]
    search: SearchStrategy = kind(
        nn.Sequential(nn.Linear(4, 4), *edges),
        objective=Regression(),
        weight_optimizer=partial(SGD, lr=0.1),
        architecture_optimizer=partial(Adam, lr=0.1),
        **{**own, **options},
    )
    search.clock = SearchClock(progress=0.5)
    batch = torch.randn(2, 4), torch.randn(2, 4)
    found = {}
    COUNTS.clear()
    with search.space.bind(search.sample_for_weights()):
        search.outcome(batch)
    found["weights"] = _per_edge()
    search.evaluate_draws(batch)
    found["architecture"] = _per_edge()
    return found


def _per_edge() -> tuple[float, float]:
    counts = COUNTS["forward"] / EDGES, COUNTS["graph"] / EDGES
    COUNTS.clear()
    return counts
