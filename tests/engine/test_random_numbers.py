"""A strategy draws from its own generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from advnas_lightning import Fixed, Genotype
from tests.support.classifier import GENOTYPE, Classifier, assert_same_state, loader, make
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


def test_draws_come_from_the_strategys_own_generator(
    engine: str, small_net: Make, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    class Noise(Callback):
        def __init__(self, count: int) -> None:
            self.count = count

        def on_train_batch_start(self, *_: Any) -> None:
            torch.rand(self.count)

    def run(seed: int, noise: int) -> Any:
        torch.manual_seed(noise)
        search = make_search(engine, small_net(dropout=0.0), seed=seed)
        fit(search, make_loaders(weights=2), callbacks=[Noise(noise)])
        return {key: value for key, value in search.state_dict().items() if not key.startswith("objective.")}

    first = run(seed=0, noise=0)
    assert_same(run(seed=0, noise=3), first)
    weights, other = ({key: v for key, v in run_.items() if "model" in key} for run_ in (first, run(seed=1, noise=0)))
    same = all(torch.equal(value, weights[key]) for key, value in other.items())
    assert same == engine.startswith(("darts", "fixed"))


def test_building_a_strategy_draws_no_global_random_numbers(engine: str, small_net: Make, make_search: Make) -> None:
    model = small_net()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    make_search(engine, model)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("shuffle", slow_but([False, True], [True]))
@pytest.mark.parametrize(
    "hook", ["setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_epoch_end"]
)
def test_a_modules_hooks_draw_what_they_draw_alone(hook: str, shuffle: bool, fit: Fit) -> None:
    def reset(self: LightningModule, *_: Any, **__: Any) -> None:
        nn.init.normal_(self.net[0].weight)

    kind = type("Drawing", (Classifier,), {hook: reset})
    alone, search = Genotype(GENOTYPE).apply(make(kind)), Fixed(make(kind), genotype=GENOTYPE)
    for module in (alone, search):
        torch.manual_seed(0)
        fit(module, loader(shuffle=shuffle), max_epochs=2)
    assert_same_state(search.model, alone)
