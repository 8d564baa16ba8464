"""A loss or a gate gradient that is not finite changes nothing; too many in a row end the run."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau

from advnas_lightning import SearchStrategy
from tests.support.speed import slow_but

Make = Callable[..., Any]


class Poisoned:
    """Mixed into a strategy: the losses (or gate gradients) of these evaluations, counted from 0, are broken."""

    calls: Iterator[int]  # of the class: what an object keeps is as it was after an evaluation
    bad: frozenset[int] = frozenset()
    value = float("nan")
    gradient_only = False

    def loss(self, batch: Any) -> Any:
        outcome = super().loss(batch)  # type: ignore[misc]
        if next(self.calls) not in self.bad:
            return outcome
        # A gradient of 0 · inf through a finite loss, or a loss that is none.
        broken = (outcome.loss * 0).abs().sqrt() * 0 + 1 if self.gradient_only else outcome.loss * self.value
        return outcome._replace(loss=broken)


def poisoned(kind: str, bad: set[int], value: float = float("nan"), *, gradient_only: bool = False) -> type:
    own = {"calls": count(), "bad": frozenset(bad), "value": value, "gradient_only": gradient_only}
    return type(kind, (Poisoned,), own)


def snapshot(search: SearchStrategy) -> dict[Any, Tensor]:
    """Weights, θ, and whatever state the optimizers have of them."""
    values: dict[Any, Any] = dict(enumerate([*search.model.parameters(), *search.architecture_parameters()]))
    for each in search.trainer.optimizers:
        values |= {(id(weight), name): value for weight, row in each.state.items() for name, value in row.items()}
    return {name: value.detach().clone() for name, value in values.items() if isinstance(value, Tensor)}


def same(left: dict[Any, Tensor], right: dict[Any, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["advantage", "reinforce", "gdas", "darts", "snas", "proxylessnas", "enas"],
        ["advantage", "gdas", "darts", "enas"],
    ),
)
@pytest.mark.parametrize(
    ("kind", "value"),
    slow_but(
        itertools.product(["weight", "architecture"], [math.nan, math.inf]),
        [("weight", math.nan), ("architecture", math.inf)],
    ),
)
def test_a_bad_step_changes_nothing(
    name: str, value: float, kind: str, make_search: Make, make_loaders: Make, fit: Callable[..., Trainer]
) -> None:
    # One weight and one architecture evaluation in each of three iterations: the middle one is broken.
    bad = {2 if kind == "weight" else 3}
    search = make_search(name, mixin=poisoned("Bad", bad, value))
    unchanged: list[bool] = []
    step = f"{kind}_step"
    original = getattr(search, step)

    def watched(batch: Any) -> None:
        before = snapshot(search)
        original(batch)
        unchanged.append(same(before, snapshot(search)))

    setattr(search, step, watched)
    with pytest.warns(UserWarning, match=f"an? {kind} step is left out"):
        fit(search, make_loaders(weights=3, architecture=3))
    assert unchanged == [False, True, False]
    assert search.guard.total == {"weight": 0, "architecture": 0, kind: 1}
    assert (search.weight_steps, search.architecture_steps) == ((2, 3) if kind == "weight" else (3, 2))
    assert all(bool(value.isfinite().all()) for value in snapshot(search).values())


def test_a_gate_gradient_alone_is_bad_enough(
    make_search: Make, make_loaders: Make, fit: Callable[..., Trainer]
) -> None:
    search = make_search("advantage", mixin=poisoned("Bad", {1, 3}, gradient_only=True))
    with pytest.warns(UserWarning, match="an architecture step is left out"):
        fit(search, make_loaders(weights=3, architecture=3))
    assert search.guard.total == {"weight": 0, "architecture": 2}
    assert bool(search.theta.isfinite().all())


def test_too_many_in_a_row_end_the_run(make_search: Make, make_loaders: Make, fit: Callable[..., Trainer]) -> None:
    search = make_search("advantage", mixin=poisoned("Bad", {4, 6, 8}), max_bad_steps=2)  # weight steps 2, 3 and 4
    with pytest.raises(
        FloatingPointError, match=r"3 weight steps in a row was not finite: lower .* look for NaN in the data"
    ):
        fit(search, make_loaders(weights=6, architecture=6))


def test_a_good_step_in_between_starts_the_count_anew(
    make_search: Make, make_loaders: Make, fit: Callable[..., Trainer]
) -> None:
    search = make_search("advantage", mixin=poisoned("Bad", {0, 2, 6, 8}), max_bad_steps=2)
    fit(search, make_loaders(weights=6, architecture=6))
    assert search.guard.total == {"weight": 4, "architecture": 0}


@pytest.mark.parametrize("which", ["weight_optimizer", "architecture_optimizer"])
def test_an_optimizer_is_given_as_a_factory(which: str, make_search: Make) -> None:
    with pytest.raises(ValueError, match=rf"{which} is a SGD: give a factory, .*partial\(SGD"):
        make_search("advantage", **{which: SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)})


def test_a_plateau_lowers_the_learning_rate(make_search: Make, make_loaders: Make, fit: Callable[..., Trainer]) -> None:
    halve = partial(ReduceLROnPlateau, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs")
    search = make_search(
        "advantage", weight_scheduler=halve, architecture_optimizer=partial(Adam, lr=0.1), architecture_scheduler=halve
    )
    trainer = fit(search, make_loaders(), make_loaders()["architecture"], max_epochs=3)
    # No loss improves by 10, so each epoch after the first halves both rates.
    assert [each.param_groups[0]["lr"] for each in trainer.optimizers] == pytest.approx([0.025, 0.025])


def test_a_plateau_without_a_validation_says_so(
    make_search: Make, make_loaders: Make, fit: Callable[..., Trainer]
) -> None:
    search = make_search("advantage", weight_scheduler=ReduceLROnPlateau)
    with pytest.raises(Exception, match="weights schedule waits for 'val/loss', and there is only"):
        fit(search, make_loaders())
