"""A network of elastic sizes on the command line: searched, ranked and refined within budgets."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from advnas_lightning.cli.cost import main as cost
from advnas_lightning.cli.rank import main as rank
from advnas_lightning.cli.refine import main as refine
from advnas_lightning.cost.files import read_table
from advnas_lightning.space.search_space import SearchSpace
from tests.support.command_line import SMALL_TOY, launch, read
from tests.support.elastic_student import FIRST, SECOND, ElasticStudent, parameters
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


def test_the_file_of_costs_tells_what_networks_cost(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = read_table(run / "costs.json", SearchSpace(ElasticStudent()))
    for first, second in product(FIRST, SECOND):
        assert table.of((FIRST.index(first), SECOND.index(second))) == parameters(first, second)
    cost(["show", "run"])
    assert "besides the sum, 1 group of edges cost something together" in capsys.readouterr().out
    cost(["measure", "run", "kinds=macs", "check=4", "trust=true"])
    assert "what they add up to is what 4 whole networks cost" in " ".join(capsys.readouterr().out.split())


def test_a_search_finds_a_network_within_its_budget_by_a_file_of_costs(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = [f"cost_budget={BUDGET}", "hydra.run.dir=within"]
    launch(monkeypatch, *ELASTIC, "strategy=advantage", "cost=run/costs.json", *budget)
    genotype = read(run.parent / "within", "genotype.json")["argmax"]
    assert counted(genotype) <= BUDGET
    assert read(run.parent / "within", "summary.json")["cost"] == counted(genotype)


def test_all_networks_within_the_budget_are_ranked_with_what_they_cost(run: Path) -> None:
    rank(["run", "trust=true", "batches=2", f"cost_budget={{params: {BUDGET}}}"])
    rows = read(run, "ranking.json")["architectures"]
    assert set(sizes(rows)) == within(BUDGET)
    assert all(row["cost/params"] == counted(row["genotype"]) for row in rows)


@pytest.mark.slow
@needs_storage
def test_what_is_refined_is_within_the_budget(run: Path) -> None:
    refine(["run", "trust=true", f"cost_budget={{params: {BUDGET}}}", "repeats=0", "draws=30"])
    trained = set(sizes(read(run, "refine.json")["trials"]))
    assert trained <= within(BUDGET)
    assert tuple(map(str, LARGEST)) in trained
