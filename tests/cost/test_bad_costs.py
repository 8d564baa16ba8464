"""A cost or a budget that is none is named in one line, and what is a cost leaves θ finite."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import ArchitectureCost, MixedOp, SearchStrategy
from advnas_lightning.cost import CostTable, count_parameters
from tests.support.measured import measured
from tests.support.refusals import one_line
from tests.support.speed import slow_but

Make = Callable[..., SearchStrategy]
GOOD = {
    "cost": "macs",
    "unit": "",
    "fixed": 7,
    "edges": {"first": {"linear": 50, "tanh": 0, "block": 100.5, "zero": 0}, "second": {"linear": 50, "skip": 0}},
}


def of_linear_maps(value: Any) -> Callable[..., Any]:
    """A user's cost, which is 0 for all other candidates."""
    return lambda candidate, *inputs: value if isinstance(candidate, nn.Linear) else 0


def activations() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), MixedOp("edge", {"relu": nn.ReLU(), "tanh": nn.Tanh()}), nn.Linear(5, 3))


# -- a function of the user's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [-1, -0.5, math.nan, math.inf, -math.inf, 10**400, -(10**400), True, None, "3", 1j, [1.0], np.bool_(True),
     np.array([1.0, 2.0]), torch.tensor([2.0, 3.0]), torch.tensor(math.nan), torch.tensor(True), torch.zeros(300)],
)  # fmt: skip
def test_what_is_no_cost_is_named(value: Any, make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost(of_linear_maps(value), penalty=0.1))
    with one_line("the cost of candidate 'linear' of edge 'first' is ", "must be a finite number of at least 0"):
        measured(search)
    assert not search.cost.is_measured


@pytest.mark.parametrize(
    "value",
    [2, 2.5, np.float32(2.5), np.int64(2), np.array(2.5), np.array([2.5]), torch.tensor(2.5), torch.tensor([2.0]),
     torch.tensor(2), torch.tensor(2.5, dtype=torch.bfloat16), Fraction(5, 2), 2**53, 1e-45, 5e-324, 1e29],
)  # fmt: skip
@pytest.mark.parametrize("name", slow_but(["advantage", "darts"], ["advantage"]))
def test_each_kind_of_number_is_a_cost(
    value: Any, name: str, make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Any]
) -> None:
    search = make_search(name, cost=ArchitectureCost(of_linear_maps(value), penalty=0.1))
    fit(search, make_loaders(weights=2))
    one = value.item() if hasattr(value, "item") else float(value)
    assert search.cost.result().edges["second"] == {"linear": 2 * one, "skip": 0}
    assert search.theta.isfinite().all()
    # The two edges have linear maps at two places each, and cost alike.
    assert float(search.cost.slope(search.probs).max()) == pytest.approx(0.05)


def test_costs_that_add_up_to_too_much_are_refused(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost(of_linear_maps(4e29), penalty=0.1))
    with one_line("cost=own adds up to 1.6e+30, which is above 1e+30: count in a larger unit"):
        measured(search)


# -- a cost of nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["params", "macs", lambda *_: 0, lambda *_: 7.5])
@pytest.mark.parametrize("options", [{"penalty": 0.1}, {"budget": 1e6}])
def test_a_cost_that_is_the_same_for_all_is_refused(kind: Any, options: dict[str, float], make_search: Make) -> None:
    search = make_search("advantage", activations(), cost=ArchitectureCost(kind, **options))
    with one_line(f"cost={kind if isinstance(kind, str) else 'own'} is the same for all", "leave it out, or use "):
        measured(search)


def test_a_penalty_of_nothing_tells_the_cost_alone(
    make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Any]
) -> None:
    search = make_search("advantage", activations(), cost=ArchitectureCost(lambda *_: 0, penalty=0))
    fit(search, make_loaders())
    assert search.cost.result() == CostTable("own", {"edge": {"relu": 0, "tanh": 0}}, 0)
    assert search.theta.isfinite().all()


# -- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["penalty", "budget", "rate", "damping"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 10**400, True, "1", [1], np.float32("nan")])
def test_an_option_that_is_no_number_is_named(option: str, value: Any) -> None:
    options = {} if option == "penalty" else {"budget": 100}
    with one_line(f"cost: {option}=", "must be a finite number"):
        ArchitectureCost("params", **{**options, option: value})


@pytest.mark.parametrize("option", ["penalty", "rate", "damping"])
def test_an_option_whose_products_overflow_is_named(option: str) -> None:
    options = {} if option == "penalty" else {"budget": 100}
    with one_line(f"cost: {option}=1e+39 must be a finite number", "and at most 1e+09"):
        ArchitectureCost("params", **{**options, option: 1e39})


