"""``advnas rank`` from the command line: a run's folder is ranked, goes on after a kill, and is never changed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from advnas_lightning import Genotype
from advnas_lightning.cli.rank import OPTIONS, main, read_settings
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, read, write_images, write_ptb
from tests.support.speed import slow_but

QUICK = ["top=6", "sample=6", "batches=2"]


def checkpoints(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}


def ranked(run: Path) -> Any:
    return read(run, "ranking.json")


@pytest.mark.parametrize("task", slow_but(["toy", "ptb", "cifar10"], ["ptb"]))
def test_a_run_of_each_task_is_ranked(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ptb(tmp_path / "text")
    write_images(tmp_path / "images")
    small = {"toy": SMALL_TOY, "ptb": [*SMALL_PTB, "task.data.root=text"], "cifar10": SMALL_CIFAR10}[task]
    launch(monkeypatch, *small, "hydra.run.dir=run")
    run = tmp_path / "run"
    before, found = checkpoints(run), read(run, "genotype.json")
    capsys.readouterr()
    main(["run", *QUICK])
    printed = capsys.readouterr()
    assert printed.err == ""  # no progress bar where there is no terminal
    lines = printed.out.splitlines()
    assert lines[0].split()[:3] == ["rank", "score", "loss"]
    assert any(line.endswith("argmax") for line in lines)
    assert "The score is log p and the loss in one number; the highest is the best." in lines
    assert lines[-1].startswith("next: ")
    assert "strategy=fixed strategy.genotype=run select=ranked" in lines[-1]
    content = ranked(run)
    digest = hashlib.sha256(before["last.ckpt"]).hexdigest()
    assert content["settings"].items() >= {"top": 6, "sample": 6, "batches": 2, "checkpoint_sha256": digest}.items()
    names = {"toy": [], "ptb": ["perplexity"], "cifar10": ["accuracy"]}[task]
    assert all(isinstance(row[name], float) for row in content["architectures"] for name in ["loss", "score", *names])
    assert read(run, "genotype.json") == {**found, "ranked": content["architectures"][0]["genotype"]}
    assert Genotype.load(run, select="ranked") == Genotype(content["architectures"][0]["genotype"])
    assert checkpoints(run) == before
    for name in ("ranking.png", "ranking.svg"):
        assert (run / name).stat().st_size > 5000
    with Image.open(run / "ranking.png") as picture:
        assert picture.getpixel((3, 3))[:3] == (255, 255, 255)
    launch(monkeypatch, *small, "strategy=fixed", "strategy.genotype=run", "select=ranked", "hydra.run.dir=trained")
    assert read(tmp_path / "trained", "genotype.json")["argmax"] == content["architectures"][0]["genotype"]


def test_a_budget_of_what_is_no_cost_is_refused(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "cost_budget={paramz: 1}"])
    says = "error: cost_budget has paramz, which is no cost of this run: did you mean params?\n"
    assert capsys.readouterr().err == says
    assert not (toy / "ranking").exists()


def test_a_budget_is_measured_and_one_that_cannot_be_met_is_refused(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", *QUICK, "cost=macs,latency"])
    costs = [row["cost/macs"] for row in ranked(toy)["architectures"]]
    assert len(set(costs)) == 1  # the toy task's filters cost alike, and so does every architecture
    main(["run", *QUICK, "cost=macs", f"budget={1.01 * costs[0]}"])
    assert [each["rank"] for each in ranked(toy)["budgets"]] == [1]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["run", *QUICK, "cost=macs", f"budget={costs[0] / 2},{costs[0]}"])
    error = capsys.readouterr().err
    assert f"is below what the cheapest architecture costs, {costs[0]:.12g}" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("content", [None, '{"selected": "arg'], ids=["interrupted in the first epoch", "damaged"])
def test_what_the_search_has_found_is_written_where_it_is_missing(
    content: str | None, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read(toy, "genotype.json")
    (toy / "genotype.json").unlink()
    if content is not None:
        (toy / "genotype.json").write_text(content)
    main(["run", *QUICK])
    assert capsys.readouterr().err == ""
    assert read(toy, "genotype.json") == {**found, "ranked": ranked(toy)["architectures"][0]["genotype"]}


def test_an_empty_configuration_is_named(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / ".hydra" / "config.yaml").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["run", *QUICK])
    assert stop.value.code == 1
    assert capsys.readouterr().err == f"error: {toy}/.hydra/config.yaml cannot be read: it is empty\n"


@pytest.mark.slow
def test_costs_of_a_file_and_several_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    launch(monkeypatch, *SMALL_CIFAR10, "hydra.run.dir=run")
    main(["run", "top=30", "sample=30", "batches=2", "cost=params"])
    everything = ranked(tmp_path / "run")["architectures"]
    costs = sorted({row["cost/params"] for row in everything})
    assert "can be met" not in capsys.readouterr().out  # there is no budget yet
    main(["run", "top=10", "sample=0", "batches=2", "cost=params", f"budget={costs[1]},{costs[5]}"])
    plan = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("cost ", "params "))]
    assert [line[0] for line in plan] == ["cost", "params"] * 2  # for each of the two budgets
    assert all({"cheapest", "dearest", "argmax"} <= set(line) for line in plan[::2])
    assert all(line[-1] == "yes" for line in plan[1::2])
    content = ranked(tmp_path / "run")
    files = [tmp_path / "run" / "ranking" / f"best-params-{budget:.12g}.json" for budget in (costs[1], costs[5])]
    for entry, file in zip(content["budgets"], files, strict=True):
        within = [row for row in content["architectures"] if row["cost/params"] <= entry["budget"]["params"]]
        assert len(within) >= 10
        assert entry["genotype"] == within[0]["genotype"] == dict(Genotype.load(file))
    assert Genotype.load("run", select="ranked") == Genotype(content["budgets"][0]["genotype"])
    names = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    edges = {
        edge: {name: float(place) for place, name in enumerate(names)} for edge in content["budgets"][0]["genotype"]
    }
    Path("other.json").write_text(json.dumps({"cost": "latency", "unit": "", "fixed": 1.0, "edges": edges}))
    main(["run", "top=10", "sample=0", "batches=2", "costs=other.json", "budget=4"])
    capsys.readouterr()
    assert ranked(tmp_path / "run")["budgets"][0]["budget"] == {"latency": 4}
    main(["run", "top=10", "sample=0", "batches=2", "costs=other.json",
          f"cost_budget={{latency: 6, params: {costs[9]}}}"])  # fmt: skip
    (both,) = ranked(tmp_path / "run")["budgets"]
    best = next(row for row in ranked(tmp_path / "run")["architectures"] if row["rank"] == both["rank"])
    assert best["cost/latency"] <= 6
    assert best["cost/params"] <= costs[9]


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_ranking(toy: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "advnas_lightning", "rank", "run", "top=30", "sample=0", "batches=2"]
    scores = toy / "ranking" / "scores.jsonl"
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if scores.is_file() and scores.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = scores.read_bytes()
    kept = before.count(b"\n")
    assert kept >= 3
    if not (toy / "ranking.json").exists():
        assert "ranked" not in read(toy, "genotype.json")
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)
    whole = before[: before.rfind(b"\n") + 1]
    assert scores.read_bytes().startswith(whole)  # nothing was computed twice
    first = (toy / "ranking.json").read_bytes()
    assert len({json.loads(each)["architecture"].__repr__() for each in scores.read_text().splitlines()}) == len(
        scores.read_text().splitlines()
    )
    scores.unlink()
    subprocess.run([*line, "jobs=2"], cwd=tmp_path, check=True, capture_output=True)
    assert (toy / "ranking.json").read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_says_how_to_go_on(toy: Path, tmp_path: Path, jobs: int) -> None:
    options = ["run", "top=9000", "sample=0", "batches=2", f"jobs={jobs}"]
    # Where the tests run in the background of a shell, a new process would ignore Ctrl-C.
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    line = [sys.executable, "-c", f"{script}; from advnas_lightning.cli.rank import main; main({options})"]
    process = subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    scores, deadline = toy / "ranking" / "scores.jsonl", time.monotonic() + 120
    while not scores.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed = process.communicate(timeout=120)
    assert process.returncode == 130
    assert printed == ("", "error: interrupted; the same line goes on where it was\n")
    assert "ranked" not in read(toy, "genotype.json")


def test_scores_of_an_older_supernet_are_not_used(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["run", *QUICK])
    first, lines = ranked(toy), len((toy / "ranking" / "scores.jsonl").read_text().splitlines())
    last = toy / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    name = next(name for name in content["state_dict"] if name.startswith("model."))
    content["state_dict"][name] *= 1.5
    torch.save(content, last)
    main(["run", *QUICK])
    assert len((toy / "ranking" / "scores.jsonl").read_text().splitlines()) == 2 * lines
    assert ranked(toy) != first
    with pytest.warns(UserWarning, match="ranked came from this search before it went on"):
        launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "ckpt_path=last", "trainer.max_epochs=3")
    assert "ranked" not in read(toy, "genotype.json")


@pytest.mark.slow
def test_the_supernet_is_trained_further_once_and_the_run_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    launch(monkeypatch, *SMALL_CIFAR10, "hydra.run.dir=run")
    run = tmp_path / "run"
    before = checkpoints(run)
    main(["run", *QUICK])
    young = ranked(run)
    capsys.readouterr()
    main(["run", *QUICK, "supernet_epochs=2"])
    assert "training the supernet further" in capsys.readouterr().err
    trained = ranked(run)
    saved = (run / "ranking" / "supernet-2.pt").read_bytes()
    main(["run", *QUICK, "supernet_epochs=2"])
    assert "training the supernet further" not in capsys.readouterr().err
    assert ranked(run) == trained
    assert (run / "ranking" / "supernet-2.pt").read_bytes() == saved
    assert checkpoints(run) == before
    losses = [{json.dumps(row["genotype"]): row["loss"] for row in each["architectures"]} for each in (young, trained)]
    shared = losses[0].keys() & losses[1].keys()
    assert shared
    assert all(losses[0][name] != losses[1][name] for name in shared)
    main(["run", *QUICK])
    assert ranked(run) == young


def test_the_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: advnas rank RUN [OPTION=VALUE ...]")
    assert all(f"\n  {name}" in printed for name in OPTIONS)
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give the folder of a run: advnas rank RUN"),
        (["nowhere"], "nowhere: there is no such folder or checkpoint"),
        (["."], ". has no folder checkpoints: give the folder of one run"),
        (["run", "tops=3"], "tops=3 is unknown: did you mean top=3?"),
        (["run", "top=few"], "top=few must be a whole number of at least 1, or all"),
        (["run", "top=0"], "top=0 must be a whole number of at least 1"),
        (["run", "batches=1"], "batches=1 must be a whole number of at least 2"),
        (["run", "jobs=0"], "jobs=0 must be a whole number from 1 to"),
        (["run", "threads=100000"], "threads=100000 must be a whole number from 1 to"),
        (["run", "cost=flops"], "cost=flops is unknown: use params, macs, latency, memory, or costs=FILE"),
        (["run", "budget=3"], "budget=3 of which cost? Say cost=params"),
        (["run", "cost=params", "budget=few"], "budget='few' must be a finite number above 0"),
        (["run", "cost=params,macs", "budget=3"], "budget=3 of which cost? Say cost_budget="),
        (["run", "cost_budget=3"], "cost_budget=3: give the kinds too"),
        (["run", "cost=params", "budget=3", "cost_budget={params: 3}"], "are two ways to say the same"),
        (["run", "costs=none.json"], "costs=none.json: there is no such file"),
        (["run", "device=tpu"], "device='tpu' is unknown: use cpu or cuda"),
        (["run", "mutation=2"], "mutation=2 must be a finite number above 0 and at most 1"),
    ],
)
def test_bad_options_have_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_a_task_without_weights_and_a_fixed_network_are_refused(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", *QUICK, "supernet_epochs=1"])
    assert "the task of this run trains no weights" in capsys.readouterr().err
    launch(monkeypatch, *SMALL_TOY, "strategy=fixed", "strategy.genotype=run", "hydra.run.dir=fixed")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fixed"])
    assert "Fixed has one architecture, so there is nothing to rank" in capsys.readouterr().err
    assert not (tmp_path / "fixed" / "ranking").exists()
    with pytest.raises(SystemExit):
        main(["run", "top=all"])
    assert "top=all: the space has 10 000 000 000 architectures" in capsys.readouterr().err


def test_options_are_read_as_they_are_typed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    options = read_settings([str(tmp_path), "cost=macs", "budget=2e6,3e6", "top=all"])
    assert options["budgets"] == [{"macs": 2e6}, {"macs": 3e6}]
    assert options["top"] is None
    options = read_settings([str(tmp_path), "cost_budget={macs: 20e6, latency: 8}"])
    assert options["budgets"] == [{"macs": 20e6, "latency": 8}]
    (tmp_path / "costs.json").touch()
    assert read_settings([str(tmp_path), "budget=2"])["budgets"] == [{None: 2}]
    options = read_settings([str(tmp_path), f"costs={tmp_path}/costs.json", "budget=2"])
    assert json.loads(json.dumps(options)) is not None  # ranking.json has them


@pytest.mark.slow
def test_no_worker_outlives_a_killed_command(toy: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "advnas_lightning", "rank", "run", "top=5000", "sample=0", "batches=2", "jobs=2"]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scores, deadline = toy / "ranking" / "scores.jsonl", time.monotonic() + 120
    while not scores.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.is_file():
        process.kill()
        pytest.skip("this system does not tell of child processes")
    workers = list(map(int, children.read_text().split()))
    process.kill()
    process.wait()
    assert len(workers) == 2
    for worker in workers:
        while time.monotonic() < deadline:
            try:
                if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":  # it has ended, and nobody has asked
                    break
                os.kill(worker, 0)
            except (ProcessLookupError, FileNotFoundError):
                break
            time.sleep(0.05)
        else:
            pytest.fail("a worker still runs")


@pytest.mark.slow
def test_a_table_of_the_task_adds_its_accuracies_unless_its_file_may_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    operations = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    cells = ("|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*names) for names in product(operations, repeat=6))
    rows = [f"{cell},{50 + place / 100}" for place, cell in enumerate(cells)]
    Path("TABLE.csv").write_text("\n".join(["arch,cifar10_test", *rows]) + "\n")
    launch(monkeypatch, *SMALL_CIFAR10, "task.table=TABLE.csv", "hydra.run.dir=run")
    capsys.readouterr()
    main(["run", *QUICK, "generations=2", "population=4"])
    assert "cifar10_test" in capsys.readouterr().out.splitlines()[0]
    accuracies = {row.rpartition(",")[0]: float(row.rpartition(",")[2]) for row in rows}
    content = ranked(tmp_path / "run")["architectures"]
    assert {row["source"] for row in content} >= {"probable", "evolution"}
    for row in content:
        assert row["known/cifar10_test"] == accuracies[Genotype(row["genotype"]).to_nasbench201()]
    settings = tmp_path / "run" / ".hydra" / "config.yaml"
    settings.write_text(settings.read_text().replace("TABLE.csv", "TABLE.pickle.pbz2"))
    Path("TABLE.pickle.pbz2").write_bytes(b"would run code")
    main(["run", *QUICK])
    printed = capsys.readouterr()
    assert printed.err == "note: task.callbacks.scores would read TABLE.pickle.pbz2: trust=true allows it\n"
    assert "cifar10_test" not in printed.out.splitlines()[0]
