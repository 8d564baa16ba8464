"""The guide on several optimizers shows a search of a GAN that is right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import Genotype
from tests.support.pages import DOCS, blocks

PAGE = blocks((DOCS / "guides/several_optimizers.md").read_text())


def test_the_search_of_a_gan_trains_it_as_it_trains_itself(fit: Callable[..., Trainer]) -> None:
    names: dict[str, Any] = {}
    gan, search_of_it, _ = (block.text for block in PAGE)
    exec(gan + search_of_it, names)

    def trained(of: Callable[[Any], Any], *roles: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = of(names["GAN"]())
        data = DataLoader(TensorDataset(torch.randn(12, 2)), batch_size=4)
        fit(module, dict.fromkeys(roles, data) if roles else data, max_epochs=2)
        return (module.derive() if roles else module).state_dict()

    def search(gan: Any) -> Any:
        resting = names["search_of"](gan, architecture_optimizer=partial(SGD, lr=0.0))
        with torch.no_grad():
            resting.theta[:, 1] += 1e4
        return resting

    alone = trained(Genotype({"activation": "tanh"}).apply)
    ours = trained(search, "weights", "architecture")
    assert alone.keys() == ours.keys()
    assert all(torch.equal(ours[name], value) for name, value in alone.items())
