"""The loops that are written by hand do the work of the searches beside them, and one that does not is refused."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from advnas_lightning import AdvantageNAS
from advnas_lightning.tasks.cifar10 import NASBench201
from benchmarks.bare import BareGDAS, BareSearch
from benchmarks.cases import cifar10, ptb, scaling, toy
from benchmarks.measuring import Contest, Turns
from benchmarks.released_gdas import ReleasedGDAS
from tests.support.speed import slow_but

STEPS = 6


def race(contest: Contest) -> None:
    """Let both sides take all their steps, and compare where θ has moved."""
    contest.fit(Turns(contest.others))
    contest.verify()
    ours, its = contest.search.theta.detach().cpu(), contest.bare.theta.detach().cpu()
    torch.testing.assert_close(its, ours, rtol=0, atol=1e-4)
    assert (its != 1).any()


def assert_same_weights(ours: nn.Module, its: nn.Module) -> None:
    """In the order of the modules, since a loop's edges have other names."""
    pairs = list(zip(ours.parameters(), its.parameters(), strict=True))
    assert len(pairs) > 5
    for weight, other in pairs:
        torch.testing.assert_close(other.cpu(), weight.cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strategy", slow_but(cifar10.STRATEGIES, ["gdas"]))
def test_a_bare_loop_ends_where_the_search_does(strategy: str) -> None:
    contest = cifar10.make(strategy, "32-true", cifar10.SMALL, STEPS)
    race(contest)
    assert_same_weights(contest.search.model, contest.bare.network)


def test_so_does_that_of_a_chain() -> None:
    contest = scaling.make_edges(5, 4, STEPS)
    race(contest)
    assert_same_weights(contest.search.model, contest.bare.network)


def test_so_does_that_of_penn_treebank() -> None:
    contest = ptb.make("32-true", replace(ptb.SMALL, dropout=0.0), STEPS)
    race(contest)
    assert_same_weights(contest.search.model, contest.bare.network)


def test_so_does_that_of_the_toy_task() -> None:
    race(toy.make(STEPS, batch_size=8))


def test_the_released_codes_operations_are_gdas() -> None:
    network, data = NASBench201(cells=1, channels=4), cifar10.loaders(STEPS, 4, 3, 8, 8)
    settings = {"weights": cifar10.WEIGHTS, "architecture": cifar10.ARCHITECTURE, "weight_clip": 1.0}
    released = ReleasedGDAS(network, **settings)
    ours = BareGDAS(network, loss=cifar10.loss, architecture_clip=1e9, autocast=nullcontext, **settings)
    for loop in (released, ours):
        assert len(list(loop.steps(**data))) == STEPS
    torch.testing.assert_close(released.theta.cpu(), ours.theta, rtol=0, atol=1e-4)
    assert_same_weights(ours.network, released.network)


class Backwards(BareSearch):
    """Descends the other way."""

    def theta_gradient(self, choice: list[int], drawn_from: Tensor, credit: Tensor) -> Tensor:
        return -super().theta_gradient(choice, drawn_from, credit)


def test_a_loop_that_does_other_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cifar10.STRATEGIES, "advantage", (AdvantageNAS, Backwards))
    with pytest.raises(RuntimeError, match=r"AdvantageNAS and Backwards have moved .* does not do the same work"):
        cifar10.pair("cifar10", "advantage", "32-true", small=True)


def test_the_products_are_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by PyTorch in a bare loop, where every product has two operations for each of its terms."""
    # The counter does not see the products in PyTorch's linear cross-entropy.
    monkeypatch.setattr("advnas_lightning.tasks.ptb.model.LINEAR_CROSS_ENTROPY", False)
    contest = ptb.make("32-true", ptb.SMALL, 2)
    counts = []
    for steps in contest.others.values():
        for _ in contest.kinds:
            with FlopCounterMode(display=False) as counter:
                next(steps)
            counts.append(counter.get_total_flops())
    weights, architecture, *products = counts
    assert products == [weights, architecture]
