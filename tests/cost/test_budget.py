"""The expected cost's gradient, and the budget that a search meets."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from advnas_lightning import ENAS, NASP, ArchitectureCost, DrNAS, SearchStrategy, Trial, functional
from advnas_lightning.engine.clock import SearchClock
from tests.support.linear_space import every_choice
from tests.support.measured import BATCH, measured
from tests.support.small_search import STRATEGIES
from tests.support.speed import slow_but

Make = Callable[..., SearchStrategy]
SEARCHING = [name for name, (kind, _) in STRATEGIES.items() if kind.searches]


# -- the gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*SEARCHING} - {"darts-second_order"}))  # which needs a fit: see below
def test_the_gradient_of_every_strategy_is_that_of_the_expected_cost(name: str, make_search: Make) -> None:
    kind, _ = STRATEGIES[name]
    gradients = []
    for cost in (None, ArchitectureCost("params", penalty=0.7)):
        search = make_search(name, cost=cost).double()
        search.clock = SearchClock(progress=0.5)
        for parameter in search.architecture_parameters():
            parameter.data.normal_(generator=torch.Generator().manual_seed(3))
        if cost is not None:
            measured(search)
        batch = BATCH[0].double(), BATCH[1]
        for step in range(3 if name == "parsec-authors_code" else 1):  # which moves θ after each third draw
            search.architecture_steps = step
            torch.manual_seed(0)  # dropout
            gradient = search.architecture_gradients(search.evaluate_draws(batch))
        gradients.append(gradient)
    difference = [ours - plain for plain, ours in zip(*gradients, strict=True)]
    assert all(each.abs().max() > 1e-3 for each in difference)
    if issubclass(kind, ENAS):
        return  # its draws depend on each other: below
    theta, table = search.theta.detach(), search.cost.table.double()
    expected = torch.zeros_like(theta)
    largest = search.cost.fixed + table.amax(-1).sum()

    def penalty(theta: Tensor) -> Tensor:
        p = theta if issubclass(kind, NASP) else theta.masked_fill(~search.mask, -torch.inf).softmax(-1)
        if issubclass(kind, DrNAS):
            beta = (nn.functional.elu(theta) + 1) * search.mask
            p = beta / beta.sum(-1, keepdim=True)
        return 0.7 * (search.cost.fixed + (p * table).sum()) / largest

    for edge, j in search.mask.nonzero().tolist():
        step = torch.zeros_like(theta)
        step[edge, j] = 1e-5
        expected[edge, j] = (penalty(theta + step) - penalty(theta - step)) / 2e-5
    # λ and C are float32 in the search; a central difference errs by the square of its step.
    torch.testing.assert_close(difference[0], expected, rtol=1e-5, atol=1e-7)


def test_enas_descends_the_expected_cost_in_the_mean(make_search: Make) -> None:
    # Without a baseline or a bonus a loss of 0 leaves the cost alone.
    options = {"entropy_weight": 0, "baseline_init": "zero"}
    search = make_search("enas", cost=ArchitectureCost("params", penalty=0.7), **options)
    measured(search)
    search.double()
    with torch.no_grad():
        for parameter in search.controller.parameters():
            parameter.mul_(10)
    parameters, slope = search.architecture_parameters(), search.cost.slope(search.probs).double()
    choices = [(i, j) for i in range(4) for j in range(2)]
    log_p = search.controller(torch.tensor(choices))  # [8, E, J]
    probs = torch.stack([log_p[n, range(2), choice].sum().exp() for n, choice in enumerate(choices)])
    costs = torch.stack([slope[range(2), choice].sum() for choice in choices])
    truth = torch.autograd.grad((probs * costs).sum(), parameters)
    estimates = [torch.zeros_like(parameter) for parameter in parameters]
    for p, choice in zip(probs.detach(), choices, strict=True):
        draw = search.one_hot(choice)
        draw = replace(draw, gates=draw.gates.double())
        gradient = search.architecture_gradients([Trial(draw, torch.tensor(0.0, dtype=torch.double), None, 1)])
        for total, part in zip(estimates, gradient, strict=True):
            total += p * part
    for estimate, reference in zip(estimates, truth, strict=True):
        assert reference.abs().max() > 1e-5
        torch.testing.assert_close(estimate, reference, rtol=1e-9, atol=1e-12)


# -- a budget --------------------------------------------------------------------------------------------------------


def recorded(cost: ArchitectureCost) -> list[float]:
    """A list that grows by the expected cost in every step of the dual ascent."""
    spent: list[float] = []
    ascend = cost.after_step

    def record(probs: Tensor) -> None:
        spent.append(float(cost.expected(probs)))
        ascend(probs)

    cost.after_step = record  # type: ignore[method-assign]
    return spent


def test_the_dual_ascent_is_the_stated_one(make_search: Make) -> None:
    cost = ArchitectureCost("params", budget=100, rate=0.5, damping=2)
    search = make_search("advantage", cost=cost)
    measured(search)
    excess = (float(cost.expected(search.probs)) - 100) / 100
    for step in (1, 2, 3):
        cost.after_step(search.probs)
        assert float(cost.penalty) == pytest.approx((0.5 * step + 2) * excess)
    cheapest = search.one_hot((1, 1)).gates
    for _ in range(100):
        cost.after_step(cheapest)
    assert float(cost.penalty) == float(cost.multiplier) == 0  # never negative


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["advantage", "counterfactual", "reinforce", "enas", "darts", "gdas", "snas", "drnas", "parsec"],
        ["advantage"],
    ),
)
def test_a_budget_is_met(
    name: str, make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Trainer]
) -> None:
    cost = ArchitectureCost("params", budget=120)
    spent = recorded(cost)
    search = make_search(name, cost=cost, architecture_optimizer=partial(torch.optim.Adam, lr=0.04), seed=1)
    start = float(measured(search).expected(search.expected_gates))
    fit(search, make_loaders(weights=8, architecture=8), max_epochs=40)
    assert start > 130
    assert fmean(spent[-80:]) <= 120 * 1.05
    if name != "enas":  # whose noise moves the controller to and fro by more than that
        assert float(cost.expected(search.expected_gates)) <= 120 * 1.05
    assert cost.allows(search.one_hot(search.argmax_choice()).gates)


def test_what_is_found_is_the_most_probable_architecture_within_the_budget(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("params", budget=1))
    cost = search.cost
    assert cost is not None
    cost.budget = None
    measured(search)
    weights = {choice: search.one_hot(choice).gates for choice in every_choice(search.space)}
    totals = {choice: float(cost.expected(each)) for choice, each in weights.items()}
    generator = torch.Generator().manual_seed(0)
    binding = []
    for total in totals.values():
        search.theta.data = 3 * torch.randn(search.theta.shape, generator=generator)
        chances = {choice: float((search.log_probs.detach() * each).nansum()) for choice, each in weights.items()}
        expected = float(cost.expected(search.probs))
        for budget in (total, 1.04 * total, max(1.01 * expected, min(totals.values()))):
            cost.budget = budget
            allowed = {choice for choice, its in totals.items() if its <= budget}
            assert all(bool(cost.allows(weights[choice])) == (choice in allowed) for choice in totals)
            least = min(0.95 * budget, max(totals[choice] for choice in allowed)) if expected >= 0.95 * budget else 0
            close = {choice for choice in allowed if totals[choice] >= least}
            binding.append(close < allowed)
            best = max(close, key=chances.__getitem__)
            assert tuple(search.argmax_choice()) == best
    assert {True, False} == set(binding)


def test_process_best_is_within_the_budget(
    make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Trainer]
) -> None:
    search = make_search("advantage", cost=ArchitectureCost("params", budget=100))
    fit(search, make_loaders(), max_epochs=8)
    cost = search.cost
    assert cost is not None
    assert search.process_best is not None
    assert cost.allows(search.one_hot(search.space.choice(search.process_best)).gates)


class Spendthrift:
    """A strategy whose loss, without noise, falls by 0.1 from free candidates to the most expensive ones."""

    def theta_gradient(self: Any, trials: Any) -> Tensor:
        return functional.softmax_vjp(self.probs, -0.1 * self.cost.table / self.cost.table.amax(-1).sum())


@pytest.mark.slow
@pytest.mark.parametrize("lr", slow_but([0.005, 0.1], [0.1]))
def test_a_budget_is_used_up_without_swings(
    lr: float, make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Trainer]
) -> None:
    worst, adam = {}, partial(torch.optim.Adam, lr=lr)
    for damping in (0, 10):
        cost = ArchitectureCost("params", budget=120, damping=damping)
        spent = recorded(cost)
        search = make_search("advantage", mixin=Spendthrift, cost=cost, architecture_optimizer=adam)
        fit(search, make_loaders(weights=8, architecture=8), max_epochs=40)
        worst[damping] = max(abs(each - 120) / 120 for each in spent[160:])  # in the second half
    assert worst[10] < 0.02  # an excess of 1 % is worth λ = 0.1 at once, all that the preference is
    assert worst[0] > 0.05


@pytest.mark.parametrize("name", slow_but(SEARCHING, ["advantage", "enas", "parsec", "gdas", "darts"]))
def test_a_penalty_that_outweighs_the_loss_finds_the_cheapest_architecture(
    name: str, make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Trainer]
) -> None:
    search = make_search(name, cost=ArchitectureCost("macs", penalty=100))
    fit(search, make_loaders(weights=8, architecture=8), max_epochs=2)
    found = search.genotype()
    assert (found["first"] in ("tanh", "zero"), found["second"]) == (True, "skip")


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "penalty=None, budget=None: give a cost one of them"),
        ({"penalty": 1, "budget": 2}, "penalty=1, budget=2: give a cost one of them"),
        ({"penalty": -1}, "penalty=-1 must be a finite number of at least 0"),
        ({"budget": 0}, "budget=0 must be a finite number above 0"),
        ({"penalty": 1, "rate": 0}, "rate=0 must be a finite number above 0"),
        ({"budget": 1, "damping": -1}, "damping=-1 must be a finite number of at least 0"),
        ({"penalty": float("nan")}, "penalty=nan must be"),
        ({"penalty": True}, "penalty=True must be"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        ArchitectureCost("params", **options)


def test_a_bad_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"cost='flops' is unknown: use params, macs, latency, memory, a function, or"):
        ArchitectureCost("flops", penalty=1)


def test_a_budget_that_nothing_meets_is_refused(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("params", budget=10))
    with pytest.raises(
        ValueError, match=r"cost_budget=10 is below what the cheapest architecture costs, \d+ parameters"
    ):
        measured(search)


def test_a_cost_that_is_none_or_changes_nothing_is_refused(make_search: Make) -> None:
    with pytest.raises(ValueError, match=r"cost='macs' must be an ArchitectureCost, such as"):
        make_search("advantage", cost="macs")
    for name in ("fixed", "random"):
        with pytest.raises(ValueError, match=r"has no choice that a cost could change"):
            make_search(name, cost=ArchitectureCost("macs", penalty=1))


def test_half_precision_keeps_the_costs(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("params", penalty=0.123))
    before, found = copy.deepcopy(measured(search).state_dict()), search.cost.result()
    search.bfloat16()
    assert {name: value.dtype for name, value in search.cost.named_buffers()} == dict.fromkeys(
        ("penalty", "multiplier"), torch.float32
    )
    assert (search.cost.table.dtype, search.cost.result()) == (torch.float32, found)
    torch.testing.assert_close(search.cost.state_dict()["penalty"], before["penalty"], rtol=0, atol=0)
