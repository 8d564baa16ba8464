"""An error in a network that is searched says once which architecture ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD

from advnas_lightning import AdvantageNAS, Architecture, MixedOp, SearchSpace, SearchStrategy
from tests.support.classifier import loader

Fit = Callable[..., Trainer]


class Own(Exception):
    """An error of a user's own."""


class Raises(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


ERRORS = [RuntimeError, TypeError, ValueError, KeyError, IndexError, AssertionError, StopIteration, Own, OSError]


def edge_of(error: BaseException) -> MixedOp:
    return MixedOp("edge", {"bad": Raises(error), "good": nn.Linear(4, 4)})


@pytest.mark.parametrize("error", ERRORS)
def test_any_error_of_a_candidate_names_the_architecture(error: type[Exception]) -> None:
    net = nn.Sequential(edge_of(error("it")), nn.Linear(4, 2))
    space = SearchSpace(net)
    for inactive, gated in (("none", False), ("none", True), ("ones", True), ("outputs", True)):
        net[0].candidates["bad"].error = raised = error("it")
        architecture = replace(space.one_hot([0]), inactive=inactive)
        with (
            pytest.raises(error) as caught,
            space.bind(architecture, space.one_hot([0]).gates.requires_grad_() if gated else None),
        ):
            net(torch.zeros(2, 4))
        assert caught.value is raised
        assert caught.value.__notes__ == ["The architecture was {'edge': 'bad'}."]


def test_a_mixture_is_called_one() -> None:
    net = edge_of(Own())
    space = SearchSpace(net)
    with pytest.raises(Own) as caught, space.bind(Architecture(torch.full((1, 2), 0.5), space.all_paths)):
        net(torch.zeros(2, 4))
    assert caught.value.__notes__ == ["The architecture was a mixture."]


def test_a_pass_within_a_pass_names_its_own_architecture_alone() -> None:
    net = edge_of(Own("it"))
    space = SearchSpace(net)
    with (
        pytest.raises(Own) as caught,
        space.bind(space.one_hot([1])),
        space.bind(space.one_hot([1])),
        space.bind(space.one_hot([0])),
    ):
        net(torch.zeros(2, 4))
    assert caught.value.__notes__ == ["The architecture was {'edge': 'bad'}."]


def test_an_error_that_is_raised_again_names_it_once() -> None:
    net = edge_of(Own("it"))
    space = SearchSpace(net)

    def noted() -> None:
        try:
            with space.bind(space.one_hot([0])):
                net(torch.zeros(2, 4))
        except Own as error:
            error.add_note("A note of the user's own.")
            raise

    with pytest.raises(Own) as caught, space.bind(space.one_hot([1])):
        noted()
    assert caught.value.__notes__ == ["The architecture was {'edge': 'bad'}.", "A note of the user's own."]


@pytest.mark.parametrize("own_loss", [True, False])
@pytest.mark.parametrize("step", ["weights", "architecture", "validation"])
def test_an_error_in_a_fit_names_the_architecture_once(step: str, own_loss: bool, fit: Fit) -> None:
    class Sometimes(nn.Module):
        """Fails in the kind of pass that is tried."""

        def forward(self, x: Tensor) -> Tensor:
            running = "architecture" if search.in_architecture_step else "weights" if self.training else "validation"
            if running == step:
                raise Own("it")
            return 2 * x

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), MixedOp("edge", {"some": Sometimes(), "times": Sometimes()}))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(batch[0]).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0])

        def configure_optimizers(self) -> SGD:
            return SGD(self.parameters(), lr=0.1)

    class Search(AdvantageNAS):
        def loss(self, batch: Any) -> Tensor:
            return self.model(batch[0]).square().mean()

    optimizer = partial(SGD, lr=0.1)
    search: SearchStrategy
    if own_loss:
        search = Search(Module().net, architecture_optimizer=optimizer, weight_optimizer=optimizer)
    else:
        search = AdvantageNAS(Module(), architecture_optimizer=optimizer)
    with pytest.raises(Own) as caught:
        fit(search, {"weights": loader(1), "architecture": loader(2)}, loader(3), num_sanity_val_steps=0)
    named = [note for note in caught.value.__notes__ if "architecture" in note]
    assert len(named) == 1
    assert named[0] in ("The architecture was {'edge': 'some'}.", "The architecture was {'edge': 'times'}.")


class Cache:
    """Keeps the keys of all calls, as that of a decoder does."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []


class Keys(nn.Linear):
    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:  # type: ignore[override]
        keys = super().forward(x)
        if cache is None:
            return keys.sum(0)
        cache.keys.append(keys)
        return torch.cat(cache.keys).sum(0)


@pytest.mark.parametrize("sizes", [(3, 3), (3, 2)])
@pytest.mark.parametrize("inactive", ["mixed", "outputs"])
def test_a_cache_that_several_candidates_get_is_refused(inactive: str, sizes: tuple[int, int]) -> None:
    """A candidate would go on with the keys of the one before it, without a word where the sizes are equal."""
    edge = MixedOp("keys", {"one": Keys(4, sizes[0]), "other": Keys(4, sizes[1])})
    space, x = SearchSpace(nn.ModuleList([edge])), torch.randn(5, 4)
    drawn = space.one_hot([0])
    gates = drawn.gates.clone().requires_grad_()
    how = Architecture(gates, space.all_paths) if inactive == "mixed" else replace(drawn, inactive="outputs")
    with (
        pytest.raises(
            ValueError, match="candidate 'one' of edge 'keys' fills the Cache that other candidates get, too"
        ),
        space.bind(how, gates),
    ):
        edge(x, cache=Cache())
    with space.bind(drawn, gates):  # one alone may fill it
        edge(x, cache=(cache := Cache()))
    assert len(cache.keys) == 1
