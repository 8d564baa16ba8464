"""A lease: it runs jobs in order, keeps its deadline, goes on where it stopped, and refuses what it cannot do."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advnas_lightning.published import TABLE_3
from benchmarks import lease as command
from benchmarks.cases import CASES
from benchmarks.lease_files import ROOT, Results, show
from benchmarks.lease_planner import Job, Lease, sharing
from tests.support.command_line import SMALL_PTB, write_ptb

SETTINGS = [each for each in SMALL_PTB if not each.startswith("task=")]


@pytest.fixture
def lease(tmp_path: Path) -> Callable[..., Lease]:
    """``lease(seconds=…)``: a lease of two jobs at a time in the folder ``lease``."""
    (tmp_path / "lease").mkdir()

    def make(**options: Any) -> Lease:
        given = {"seconds": 60, "grace": 3, "least": 1, "at_a_time": 2, "environment": os.environ}
        return Lease(tmp_path / "lease", **{**given, **options})

    return make


def shell(name: str, script: str, **options: Any) -> Job:
    """A job that is a shell script."""
    return Job(name, ("sh", "-c", script), **{"minutes": 0.5, **options})


def traced(name: str, trace: Path, **options: Any) -> Job:
    """A job that notes its start and its end."""
    return shell(name, f"echo start {name} >> {trace}; sleep 0.3; echo end {name} >> {trace}", **options)


def states(lease: Lease) -> list[tuple[str, str, str]]:
    return [(line["job"], line["part"], line["state"]) for line in lease.results.lines]


def highest(trace: Path) -> int:
    """The largest number of jobs at a time."""
    running, most = 0, 0
    for line in trace.read_text().splitlines():
        running += 1 if line.startswith("start") else -1
        most = max(most, running)
    return most


# -- in order, several at a time ---------------------------------------------------------------------------------------


def test_jobs_start_in_order_and_so_many_run_at_a_time(lease: Callable[..., Lease], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    plan = lease()
    assert plan.run([traced(name, trace) for name in "abcd"])
    starts = [line.split()[1] for line in trace.read_text().splitlines() if line.startswith("start")]
    assert (sorted(starts[:2]), sorted(starts[2:])) == (["a", "b"], ["c", "d"])
    assert highest(trace) == 2
    assert sorted(states(plan)) == [(name, "output", "finished") for name in "abcd"]


def test_nothing_runs_beside_a_job_that_runs_alone(lease: Callable[..., Lease], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    lease(at_a_time=3).run([traced("a", trace), traced("b", trace, alone=True), traced("c", trace), traced("d", trace)])
    lines = trace.read_text().splitlines()
    assert lines[:4] == ["start a", "end a", "start b", "end b"]
    assert highest(trace) == 2


def test_a_result_is_written_when_it_is_there(lease: Callable[..., Lease], tmp_path: Path) -> None:
    results = tmp_path / "lease" / "results.jsonl"
    wait = f"until grep -q '\"a\"' {results}; do sleep 0.1; done; echo seen"
    assert lease(at_a_time=1).run([shell("a", "echo 1; exit 1", passes=(0, 1)), shell("b", wait)])
    first, second = Results(tmp_path / "lease").lines
    assert (first["lines"], first["status"], second["lines"]) == (["1"], 1, ["seen"])


# -- the deadline ------------------------------------------------------------------------------------------------------

SAVES = (
    "trap 'sleep 0.3; echo saved > {folder}/saved; exit 143' TERM; echo on > {folder}/on; while :; do sleep 0.1; done"
)


def search(folder: Path, script: str) -> Job:
    """A job that goes on from its checkpoint, in whose place it writes files into a folder."""
    return Job("search", ("sh", "-c", script.format(folder=folder)), parts={"search": "search"})


@pytest.mark.slow
def test_nothing_starts_that_cannot_finish_and_what_runs_saves_in_time(
    lease: Callable[..., Lease], tmp_path: Path
) -> None:
    began = time.monotonic()
    plan = lease(seconds=6)
    jobs = [
        shell("long", f"touch {tmp_path}/long"),
        search(tmp_path, SAVES),
        traced("short", tmp_path / "trace", minutes=0.04),
    ]
    assert plan.run(jobs)
    assert time.monotonic() - began < 6
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "long").exists()
    assert states(plan) == [("short", "output", "finished"), ("search", "search", "stopped")]


def test_a_search_that_could_save_nothing_any_more_does_not_start(lease: Callable[..., Lease], tmp_path: Path) -> None:
    assert lease(seconds=10, least=8).run([search(tmp_path, SAVES)])
    assert not (tmp_path / "on").exists()


@pytest.mark.slow
def test_what_does_not_heed_sigterm_is_killed_in_time(lease: Callable[..., Lease], tmp_path: Path) -> None:
    began = time.monotonic()
    plan = lease(seconds=6)
    plan.run([search(tmp_path, "trap '' TERM; while :; do sleep 0.1; echo alive > {folder}/alive; done")])
    assert time.monotonic() - began < 6
    assert plan.results.lines[0]["state"] == "stopped"
    assert plan.results.lines[0]["status"] in (137, -9)
    (tmp_path / "alive").unlink()
    time.sleep(0.5)
    assert not (tmp_path / "alive").exists()


def test_a_command_past_its_own_time_has_failed(lease: Callable[..., Lease]) -> None:
    plan = lease()
    assert not plan.run([shell("slow", "echo so far; sleep 60", minutes=0.02)])
    (line,) = plan.results.lines
    assert (line["state"], line["error"], line["lines"]) == (
        "failed", "it has not ended after 0.02 minutes", ["so far"],
    )  # fmt: skip


@pytest.mark.slow
def test_jobs_end_in_time_also_if_the_planner_is_killed(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from benchmarks.lease_planner import Lease
from tests.benchmarks.test_lease import SAVES, search
folder = Path({str(tmp_path)!r})
Lease(folder, seconds=8, grace=3, least=1, at_a_time=1, environment=os.environ).run([search(folder, SAVES)])
"""
    planner = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    wait_until((tmp_path / "on").exists, planner)
    planner.kill()
    planner.wait()
    wait_until((tmp_path / "saved").exists)


