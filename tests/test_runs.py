"""The files of a run."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from advnas_lightning.callbacks.run_log import RunLog
from advnas_lightning.runs import RunFolder, checkpoint_in, replacing, write_json


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(TypeError):
        write_json(path, {"loss": object()})
    assert json.loads(path.read_text()) == {"loss": 1.0}


def test_an_error_while_a_file_is_written_leaves_the_old_one_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fill_the_disk() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
        fill_the_disk()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"file": "old"}


def test_a_number_that_is_not_finite_is_null_and_the_log_has_it(tmp_path: Path) -> None:
    run, name = RunFolder(tmp_path), "selected/test/loss"
    RunLog(tmp_path).log_metrics({name: math.inf}, step=1)
    write_json(run.summary, {name: math.inf, "loss": math.inf, "losses": [(math.nan, 1.0)]})
    assert json.loads(run.summary.read_text()) == {name: None, "loss": None, "losses": [[None, 1.0]]}
    assert run.results() == {"step": 1.0, name: math.inf, "loss": math.inf}


def test_another_file_than_a_checkpoint_is_not_called_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.touch()
    with pytest.raises(ValueError, match=r"genotype\.json is no checkpoint: give the folder of a run"):
        checkpoint_in(path)


@pytest.mark.slow
def test_files_are_in_utf_8_on_every_machine(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from advnas_lightning.callbacks.run_log import RunLog
from advnas_lightning.runs import RunFolder
run = RunFolder(Path(sys.argv[1]))
log = RunLog(run.path)
log.log_metrics({"θ": 1.0}, step=1)
log.log_metrics({"loss": 2.0}, step=2)
assert run.results()["θ"] == 1.0
run.save_error("θ is not finite", ValueError("θ"))
assert run.read_error() == "θ is not finite"
"""
    english = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    program = f"# coding: utf-8\n{program}"
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    line = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    subprocess.run(line, env=english, check=True, cwd=Path(__file__).parents[1])
    assert (tmp_path / "error.txt").read_text(encoding="utf-8").startswith("θ is not finite")