@pytest.mark.parametrize("budget", [5e-324, 1e-39, 1e-10])
def test_a_budget_that_is_tiny_beside_the_costs_is_refused(budget: float, make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost(of_linear_maps(1), budget=budget))
    with one_line(f"cost_budget={budget:g} is too small beside the most expensive architecture, which costs 4"):
        measured(search)


@pytest.mark.parametrize(
    "extreme",
    slow_but([{"rate": 1e9}, {"damping": 1e9}, {"budget": 4e-9}, {"budget": 1e300}], [{"rate": 1e9}, {"budget": 4e-9}]),
)
def test_extreme_options_leave_the_search_finite(
    extreme: dict[str, float], make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Any]
) -> None:
    cost = ArchitectureCost(of_linear_maps(1), **{"budget": 2.0, **extreme})
    search = make_search("advantage", cost=cost)
    fit(search, make_loaders(weights=8, architecture=8), max_epochs=4)
    assert search.theta.isfinite().all()
    assert cost.penalty.isfinite()


def test_a_budget_holds_to_the_last_parameter_of_a_large_network(make_search: Make) -> None:
    # Single precision counts to 2**24 alone.
    with torch.device("meta"):
        large = nn.Linear(2**13, 2**12, bias=False)
    small = nn.Linear(1, 1, bias=False)
    model = nn.Sequential(MixedOp("edge", {"one": nn.Sequential(large, small), "none": large}), nn.Linear(1, 1))
    for budget, met in [(2**25 + 3, True), (2**25 + 2, False)]:
        search = make_search("advantage", model, cost=ArchitectureCost("params", budget=budget))
        cost = measured(search)
        search.theta.data = torch.tensor([[9.0, 0.0]])
        one = search.one_hot([0]).gates
        assert float(cost.expected(one)) == 2**25 + 3
        assert bool(cost.allows(one)) is met
        assert count_parameters(search.derive()) <= budget
        assert search.genotype()["edge"] == ("one" if met else "none")


def test_decimals_that_add_up_to_the_budget_are_within_it(make_search: Make) -> None:
    def tenths(candidate: nn.Module, x: Tensor) -> float:
        return 0.15 if isinstance(candidate, nn.Identity) else 0.1 if isinstance(candidate, nn.Linear) else 0.05

    search = make_search("advantage", cost=ArchitectureCost(tenths, budget=0.3))
    cost = measured(search)
    assert cost.result().of([1, 0]) == pytest.approx(0.3)
    assert cost.allows(search.one_hot([1, 0]).gates)
    assert not cost.allows(search.one_hot([0, 0]).gates)


# -- before and after measuring --------------------------------------------------------------------------------------


def test_costs_are_not_told_before_they_are_known(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("latency", penalty=1))
    for ask in (
        search.cost.result,
        lambda: search.cost.expected(search.probs),
        lambda: search.cost.slope(search.probs),
    ):
        with one_line("cost=latency is not known yet: a search measures it at its first architecture step"):
            ask()
    with one_line("this ArchitectureCost belongs to no search yet"):
        ArchitectureCost("latency", penalty=1).space  # noqa: B018


def test_a_cost_is_that_of_one_search(make_search: Make) -> None:
    cost = ArchitectureCost("params", penalty=1)
    make_search("advantage", cost=cost)
    with one_line("this ArchitectureCost belongs to a search already: give each search one of its own"):
        make_search("advantage", cost=cost)


@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_a_search_says_when_it_will_measure(
    warmup_epochs: int, make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Any], caplog: Any
) -> None:
    search = make_search("advantage", cost=ArchitectureCost("latency", penalty=1), warmup_epochs=warmup_epochs)
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")  # its records reach no other handler of tests
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level("INFO", logger.name):
            fit(search, make_loaders(), max_epochs=3)
    finally:
        logger.removeHandler(caplog.handler)
    says = "cost=latency will be measured at the first architecture step, after 2 epochs of warm-up"
    assert (says in caplog.text) is (warmup_epochs > 0)
    assert search.cost.is_measured


def test_a_budget_of_parameters_is_refused_before_the_warm_up(
    make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Any]
) -> None:
    search = make_search("advantage", cost=ArchitectureCost("params", budget=10), warmup_epochs=5)
    with one_line("cost_budget=10 is below what the cheapest architecture costs, 53 parameters"):
        fit(search, make_loaders(), max_epochs=6)
    assert search.weight_steps == 0


