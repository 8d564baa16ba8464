"""A network of elastic sizes on the command line: searched, ranked and refined within budgets that are counted."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from advnas_lightning.cli.cost import main as cost
from advnas_lightning.cli.rank import main as rank
from advnas_lightning.cli.refine import main as refine
from tests.support.command_line import SMALL_TOY, launch, read
from tests.support.elastic_student import FIRST, SECOND, parameters
from tests.support.refining import needs_storage

ELASTIC = [
    *SMALL_TOY,
    "task.model._target_=tests.support.elastic_student.ElasticStudent",
    "~task.model.nodes",
    "~task.model.candidates",
    "~task.callbacks.teacher",  # which compares with the network of the task
]
LARGEST = FIRST[1], SECOND[1]  # of the networks within the budget
BUDGET = parameters(*LARGEST)


def counted(genotype: dict[str, str]) -> int:
    return parameters(int(genotype["first"]), int(genotype["second"]))


def within(budget: int) -> set[tuple[str, str]]:
    """The sizes of all networks within a budget."""
    pairs = product(FIRST, SECOND)
    return {(str(first), str(second)) for first, second in pairs if parameters(first, second) <= budget}


def sizes(rows: Any) -> list[tuple[str, str]]:
    return [(row["genotype"]["first"], row["genotype"]["second"]) for row in rows]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *ELASTIC, "strategy=counterfactual", "hydra.run.dir=run")
    cost(["measure", "run", "kinds=params", "trust=true"])
    capsys.readouterr()
    return tmp_path / "run"


def test_a_sum_over_edges_leaves_out_a_network_within_the_budget(run: Path) -> None:
    table = read(run, "costs.json")["costs"]["params"]
    first, second = (table["edges"][edge][str(size)] for edge, size in zip(("first", "second"), LARGEST, strict=True))
    assert table["fixed"] + first + second > BUDGET


def test_all_networks_within_the_budget_are_ranked_with_what_they_cost(run: Path) -> None:
    rank(["run", "trust=true", "batches=2", f"cost_budget={{params: {BUDGET}}}"])
    rows = read(run, "ranking.json")["architectures"]
    assert set(sizes(rows)) == within(BUDGET)
    assert all(row["cost/params"] == counted(row["genotype"]) for row in rows)


@needs_storage
def test_what_is_refined_is_within_the_budget(run: Path) -> None:
    refine(["run", "trust=true", f"cost_budget={{params: {BUDGET}}}", "repeats=0", "draws=30"])
    trained = set(sizes(read(run, "refine.json")["trials"]))
    assert trained <= within(BUDGET)
    assert tuple(map(str, LARGEST)) in trained
