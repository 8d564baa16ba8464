"""How often a batch lets the host wait for the device: once for θ, and once for the guard of each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.cases.waiting import Count
from benchmarks.software_device import count_waits, on_device, software_device
from tests.support.speed import slow_but

Make = Callable[..., Any]
FIRST, BATCHES = 4, 7  # the fifth to the seventh batch count: no power of two
# Mixtures of all candidates need no number of θ on the host.
WAITS = {
    "advantage": 3,
    "parsec": 3,  # for three draws in its architecture step
    "gdas": 3,
    "proxylessnas": 3,
    "nasp": 3,
    "counterfactual": 3,
    "reinforce": 3,
    "gdas-rao": 3,
    "darts": 2,
    "snas": 2,
}


@pytest.mark.parametrize("name", slow_but(list(WAITS), ["advantage"]))
def test_the_host_waits_for_theta_and_for_the_guards_alone(
    name: str, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    with software_device(), count_waits() as waits:
        count = Count(waits, FIRST)
        fit(make_search(name), make_loaders(weights=BATCHES, architecture=BATCHES), callbacks=[count], **on_device())
    assert count.batches == BATCHES - FIRST
    # Candidates that run for the first or second time are looked at.
    places = {place: number for place, number in count.places.items() if "_changed" not in place}
    assert sum(places.values()) == WAITS[name] * count.batches, places
    assert sum(number for place, number in places.items() if " passes: " in place) == 2 * count.batches


def test_theta_is_read_anew_where_it_may_have_moved(make_search: Make) -> None:
    search = make_search("advantage", seed=1)
    with search.theta_held():
        first = search.host_log_probs()
        assert search.host_log_probs() is first
        search.release_theta()
        search.theta.data[0, 0] += 1
        assert not torch.equal(search.host_log_probs(), first)
    search.theta.data[1, 0] += 100
    assert search.draw()[1] == 0
    assert search.most_probable_choice()[1] == 0


def test_theta_is_not_held_after_an_error(make_search: Make) -> None:
    search = make_search("advantage", seed=1)

    def fails() -> None:
        with search.theta_held():
            search.draw()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    search.theta.data[:, 1] += 100
    assert search.draw() == [1, 1]