def test_a_signal_ends_the_lease_as_its_deadline_does(lease: Callable[..., Lease], tmp_path: Path) -> None:
    plan = lease()
    before = signal.signal(signal.SIGALRM, plan.interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        assert plan.run([search(tmp_path, SAVES), shell("after", f"touch {tmp_path}/after", alone=True)])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "after").exists()
    assert states(plan) == [("search", "search", "stopped")]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.05)


# -- going on ----------------------------------------------------------------------------------------------------------


def test_the_next_call_goes_on_and_begins_with_what_has_not_failed(lease: Callable[..., Lease], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    fails = shell("fails", f"echo fails >> {trace}; echo why; echo; test -e {tmp_path}/repaired")
    jobs = [fails, traced("good", trace, minutes=0.5), traced("late", trace, minutes=2)]
    first = lease(seconds=100, at_a_time=1)
    assert not first.run(jobs)
    assert states(first) == [("fails", "output", "failed"), ("good", "output", "finished")]
    assert first.results.lines[0]["error"] == "why"
    trace.unlink()
    (tmp_path / "repaired").touch()
    second = lease(seconds=200, at_a_time=1)
    assert second.run(jobs)
    assert trace.read_text().splitlines() == ["start late", "end late", "fails"]
    assert lease(seconds=200).run(jobs)
    assert trace.read_text().splitlines() == ["start late", "end late", "fails"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_ptb(tmp_path / "data" / "ptb")
    return tmp_path / "data"


def seconds(run: Path) -> list[str]:
    """The time of each epoch so far."""
    log = run / "metrics.csv"
    return [row["seconds"] for row in csv.DictReader(log.open()) if row.get("seconds")] if log.exists() else []


@pytest.mark.slow
def test_a_search_that_is_stopped_goes_on_and_its_cell_is_trained(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lease"
    options = ["--folder", str(folder), "--data", str(data), "--seeds", "1", "--only", "table3/[ag]d*", "--grace", "60"]
    settings = [*SETTINGS, "task.retrain_epochs=2", "task.epochs=60"]
    line = [sys.executable, "-m", "benchmarks.lease", "run", "--minutes", "60", *options, "--set", *settings]
    first = subprocess.Popen(line, cwd=ROOT)
    searches = [folder / f"table3/{strategy}/0/search" for strategy in ("advantage", "gdas")]  # both at a time
    wait_until(lambda: all(map(seconds, searches)), first)
    first.terminate()
    assert first.wait() == 128 + signal.SIGTERM
    before = [seconds(search) for search in searches]
    stopped = [line for line in Results(folder).lines if line["state"] == "stopped"]
    assert {line["job"] for line in stopped} == {"table3/advantage/0", "table3/gdas/0"}
    assert all("epoch" in line["reached"] for line in stopped)
    subprocess.run(line, cwd=ROOT, check=True)
    lines = Results(folder).lines
    finished = [line for line in lines if line["state"] == "finished"]
    assert sorted((line["job"], line["part"]) for line in finished) == [
        (f"table3/{strategy}/0", part) for strategy in ("advantage", "gdas") for part in ("search", "training")
    ]
    for search, times in zip(searches, before, strict=True):  # a search that began anew would have times of its own
        assert seconds(search)[: len(times)] == times
    (training,) = (line for line in finished if (line["job"], line["part"]) == ("table3/gdas/0", "training"))
    page = show(folder)
    assert f"| `gdas` | 1 | {training['summary']['val/perplexity']:.2f} | {TABLE_3['gdas']['validation']} |" in page
    assert "task.epochs=60" in page


# -- the command -------------------------------------------------------------------------------------------------------


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["lease", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    return str(stop.value.code)


def test_the_list_is_in_order_of_value(tmp_path: Path) -> None:
    jobs = command.all_jobs(tmp_path, tmp_path, seeds=2, at_a_time=1, settings=["trainer=cpu"])
    names = [job.name for job in jobs]
    assert names[:4] == ["tests", "steps", "table3/advantage/0", "table3/proxylessnas/0"]
    assert names[8] == "table3/advantage/1"
    assert len(names) == 2 + 2 * 2 * 6
    (counterfactual,) = (job for job in jobs if job.name == "table3/counterfactual/1")
    assert "task.optimization.warmup_epochs=15" in counterfactual.command


def test_the_steps_are_those_of_the_suite() -> None:
    assert set(command.STEPS) <= set(CASES)


def test_a_lease_that_cannot_begin_says_why(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    begin = ["run", "--minutes", "9", "--folder", str(tmp_path / "lease"), "--data", str(data)]
    assert refusal(monkeypatch, *begin, "--only", "table5/*").startswith("error: --only table5/* is no job")
    assert "above 1.5 are needed" in refusal(monkeypatch, "run", "--minutes", "1.5")
    assert "--at-a-time and --seeds at least 1" in refusal(monkeypatch, *begin, "--at-a-time", "0")
    assert "--grace must be at least 3" in refusal(monkeypatch, *begin, "--grace", "1")
    empty = refusal(monkeypatch, *begin, "--only", "table2/*")
    assert empty == f"error: {data}/cifar10 is missing: pack it, or say with --data where cifar10 is"
    monkeypatch.setattr(command, "NEEDED", ("torch", "no_such_package"))
    assert "no package no_such_package here" in refusal(monkeypatch, *begin)
    assert not (tmp_path / "lease").exists()
    assert "has no results.jsonl" in refusal(monkeypatch, "show", str(tmp_path))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of programs that are found first."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize("starts", [True, False])
def test_mps_is_started_and_stopped(programs: Path, tmp_path: Path, starts: bool) -> None:
    control, log = programs / "nvidia-cuda-mps-control", tmp_path / "log"
    control.write_text(
        f'#!/bin/sh\necho "$1 $CUDA_MPS_PIPE_DIRECTORY" >> {log}\n[ "$1" ] || cat >> {log}\nexit {int(not starts)}\n'
    )
    control.chmod(0o755)
    with sharing(tmp_path, gpu=True) as environment:
        assert environment.get("CUDA_MPS_PIPE_DIRECTORY") == (str(tmp_path) if starts else None)
        assert log.read_text() == f"-d {tmp_path}\n"
    assert log.read_text() == f"-d {tmp_path}\n" + f" {tmp_path}\nquit\n" * starts
    with sharing(tmp_path, gpu=False) as environment:
        assert environment == {}


@pytest.mark.parametrize(("script", "name"), [("echo NVIDIA H200; echo NVIDIA H200", "NVIDIA H200"), ("exit 9", None)])
def test_the_gpu_has_a_name(programs: Path, script: str, name: str | None) -> None:
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "nvidia-smi").chmod(0o755)
    assert command.gpu_name() == name
