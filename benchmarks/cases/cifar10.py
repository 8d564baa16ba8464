"""The pair of steps on CIFAR-10's network at the paper's sizes, with random images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

from advnas_lightning import GDAS, AdvantageNAS, CounterfactualNAS
from advnas_lightning.objectives import Classification
from advnas_lightning.tasks.cifar10 import NASBench201
from benchmarks.bare import TEMPERATURE, BareCounterfactual, BareGDAS, BareSearch, check_same_work
from benchmarks.measuring import BARE, Contest, compare, device
from benchmarks.released_gdas import ReleasedGDAS
from benchmarks.rows import Row

RELEASED = "released GDAS code's operations"
STRATEGIES: dict[str, tuple[Callable[..., Any], type[BareSearch]]] = {
    "advantage": (AdvantageNAS, BareSearch),
    "gdas": (partial(GDAS, tau_max=TEMPERATURE, tau_min=TEMPERATURE), BareGDAS),
    "counterfactual": (CounterfactualNAS, BareCounterfactual),
}
# Those of the search (§5.2). θ moves little, so that all operations are drawn alike.
WEIGHTS = partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
ARCHITECTURE = partial(Adam, lr=3e-4, betas=(0.5, 0.999), weight_decay=3e-3)
CLIP = 1.0
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16}
LEAST = {"32-true": 0.99, "bf16-mixed": 0.95}  # cosine of the ways in which θ moves on both sides


def loaders(batches: int, batch_size: int, *shape: int) -> dict[str, DataLoader[Any]]:
    """Random inputs of a shape with ten classes, for both kinds of step."""

    def loader() -> DataLoader[Any]:
        inputs = [torch.randn(batch_size, *shape) for _ in range(batches)]
        if len(shape) == 3:
            inputs = [each.contiguous(memory_format=torch.channels_last) for each in inputs]
        return DataLoader([(each, torch.randint(10, (batch_size,))) for each in inputs], batch_size=None)

    return {"weights": loader(), "architecture": loader()}


def contest(
    strategy: str,
    network: nn.Module,
    data: dict[str, DataLoader[Any]],
    *,
    precision: str = "32-true",
    weights: Callable[..., Any] = WEIGHTS,
    released: bool = False,
) -> Contest:
    """A strategy on a network that classifies, beside loops that are written by hand.

    Args:
        strategy: The name of the strategy.
        network: The searchable network.
        data: The loaders.
        precision: The Trainer's ``precision``.
        weights: Makes the optimizer of the weights.
        released: Whether the released code of GDAS takes part.
    """
    make_search, make_loop = STRATEGIES[strategy]
    half = PRECISIONS[precision]
    loop = make_loop(
        network,
        loss=loss,
        weights=weights,
        architecture=ARCHITECTURE,
        weight_clip=CLIP,
        architecture_clip=CLIP,
        autocast=partial(torch.autocast, device().type, half or torch.float32, enabled=half is not None),
    )
    others = {BARE: loop.steps(**data)}
    if released:
        assert isinstance(network, NASBench201)
        theirs = ReleasedGDAS(network, weights=weights, architecture=ARCHITECTURE, weight_clip=CLIP)
        others[RELEASED] = theirs.steps(**data)
    search = make_search(
        network.to(device()),
        objective=Classification(10),
        weight_optimizer=weights,
        architecture_optimizer=ARCHITECTURE,
        weight_clip=CLIP,
        architecture_clip=CLIP,
    )
    return Contest(
        search.to(device()),
        data,
        others,
        bare=loop,
        trainer={"precision": precision},
        verify=partial(check_same_work, search, loop, least=LEAST[precision]),
    )


def loss(network: nn.Module, batch: Any) -> torch.Tensor:
    """The cross-entropy of a batch."""
    images, labels = batch
    return F.cross_entropy(network(images), labels)


FULL = {"cells": 5, "channels": 16, "batch_size": 64, "pixels": 32}
SMALL = {"cells": 1, "channels": 4, "batch_size": 4, "pixels": 8}


def make(strategy: str, precision: str, sizes: Mapping[str, int], steps: int) -> Contest:
    """A strategy on NAS-Bench-201's network."""
    torch.manual_seed(0)
    network = NASBench201(cells=sizes["cells"], channels=sizes["channels"])
    data = loaders(steps, sizes["batch_size"], 3, sizes["pixels"], sizes["pixels"])
    released = strategy == "gdas" and precision == "32-true"
    return contest(strategy, network, data, precision=precision, released=released)


def pair(case: str, strategy: str, precision: str, *, small: bool) -> list[Row]:
    """Measure the pair of steps of a strategy."""
    sizes, turns = (SMALL, 2) if small else (FULL, 30)
    return compare(case, partial(make, strategy, precision, sizes), turns=turns)
