"""The file of costs: of one kind, as searches leave it, and of several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advnas_lightning import ArchitectureCost, SearchStrategy
from advnas_lightning.cost import CostTable
from advnas_lightning.cost.files import Measurement, read_costs, read_table, write_costs

Make = Callable[..., SearchStrategy]
EDGES = {"first": {"linear": 60.5, "tanh": 0, "block": 190, "zero": 0}, "second": {"linear": 30, "skip": 0}}
PARAMS = CostTable(
    "params", {edge: {name: float(cost) for name, cost in row.items()} for edge, row in EDGES.items()}, 7
)
LATENCY = CostTable(
    "latency", {"first": dict.fromkeys(EDGES["first"], 2.0), "second": {"linear": 0.5, "skip": 0.25}}, 1
)
OWN = CostTable("own", PARAMS.edges, 0)
HOW = {"device": "cpu", "device_name": "a µ-processor", "threads": 1, "batch": [[6, 4], [6]]}


@pytest.fixture
def several(tmp_path: Path) -> Path:
    path = tmp_path / "costs.json"
    write_costs(path, {"params": Measurement(PARAMS), "latency": Measurement(LATENCY, HOW), "my.own": Measurement(OWN)})
    return path


def test_several_costs_come_back_with_how_they_were_measured(several: Path, make_search: Make) -> None:
    found = read_costs(several)
    assert found == {
        "params": Measurement(PARAMS), "latency": Measurement(LATENCY, HOW), "my.own": Measurement(OWN)
    }  # fmt: skip
    space = make_search("advantage").space
    assert read_costs(several, space) == found
    assert read_table(several, space, "latency") == LATENCY


def test_what_a_search_measured_alone_is_written_and_read_as_before(tmp_path: Path, make_search: Make) -> None:
    path = tmp_path / "costs.json"
    write_costs(path, {"params": Measurement(PARAMS)})
    assert json.loads(path.read_text()) == PARAMS.content()
    assert list(PARAMS.content()) == ["cost", "unit", "fixed", "edges"]
    assert read_costs(path) == {"params": Measurement(PARAMS)}
    for cost in (ArchitectureCost(path, penalty=1), ArchitectureCost("params", file=path, penalty=1)):
        assert make_search("advantage", cost=cost).cost.result() == PARAMS


def test_a_search_takes_the_cost_that_it_names(several: Path, make_search: Make) -> None:
    search = make_search("advantage", cost=ArchitectureCost("latency", file=several, budget=4))
    assert (search.cost.result(), search.cost.name, search.cost.unit) == (LATENCY, "latency", LATENCY.content()["unit"])
    search = make_search("advantage", cost=ArchitectureCost("my.own", file=str(several), penalty=1))
    assert (search.cost.result(), search.cost.name) == (OWN, "own")
    write_costs(several, {"latency": Measurement(LATENCY, HOW)})
    assert make_search("advantage", cost=ArchitectureCost(several, penalty=1)).cost.result() == LATENCY


def test_a_search_that_goes_on_has_the_same_costs(several: Path, make_search: Make) -> None:
    state = make_search("advantage", cost=ArchitectureCost("latency", file=several, penalty=1)).state_dict()
    make_search("advantage", cost=ArchitectureCost("latency", file=several, penalty=1)).load_state_dict(state)
    dearer = CostTable("latency", LATENCY.edges, 2)
    write_costs(several, {"latency": Measurement(dearer), "params": Measurement(PARAMS)})
    with pytest.raises(ValueError, match=f"has other ones, of {several}"):
        make_search("advantage", cost=ArchitectureCost("latency", file=several, penalty=1)).load_state_dict(state)


def test_which_cost_is_meant_has_to_be_said(several: Path, make_search: Make) -> None:
    with pytest.raises(ValueError, match=r"has the costs params, latency, my.own: say which, as in cost=params cost_f"):
        make_search("advantage", cost=ArchitectureCost(several, penalty=1))
    with pytest.raises(ValueError, match=r"has no costs of cost=memory: it has params, latency, my\.own"):
        make_search("advantage", cost=ArchitectureCost("memory", file=several, penalty=1))
    for kind, file in (("macs", several.parent / "none.json"), (len, several), (several, several)):
        with pytest.raises(ValueError, match="give a cost's name, and a file that has it"):
            ArchitectureCost(kind, file=file, penalty=1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"costs": {}}, "it has no costs"),
        ({"costs": [PARAMS.content()]}, "it has no costs"),
        ({"costs": {"params": 3}}, "it has no 'cost'"),
        ({"costs": {"params": {**PARAMS.content(), "measured": 3}}}, "is no mapping"),
        ({"costs": {"params": {**PARAMS.content(), "cost": "flops"}}}, "its kind of cost is 'flops'"),
        ({**PARAMS.content(), "edges": {"first": {}}}, "its edges have no candidates"),
        ({**PARAMS.content(), "edges": {}}, "its edges have no candidates"),
        ({**PARAMS.content(), "edges": {"first": {"a": -1}}}, "the cost of candidate 'a' of edge 'first' is -1"),
    ],
)
def test_a_broken_file_is_named(content: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{path} has no costs for this network: .*{says}") as error:
        read_costs(path)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_file_whose_writing_was_killed_is_the_old_one(several: Path) -> None:
    before = several.read_bytes()
    killed = f"""
import json, os, pathlib, signal
from advnas_lightning.cost import CostTable
from advnas_lightning.cost.files import Measurement, write_costs
def write(path, text, **_):
    with open(path, "w") as file:
        file.write(text[:40])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.write_text = write
found = Measurement(CostTable("own", {{"a": {{"x": 1.0}}}}, 0), {{"threads": 1}})
write_costs(pathlib.Path({str(several)!r}), {{"own": found}})
"""
    assert subprocess.run([sys.executable, "-c", killed], env=os.environ).returncode == -9
    assert several.read_bytes() == before
