"""The commands of pages are checked, and those that cannot be right are errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import HydraException

from tests.support.shell import EXTRAS, Shell, check_install, first_values, task_of


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, really=False)


@pytest.mark.parametrize("line", ["+advantage=exact", "strategy.gama=0.1", "trainer.max_epoch=3", "strategy=gdsa"])
def test_a_setting_that_nothing_reads_is_an_error(line: str, shell: Shell) -> None:
    with pytest.raises((ValueError, HydraException)):
        shell.run(["advnas", line])


@pytest.mark.parametrize("words", [["make", "docs"], ["advnas", "table", "sort"], ["pip", "list"]])
def test_an_unknown_command_is_an_error(words: list[str], shell: Shell) -> None:
    with pytest.raises(ValueError, match="is not"):
        shell.run(words)


def test_a_script_that_no_block_wrote_is_an_error(shell: Shell) -> None:
    with pytest.raises(AssertionError, match=r"no block above is mine\.py"):
        shell.run(["python", "mine.py"])


def test_extras_are_those_of_the_project() -> None:
    check_install(["-e", ".[" + ",".join(EXTRAS) + "]"])
    check_install(["advnas-lightning", "advnas-lightning[joblib]", "matplotlib"])
    with pytest.raises(AssertionError, match="no extra jobs"):
        check_install(["advnas-lightning[jobs]"])


def test_runs_are_made_small() -> None:
    assert first_values(["seed=0,1,2", "strategy=a,b,c", "x=[1,2,3]"], 2) == ["seed=0,1", "strategy=a,b", "x=[1,2,3]"]
    assert [task_of([word]) for word in ("task=ptb", "experiment=table3", "experiment=table2", "experiment=fig1")] == [
        "ptb",
        "ptb",
        "cifar10",
        "toy",
    ]
