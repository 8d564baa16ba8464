"""An architecture step leaves no trace: a search whose θ is at rest trains as if it had no architecture steps."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import SGD

from advnas_lightning import Genotype, SearchStrategy
from tests.support.classifier import Rows
from tests.support.small_search import SAME_ENGINE, STRATEGIES
from tests.support.speed import slow_but
from tests.support.stateful import KINDS, Keeping, Switching, data, kept, make, tensors

Fit = Callable[..., Trainer]
AT_REST = {"architecture_optimizer": partial(SGD, lr=0.0)}
ENGINES = [name for name in STRATEGIES if name not in (*SAME_ENGINE, "fixed", "random")]  # these two have no such step
# The gates of two equal candidates add up to two, or only nearly to one.
NOT_ONE = ("proxylessnas", "snas", "drnas")


class DrawsOnly:
    """Draws the architectures of an architecture step, and runs none of them."""

    def architecture_step(self, batch: Any) -> None:
        for _ in range(self.draws):  # type: ignore[attr-defined]
            self.sample()  # type: ignore[attr-defined]


def trained(fit: Fit, module: LightningModule, loaders: Any) -> tuple[Any, Any, Any]:
    """What a module keeps after its training, the random numbers that come next, and what was logged."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    rows = Rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of what an evaluation changed unnoticed, for one
        warnings.filterwarnings("ignore", module="lightning|torch")
        trainer = fit(module, loaders, data(9, 2), max_epochs=2, logger=rows, log_every_n_steps=1)
    found = module.model if isinstance(module, SearchStrategy) else module
    numbers = torch.rand(2).tolist(), np.random.rand(), random.random()
    added = {"entropy", "architecture/loss", "epoch"}
    logged = [{name: value for name, value in row.items() if name not in added} for _, row in rows.rows]
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name not in added}
    return kept(found), numbers, ([row for row in logged if row], metrics)


def assert_same(ours: Any, theirs: Any) -> None:
    ours, theirs = dict(tensors(ours)), dict(tensors(theirs))
    assert ours.keys() == theirs.keys()
    for place, value in ours.items():
        other = theirs[place]
        same = torch.equal(value, other) if isinstance(value, Tensor) else value == other
        assert same, place


def pairs(*without: str, start: int) -> list[Any]:
    """Each second kind of module, with one of the strategies whose steps differ most; all other pairs are slow."""
    names = [name for name in ENGINES if name not in without]
    telling = itertools.cycle(("advantage", "darts-second_order", "counterfactual"))
    quick = [(kind, "advantage" if kind is Switching else name) for kind, name in zip(KINDS, telling, strict=False)]
    return slow_but(itertools.product(KINDS, names), quick[start::2])


@pytest.mark.parametrize(("kind", "name"), pairs(start=0))
def test_a_module_is_left_as_if_there_were_no_architecture_steps(kind: type[Keeping], name: str, fit: Fit) -> None:
    if name == "darts-second_order" and kind is Switching:
        pytest.skip("its step switches off the gradient of a weight that second-order DARTS asks for")
    strategy, options = STRATEGIES[name]
    loaders = {"weights": data(1), "architecture": data(2, 3)}
    search = strategy(make(kind, equal=False), **{**AT_REST, **options})
    alone = type("Alone", (DrawsOnly, strategy), {})(make(kind, equal=False), **{**AT_REST, **options})
    found = trained(fit, search, loaders)
    assert search.architecture_steps == 8
    for ours, theirs in zip(found, trained(fit, alone, loaders), strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize(("kind", "name"), pairs(*NOT_ONE, start=1))
def test_a_search_at_rest_is_plain_training(kind: type[Keeping], name: str, fit: Fit) -> None:
    if name == "darts-second_order" and kind is Switching:
        pytest.skip("its step switches off the gradient of a weight that second-order DARTS asks for")
    strategy, options = STRATEGIES[name]
    plain = Genotype({"edge": "one"}).apply(make(kind, equal=True))
    search = strategy(make(kind, equal=True), calibrate=0, **{**AT_REST, **options})
    expected = trained(fit, plain, data(1))
    _, *rest = trained(fit, search, {"weights": data(1), "architecture": data(2, 3)})
    for ours, theirs in zip((kept(search.derive()), *rest), expected, strict=True):
        assert_same(ours, theirs)
