"""A refinement trains each network once, whatever was chosen in layers that are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Adam

from advnas_lightning import AdvantageNAS, Genotype, SearchSpace
from advnas_lightning.refine import finalists_of, own, refine
from tests.support.nested_nets import all_choices, deep, fingerprint
from tests.support.refining import needs_storage


@needs_storage
def test_finalists_and_neighbours_are_networks_of_which_each_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, trained = deep(), []
    space = SearchSpace(net)

    class Training:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def check(self, genotype: Genotype) -> None: ...

        def __call__(self, genotype: Genotype, folder: Path, epochs: int, repeat: int = 0) -> float:
            trained.append(space.choice(genotype))
            return -float(sum((2, 3, 5, 7)[edge] * index for edge, index in enumerate(trained[-1])))

    monkeypatch.setattr(own, "RungTraining", Training)
    first = (0, 1, 0, 1)  # one layer, so that the last two widths do not matter
    finalists = [space.genotype(choice) for choice in (first, (0, 1, 1, 1), (1, 1, 0, 1))]
    ladder = refine(deep, finalists, folder=tmp_path, rungs=(1,))
    assert len({fingerprint(space, choice, net) for choice in trained}) == len(trained)
    assert trained[:2] == [first, (1, 1, 0, 1)]
    assert (2, 1, 0, 1) in trained  # with the third layer as the first finalist has it
    assert space.choice(ladder.winner.genotype) == (2, 1, 1, 1)  # type: ignore[union-attr]


def test_finalists_of_a_search_are_different_networks() -> None:
    search = AdvantageNAS(deep(), architecture_optimizer=Adam)
    with torch.no_grad():
        search.theta[0] = torch.tensor([2.0, 0.0, 0.0])
    found = finalists_of(search, ranked=map(search.space.genotype, all_choices(search.space)), draws=9)
    prints = {fingerprint(search.space, search.space.choice(each), search.model) for each in found}
    assert len(prints) == len(found) == 14
    assert next(iter(found)) == search.genotype()
