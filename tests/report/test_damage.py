"""A damaged run is named in one line and left out as far as it is damaged, and the others are reported."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from advnas_lightning.report.__main__ import main
from advnas_lightning.report.collection import Collection, collect
from tests.support.made_up_runs import write_run
from tests.support.speed import slow_but

Damage = Callable[[Path], None]
CONFIG = ".hydra/config.yaml"
FILES = ("summary.json", "genotype.json", "metrics.csv", CONFIG, ".hydra/hydra.yaml", ".hydra/overrides.yaml")


def content(value: bytes | str) -> Damage:
    return lambda path: (path.unlink(), path.write_bytes(value if isinstance(value, bytes) else value.encode()))  # type: ignore[return-value]


def instead(make: Damage) -> Damage:
    return lambda path: (path.unlink(), make(path))  # type: ignore[func-returns-value, return-value]


def grow(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def dangling(path: Path) -> None:
    os.symlink("nowhere", path)


def loop(path: Path) -> None:
    os.symlink(path.name, path)


def device(path: Path) -> None:
    os.symlink("/dev/zero", path)


NO_FILES: dict[str, Damage] = {
    "pipe": instead(os.mkfifo),
    "folder": instead(Path.mkdir),
    "dangling": instead(dangling),
    "loop": instead(loop),
    "device": instead(device),
    "huge": instead(grow),
    "binary": content(bytes(range(256))),
    "utf-16": content("{}".encode("utf-16")),
}
NO_JSON: dict[str, Damage] = {
    "empty": content(""),
    "zeros": content(100 * b"\0"),
    "deep": content(100_000 * "["),
    "deep objects": content(100_000 * '{"a":'),
    "deep value": content('{"a": ' + 500 * "[" + 500 * "]" + "}"),
    "list": content("[]"),
    "not a number": content("NaN"),
    "large": content('{"epochs": 1' + 400 * "0" + "}"),
    "larger": content('{"epochs": 1' + 5000 * "0" + "}"),
    "twice": content('{"seed": 0, "seed": 1}'),
}
NO_YAML: dict[str, Damage] = {
    "zeros": content(100 * b"\0"),
    "deep": content("a: " + 100_000 * "["),
    "deep value": content("a: " + 500 * "[" + 500 * "]"),
    "aliases": content("a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]"),
    "itself": content("a: &a [*a]"),
    "code": content("!!python/object/apply:os.mkdir [HACKED]"),
    "no truth": content("a: !!bool x"),
    "no date": content("a: 9999-99-99"),
    "large": content("seed: 0x" + 5000 * "f"),
    "twice": content("seed: 0\nseed: 1"),
}
CASES = [
    *((file, name, damage) for file in FILES for name, damage in NO_FILES.items()),
    *((file, name, damage) for file in FILES[:2] for name, damage in NO_JSON.items()),
    *((file, name, damage) for file in FILES[3:] for name, damage in NO_YAML.items()),
]


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[str, Damage], Collection]:
    """``damaged(file, damage)``: what is found of a good run and one with that damage."""

    def make(file: str, damage: Damage) -> Collection:
        write_run(tmp_path / "good", strategy="gdas")
        damage(write_run(tmp_path / "bad") / file)
        found = collect([tmp_path])
        assert "good" in [run.folder.name for run in found.runs]
        assert {place.name for place, _ in found.broken} <= {"bad"}
        for _, reason in found.broken:
            assert len(reason.splitlines()) == 1
        return found

    return make


@pytest.mark.parametrize(("file", "damage"), [(f, d) for f, _, d in CASES], ids=[f"{f}-{n}" for f, n, _ in CASES])
def test_a_damaged_file_is_one_line(
    file: str, damage: Damage, damaged: Callable[[str, Damage], Collection], tmp_path: Path
) -> None:
    found = damaged(file, damage)
    if file == ".hydra/hydra.yaml":  # which the summary of a finished run makes superfluous
        assert found.broken == ()
        (tmp_path / "bad" / "summary.json").unlink()
        found = collect([tmp_path])
    ((_, reason),) = found.broken
    assert file in reason
    is_lost = file in (CONFIG, ".hydra/hydra.yaml")
    assert [run.folder.name for run in found.runs] == (["good"] if is_lost else ["bad", "good"])
    assert not (Path.cwd() / "HACKED").exists()


@pytest.mark.parametrize("value", [-1, 1.5, "1", None, [], 10**8, 2**64, float("nan"), float("inf")])
def test_a_summary_with_no_number_of_epochs_is_left_out(
    value: Any, damaged: Callable[[str, Damage], Collection]
) -> None:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), "epochs": value}))

    found = damaged("summary.json", change)
    ((_, reason),) = found.broken
    assert reason == f"summary.json: epochs={value!r} is no number of epochs"
    assert [run.state for run in found.runs] == ["unfinished", "finished"]


@pytest.mark.parametrize("seed", [True, 1.5, "x", None, []])
def test_a_seed_that_is_none_is_named(seed: Any, damaged: Callable[[str, Damage], Collection]) -> None:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), "seed": seed}))

    ((_, reason),) = damaged("summary.json", change).broken
    assert reason == f"{CONFIG}: seed={seed!r} is no whole number"


def change_column(column: str, value: str, rows: slice) -> Damage:
    def change(path: Path) -> None:
        table = list(csv.reader(path.read_text().splitlines()))
        for row in table[1:][rows]:
            row[table[0].index(column)] = value
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)

    return change


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-2", "1e31", "1e400", "x", "99999999"])
def test_an_epoch_that_is_none_ends_a_curve(value: str, damaged: Callable[[str, Damage], Collection]) -> None:
    found = damaged("metrics.csv", change_column("epoch", value, slice(4, 5)))
    ((_, reason),) = found.broken
    assert reason == "metrics.csv: line 6 is broken, and what follows is left out"
    assert len(found.runs[0].curves["entropy"].x) == 2


def test_a_field_that_is_too_long_ends_a_curve(damaged: Callable[[str, Damage], Collection]) -> None:
    found = damaged("metrics.csv", change_column("entropy", 200_000 * "9", slice(4, 5)))
    ((_, reason),) = found.broken
    assert reason.startswith("metrics.csv: line 6 is broken")


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("value", slow_but(["nan", "inf", "-inf", "1e308", "1e400", "-1e31"], ["nan"]))
def test_a_value_that_no_figure_can_show_is_a_gap(value: str, tmp_path: Path) -> None:
    for column in ("entropy", "nasbench201/argmax", "seconds"):
        for rows in (slice(2, 3), slice(None)):
            run = write_run(tmp_path / "runs" / f"{column[:3]} {rows.stop}", seed=len(column))
            change_column(column, value, rows)(run / "metrics.csv")
    main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")])
    assert (tmp_path / "report" / "fig4.png").exists()
    assert all(not run.problems for run in collect([tmp_path / "runs"]).runs)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    "value",
    slow_but([1e308, math.inf, "x", -1e308, math.nan, -1, 0, None, True, [], {}, 2**64], ["x"]),
)
def test_any_result_is_reported(value: Any, tmp_path: Path) -> None:
    for seed, key in enumerate(("seconds", "argmax/cifar10_test", "argmax/params_millions", "loss")):
        for strategy in ("advantage", "gdas"):
            path = write_run(tmp_path / "runs" / f"{strategy}{seed}", strategy=strategy, seed=seed, timed=False)
            summary = json.loads((path / "summary.json").read_text())
            (path / "summary.json").write_text(json.dumps({**summary, key: value}))
    main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")])
    assert (tmp_path / "report" / "report.html").exists()


def test_a_result_that_is_not_finite_is_one_and_a_loss_that_was_not_measured_is_none(tmp_path: Path) -> None:
    write_run(tmp_path, summary={"selected/test/loss": None, "loss": None})
    (run,) = collect([tmp_path]).runs
    assert math.isnan(run.number("selected/test/loss") or 0.0)
    assert run.number("loss") is None


def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "good")
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # root may look into all
    found = collect([tmp_path])
    assert [(place.name, reason) for place, reason in found.skipped] == [("locked", "Permission denied")]
    assert len(found.runs) == 1


def test_a_place_whose_name_is_too_long_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    found = collect([tmp_path, tmp_path / (300 * "x")])
    assert [reason for _, reason in found.skipped] == ["File name too long"]


def test_a_retraining_whose_origin_cannot_be_looked_at_is_left_out(tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    for index, origin in enumerate((300 * "x", str(tmp_path / "loop"), "a\0b", "/dev/null")):
        write_run(tmp_path / str(index), task="ptb", strategy="fixed", settings={"strategy.genotype": origin})
        path = tmp_path / str(index) / ".hydra" / "hydra.yaml"
        hydra = yaml.safe_load(path.read_text())
        hydra["hydra"]["runtime"]["cwd"] = index
        path.write_text(yaml.safe_dump(hydra))
    main([str(tmp_path), "--output", str(tmp_path / "report")])
    assert not (tmp_path / "report" / "table3.csv").exists()
