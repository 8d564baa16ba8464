"""A small searchable network, its data, and every strategy with every option that changes what a step does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from advnas_lightning import (
    DARTS,
    ENAS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    CounterfactualNAS,
    DrNAS,
    Fixed,
    MixedOp,
    ProxylessNAS,
    RandomSearch,
    SearchStrategy,
)
from tests.support.speed import slow_but

FEATURES, CLASSES = 4, 3
GENOTYPE = {"first": "block", "second": "linear"}

# Every strategy, and every option that changes what a step does.
STRATEGIES: dict[str, tuple[type[SearchStrategy], dict[str, Any]]] = {
    "advantage": (AdvantageNAS, {}),
    "advantage-exact": (AdvantageNAS, {"advantage": "exact"}),
    "advantage-ema": (AdvantageNAS, {"baseline": "ema"}),
    "advantage-authors_code": (AdvantageNAS, {"zero_op": "authors_code"}),
    "counterfactual": (CounterfactualNAS, {}),
    "counterfactual-exact": (CounterfactualNAS, {"advantage": "exact"}),
    "counterfactual-mix": (CounterfactualNAS, {"mix_end": 0.5}),
    "counterfactual-paper": (CounterfactualNAS, {"zero_op": "paper"}),
    "reinforce": (REINFORCE, {}),
    "reinforce-other": (REINFORCE, {"baseline_init": "zero", "baseline_update": "before"}),
    "enas": (ENAS, {"hidden_size": 8}),
    "enas-bounded": (ENAS, {"hidden_size": 8, "temperature": 5.0, "tanh_constant": 2.5, "entropy_weight": 0.1}),
    "parsec": (PARSEC, {"samples": 3}),
    "parsec-authors_code": (PARSEC, {"samples": 3, "weighting": "authors_code"}),
    "proxylessnas": (ProxylessNAS, {}),
    "proxylessnas-binary": (ProxylessNAS, {"gates": "binary"}),
    "gdas": (GDAS, {}),
    "gdas-rao": (GDAS, {"rao": 4}),
    "gdas-none": (GDAS, {"inactive": "none"}),
    "darts": (DARTS, {}),
    "darts-second_order": (DARTS, {"second_order": True}),
    "snas": (SNAS, {}),
    "nasp": (NASP, {}),
    "nasp-clip": (NASP, {"projection": "clip"}),
    "drnas": (DrNAS, {}),
    "random": (RandomSearch, {}),
    "fixed": (Fixed, {"genotype": GENOTYPE}),
}


# Options that change a formula, and nothing of what the engine does with its result.
SAME_ENGINE = (
    "advantage-authors_code",
    "counterfactual-mix",
    "counterfactual-paper",
    "reinforce-other",
    "enas-bounded",
    "gdas-none",
    "gdas-rao",
    "nasp-clip",
)

# One for each way in which a step uses the network. What a test shows for these, the others repeat.
WAYS = (
    "advantage",
    "advantage-ema",
    "counterfactual-exact",
    "reinforce",
    "enas",
    "parsec",
    "proxylessnas",
    "gdas",
    "darts-second_order",
    "random",
)

# Of those, what a test runs by default where each takes long.
FEW = ("advantage", "enas", "parsec", "gdas", "darts-second_order")


def few(names: Iterable[str]) -> list[Any]:
    """Rows for ``parametrize``, of which all but the ``FEW`` are slow."""
    names = list(names)
    return slow_but(names, [name for name in names if name in FEW])


class Zero(nn.Module):
    """Cuts the edge."""

    is_zero_op = True

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x


class SmallNet(nn.Module):
    """Two stacked cells that share two edges, a ragged space; running statistics and dropout unless switched off."""

    def __init__(self, *, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()

        def normalisation() -> nn.Module:
            return nn.BatchNorm1d(5) if norm else nn.Identity()

        def first() -> dict[str, nn.Module]:
            block = nn.Sequential(nn.Linear(5, 5, bias=False), normalisation(), nn.Tanh(), nn.Linear(5, 5))
            return {"linear": nn.Linear(5, 5), "tanh": nn.Tanh(), "block": block, "zero": Zero()}

        def second() -> dict[str, nn.Module]:
            return {"linear": nn.Linear(5, 5), "skip": nn.Identity()}

        self.stem = nn.Linear(FEATURES, 5)
        self.cells = nn.ModuleList(
            nn.ModuleList([MixedOp("first", first()), MixedOp("second", second())]) for _ in range(2)
        )
        self.norm = normalisation()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, second in self.cells:
            x = x + self.dropout(first(x).tanh() + second(x))
        return self.head(self.norm(x))


class CountingData(Dataset[tuple[Tensor, Tensor]]):
    """Labelled points that count how often they were fetched."""

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(size, FEATURES, generator=generator)
        self.labels = torch.randint(CLASSES, (size,), generator=generator)
        self.fetched = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.fetched += 1
        return self.inputs[index], self.labels[index]


def parameters_of(search: SearchStrategy) -> list[Tensor]:
    """θ, or the controller's weights; nothing of a fixed network."""
    state = search.state_dict()
    return [state[key].clone() for key in sorted(state) if key.startswith(("theta", "controller"))]
