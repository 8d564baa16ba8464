"""Networks, losses and modules that a user has got wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from advnas_lightning import (
    AdvantageNAS,
    MixedOp,
    SearchStrategy,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    linear = {"linear": nn.Linear(8, 8), "tanh": nn.Tanh()}
    return nn.Sequential(nn.Linear(4, 8), MixedOp("edge", linear), nn.Linear(8, 3))


OPTIMIZERS: dict[str, Any] = {
    "weight_optimizer": partial(SGD, lr=0.1),
    "architecture_optimizer": partial(Adam, lr=0.1),
}
Spoil = Callable[[Tensor], Any]


def search_with(
    loss: Spoil, kind: type[SearchStrategy] = AdvantageNAS, net: nn.Module | None = None, **options: Any
) -> SearchStrategy:
    """A strategy whose overridden loss is spoilt."""

    def spoilt(self: SearchStrategy, batch: tuple[Tensor, Tensor]) -> Any:
        return loss(F.cross_entropy(self.model(batch[0]), batch[1], reduction="none"))

    return type("Search", (kind,), {"loss": spoilt})(network() if net is None else net, **{**OPTIMIZERS, **options})


class Module(LightningModule):
    """A user's module whose ``training_step`` is spoilt."""

    def __init__(self, loss: Spoil) -> None:
        super().__init__()
        self.net, self.spoil = network(), loss

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Any:
        return self.spoil(F.cross_entropy(self.net(batch[0]), batch[1], reduction="none"))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)
