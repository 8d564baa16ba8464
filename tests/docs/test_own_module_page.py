"""The tutorial on one's own module shows how the two examples differ, and a search of a GAN that is right."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import AdvantageNAS, Genotype, MixedOp
from tests.support.pages import DOCS, ROOT, blocks

PAGE = blocks((DOCS / "tutorials/own_module.md").read_text())


def test_the_diff_is_that_of_the_examples() -> None:
    before, after = (
        (ROOT / "examples" / name).read_text().splitlines() for name in ("classifier.py", "searchable_classifier.py")
    )
    changes = difflib.unified_diff(before, after, n=0, lineterm="")
    real = [line for line in list(changes)[2:] if not line.startswith("@@")]
    (shown,) = [each for each in PAGE if each.language == "diff"]
    assert [line for line in shown.text.splitlines() if line != "+"] == [line for line in real if line != "+"]


def test_the_search_of_a_gan_trains_it_as_it_trains_itself(fit: Callable[..., Trainer]) -> None:
    names: dict[str, Any] = {"torch": torch, "nn": nn, "LightningModule": LightningModule}
    names |= {"MixedOp": MixedOp, "AdvantageNAS": AdvantageNAS}
    for block in PAGE:
        if block.text.startswith(("from torch.nn.functional import softplus", "class GANSearch")):
            exec(block.text, names)

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