def test_a_checkpoint_has_the_exact_costs(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost(of_linear_maps(0.1), budget=0.3))
    measured(search)
    again = make_search("advantage", cost=ArchitectureCost(of_linear_maps(7), budget=0.3))
    again.load_state_dict(search.state_dict())
    assert again.cost.result() == search.cost.result()
    torch.testing.assert_close(again.cost.slope(again.probs), search.cost.slope(search.probs), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ({"kind": "macs", "penalty": 0.5}, "the checkpoint has the costs of cost=params, and this search has those of"),
        ({"kind": "params", "penalty": 0.25}, "has penalty=0.5, and this search's has penalty=0.25"),
        ({"kind": "params", "budget": 120}, "has penalty=0.5, and this search's has penalty=None"),
    ],
)
def test_a_checkpoint_of_another_cost_is_refused(theirs: dict[str, Any], says: str, make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("params", penalty=0.5))
    measured(search)
    with one_line(says):
        make_search("advantage", cost=ArchitectureCost(**theirs)).load_state_dict(search.state_dict())


def test_a_checkpoint_of_an_older_version_is_named(make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("params", penalty=0.5))
    state = {**search.state_dict(), "cost._extra_state": {"is_measured": True}}
    with one_line("the checkpoint's costs are those of an older version"):
        search.load_state_dict(state)


# -- files -----------------------------------------------------------------------------------------------------------


def changed(**content: Any) -> str:
    return json.dumps({**GOOD, **content})


def with_cost(text: str) -> str:
    return json.dumps(GOOD).replace("100.5", text)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (with_cost("-3"), "the cost of candidate 'block' of edge 'first' is -3"),
        (with_cost("NaN"), "the cost of candidate 'block' of edge 'first' is nan"),
        (with_cost("1e400"), "the cost of candidate 'block' of edge 'first' is inf"),
        (with_cost('"nan"'), "the cost of candidate 'block' of edge 'first' is 'nan'"),
        (with_cost("true"), "the cost of candidate 'block' of edge 'first' is True"),
        (with_cost("1" + 400 * "0"), "it has a whole number of 1329 bits"),
        (with_cost(5000 * "9"), "it is no JSON: Exceeds the limit"),
        (with_cost("2e30"), "cost=macs adds up to 2e+30, which is above 1e+30"),
        (changed(fixed=-1), "the cost of the network beside its edges is -1"),
        (changed(fixed=math.inf), "the cost of the network beside its edges is inf"),
        (changed(fixed=None), "the cost of the network beside its edges is None"),
        (changed(edges=[]), "it has no 'first'"),
        (changed(edges={**GOOD["edges"], "first": {"linear": 1}}), "it has no 'tanh'"),
        (changed(cost="flops"), "its kind of cost is 'flops'"),
        ("[]", "it has no 'cost'"),
        ("3", "it has no 'cost'"),
        ("", "it is no JSON"),
        (100_000 * "[", "it is nested too deeply"),
        (100_000 * '{"a":', "it is nested too deeply"),
        ('{"cost": "macs", "cost": "params"}', "it has the key 'cost' twice"),
        (b"\xff\xfe", "it is no text: byte 0 is not UTF-8"),
    ],
)
def test_a_file_that_has_no_costs_is_named(content: str | bytes, says: str, make_search: Make, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with one_line(f"{path} has no costs for this network: {says}", "move it away and measure them anew"):
        make_search("advantage", cost=ArchitectureCost(path, penalty=1))


def test_a_file_with_a_byte_order_mark_has_costs(make_search: Make, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert make_search("advantage", cost=ArchitectureCost(path, penalty=1)).cost.result().of([2, 0]) == 157.5


@pytest.mark.parametrize("kind", ["pipe", "dangling", "loop", ".", 3, None, ["macs"], "a\0b"])
def test_what_is_no_file_is_unknown(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    with one_line("is unknown: use params, macs, latency, memory, a function, or the path of a file"):
        ArchitectureCost(kind, penalty=1)


# -- what a step does to θ -------------------------------------------------------------------------------------------


def test_a_step_that_overflows_is_blamed_for_it(
    make_search: Make, make_loaders: Callable[..., Any], fit: Callable[..., Any]
) -> None:
    overflowing = partial(torch.optim.SGD, lr=1e38, momentum=0.99)
    search = make_search("advantage", cost=ArchitectureCost("params", penalty=1e9), architecture_optimizer=overflowing)
    with one_line("θ of edge ", "after a step on a finite loss: lower the learning rate of architecture_optimizer"):
        fit(search, make_loaders(weights=8, architecture=8), max_epochs=2)
