"""The paper's numbers on the page of results are those of the package."""

from __future__ import annotations

import re

import pytest

from advnas_lightning.published import PARAMETERS_2, TABLE_2, TABLE_3, TABLE_4
from tests.support.pages import DOCS

PAGE = (DOCS / "concepts/results.md").read_text()


def rows(first_line: str) -> dict[str, list[str]]:
    """The cells of a table by strategy."""
    table = PAGE.partition(f"{first_line}\n")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[1:]]
    return {name.strip("`"): values for name, *values in cells}


@pytest.mark.parametrize(
    ("first_line", "table"),
    [
        ("| strategy | arg max | process-best | parameters |", TABLE_2),
        ("| strategy | arg max | process-best |", TABLE_4),
    ],
)
def test_accuracies(first_line: str, table: dict[str, dict[str, object]]) -> None:
    expected = {name: [str(values["argmax"]), str(values.get("process_best", ""))] for name, values in table.items()}
    assert {name: values[:2] + [""] * (2 - len(values)) for name, values in rows(first_line).items()} == expected


def test_parameters() -> None:
    found = rows("| strategy | arg max | process-best | parameters |")
    assert {name: float(values[-1]) for name, values in found.items()} == PARAMETERS_2


def test_perplexities() -> None:
    (line,) = re.findall(r"^\| strategy .* the paper's test \|$", PAGE, re.MULTILINE)
    expected = {name: [str(values["validation"]), str(values["test"])] for name, values in TABLE_3.items()}
    assert {name: values[-2:] for name, values in rows(line).items()} == expected
