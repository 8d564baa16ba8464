"""A search's probabilities, and a search that is taken elsewhere."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from advnas_lightning import (
    Fixed,
)
from tests.support.classifier import GENOTYPE, assert_same_state, make, search_of, subject
from tests.support.speed import slow_but

Make = Callable[..., Any]


# -- a search travels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "how"),
    slow_but(
        itertools.product(["module", "own loss"], ["copied", "pickled"]),
        [("module", "copied"), ("own loss", "pickled")],
    ),
)
def test_a_search_may_be_taken_elsewhere_after_its_fit(which: str, how: str, train: Make) -> None:
    search = subject(which)
    train(search)
    again = copy.deepcopy(search) if how == "copied" else pickle.loads(pickle.dumps(search))
    assert_same_state(again, search)
    inputs = torch.randn(5, 4)
    assert torch.equal(again.eval()(inputs), search.eval()(inputs))
    train(again, max_epochs=1)
    assert again.weight_steps == 18


# -- probabilities ---------------------------------------------------------------------------------------------------


def test_probabilities_are_the_softmax_of_theta_edge_by_edge() -> None:
    search = search_of()
    with torch.no_grad():
        search.theta.copy_(torch.tensor([[0.5, -1.0, 2.0], [1.0, 3.0, 50.0]]))  # the last one belongs to no candidate
    probabilities = search.probabilities()
    by_hand = {
        "first": {name: math.exp(theta) for name, theta in {"linear": 0.5, "block": -1.0, "skip": 2.0}.items()},
        "second": {name: math.exp(theta) for name, theta in {"linear": 1.0, "tanh": 3.0}.items()},
    }
    assert list(probabilities) == ["first", "second"]
    for edge, row in by_hand.items():
        total = sum(row.values())
        assert probabilities[edge] == pytest.approx({name: value / total for name, value in row.items()})
        assert list(probabilities[edge]) == list(row)
        assert sum(probabilities[edge].values()) == pytest.approx(1)


def test_probabilities_print_the_best_first(capsys: pytest.CaptureFixture[str]) -> None:
    search = search_of()
    with torch.no_grad():
        search.theta[0] = torch.tensor([0.2, 0.5, 0.3]).log()
        search.theta[1, :2] = torch.tensor([0.0625, 0.9375]).log()
    print(search.probabilities())
    assert capsys.readouterr().out == (
        "first   block 0.500  skip 0.300  linear 0.200\nsecond  tanh 0.938  linear 0.062\n"
    )


def test_every_strategy_has_probabilities_after_a_search(
    name: str, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    search = make_search(name)
    fit(search, make_loaders(), max_epochs=2)
    probabilities = search.probabilities()
    assert {edge: tuple(row) for edge, row in probabilities.items()} == {
        "first": ("linear", "tanh", "block", "zero"),
        "second": ("linear", "skip"),
    }
    for edge, row in probabilities.items():
        assert sum(row.values()) == pytest.approx(1)
        assert all(0 <= value <= 1 for value in row.values())
        if name == "fixed":
            assert row == {each: float(each == search.genotype()[edge]) for each in row}
        elif name == "random":
            assert row == pytest.approx({each: 1 / len(row) for each in row})
        elif not name.startswith("enas"):
            theta = search.theta[search.space.edges.index(edge), : len(row)].tolist()
            weights = [each + 1 if name == "drnas" and each > 0 else math.exp(each) for each in theta]
            assert list(row.values()) == pytest.approx([each / sum(weights) for each in weights], rel=1e-4)
    assert len(str(probabilities).splitlines()) == 2


def test_enas_has_the_marginals_of_its_controller(make_search: Make) -> None:
    search = make_search("enas")
    generator = torch.Generator().manual_seed(50)
    joint: dict[tuple[int, int], float] = {}
    with torch.no_grad():
        for weight in search.controller.parameters():  # so that the second choice depends on the first
            weight.normal_(std=1.5, generator=generator)
        for first in range(4):
            for second in range(2):
                steps = search.controller(torch.tensor([[first, second]]))[0].exp()
                joint[first, second] = float(steps[0, first] * steps[1, second])
    assert sum(joint.values()) == pytest.approx(1)
    probabilities = search.probabilities()
    firsts = [sum(p for (first, _), p in joint.items() if first == index) for index in range(4)]
    assert list(probabilities["first"].values()) == pytest.approx(firsts)  # conditional on nothing
    seconds = [sum(p for (_, second), p in joint.items() if second == index) for index in range(2)]
    assert list(probabilities["second"].values()) == pytest.approx(seconds, abs=0.1)  # a mean over 128 draws
    conditionals = [joint[first, 0] / (joint[first, 0] + joint[first, 1]) for first in range(4)]
    assert min(abs(each - seconds[0]) for each in conditionals) > 0.15  # and no single one would do
    assert search.probabilities() == probabilities  # of the same draws each time


def test_a_fixed_search_of_a_module_is_certain() -> None:
    assert str(Fixed(make(), genotype=GENOTYPE).probabilities()) == (
        "first   block 1.000  linear 0.000  skip 0.000\nsecond  tanh 1.000  linear 0.000"
    )
