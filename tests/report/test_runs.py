"""Run folders as they are found: whole, unfinished, failed, broken, missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from advnas_lightning.report.collection import collect
from advnas_lightning.report.groups import group
from advnas_lightning.report.runs import read_run
from tests.support.made_up_runs import write_run


def test_runs_and_multiruns_may_be_mixed_and_named_twice(tmp_path: Path) -> None:
    alone = write_run(tmp_path / "outputs" / "one")
    for seed in (1, 2):
        write_run(tmp_path / "multirun" / "cifar10" / str(seed), seed=seed)
    found = collect([tmp_path / "multirun", alone, tmp_path, alone / "summary.json"])
    assert [run.folder.name for run in found.runs] == ["1", "2", "one"]
    assert found.broken == ()


def test_a_finished_run_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, strategy="gdas", seed=3, zero_op=True, epochs=4, score=93.0))
    assert (run.strategy, run.task, run.seed, run.zero_op, run.state, run.epochs) == (
        "gdas", "cifar10", 3, True, "finished", 4
    )  # fmt: skip
    assert run.setting("trainer.max_epochs") == 4  # which refers to task.epochs
    accuracy = run.curves["nasbench201/argmax"]
    assert accuracy.x.tolist() == [1, 2, 3, 4]
    assert accuracy.y[-1] == 93.0
    assert run.number("argmax/cifar10_test") == 93.0
    assert run.overrides == ("strategy=gdas", "seed=3")
    assert {"summary.json", ".hydra/config.yaml", "checkpoints/last.ckpt"} <= set(run.files)


def test_the_evaluation_at_the_end_is_no_point_of_the_toy_curve(tmp_path: Path) -> None:
    curve = read_run(write_run(tmp_path, task="toy", epochs=2)).curves["test/loss"]
    assert curve.x.tolist() == list(range(10, 201, 10))
    assert curve.y.max() < 0.5


def test_a_run_that_goes_on_is_no_problem(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "going", epochs=10, done=4)
    with (folder / "metrics.csv").open("a") as file:
        file.write("1.2,4,")  # the row that is being written
    run = read_run(folder)
    assert (run.state, run.epochs, run.problems, run.strategy) == ("unfinished", 4, (), "advantage")
    begun = write_run(tmp_path / "begun", done=0)
    for name in ("metrics.csv", "genotype.json"):
        (begun / name).unlink()
    run = read_run(begun)
    assert (run.state, run.epochs, run.problems) == ("unfinished", 0, ())
    (begun / "error.txt").write_text("it fell over")
    assert read_run(begun).state == "failed"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("summary.json", "{", "summary.json: it is no JSON"),
        ("summary.json", "[1]", "summary.json: it is no JSON object"),
        ("genotype.json", '{"argmax": 3}', "genotype.json: it has no architecture"),
        ("genotype.json", "\udcff", "genotype.json: it is no text"),
        ("metrics.csv", "entropy,epoch\n1.0,0\nwhat,1\n", "metrics.csv: line 3 is broken"),
    ],
)
def test_a_broken_file_is_named_and_the_rest_used(tmp_path: Path, name: str, content: str, says: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    found = collect([tmp_path])
    assert [run.folder for run in found.runs] == [folder]
    ((place, reason),) = found.broken
    assert place == folder
    assert says in reason
    assert len(found.runs[0].curves) >= 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (".hydra/config.yaml", None, "is missing"),
        (".hydra/config.yaml", "a: [", "it is no YAML"),
        (".hydra/config.yaml", "text", "it is no mapping"),
        (".hydra/config.yaml", "seed: five\n", "seed='five'"),
    ],
)
def test_a_folder_of_no_use_is_skipped_and_named(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    write_run(tmp_path / "good")
    folder = write_run(tmp_path / "bad", done=1)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    found = collect([tmp_path, tmp_path / "nowhere"])
    assert [run.folder.name for run in found.runs] == ["good"]
    assert [place.name for place, _ in found.skipped] == ["bad", "nowhere"]
    assert says in found.skipped[0][1]


def test_runs_with_other_settings_are_other_groups(tmp_path: Path) -> None:
    write_run(tmp_path / "0", seed=0)
    write_run(
        tmp_path / "1", seed=1, settings={"task.table": "x.csv", "trainer.devices": 2}
    )  # no difference to speak of
    write_run(tmp_path / "2", seed=2, settings={"strategy.advantage": "exact"})
    write_run(tmp_path / "3", seed=3, settings={"strategy.advantage": "taylor"})
    write_run(tmp_path / "4", seed=0, epochs=5, settings={"strategy.advantage": "taylor"})
    groups = group(collect([tmp_path]).runs)
    assert [(each.variant, [run.seed for run in each.runs]) for each in groups] == [
        ("5 epochs", [0]),
        ("10 epochs", [0, 1]),
        ("10 epochs, exact advantage", [2]),
        ("10 epochs (2)", [3]),  # taylor is the paper's; the first two runs, of an older version, do not say
    ]


def test_of_runs_with_one_seed_the_last_finished_one_counts(tmp_path: Path) -> None:
    write_run(tmp_path / "a", score=90.0)
    write_run(tmp_path / "b", score=91.0)
    write_run(tmp_path / "c", done=3)
    (each,) = group(collect([tmp_path]).runs)
    assert [run.folder.name for run in each.runs] == ["b"]
