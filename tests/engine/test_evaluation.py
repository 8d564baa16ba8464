"""An evaluation of a draw has no side effects and the right gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advnas_lightning import (
    Architecture,
    MixedOp,
    Trial,
)
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


# -- what a user sees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_but(["advantage", "enas", "gdas", "darts", "fixed"], ["enas", "fixed"]))
def test_evaluations_do_not_train(
    name: str, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    class Plain:
        """Draws no global random numbers, as a DataLoader does, so that the dropout is the same in both runs."""

        def __iter__(self) -> Any:
            return iter(batches)

    batches = list(make_loaders()["architecture"])
    states, metrics = [], []
    for valid in (Plain(), None):
        search = make_search(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            trainer = fit(search, make_loaders(), valid, max_epochs=2)
        states.append({key: value for key, value in search.state_dict().items() if not key.startswith("objective.")})
        metrics.append(set(trainer.callback_metrics) & {"val/loss", "val/accuracy"})
    assert_same(*states)
    assert metrics == [{"val/loss", "val/accuracy"}, set()]


# -- activation checkpointing and precision --------------------------------------------------------------------------


RUNS: list[torch.Size] = []  # what an object or its class keeps is as it was after an evaluation


class Checkpointed(nn.Module):
    """Two edges around a nonlinearity, recomputed in the backward pass where ``recompute``."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.stem = nn.Linear(4, 5)
        self.edges = nn.ModuleList(
            MixedOp(name, {"linear": nn.Linear(5, 5), "tanh": nn.Tanh(), "skip": nn.Identity()})
            for name in ("a", "b", "a")
        )
        self.head = nn.Linear(5, 3)

    def inner(self, x: Tensor) -> Tensor:
        RUNS.append(x.shape)
        for edge in self.edges:
            x = edge(x).sigmoid()
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = checkpoint(self.inner, x, use_reentrant=False) if self.recompute else self.inner(x)
        return self.head(x)


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["advantage", "proxylessnas", "proxylessnas-binary", "gdas", "darts", "nasp"], ["advantage", "gdas", "darts"]
    ),
)
def test_activation_checkpointing_changes_no_gradient(
    name: str, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    class Noting:
        def evaluate(self, architecture: Architecture, batch: Any) -> Trial:
            trial = super().evaluate(architecture, batch)
            self.gradients.append(trial.gate_grad)
            return trial

    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = Checkpointed(recompute)
        RUNS.clear()
        search = make_search(name, model, mixin=Noting)
        search.gradients = []
        fit(search, make_loaders(weights=5))
        found.append((search.gradients, search.state_dict()["theta"], model.state_dict()))
        assert len(RUNS) == (20 if recompute else 10)
    assert_same(*found)
    assert all(gradient.any() for gradient in found[0][0])


def test_a_scaled_loss_changes_no_gradient_of_weights(
    make_search: Make, make_loaders: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that second-order DARTS looks ahead by."""
    search = make_search("darts-second_order")
    search.model.eval()  # no dropout
    weights = list(search.model.parameters())
    batch = next(iter(make_loaders()["weights"]))
    plain = search.evaluator.weight_gradients(search.sample(), batch, weights)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monkeypatch.setattr(type(search.evaluator.precision), "scaler", scaler)
    scaled = search.evaluator.weight_gradients(search.sample(), batch, weights)
    assert any(part.any() for part in plain)
    for part, expected in zip(scaled, plain, strict=True):
        torch.testing.assert_close(part, expected)
