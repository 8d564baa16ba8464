"""Which edges a network leaves out is what the derived networks say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import Depth, RandomSearch, SearchSpace
from advnas_lightning.objectives import Classification
from tests.support.nested_nets import Layer, all_choices, deep, fingerprint, head, looped, nested, shared, twice
from tests.support.small_search import CLASSES, FEATURES, SmallNet


@pytest.mark.parametrize("make", [deep, shared, nested, twice, looped, SmallNet])
def test_two_choices_have_one_canonical_choice_if_their_derived_networks_are_equal(
    make: Callable[[], nn.Module],
) -> None:
    net = make()
    space = SearchSpace(net)
    like = tuple(len(row) - 1 for row in space.candidates)
    networks: dict[object, set[tuple[int, ...]]] = {}
    for choice in all_choices(space):
        canonical = space.nesting.canonical(choice)
        networks.setdefault(fingerprint(space, choice, net), set()).add(canonical)
        assert space.nesting.canonical(space.nesting.canonical(choice, like)) == canonical
        assert space.nesting.canonical(canonical) == canonical
    assert all(len(found) == 1 for found in networks.values())
    assert len({choice for found in networks.values() for choice in found}) == len(networks)
    assert bool(space.nesting.deciders) == (len(networks) < space.size) == (make is not SmallNet)


def test_layers_that_a_module_keeps_in_a_list_are_left_out_nowhere() -> None:
    net = deep()
    assert SearchSpace(net).nesting.conditional == (2, 3)
    net.kept = [{"layers": tuple(net[0].widest)}]  # type: ignore[index, union-attr, assignment]
    assert SearchSpace(net).nesting.conditional == ()


def test_edges_that_run_although_they_are_left_out_are_refused() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack, self.head = Depth([Layer("w1"), Layer("w2")], [1, 2], name="depth"), head()
            second = self.stack.widest[1]  # type: ignore[index]
            self.again = lambda x: second(x)  # in which no structure is seen

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.again(self.stack(x)))

    search = RandomSearch(Looping(), objective=Classification(CLASSES))
    with pytest.raises(ValueError, match=r"edge 'w2' has run, and .* leaves it out: let the network call the stack"):
        search.rank([(torch.zeros(4, FEATURES), torch.zeros(4, dtype=torch.long))] * 2, top=None)
