"""The command line: what a run leaves, every strategy on every task, bad input, resuming, sweeps."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advnas_lightning.callbacks.standing import WORDS
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, read, runs, write_images, write_ptb
from tests.support.speed import slow_but

STRATEGIES = [
    "advantage", "counterfactual", "reinforce", "enas", "parsec", "proxylessnas", "gdas", "darts", "snas", "nasp",
    "drnas", "random",
]  # fmt: skip
OPTIONS = [
    ("advantage", "strategy.advantage=exact"),
    ("advantage", "strategy.baseline=ema"),
    ("advantage", "strategy.zero_op=authors_code"),
    ("advantage", "preset=authors_code"),
    ("counterfactual", "strategy.advantage=exact"),
    ("counterfactual", "strategy.mix_end=0.5"),
    ("darts", "strategy.geometry=mirror"),
    ("reinforce", "strategy.baseline_init=zero"),
    ("reinforce", "strategy.baseline_update=before"),
    ("enas", "strategy.tanh_constant=2.5"),
    ("parsec", "strategy.scale=1"),
    ("parsec", "preset=authors_code"),
    ("proxylessnas", "strategy.gates=binary"),
    ("gdas", "strategy.inactive=none"),
    ("gdas", "strategy.rao=4"),
    ("nasp", "strategy.projection=clip"),
]
# of the cifar10 task only those options whose gradients pass a convolution or a BatchNorm in another way
RUNS = [
    *((task, *run) for task in ("toy", "ptb") for run in [*((name, None) for name in STRATEGIES), *OPTIONS]),
    *(("cifar10", name, None) for name in STRATEGIES),
    ("cifar10", "proxylessnas", "strategy.gates=binary"),
    ("cifar10", "darts", "strategy.second_order=true"),
]
QUICK = [
    ("toy", "enas", None),
    ("ptb", "parsec", "preset=authors_code"),
    ("cifar10", "darts", "strategy.second_order=true"),
]
SMALL = {"toy": SMALL_TOY, "ptb": [*SMALL_PTB, "task.data.root=text"], "cifar10": SMALL_CIFAR10}
OPERATIONS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"
EDGES = ["0->1", "0->2", "1->2", "0->3", "1->3", "2->3"]
CELL_EDGES = dict(zip(EDGES, re.findall(r"\w+(?=~)", CELL), strict=True))
HAS_NO_PROCESS_BEST = {"proxylessnas", "darts", "snas", "drnas", "random"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NASBENCH201_TABLE", raising=False)
    write_ptb(tmp_path / "text")
    write_images(tmp_path / "images")
    return tmp_path


def fixed(genotype: str, *more: str) -> list[str]:
    """Train an architecture on the small images."""
    return [*SMALL_CIFAR10, "strategy=fixed", f"strategy.genotype={genotype}", *more]


def only_run(folder: Path) -> Path:
    (run,) = runs(folder)
    return run


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def write_table(path: Path) -> dict[str, float]:
    """Made-up scores of all 15 625 cells: no two alike, in no order of the operations."""
    scores = {}
    for number, (a, b, c, d, e, f) in enumerate(itertools.product(OPERATIONS, repeat=6)):
        scores[f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"] = 10 + 7919 * number % 15625 / 200
    lines = [f"{cell},{score},{score / 2}" for cell, score in scores.items()]
    path.write_text("\n".join(["arch,cifar10_test,cifar100_test", *lines]) + "\n")
    return scores


def millions(cell: str) -> float:
    """Parameters of the benchmark's network with ``cell``, by its formula: weights of the kernels, and BatchNorms."""
    area = {"nor_conv_1x1": 1, "nor_conv_3x3": 9}
    kernels = [area[name] for name in re.findall(r"\w+(?=~)", cell) if name in area]
    return (73_306 + sum(5 * (k * c * c + 2 * c) for k in kernels for c in (16, 32, 64))) / 1e6


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
        "batch.json",
        ".hydra",
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
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
    rows = rows_of(run)
    # a test loss every 10 iterations, counted from 1, and one more from the final evaluation
    assert [row["step"] for row in rows if row["test/loss"]] == ["10", "20", "20"]
    assert [(row["step"], row["epoch"]) for row in rows if row["entropy"]] == [("10", "0"), ("20", "1")]
    assert all(row["architecture/loss"] for row in rows if row["entropy"])
    assert (run / "architecture.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert re.search(rf"edges right +{summary['edges_right']} of 10", printed)
    assert str(run.relative_to(folder)) in printed


@pytest.mark.slow
def test_a_name_means_the_same_in_every_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, *SMALL_TOY, "strategy=gdas")
    run = only_run(folder)
    summary, genotype, last = read(run, "summary.json"), read(run, "genotype.json"), rows_of(run)[-1]
    assert genotype["argmax"] != genotype["process_best"]
    found = {}
    for kind in ("argmax", "process_best"):
        launch(monkeypatch, *SMALL_TOY, "strategy=fixed", f"select={kind}", f"strategy.genotype={run}/genotype.json",
               f"hydra.run.dir={kind}")  # fmt: skip
        found[kind] = read(folder / kind, "summary.json")
        assert found[kind]["loss"] == found[kind]["test/loss"] == found[kind]["selected/test/loss"]
    for part in ("val", "test"):
        assert summary[f"{part}/loss"] == found["argmax"][f"{part}/loss"]
        assert summary[f"selected/{part}/loss"] == found["process_best"][f"{part}/loss"]
        assert float(last[f"selected/{part}/loss"]) == summary[f"selected/{part}/loss"]
    assert summary["loss"] == summary["selected/test/loss"]
    ends = [row for row in rows_of(run) if row["test/loss"]]
    assert float(ends[-1]["test/loss"]) == summary["test/loss"]
    assert [row["step"] for row in ends] == ["10", "20", "20"]
    assert last["step"] == "20"


