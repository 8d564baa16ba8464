"""β-decay: its gradient, how it rises over a search, and where there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim import SGD

from advnas_lightning import ENAS, AdvantageNAS, ArchitectureCost, RandomSearch, SearchStrategy
from advnas_lightning.engine.clock import SearchClock
from tests.support.linear_space import Cost, Net, TableNet, fit
from tests.support.measured import BATCH, measured
from tests.support.small_search import STRATEGIES, few

Make = Callable[..., SearchStrategy]
# Of those with an architecture step that needs no weight step before it.
WITH_THETA = [
    name
    for name, (kind, _) in STRATEGIES.items()
    if kind.searches and not issubclass(kind, ENAS) and name != "darts-second_order"
]


@pytest.mark.parametrize("name", few(WITH_THETA))
def test_every_strategy_gets_the_gradient_of_the_mean_logsumexp(name: str, make_search: Make) -> None:
    gradients = []
    for final in (0.0, 3.0):
        search = make_search(name, beta_decay=final, cost=ArchitectureCost("params", penalty=0.7)).double()
        search.clock = SearchClock(progress=0.25)
        search.theta.data.normal_(generator=torch.Generator().manual_seed(3))
        measured(search)
        batch = BATCH[0].double(), BATCH[1]
        for step in range(3 if name == "parsec-authors_code" else 1):  # which moves θ after each third draw
            search.architecture_steps = step
            torch.manual_seed(0)  # dropout
            gradient = search.architecture_gradients(search.evaluate_draws(batch))
        assert gradient is not None
        gradients.append(gradient[0])
    theta = search.theta.detach().clone().requires_grad_()
    decay = torch.stack([theta[edge, : len(names)].logsumexp(0) for edge, names in enumerate(search.space.candidates)])
    (reference,) = torch.autograd.grad(3.0 * 0.25 * decay.mean(), theta)
    torch.testing.assert_close(gradients[1] - gradients[0], reference, rtol=1e-9, atol=1e-12)


def test_the_factor_rises_linearly_over_the_steps() -> None:
    """Where no candidate matters, nothing else moves θ."""
    search = AdvantageNAS(
        TableNet((2, 3)),
        architecture_optimizer=partial(SGD, lr=0.5),
        objective=Cost(lambda y: 0 * y.sum()),
        beta_decay=6.0,
    ).double()
    theta = torch.tensor([[1.0, 0.0, 1.0], [2.0, -1.0, 0.5]], dtype=torch.double)
    search.theta.data = theta.clone()
    fit(search, [torch.ones(2, 3, 1, dtype=torch.double)] * 2, epochs=2)
    for step in range(4):
        slopes = torch.stack([torch.cat([theta[0, :2].softmax(0), torch.zeros(1)]), theta[1].softmax(0)])
        theta = theta - 0.5 * 6.0 * (step / 4) * slopes / 2
    torch.testing.assert_close(search.theta.data, theta, rtol=1e-12, atol=1e-12)
    assert search.is_annealed  # so that a longer run cannot go on from it


def test_what_has_no_moving_theta_refuses_it() -> None:
    adam = partial(torch.optim.Adam, lr=0.1)
    with pytest.raises(ValueError, match=r"^beta_decay=2\.0: ENAS has a controller in the place of θ: leave it out$"):
        ENAS(Net(), architecture_optimizer=adam, beta_decay=2.0)
    with pytest.raises(ValueError, match=r"^beta_decay=2\.0: RandomSearch has no θ that moves: leave it out$"):
        RandomSearch(Net(), beta_decay=2.0)
