"""Edges that the network does not call are pointed out: nothing is learnt of them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import Depth, MixedOp
from tests.support.small_search import CLASSES, FEATURES
from tests.support.speed import slow_but


def edge(name: str) -> MixedOp:
    return MixedOp(name, {"linear": nn.Linear(FEATURES, FEATURES), "skip": nn.Identity()})


class Partly(nn.Module):
    """Calls some of its edges only at times, and else a candidate of theirs past the choice.

    Another edge has nothing to choose.
    """

    def __init__(self, idle: int, calls: Callable[[int], bool] = lambda number: False) -> None:
        super().__init__()
        self.used, self.single = edge("used"), MixedOp("single", {"skip": nn.Identity()})
        self.idle = nn.ModuleList(edge(f"idle {number}") for number in range(idle))
        self.head = nn.Linear(FEATURES, CLASSES)
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        for number, idle in enumerate(self.idle):
            x = idle(x) if self.calls(number) else idle.candidates["linear"](x)
        return self.head(self.used(x))


def warned(recwarn: pytest.WarningsRecorder) -> list[str]:
    return [str(each.message) for each in recwarn if "did not run" in str(each.message)]


@pytest.mark.parametrize("name", slow_but(["advantage", "darts", "parsec", "proxylessnas"], ["advantage", "darts"]))
@pytest.mark.parametrize(("idle", "named"), [(1, "let the network call 'idle 0'"), (5, "'idle 1', 'idle 2', …")])
def test_edges_that_never_run_are_named_once(
    name: str,
    idle: int,
    named: str,
    make_search: Callable[..., Any],
    make_loaders: Callable[..., Any],
    fit: Callable[..., Any],
    recwarn: pytest.WarningsRecorder,
) -> None:
    warnings.simplefilter("always")  # or Python itself would show it once
    search = make_search(name, Partly(idle))
    fit(search, make_loaders(), max_epochs=2)
    (message,) = warned(recwarn)
    assert message.startswith(f"{idle} of {idle + 2} edges did not run in an architecture step")
    assert named in message


@pytest.mark.parametrize("period", [1, 2, 3])
def test_an_edge_that_one_draw_of_a_step_runs_is_not_idle(
    period: int,
    make_search: Callable[..., Any],
    make_loaders: Callable[..., Any],
    fit: Callable[..., Any],
    recwarn: pytest.WarningsRecorder,
) -> None:
    passes = itertools.count()
    # Each pass asks for two edges, of which other ones run in other passes.
    search = make_search("parsec", Partly(2, lambda number: next(passes) // 2 % period == number % period), samples=3)
    fit(search, make_loaders())
    assert search.architecture_steps > 0
    assert warned(recwarn) == []


def test_what_an_elastic_depth_leaves_out_is_not_idle(
    make_search: Callable[..., Any],
    make_loaders: Callable[..., Any],
    fit: Callable[..., Any],
    recwarn: pytest.WarningsRecorder,
) -> None:
    stack = Depth([edge("first"), edge("second")], [1, 2], name="depth")
    search = make_search("advantage", nn.Sequential(stack, nn.Linear(FEATURES, CLASSES)))
    with torch.no_grad():
        search.theta[search.space.edges.index("depth")] = torch.tensor([50.0, 0.0])  # the second layer never runs
    fit(search, make_loaders())
    assert search.architecture_steps > 0
    assert warned(recwarn) == []