@pytest.mark.parametrize(("task", "strategy", "option"), slow_but(RUNS, QUICK))
def test_every_strategy_and_option_on_every_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, task: str, strategy: str, option: str | None
) -> None:
    launch(monkeypatch, f"strategy={strategy}", *SMALL[task], *([option] if option else []))
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
    if task == "cifar10":
        assert 0 <= summary["test/accuracy"] <= 1
        assert math.isfinite(summary["test/loss"])
        assert ("process_best/arch" in summary) == one_hot


@pytest.mark.slow
def test_second_order_darts_needs_weights_and_runs_with_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        launch(monkeypatch, "strategy=darts", "strategy.second_order=true", *SMALL_TOY)
    assert "second_order=false" in capsys.readouterr().err
    launch(monkeypatch, "strategy=darts", "strategy.second_order=true", *SMALL_PTB, "task.data.root=text")
    assert only_run(folder)


@pytest.mark.parametrize("which", slow_but(["argmax", "process_best"], ["process_best"]))
def test_a_found_cell_is_retrained(folder: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    launch(monkeypatch, *SMALL_PTB, "task.data.root=text", "hydra.run.dir=search")
    path = folder / "search" / "genotype.json"
    content = json.loads(path.read_text())
    content["process_best"] = dict.fromkeys(content["argmax"], "zero")
    content["argmax"] = dict.fromkeys(content["argmax"], "tanh")
    path.write_text(json.dumps(content))
    launch(monkeypatch, "strategy=fixed", f"strategy.genotype={path}", f"select={which}", *SMALL_PTB,
           "task.data.root=text", "hydra.run.dir=retrained")  # fmt: skip
    summary = read(folder / "retrained", "summary.json")
    assert read(folder / "retrained", "genotype.json")["argmax"] == content[which]
    assert summary["architecture_steps"] == 0
    assert summary["weight_steps"] > read(folder / "search", "summary.json")["weight_steps"]  # every window is one
    words = 12  # 11 in the text, and <eos>
    cells = 4 * 8 * 8 + (6 * 2 * 8 * 8 if which == "argmax" else 0)
    assert summary["params_millions"] == pytest.approx((2 * words * 8 + cells) / 1e6)
    assert {"val/perplexity", "test/perplexity"} <= set(summary)


def test_a_fixed_architecture_is_evaluated_on_the_toy_task(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, "strategy=fixed", "strategy.genotype=run/genotype.json", *SMALL_TOY, "hydra.run.dir=fixed")
    assert read(Path("fixed"), "summary.json")["test/loss"] == read(toy, "summary.json")["test/loss"]


BAD = [
    (["strategy=magic"], "strategy=magic is unknown: use advantage"),
    (["task=imagenet"], "task=imagenet is unknown: use cifar10, ptb, toy"),
    (["trainer.max_epohcs=3"], "max_epohcs"),
    (["sede=1"], "sede"),
    (["seed=one"], "one"),
    (["strategy.gamma=fast"], "gamma=fast: give a number"),
    (["strategy.zero_op=worst"], "zero_op='worst'"),
    (["task.data.batches=-1"], "batches=-1"),
    (["trainer.max_epochs=many"], "many"),
    (["task.optimization.warmup_epochs=soon"], "warmup_epochs=soon: give a whole number"),
    (["task.optimization.architecture_optimizer.lr=-1"], "-1"),
    (["trainer.accelerator=abacus"], "abacus"),
    (["select=best"], "select=best: give argmax, process_best or null"),
    (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
    (["task=ptb", "task.data.root=nowhere"], "nowhere"),
    (["strategy=fixed"], "strategy.genotype"),
    (["strategy=fixed", "strategy.genotype=nowhere.json"], "nowhere.json"),
    (["strategy=fixed", "strategy.genotype=text/ptb.test.txt"], "not a genotype"),
    (["strategy=fixed", "strategy.genotype=wrong.json"], "filter99"),
    ([*SMALL_CIFAR10, "task.data.root=nowhere"], "nowhere has neither cifar-10-batches-py nor train/<class>/*"),
    ([*SMALL_CIFAR10, "task.data.root=images/train"], "images/train has neither"),
    ([*SMALL_CIFAR10, "task.data.split=half"], "split=half: give random or first_half"),
    ([*SMALL_CIFAR10, "task.data.batch_size=2.5"], "batch_size=2.5"),
    ([*SMALL_CIFAR10, "task.data.seed=one"], "seed=one: give a whole number"),
    ([*SMALL_CIFAR10, "task.data.root=mixed"], "task.data.image_size="),
    ([*SMALL_CIFAR10, "task.model.cells=0"], "cells=0"),
    ([*SMALL_CIFAR10, "task.table=nowhere.csv"], "no table at nowhere.csv"),
    ([*SMALL_CIFAR10, "task.table=text/ptb.test.txt"], "text/ptb.test.txt, line 1"),
    ([*SMALL_CIFAR10, "task/training=imagenet"], "task/training=imagenet is unknown: use nasbench201, search"),
    ([*SMALL_CIFAR10, "experiment=imagenet"], "experiment=imagenet is unknown: use cifar10_small"),
    (fixed(CELL.replace("skip_connect~1", "skip_connect~0")), "'skip_connect~0': edge 1->2"),
    (fixed(CELL.replace("avg_pool_3x3~0", "avg_pool_3x3")), "'avg_pool_3x3': edge 0->3"),
    (fixed(CELL.replace("skip_connect~1|+", "skip_connect~1+")), "'|nor_conv_3x3~0|skip_connect~1': node 2"),
    (fixed(CELL.replace("avg_pool_3x3", "max_pool_3x3")), "edge '0->3' has no candidate 'max_pool_3x3'"),
    (fixed(CELL.replace("avg_pool_3x3", "none")), "edge '0->3' has no candidate 'none'"),
    (fixed(CELL, "select=process_best"), "select='process_best'"),
    (fixed("text/ptb.test.txt"), "text/ptb.test.txt is not a genotype file"),
]


@pytest.mark.parametrize(("arguments", "says"), slow_but(BAD, BAD[::4]))
def test_bad_input_gives_one_clear_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (folder / "wrong.json").write_text(json.dumps({f"input->{node}": "filter99" for node in range(1, 11)}))
    if "task.data.root=mixed" in arguments:
        write_images(folder / "mixed")
        Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(folder / "mixed" / "test" / "red" / "0.png")
    small = [] if any(argument.startswith("task=") for argument in arguments) else SMALL_TOY
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *small, *arguments)
    assert stop.value.code not in (0, None)
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    ours = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(ours) <= 1
    assert ours == error.strip().splitlines() or "HYDRA_FULL_ERROR" in error  # our one line, or Hydra's own message


def test_a_cell_without_its_last_bar_is_ours_to_explain(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        launch(monkeypatch, *fixed(CELL.removesuffix("|")))
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip()
    assert re.match(r"error: .* is no NAS-Bench-201 cell because of '[^']*skip_connect~2'", error)
    assert "\n" not in error


@pytest.mark.slow
def test_a_multirun_gives_each_job_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, "-m", "strategy=advantage,reinforce,gdas", "seed=0,1", *SMALL_TOY)
    summaries = [read(run, "summary.json") for run in runs(folder / "multirun")]
    assert {(summary["strategy"], summary["seed"]) for summary in summaries} == {
        (strategy, seed) for strategy in ("advantage", "reinforce", "gdas") for seed in (0, 1)
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ptb", "cifar10"])
def test_resuming_continues_bit_for_bit(folder: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    arguments = [*SMALL[task], "task.epochs=4"]
    launch(monkeypatch, *arguments, "hydra.run.dir=whole")
    # A run of 4 epochs that ends after 2, so that its schedules are those of the whole run.
    launch(monkeypatch, *arguments, "hydra.run.dir=part", "trainer.max_epochs=2",
           "task.optimization.weight_scheduler.T_max=4",
           f"task.optimization.architecture_scheduler.T_max={4 if task == 'ptb' else 3}")  # fmt: skip
    launch(monkeypatch, *arguments, "hydra.run.dir=rest", "ckpt_path=part/checkpoints/last.ckpt")
    whole, rest = (torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "rest"))
    assert whole["state_dict"].keys() == rest["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, rest["state_dict"][name]), name
    assert read(folder / "whole", "genotype.json") == read(folder / "rest", "genotype.json")
    ours, theirs = (read(folder / name, "summary.json") for name in ("whole", "rest"))
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


SHORTENING = ["trainer.fast_dev_run=2", "trainer.overfit_batches=3", "trainer.max_time=00:01:00:00"]


@pytest.mark.parametrize("argument", slow_but(SHORTENING, SHORTENING[:1]))
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


# -- cifar10 ---------------------------------------------------------------------------------------------------------


def test_a_cifar10_run_is_scored_by_a_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_table(folder / "cells.csv")
    launch(monkeypatch, *SMALL_CIFAR10, "task.epochs=3", "task.table=cells.csv")
    run = only_run(folder)
    assert run.parent == folder / "outputs" / "cifar10" / "advantage"
    assert {path.name for path in run.iterdir()} == {
        "genotype.json", "summary.json", "metrics.csv", "checkpoints", "architecture.png", "batch.json", ".hydra"
    }  # fmt: skip
    genotype, summary = read(run, "genotype.json"), read(run, "summary.json")
    assert list(genotype["argmax"]) == list(genotype["process_best"]) == EDGES
    assert summary.items() >= {
        "strategy": "advantage", "task": "cifar10", "selected": "argmax", "epochs": 3, "weight_steps": 9,
        "architecture_steps": 6,
    }.items()  # fmt: skip
    assert summary["loss"] == summary["test/loss"] == summary["selected/test/loss"]
    assert not any(isinstance(value, dict | list) for value in summary.values())

    rows = rows_of(run)
    epochs = {
        name: [int(row["epoch"]) for row in rows if row[name] and int(row["epoch"]) < 3]
        for name in rows[0]
        if name not in ("step", "epoch")
    }
    every, searching = [0, 1, 2], [1, 2]  # θ moves after an epoch of warm-up
    assert {name: epochs[name] for name in epochs if not name.startswith(("test/", "selected/"))} == {
        "train/loss": every, "train/accuracy": every, "val/loss": every, "val/accuracy": every, "entropy": every,
        "seconds": every, "architecture/loss": searching, "nasbench201/argmax": every,
        "nasbench201/process_best": searching,
    }  # fmt: skip
    assert {row["step"] for row in rows if row["epoch"] == "1"} == {"6"}
    accuracies = [float(row[name]) for row in rows for name in row if name.endswith("/accuracy") and row[name]]
    assert all(min(abs(18 * accuracy - right) for right in range(19)) < 1e-4 for accuracy in accuracies)  # of 18 images
    assert summary["val/accuracy"] == float([row for row in rows if row["val/accuracy"]][-1]["val/accuracy"])

    printed = capsys.readouterr().out
    for kind, published in (("argmax", "93.76 ± 0.00"), ("process_best", "93.29 ± 0.21")):
        cell = summary[f"{kind}/arch"]
        assert dict(zip(EDGES, re.findall(r"\w+(?=~)", cell), strict=True)) == genotype[kind]
        assert summary[f"{kind}/cifar10_test"] == scores[cell]
        assert summary[f"{kind}/cifar100_test"] == scores[cell] / 2
        rank = 1 + sum(score > scores[cell] for score in scores.values())
        assert summary[f"{kind}/rank"] == rank
        assert summary[f"{kind}/params_millions"] == pytest.approx(millions(cell), abs=1e-9)
        logged = [row[f"nasbench201/{kind}"] for row in rows if row[f"nasbench201/{kind}"]]
        assert float(logged[-1]) == pytest.approx(scores[cell], rel=1e-6)
        name = WORDS[kind]
        assert re.search(rf"^{name} +{re.escape(cell)}$", printed, re.MULTILINE)
        beside = rf"the paper's {published} % \(rank {rank} of 15625\)"
        assert re.search(rf"^{name}, CIFAR-10 test +{scores[cell]:.2f} %, {beside}$", printed, re.MULTILINE)
        assert re.search(rf"^{name}, CIFAR-100 test +{scores[cell] / 2:.2f} %$", printed, re.MULTILINE)


@pytest.mark.slow
def test_without_a_table_there_is_the_cell_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(monkeypatch, *SMALL_CIFAR10, "strategy=reinforce")
    run = only_run(folder)
    summary, printed = read(run, "summary.json"), capsys.readouterr().out
    assert not any(name.startswith("nasbench201") for name in rows_of(run)[0])
    for kind in ("argmax", "process_best"):
        assert {name for name in summary if name.startswith(f"{kind}/")} == {
            f"{kind}/arch", f"{kind}/params_millions", f"{kind}/macs_millions"
        }  # fmt: skip
        assert summary[f"{kind}/params_millions"] == pytest.approx(millions(summary[f"{kind}/arch"]), abs=1e-9)
        assert summary[f"{kind}/arch"] in printed
    assert "rank" not in printed
    assert "the paper's" not in printed  # there is nothing to stand beside, and the images may be others


@pytest.mark.slow
def test_the_table_may_be_named_by_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = write_table(folder / "cells.csv")
    monkeypatch.setenv("NASBENCH201_TABLE", str(folder / "cells.csv"))
    launch(monkeypatch, *fixed(CELL, "task.retrain_epochs=1"))
    run = only_run(folder)
    assert read(run, "summary.json")["argmax/cifar10_test"] == scores[CELL]
    logged = [float(row["nasbench201/argmax"]) for row in rows_of(run) if row["nasbench201/argmax"]]
    assert logged == pytest.approx([scores[CELL]])
    monkeypatch.setenv("NASBENCH201_TABLE", "")  # names none
    launch(monkeypatch, *fixed(CELL, "task.retrain_epochs=1", "hydra.run.dir=unscored"))
    assert "argmax/cifar10_test" not in read(folder / "unscored", "summary.json")


def test_the_zero_operation_is_searched_and_scored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_table(folder / "cells.csv")
    launch(monkeypatch, *SMALL_CIFAR10, "task.zero_op=true", "task.table=cells.csv")
    run = only_run(folder)
    summary, printed = read(run, "summary.json"), capsys.readouterr().out
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["_extra_state"]["space"] == dict.fromkeys(EDGES, OPERATIONS)
    for kind, published in (("argmax", "93.63 ± 0.18"), ("process_best", "93.18 ± 0.19")):
        assert summary[f"{kind}/cifar10_test"] == scores[summary[f"{kind}/arch"]]
        assert f"{published} %" in printed


@pytest.mark.slow
def test_a_cell_is_trained_however_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"selected": "argmax", "argmax": CELL_EDGES, "process_best": None}
    (folder / "genotype.json").write_text(json.dumps(content))
    found = []
    for index, genotype in enumerate((CELL, f"'{json.dumps(CELL_EDGES)}'", "genotype.json")):
        launch(monkeypatch, *fixed(genotype, f"hydra.run.dir=run{index}"))
        run = folder / f"run{index}"
        assert read(run, "genotype.json") == content
        summary = read(run, "summary.json")
        assert summary["argmax/arch"] == CELL
        assert summary.items() >= {"task": "cifar10", "strategy": "fixed", "architecture_steps": 0}.items()
        assert summary["weight_steps"] == 2 * 6  # all 36 training images in each of two epochs
        found.append(summary["test/loss"])
    assert found[0] == found[1] == found[2]


def test_a_cell_is_trained_as_the_benchmark_did(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(monkeypatch, *fixed(CELL, "task/training=nasbench201"))
    run = only_run(folder)
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    norms = [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]
    assert len(norms) == 3 * 3 + 2 * 2 + 2  # the cells' convolutions, the blocks between them, the stem and the head
    for norm in norms:
        assert {f"{norm}weight", f"{norm}bias"} <= set(weights)
        assert weights[f"{norm}running_mean"].ne(0).any()
        assert weights[f"{norm}num_batches_tracked"] == 12
    summary = read(run, "summary.json")
    assert not any(name.startswith("val/") for name in [*summary, *rows_of(run)[0]])
    assert 0 <= summary["test/accuracy"] <= 1
    assert re.search(rf"^test accuracy +{summary['test/accuracy']:.6g}$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_a_sweep_over_cells(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = CELL.replace("avg_pool_3x3", "nor_conv_1x1")
    launch(monkeypatch, "-m", *fixed(f"{CELL},{other}"))
    cells = [read(run, "summary.json")["argmax/arch"] for run in runs(folder / "multirun")]
    assert cells == [CELL, other]


def test_the_small_experiment_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink = [argument for argument in SMALL_CIFAR10 if argument not in ("task=cifar10", "task.model.cells=1")]
    launch(monkeypatch, "experiment=cifar10_small", "strategy=gdas", *shrink)
    run = only_run(folder)
    assert run.parent == folder / "outputs" / "cifar10" / "gdas"
    assert read(run, "summary.json")["architecture_steps"] == 3
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    cells = {tuple(name.split(".")[2:4]) for name in weights if name.startswith("model.stages.")}
    assert cells == set(itertools.product("012", "0"))  # one in each of three stages


@pytest.mark.parametrize("strategy", slow_but(["advantage", "parsec", "darts"], ["advantage"]))
def test_mixed_precision_on_images(folder: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    launch(monkeypatch, *SMALL_CIFAR10, f"strategy={strategy}", "trainer.precision=bf16-mixed")
    run = only_run(folder)
    summary = read(run, "summary.json")
    assert (summary["weight_steps"], summary["architecture_steps"]) == (6, 3)
    assert math.isfinite(summary["test/loss"])
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert weights["theta"].dtype == torch.float32
    assert not torch.equal(weights["theta"], torch.ones_like(weights["theta"]))


@pytest.mark.parametrize("precision", slow_but(["bf16-true", "64-true"], ["bf16-true"]))
def test_true_precision_on_images(folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    launch(monkeypatch, *SMALL_CIFAR10, f"trainer.precision={precision}")
    assert math.isfinite(read(only_run(folder), "summary.json")["test/loss"])


@pytest.mark.slow
def test_images_may_be_of_any_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (folder / "images").rglob("*.png"):
        Image.open(path).resize((10, 7)).save(path)  # neither can be halved twice
    launch(monkeypatch, *SMALL_CIFAR10, "strategy=parsec")
    assert math.isfinite(read(only_run(folder), "summary.json")["test/loss"])


@pytest.mark.slow
def test_images_of_several_sizes_are_resized_as_the_error_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((9, 10, 3), dtype=np.uint8)).save(folder / "images" / "train" / "red" / "0.png")
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_CIFAR10)
    (advice,) = re.findall(r"with (\S+)=PIXELS", capsys.readouterr().err)
    launch(monkeypatch, *SMALL_CIFAR10, f"{advice}=8")
    assert only_run(folder)
