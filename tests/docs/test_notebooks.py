"""The notebooks run from top to bottom, and are committed as a run has left them."""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import DOCS

NOTEBOOKS = {path.stem: path for path in DOCS.rglob("*.ipynb") if "_build" not in path.parts}
RESULTS = {  # what their texts say of what they show
    "own_data": """
chance = [accuracy for name, accuracy in results.items() if name.startswith("random")]
assert results["found, from scratch"] > max(chance + [results["dilation 1 everywhere"]])
""",
    "reading_a_search": """
assert edges_right(search, watch)[-1] < edges_right(faster, watch_faster)[-1] == 10
assert min(statistics, key=lambda each: each.draw_cosine).name == "reinforce"
assert Path("report/report.html").exists()
""",
    "smaller_networks": """
for budget, genotype in found.items():
    assert macs(genotype.apply(network)) <= budget
smallest_of = {kind: list(reached.values())[0] for kind, reached in results.items()}
assert smallest_of["same share, cut directly"] < smallest_of["same share"] < smallest_of["found"]
assert isinstance(smallest, Classifier)
""",
}


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS.keys() == {"own_data", "reading_a_search", "smaller_networks"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_was_run_in_order_and_without_an_error(name: str) -> None:
    cells = code_cells(NOTEBOOKS[name])
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds <= {"stream", "display_data", "execute_result"}
    shown = json.dumps([cell["outputs"] for cell in cells])
    assert "image/png" in shown
    assert "/root" not in shown
    assert "/tmp" not in shown
    assert len(shown) < 700_000  # characters: pictures are small
    for cell in cells:
        ast.parse("".join(line for line in cell["source"] if not line.startswith("!")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(RESULTS[name]))
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
