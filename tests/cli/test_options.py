"""The options of the commands beside a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from advnas_lightning.cli.options import Option, read_options

KNOWN = {
    "RUN": Option(None, "RUN", "the run"),
    "draws": Option(3, "N", "a number"),
    "costs": Option(None, "FILE", "a file"),
}


def test_a_run_is_given_by_its_path_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert read_options(["a=b", "draws=7"], KNOWN) == {"RUN": "a=b", "draws": 7, "costs": None}
    assert read_options(["costs={macs: 2e6}", "outputs/toy"], KNOWN)["costs"] == {"macs": 2e6}
    assert read_options(["draws=null"], KNOWN)["draws"] is None
    assert read_options(["RUN"], KNOWN)["RUN"] == "RUN"  # a folder of that name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a", "b"], "b: one run is looked at, and a is given already"),
        (["draw=3"], "draw=3 is unknown: did you mean draws=3?"),
        (["--draws=3"], "--draws=3 is unknown: did you mean draws=3?"),
        (["RUN=a"], "RUN=a is unknown: give draws=…, costs=…"),
        (["draws"], "draws has no value: give draws=N, or leave it out"),
        (["costs="], "costs has no value: give costs=FILE, or leave it out"),
        (["gamma=3"], "gamma=3 is unknown: give draws=…, costs=…"),
        (["costs={"], "costs={ cannot be read: "),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}") as caught:
        read_options(arguments, KNOWN)
    assert len(str(caught.value).splitlines()) == 1
