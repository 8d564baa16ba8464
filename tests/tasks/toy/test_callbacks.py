"""What is known of the toy task's findings."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from advnas_lightning import Fixed, Genotype, SearchStrategy
from advnas_lightning.objectives import Regression
from advnas_lightning.tasks.toy import ToyNetwork
from advnas_lightning.tasks.toy.callbacks import TeacherComparison
from tests.support.findings import search_that_found

# -- findings --------------------------------------------------------------------------------------------------------


def comparison(search: SearchStrategy, teacher: Mapping[str, str]) -> TeacherComparison:
    callback = TeacherComparison()
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(teacher=Genotype(teacher)))
    callback.setup(trainer, search, "fit")
    return callback


TEACHER = {"input->1": "filter2", "input->2": "filter0", "input->3": "filter1"}


@pytest.mark.parametrize(("which", "right"), [("argmax", 2), ("process_best", 1)])
def test_the_selected_edges_are_compared_with_the_teachers(which: str, right: int) -> None:
    argmax = {"input->1": "filter2", "input->2": "filter3", "input->3": "filter1"}
    best = {"input->1": "filter2", "input->2": "filter1", "input->3": "filter0"}
    search = search_that_found(ToyNetwork(nodes=3, candidates=4), argmax, best, select=which)
    found = comparison(search, TEACHER)
    assert found.summary(search) == {"edges_right": right, "argmax/edges_right": 2, "edges": 3}
    marks = {"argmax": ["✓", "✗", "✓"], "process_best": ["✓", "✗", "✗"]}
    assert found.columns(search) == {"teacher": ["filter2", "filter0", "filter1"], "": marks[which]}
    assert found.lines(search) == {"edges right": f"{right} of 3"}


def test_what_a_wrong_edge_costs_is_not_said_of_a_network_without_other_candidates() -> None:
    network = ToyNetwork(nodes=3, candidates=4)
    wrong = Fixed(network, genotype={**TEACHER, "input->2": "filter3"}, objective=Regression())
    found = comparison(wrong, TEACHER)
    batch: Any = (torch.ones(1, 1, 13, 13), torch.ones(1))
    found._data.test_dataloader = lambda: [batch]
    found.load_state_dict({"curve": [2]})
    assert found.lines(wrong) == {"edges right": "2 of 3"}


def test_all_edges_may_be_right() -> None:
    search = search_that_found(ToyNetwork(nodes=3, candidates=4), TEACHER)
    assert comparison(search, TEACHER).summary(search) == {"edges_right": 3, "argmax/edges_right": 3, "edges": 3}
