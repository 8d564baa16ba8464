"""A sweep waits for all of its jobs in SLURM, whatever becomes of them. tests/slurm has the same on a real cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus

from advnas_lightning.cli import slurm
from advnas_lightning.cli.process import program
from advnas_lightning.cli.slurm import queue, wait_for_all
from tests.support.command_line import SMALL_TOY, launch


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``squeue(text, error, status)``: what SLURM's command says from now on."""
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    def says(printed: str = "", error: str = "", status: int = 0) -> None:
        program.write_text(f"#!/bin/sh\nprintf '{printed}'\necho '{error}' >&2\nexit {status}\n")
        program.chmod(0o755)

    return says


class FakeJob:
    """As submitit's jobs are."""

    num_tasks = 1

    def __init__(self, folder: Path, job_id: str, value: object = None) -> None:
        self.job_id, self.value = job_id, value
        self.paths = SimpleNamespace(result_pickle=folder / f"{job_id}.pkl", stderr=folder / f"{job_id}.err")

    def task(self, number: int) -> FakeJob:
        return self

    def results(self) -> list[JobReturn]:
        if isinstance(self.value, RuntimeError):
            raise self.value
        result = JobReturn(status=JobStatus.COMPLETED)
        result.return_value = self.value
        return [result]


def test_the_states_of_an_array(squeue: Any) -> None:
    squeue("7_0|RUNNING\\n7_1|PENDING\\n7_2|OUT_OF_MEMORY\\n")
    assert queue("7") == {"7_0": "RUNNING", "7_1": "PENDING", "7_2": "OUT_OF_MEMORY"}
    squeue(error="slurm_load_jobs error: Invalid job id specified", status=1)
    assert queue("7") == {}  # SLURM forgets its jobs some minutes after their end
    squeue(error="slurm_load_jobs error: Unable to contact slurm controller", status=1)
    assert queue("7") is None


def test_every_job_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, "-m", *SMALL_TOY, "hydra.sweep.dir=sweep")
    folder = tmp_path / "sweep/toy/advantage/0"
    (folder / "summary.json").unlink()  # as of a job that was killed
    jobs = [FakeJob(tmp_path, f"7_{number}", value) for number, value in enumerate((None, 0.5, None, RuntimeError()))]
    jobs[3].paths.result_pickle.touch()
    running, over = dict.fromkeys(("7_0", "7_1"), "RUNNING"), {"7_0": "NODE_FAIL", "7_1": "COMPLETED"}
    answers = [running, None, {**running, "7_0": "COMPLETING"}, over, running, over, over]
    asked: list[str] = []

    def answer(array: str) -> dict[str, str] | None:
        asked.append(array)
        if len(asked) == len(answers) - 1:
            jobs[1].paths.result_pickle.touch()  # which a shared file system shows late
        return answers[len(asked) - 1]

    monkeypatch.setattr(slurm, "PERIOD", 0.0)
    monkeypatch.setattr(slurm, "QUEUE_PERIOD", 0.0)
    monkeypatch.setattr(slurm, "queue", answer)
    capsys.readouterr()
    found = wait_for_all(dict(enumerate(jobs)), "sweep")
    assert [each.return_value for each in found] == [None, 0.5, None, None]
    assert set(asked) == {"7"}
    assert len(asked) == len(answers)
    message = "SLURM has ended job 7_{} without a result ({}): see {}"
    said = (folder / "error.txt").read_text().splitlines()[0]
    assert said == message.format(0, "NODE_FAIL", jobs[0].paths.stderr)
    assert capsys.readouterr().err.splitlines() == [  # these have not begun, and so have no folder
        f"error: job 3: {message.format(3, 'it has raised an error', jobs[3].paths.stderr)}",
        f"error: job 2: {message.format(2, 'no longer in the queue', jobs[2].paths.stderr)}",
    ]


def test_an_interrupted_sweep_says_how_to_end_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        wait_for_all({0: FakeJob(tmp_path, "12_0")}, tmp_path)
    assert capsys.readouterr().err == "the jobs go on in SLURM; to end them: scancel 12\n"


def test_a_job_names_the_command_and_not_submitit(tmp_path: Path) -> None:
    script = tmp_path / "_submit.py"
    script.touch()
    assert program([str(script), "folder"])[1:] == ["-m", "advnas_lightning"]
