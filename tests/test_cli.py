"""The command line: what a run leaves, every strategy on both tasks, bad input, resuming, sweeps."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli import SMALL_PTB, SMALL_TOY, launch, read, runs, write_ptb

STRATEGIES = ["advantage", "reinforce", "enas", "parsec", "proxylessnas", "gdas", "darts", "snas", "nasp", "random"]
OPTIONS = [
    ("advantage", "strategy.advantage=exact"),
    ("advantage", "strategy.baseline=ema"),
    ("advantage", "strategy.zero_op=authors_code"),
    ("advantage", "preset=authors_code"),
    ("reinforce", "strategy.baseline_init=zero"),
    ("reinforce", "strategy.baseline_update=before"),
    ("enas", "strategy.tanh_constant=2.5"),
    ("parsec", "strategy.scale=1"),
    ("parsec", "preset=authors_code"),
    ("proxylessnas", "strategy.gates=binary"),
    ("gdas", "strategy.inactive=none"),
    ("nasp", "strategy.projection=clip"),
]
HAS_NO_PROCESS_BEST = {"proxylessnas", "darts", "snas", "random"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_ptb(tmp_path / "text")
    return tmp_path


def only_run(folder: Path) -> Path:
    (run,) = runs(folder)
    return run


def test_a_run_leaves_what_the_contract_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(monkeypatch, *SMALL_TOY)
    run = only_run(folder)
    assert run.parent == folder / "outputs" / "toy" / "advantage"
    assert {path.name for path in run.iterdir()} == {
        "genotype.json",
        "summary.json",
        "metrics.csv",
        "checkpoints",
        "architecture.png",
        ".hydra",
    }
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    genotype, summary = read(run, "genotype.json"), read(run, "summary.json")
    edges = [f"input->{node}" for node in range(1, 11)]
    assert genotype["selected"] == "argmax"
    assert list(genotype["argmax"]) == list(genotype["process_best"]) == edges
    assert summary.items() >= {
        "strategy": "advantage", "task": "toy", "seed": 0, "preset": "paper", "epochs": 2, "weight_steps": 0,
        "architecture_steps": 20, "params_millions": 0.0272,
    }.items()  # fmt: skip
    assert all(isinstance(summary[key], float) for key in ("seconds", "entropy", "loss", "test/loss"))
    assert not any(isinstance(value, dict | list) for value in summary.values())
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    # a test loss every 10 iterations, counted from 1, and one more from the final evaluation
    assert [row["step"] for row in rows if row["test/loss"]] == ["10", "20", "20"]
    assert [(row["step"], row["epoch"]) for row in rows if row["entropy"]] == [("10", "0"), ("20", "1")]
    assert all(row["architecture/loss"] for row in rows if row["entropy"])
    assert (run / "architecture.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"edges right      {summary['edges_right']} of 10" in printed
    assert str(run.relative_to(folder)) in printed


@pytest.mark.parametrize("task", ["toy", "ptb"])
@pytest.mark.parametrize(("strategy", "option"), [(name, None) for name in STRATEGIES] + OPTIONS)
def test_every_strategy_and_option_on_both_tasks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, task: str, strategy: str, option: str | None
) -> None:
    shrink = SMALL_TOY if task == "toy" else [*SMALL_PTB, "task.data.root=text"]
    launch(monkeypatch, f"strategy={strategy}", *shrink, *([option] if option else []))
    run = only_run(folder)
    summary, genotype = read(run, "summary.json"), read(run, "genotype.json")
    assert summary["strategy"] == strategy
    assert (summary["architecture_steps"] == 0) == (strategy == "random")
    assert (summary["weight_steps"] == 0) == (task == "toy")
    one_hot = strategy not in HAS_NO_PROCESS_BEST or option == "strategy.gates=binary"
    assert (genotype["process_best"] is not None) == one_hot
    default = "process_best" if strategy in {"reinforce", "enas", "gdas"} else "argmax"
    assert genotype["selected"] == summary["selected"] == default
    if task == "ptb":
        assert summary["test/perplexity"] == pytest.approx(math.exp(summary["test/loss"]), rel=1e-5)


def test_second_order_darts_needs_weights_and_runs_with_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        launch(monkeypatch, "strategy=darts", "strategy.second_order=true", *SMALL_TOY)
    assert "second_order=false" in capsys.readouterr().err
    launch(monkeypatch, "strategy=darts", "strategy.second_order=true", *SMALL_PTB, "task.data.root=text")
    assert only_run(folder)


@pytest.mark.parametrize("which", ["argmax", "process_best"])
def test_a_found_cell_is_retrained(folder: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    launch(monkeypatch, *SMALL_PTB, "task.data.root=text", "hydra.run.dir=search")
    path = folder / "search" / "genotype.json"
    content = json.loads(path.read_text())
    content["process_best"] = dict.fromkeys(content["argmax"], "zero")
    content["argmax"] = dict.fromkeys(content["argmax"], "tanh")
    path.write_text(json.dumps(content))
    launch(monkeypatch, "strategy=fixed", f"strategy.genotype={path}", f"which={which}", *SMALL_PTB,
           "task.data.root=text", "hydra.run.dir=retrained")  # fmt: skip
    summary = read(folder / "retrained", "summary.json")
    assert read(folder / "retrained", "genotype.json")["argmax"] == content[which]
    assert summary["architecture_steps"] == 0
    assert summary["weight_steps"] > read(folder / "search", "summary.json")["weight_steps"]  # every window is one
    words = 12  # 11 in the text, and <eos>
    cells = 4 * 8 * 8 + (6 * 2 * 8 * 8 if which == "argmax" else 0)
    assert summary["params_millions"] == pytest.approx((2 * words * 8 + cells) / 1e6)
    assert {"val/perplexity", "test/perplexity"} <= set(summary)


def test_a_fixed_architecture_is_evaluated_on_the_toy_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=search")
    launch(monkeypatch, "strategy=fixed", "strategy.genotype=search/genotype.json", *SMALL_TOY, "hydra.run.dir=fixed")
    assert read(folder / "fixed", "summary.json")["test/loss"] == read(folder / "search", "summary.json")["test/loss"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["strategy=magic"], "strategy/magic"),
        (["task=imagenet"], "task/imagenet"),
        (["trainer.max_epohcs=3"], "max_epohcs"),
        (["sede=1"], "sede"),
        (["seed=one"], "one"),
        (["strategy.gamma=fast"], "gamma='fast'"),
        (["strategy.zero_op=worst"], "zero_op='worst'"),
        (["task.data.batches=-1"], "batches=-1"),
        (["trainer.max_epochs=many"], "many"),
        (["task.optimization.warmup_epochs=soon"], "warmup_epochs='soon'"),
        (["task.optimization.architecture_optimizer.lr=-1"], "-1"),
        (["trainer.accelerator=abacus"], "abacus"),
        (["which=best"], "which='best'"),
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
        (["task=ptb", "task.data.root=nowhere"], "nowhere"),
        (["strategy=fixed"], "strategy.genotype"),
        (["strategy=fixed", "strategy.genotype=nowhere.json"], "nowhere.json"),
        (["strategy=fixed", "strategy.genotype=text/ptb.test.txt"], "not a genotype"),
        (["strategy=fixed", "strategy.genotype=wrong.json"], "filter99"),
    ],
)
def test_bad_input_gives_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (folder / "wrong.json").write_text(json.dumps({f"input->{node}": "filter99" for node in range(1, 11)}))
    small = [] if "task=imagenet" in arguments or "task=ptb" in arguments else SMALL_TOY
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *small, *arguments)
    assert stop.value.code not in (0, None)
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    ours = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(ours) <= 1
    assert ours == error.strip().splitlines() or "HYDRA_FULL_ERROR" in error  # our one line, or Hydra's own message


def test_a_multirun_gives_each_job_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, "-m", "strategy=advantage,reinforce,gdas", "seed=0,1", *SMALL_TOY)
    summaries = [read(run, "summary.json") for run in runs(folder / "multirun")]
    assert {(summary["strategy"], summary["seed"]) for summary in summaries} == {
        (strategy, seed) for strategy in ("advantage", "reinforce", "gdas") for seed in (0, 1)
    }


def test_resuming_continues_bit_for_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*SMALL_PTB, "task.data.root=text", "task.epochs=4"]
    launch(monkeypatch, *arguments, "hydra.run.dir=whole")
    # A run of 4 epochs that ends after 2, so that its schedules are those of the whole run.
    launch(monkeypatch, *arguments, "hydra.run.dir=part", "trainer.max_epochs=2",
           "task.optimization.weight_scheduler.T_max=4",
           "task.optimization.architecture_scheduler.T_max=4")  # fmt: skip
    launch(monkeypatch, *arguments, "hydra.run.dir=rest", "ckpt_path=part/checkpoints/last.ckpt")
    whole, rest = (torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "rest"))
    assert whole["state_dict"].keys() == rest["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, rest["state_dict"][name]), name
    assert read(folder / "whole", "genotype.json") == read(folder / "rest", "genotype.json")


def test_an_interrupted_run_can_be_resumed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "advnas_lightning", "hydra.run.dir=run", "trainer.enable_progress_bar=false",
               "task.epochs=1000", *SMALL_TOY[1:]]  # fmt: skip
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (folder / "run" / "genotype.json").exists():  # the first epoch's end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    checkpoint = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    epoch = checkpoint["epoch"]
    json.loads((folder / "run" / "genotype.json").read_text())
    assert not (folder / "run" / "summary.json").exists()
    launch(monkeypatch, *SMALL_TOY, f"task.epochs={epoch + 3}", "hydra.run.dir=rest",
           "ckpt_path=run/checkpoints/last.ckpt")  # fmt: skip
    assert read(folder / "rest", "summary.json")["architecture_steps"] == 10 * (epoch + 3)


@pytest.mark.parametrize(
    "argument", ["trainer.fast_dev_run=2", "trainer.overfit_batches=3", "trainer.max_time=00:01:00:00"]
)
def test_what_shortens_a_run_works_on_the_toy_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    launch(monkeypatch, "strategy=gdas", *SMALL_TOY, argument)
    steps = {"fast_dev_run=2": 2, "overfit_batches=3": 6}.get(argument.removeprefix("trainer."), 20)
    assert read(only_run(folder), "summary.json")["architecture_steps"] == steps


def test_trainer_arguments_work_from_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, *SMALL_PTB, "task.data.root=text", "trainer.max_epochs=1", "trainer.limit_train_batches=2",
           "trainer.precision=bf16-mixed", "trainer.num_sanity_val_steps=0", "trainer.deterministic=true")  # fmt: skip
    summary = read(only_run(folder), "summary.json")
    assert (summary["epochs"], summary["weight_steps"], summary["architecture_steps"]) == (1, 1, 1)
