"""Candidates that do not fit are named at the first draw that shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import Adam

from advnas_lightning import (
    DARTS,
    AdvantageNAS,
    MixedOp,
    SearchSpace,
    SearchStrategy,
)
from tests.support.classifier import pair
from tests.support.refusals import one_line
from tests.support.spoilt import Module, search_with

Fit = Callable[..., Trainer]


@pytest.mark.parametrize("of_a_module", [False, True])
@pytest.mark.parametrize("kind", [AdvantageNAS, DARTS])
def test_other_shapes_are_named_at_the_first_draw_that_shows_them(
    kind: type[SearchStrategy], of_a_module: bool, fit: Fit
) -> None:
    # What follows takes whatever comes, so that it is not the first to complain.
    edge = MixedOp("edge", {"narrow": nn.Linear(4, 8), "wide": nn.Linear(4, 16)})
    net = nn.Sequential(edge, nn.Flatten(), nn.Softmax(-1))
    if of_a_module:
        module = Module(lambda losses: losses.mean())
        module.net = net
        search = kind(module, architecture_optimizer=partial(Adam, lr=0.1))
    else:
        search = search_with(lambda losses: losses.mean(), kind, net)
    with one_line("edge 'edge'", "'narrow'", "[6, 8]", "'wide'", "[6, 16]", "equal shapes"):
        fit(search, pair(3, 3), max_epochs=5)
    if kind is DARTS:
        assert (search.weight_steps, search.architecture_steps) == (0, 0)


def test_what_ran_is_told_where_the_network_stumbles() -> None:
    # Before a second candidate has run there is nothing to compare the first one with.
    net = nn.Sequential(MixedOp("edge", {"narrow": nn.Linear(4, 8), "wide": nn.Linear(4, 16)}), nn.Linear(8, 3))
    space = SearchSpace(net)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught, space.bind(space.one_hot([1])):
        net(torch.zeros(2, 4))
    assert caught.value.__notes__ == ["The architecture was {'edge': 'wide'}."]
