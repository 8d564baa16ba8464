"""The table of what is found within budgets, from files that are made up."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from advnas_lightning.cost.files import Measurement, write_costs
from advnas_lightning.cost.table import CostTable
from advnas_lightning.runs import write_json
from advnas_lightning.tasks.cifar10.tables import CELL
from benchmarks import budget_table
from benchmarks.refine_oracle import EDGES

COSTS = {"skip_connect": 0.0, "nor_conv_3x3": 10.0}


def cell(convolutions: str) -> dict[str, str]:
    """A cell with a convolution where the text has a 1."""
    return {
        edge: "nor_conv_3x3" if sign == "1" else "skip_connect" for edge, sign in zip(EDGES, convolutions, strict=True)
    }


def test_each_budget_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    # The accuracy is 80, and 2 more for each convolution, or 3 on the last edge.
    cells = ["".join(signs) for signs in product("01", repeat=6)]
    lines = [f"{CELL.format(*cell(each).values())},{80 + 2 * each.count('1') + int(each[-1])}" for each in cells]
    table.write_text("\n".join(["arch,cifar10_test", *lines]) + "\n")
    run, refined, searched = (tmp_path / name for name in ("run", "refined", "searched"))
    for folder in (run, refined, searched / ".hydra"):
        folder.mkdir(parents=True)
    write_costs(run / "costs.json", {"params": Measurement(CostTable("params", dict.fromkeys(EDGES, COSTS), 5.0))})
    ranked = [(25.0, "110000"), (45.0, "111100")]
    budgets = [{"budget": {"params": limit}, "rank": 1, "genotype": cell(signs)} for limit, signs in ranked]
    write_json(run / "ranking.json", {"budgets": budgets})
    write_json(refined / "refine.json", {"cost_budget": {"params": 25.0}, "trials": [{}] * 7})
    write_json(refined / "genotype.json", cell("100001"))
    write_json(searched / "genotype.json", {"argmax": cell("000001")})
    (searched / ".hydra" / "config.yaml").write_text("cost_budget: 45.0\n")
    budget_table.main([str(run), "--table", str(table), "--refined", str(refined), "--searched", str(searched)])
    _, _, *printed = capsys.readouterr().out.splitlines()
    # Of the 15 cells with two convolutions, 5 have one on the last edge; of the 15 with four, 10.
    assert printed == [
        "| 25 | 84.00 | 85.00 | 7 |  | 84.33 | 85.00 |",
        "| 45 | 88.00 |  |  | 83.00 | 88.67 | 89.00 |",
    ]


def test_a_ranking_without_budgets_is_refused() -> None:
    with pytest.raises(ValueError, match="give a ranking within budgets of one cost each"):
        budget_table.budgets_of({"budgets": []})
