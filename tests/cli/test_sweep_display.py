"""What a sweep shows of its jobs, which it knows from their files alone."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from advnas_lightning.cli.sweep_display import SweepDisplay
from advnas_lightning.cli.sweep_jobs import Jobs, Measure, ranking


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(number: int, overrides: Sequence[str], *, epochs: int = 4, **settings: Any) -> Path:
    """The files that a job has when it begins."""
    job = Path("sweep") / "toy" / str(number)
    (job / ".hydra").mkdir(parents=True, exist_ok=True)
    config = {"trainer": {"max_epochs": "${task.epochs}"}, "task": {"epochs": epochs}, **settings}
    hydra = {"hydra": {"job": {"num": number}}}
    for name, content in (("config", config), ("overrides", list(overrides)), ("hydra", hydra)):
        (job / ".hydra" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return job


def log(job: Path, epochs: int) -> None:
    rows = [f"0.5,{epoch},{10 * epoch}" for epoch in range(1, epochs + 1)]
    (job / "metrics.csv").write_text("\n".join(["entropy,epoch,step", *rows]) + "\n")


def finish(job: Path, loss: float, **more: Any) -> None:
    (job / "summary.json").write_text(json.dumps({"selected": "argmax", "loss": loss, **more}))


GRID = [["ckpt_path=last", f"strategy={name}", f"seed={seed}"] for name in ("advantage", "gdas") for seed in (0, 1)]


def test_jobs_are_followed_by_their_files() -> None:
    jobs = Jobs(Path("sweep"), GRID)
    jobs.poll()
    assert [job.state for job in jobs.all] == ["waiting"] * 4
    first = begin(0, GRID[0])
    jobs.poll()
    assert (jobs.all[0].state, jobs.all[0].share) == ("running", 0)
    log(first, 3)
    jobs.poll()
    assert (jobs.all[0].epochs, jobs.all[0].planned, jobs.all[0].share) == (3, 4, 0.75)
    finish(first, 0.25)
    error = begin(1, GRID[1]) / "error.txt"
    error.touch()  # it is being written
    jobs.poll()
    assert [job.state for job in jobs.all] == ["finished", "running", "waiting", "waiting"]
    error.write_text("out of luck\n\nTraceback")
    jobs.poll()
    assert [job.state for job in jobs.all] == ["finished", "failed", "waiting", "waiting"]
    assert jobs.all[1].error == "out of luck"


def test_what_was_left_by_an_earlier_sweep_does_not_run() -> None:
    done, failed = begin(0, GRID[0]), begin(1, GRID[1])
    finish(done, 0.25)
    (failed / "error.txt").write_text("out of luck")
    hour_ago = time.time() - 3600
    for path in (*Path("sweep").rglob("*.yaml"), *Path("sweep").rglob("*.json"), failed / "error.txt"):
        os.utime(path, (hour_ago, hour_ago))
    jobs = Jobs(Path("sweep"), GRID)
    jobs.poll()
    assert [job.state for job in jobs.all] == ["finished", "waiting", "waiting", "waiting"]
    assert jobs.all[0].was_before
    begin(1, GRID[1])  # its turn has come, and the old error is still there
    jobs.poll()
    assert jobs.all[1].state == "running"


def test_a_job_with_a_retraining_is_done_after_it() -> None:
    jobs = Jobs(Path("sweep"), GRID[:1])
    job = begin(0, GRID[0], retrain=True)
    finish(job, 0.25)
    jobs.poll()
    assert jobs.all[0].state == "running"
    (job / "retrained").mkdir()
    finish(job / "retrained", 0.5)
    jobs.poll()
    assert (jobs.all[0].state, jobs.all[0].summary["loss"]) == ("finished", 0.5)


def test_a_sweeper_that_decides_as_it_goes_on_has_jobs_too() -> None:
    jobs = Jobs(Path("sweep"))
    for number in (0, 1):
        finish(begin(number, [f"strategy.gamma={number}"]), number)
    jobs.poll()
    assert [jobs.differing(job) for job in jobs.all] == ["gamma=0", "gamma=1"]


def test_an_optimized_metric_ranks_the_jobs() -> None:
    jobs = Jobs(Path("sweep"), count=5, metric="test/accuracy", maximize=True)
    for number, accuracy in enumerate((0.25, 0.75)):
        finish(begin(number, [f"strategy.gamma={number}"]), 1.0, **{"test/accuracy": accuracy})
    jobs.poll()
    title, ranks = ranking(jobs)
    assert (title, [rank.setting for rank in ranks]) == ("test/accuracy", ["gamma=1", "gamma=0"])
    assert jobs.count == 5


def test_settings_are_ranked_over_their_seeds() -> None:
    jobs = Jobs(Path("sweep"), GRID)
    for number, loss in enumerate((0.3, 0.5, 0.1, 0.2)):
        finish(begin(number, GRID[number]), loss, edges_right=number, edges=10)
    jobs.poll()
    title, ranks = ranking(jobs)
    assert title == "test loss"
    assert [(rank.setting, rank.text) for rank in ranks] == [("gdas", "0.15 ± 0.071"), ("advantage", "0.4 ± 0.14")]
    assert [list(rank.edges_right) for rank in ranks] == [[2, 3], [0, 1]]


def test_a_higher_accuracy_comes_first() -> None:
    summary = {"selected": "process_best", "process_best/cifar10_test": 93.5, "argmax/cifar10_test": 94, "loss": 1}
    assert Measure.of(summary) == Measure("benchmark test accuracy, %", 93.5, True)
    assert Measure.of({"loss": 1.0, "selected/test/perplexity": 90.0}) == Measure("test perplexity", 90.0, False)
    assert Measure.of({"loss": None}) is None


def shown(display: SweepDisplay) -> list[str]:
    assert isinstance(display.console.file, io.StringIO)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", display.console.file.getvalue())
    display.console.file.truncate(0)
    return [line.rstrip() for line in text.splitlines()]


def test_elsewhere_a_job_has_a_line_when_it_starts_and_one_when_it_ends() -> None:
    display = SweepDisplay(Jobs(Path("sweep"), GRID), Console(file=io.StringIO(), width=80))
    display.start()
    finish(begin(0, GRID[0]), 0.25, edges_right=9, edges=10)
    display.stop()
    assert shown(display) == [
        "job 0 (advantage, seed 0) starts: sweep/toy/0",
        "job 0 (advantage, seed 0) finished in 0:00: test loss 0.25, 9/10 right  (1 of 4 done, 0:00 left)",
    ]


def test_a_hundred_jobs_fit_a_terminal() -> None:
    grid = [["strategy=gdas", f"seed={seed}", f"task.a_setting_with_a_long_name={seed}"] for seed in range(100)]
    console = Console(file=io.StringIO(), width=80, height=40, force_terminal=True, color_system=None)
    display = SweepDisplay(Jobs(Path("sweep"), grid), console)
    display.start()
    for number in range(60):
        job = begin(number, grid[number], epochs=20)
        log(job, 7)
        if number < 30:
            finish(job, number / 100)
        elif number < 35:
            (job / "error.txt").write_text("a long reason " * 20)
    began = time.monotonic()
    display.stop()
    assert time.monotonic() - began < 5
    console.file = io.StringIO()
    console.print(display.table())
    lines = shown(display)
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert re.fullmatch(r"sweep of 100 jobs  [━╸╺]+ +35 of 100 done, 5 failed, \d+:\d\d left", lines[0])
    assert re.fullmatch(r"35  seed 35, a_\S+  epoch 8/20  0:\d\d", lines[1])
    assert lines[17] == "    and 9 more that run"
    assert [line.partition(",")[0] for line in lines[18:]] == [f"job {n} (seed {n}" for n in range(30, 35)]
    assert lines[-1].endswith("(sweep/toy/34)")
