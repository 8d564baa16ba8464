"""What a search hands to its user in the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import (
    DARTS,
    ENAS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    DrNAS,
    MixedOp,
    ProxylessNAS,
    SearchStrategy,
)
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


# -- what a user sees ------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """The README's network."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.edge(x))


def readme_loader(seed: int, batch_size: int = 4) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(torch.randn(10, 8, generator=generator), torch.randint(2, (10,), generator=generator))
    return DataLoader(data, batch_size=batch_size)


@pytest.mark.parametrize(
    "kind",
    slow_but(
        [AdvantageNAS, REINFORCE, GDAS, DARTS, ProxylessNAS, SNAS, NASP, DrNAS, PARSEC, ENAS],
        [AdvantageNAS, GDAS, DARTS, PARSEC],
    ),
)
def test_a_users_own_loss_is_enough(kind: type[SearchStrategy], fit: Fit) -> None:
    class Search(kind):
        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.model(x), y)

    torch.manual_seed(0)
    search = Search(Net(), weight_optimizer=partial(SGD, lr=0.1), architecture_optimizer=partial(Adam, lr=0.3), seed=2)
    valid = readme_loader(2)
    trainer = fit(search, {"weights": readme_loader(0), "architecture": readme_loader(1)}, valid, max_epochs=4)
    (x, y), model = valid.dataset.tensors, search.genotype().apply(search.model)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    assert {"train/loss", "architecture/loss", "entropy"} <= set(trainer.callback_metrics)
    assert not any(isinstance(module, MixedOp) for module in model.modules())
    assert search.genotype()["edge"] in ("linear", "skip")
    if kind in (DARTS, SNAS, DrNAS, ProxylessNAS):
        with pytest.raises(ValueError, match="no process_best"):
            search.genotype("process_best")
        selected = search.genotype()
    else:
        assert search.genotype("process_best")["edge"] in ("linear", "skip")
        selected = search.genotype("process_best" if kind in (REINFORCE, ENAS, GDAS) else "argmax")
    for stage in ("validate", "test"):
        (metrics,) = getattr(trainer, stage)(search, valid, verbose=False)
        key = "val/loss" if stage == "validate" else "test/loss"
        expected = F.cross_entropy(selected.apply(search.model)(x), y).item()
        assert metrics == {key: pytest.approx(expected, rel=1e-5)}
    assert torch.equal(search(x), selected.apply(search.model)(x))


def test_which_overrides_the_strategys_own_selection(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    for name, which in (("advantage", "process_best"), ("reinforce", "argmax")):
        search = make_search(name, select=which)
        assert search.selected == "argmax"  # while there is no other
        fit(search, make_loaders())
        assert search.selected == which
        assert search.selected_choice() == search.space.choice(search.genotype(which))


# -- bad arguments ---------------------------------------------------------------------------------------------------


def test_a_model_without_edges_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear contains no MixedOp"):
        AdvantageNAS(nn.Linear(1, 1), architecture_optimizer=Adam)


class Late(LightningModule):
    """Makes a choice, or its first one, after the strategy has been made."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), first)

    def setup(self, stage: str) -> None:
        self.net.append(MixedOp("late", {"relu": nn.ReLU(), "tanh": nn.Tanh()}))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch).sum()

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters())


def test_a_choice_that_is_made_too_late_is_told(fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"Late contains no MixedOp.* not in setup or configure_model"):
        AdvantageNAS(Late(nn.Identity()), architecture_optimizer=Adam)
    search = AdvantageNAS(Late(MixedOp("edge", {"one": nn.ReLU(), "two": nn.Tanh()})), architecture_optimizer=Adam)
    with pytest.raises(
        RuntimeError, match=r"'late' has no architecture.* after the strategy, as in a copy or in setup"
    ):
        fit(search, {"weights": torch.ones(2, 1, 2), "architecture": torch.ones(2, 1, 2)})
