"""The cells that were found, looked up in the benchmark's table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

from advnas_lightning import Genotype, SearchStrategy
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.cifar10.scores import CellScores
from tests.support.findings import search_that_found


def cell(*operations: str) -> Genotype:
    return Genotype(dict(zip(("0->1", "0->2", "1->2", "0->3", "1->3", "2->3"), operations, strict=True)))


ARGMAX = cell("nor_conv_3x3", "nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "skip_connect")
BEST = cell("skip_connect", "nor_conv_3x3", "skip_connect", "nor_conv_3x3", "nor_conv_3x3", "skip_connect")
OTHER = cell(*["skip_connect"] * 6)
ALL_3X3 = cell(*["nor_conv_3x3"] * 6)


def searched_cells(argmax: Genotype = ARGMAX, best: Genotype | None = BEST) -> SearchStrategy:
    return search_that_found(NASBench201(cells=1, channels=2), argmax, best)


@pytest.fixture(scope="module")
def found_cells() -> SearchStrategy:
    return searched_cells()


def table(
    path: Path, rows: Mapping[Genotype, tuple[float, ...]], columns: str = "cifar10_test,imagenet16_test"
) -> Path:
    lines = [",".join([genotype.to_nasbench201(), *map(str, scores)]) for genotype, scores in rows.items()]
    path.write_text("\n".join([f"arch,{columns}", *lines]) + "\n")
    return path


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What a search logs, call by call."""
    calls: list[dict[str, float]] = []

    def log_now(self: SearchStrategy, metrics: dict[str, float], **_: Any) -> None:
        calls.append(dict(metrics))

    monkeypatch.setattr(SearchStrategy, "log_now", log_now)
    return calls


def test_both_cells_are_looked_up(tmp_path: Path, logged: list[dict[str, float]]) -> None:
    rows = {OTHER: (80.0, 20.0), ARGMAX: (92.25, 44.5), BEST: (93.5, 41.0), ALL_3X3: (92.25, 45.0)}
    scores, search = CellScores(table(tmp_path / "cells.csv", rows), strategy="advantage"), searched_cells()
    scores.on_train_epoch_end(Trainer(logger=False, enable_checkpointing=False), search)
    assert logged == [{"nasbench201/argmax": 92.25, "nasbench201/process_best": 93.5}]
    summary = scores.summary(search)
    assert summary == {
        "argmax/arch": ARGMAX.to_nasbench201(),
        "argmax/params_millions": pytest.approx(0.587386),
        "argmax/macs_millions": pytest.approx(82.49408),
        "argmax/cifar10_test": 92.25,
        "argmax/imagenet16_test": 44.5,
        "argmax/rank": 2,  # with another cell of the same score
        "process_best/arch": BEST.to_nasbench201(),
        "process_best/params_millions": pytest.approx((73306 + 3 * (1_531_546 - 73306) / 6) / 1e6),
        "process_best/macs_millions": summary["process_best/macs_millions"],
        "process_best/cifar10_test": 93.5,
        "process_best/imagenet16_test": 41.0,
        "process_best/rank": 1,
    }
    lines = scores.lines(search)
    size = "0.587 M parameters, 82.5 M multiply-accumulates"
    assert lines.pop("process-best, size").startswith("0.802 M parameters, ")
    assert lines == {
        "arg max": ARGMAX.to_nasbench201(),
        "arg max, CIFAR-10 test": "92.25 %, the paper's 93.76 ± 0.00 % (rank 2 of 4)",
        "arg max, ImageNet16-120 test": "44.50 %",
        "arg max, size": size,
        "process-best": BEST.to_nasbench201(),
        "process-best, CIFAR-10 test": "93.50 %, the paper's 93.29 ± 0.21 % (rank 1 of 4)",
        "process-best, ImageNet16-120 test": "41.00 %",
    }
    assert scores.columns(search) == {}


def test_a_cell_that_a_table_does_not_know_has_a_line(tmp_path: Path, logged: list[dict[str, float]]) -> None:
    scores = CellScores(table(tmp_path / "cells.csv", {OTHER: (80.0, 20.0), BEST: (93.5, 41.0)}))
    search = searched_cells()
    scores.on_train_epoch_end(Trainer(logger=False, enable_checkpointing=False), search)
    assert logged == [{"nasbench201/process_best": 93.5}]
    summary, lines = scores.summary(search), scores.lines(search)
    assert {name for name in summary if name.startswith("argmax/")} == {
        "argmax/arch", "argmax/params_millions", "argmax/macs_millions"
    }  # fmt: skip
    assert summary["process_best/rank"] == 1
    assert lines["arg max, scores"] == "the table has no such cell"
    assert list(lines) == [
        "arg max",
        "arg max, scores",
        "arg max, size",
        "process-best",
        "process-best, CIFAR-10 test",
        "process-best, ImageNet16-120 test",
        "process-best, size",
    ]


def test_a_table_without_cifar10_gives_what_it_has(tmp_path: Path, logged: list[dict[str, float]]) -> None:
    path = table(tmp_path / "cells.csv", {ARGMAX: (44.5,)}, columns="imagenet16_test")
    scores, search = CellScores(path, strategy="gdas"), searched_cells(best=None)
    scores.on_train_epoch_end(Trainer(logger=False, enable_checkpointing=False), search)
    assert all(not call for call in logged)
    assert scores.summary(search)["argmax/imagenet16_test"] == 44.5
    assert "argmax/rank" not in scores.summary(search)
    assert list(scores.lines(search)) == ["arg max", "arg max, ImageNet16-120 test", "arg max, size"]


def test_without_a_table_there_are_no_scores(logged: list[dict[str, float]]) -> None:
    scores, search = CellScores(strategy="enas"), searched_cells(ALL_3X3, None)
    scores.on_train_epoch_end(Trainer(logger=False, enable_checkpointing=False), search)
    assert all(not call for call in logged)
    assert scores.summary(search) == {
        "argmax/arch": ALL_3X3.to_nasbench201(),
        "argmax/params_millions": pytest.approx(1.531546),  # Table 2's 1.53
        "argmax/macs_millions": scores.summary(search)["argmax/macs_millions"],
    }
    assert scores.lines(search) == {
        "arg max": ALL_3X3.to_nasbench201(),
        "arg max, size": "1.53 M parameters, 220 M multiply-accumulates",
    }


@pytest.mark.parametrize(
    ("strategy", "zero_op", "published"),
    [
        ("reinforce", False, ["93.01 ± 0.47", "92.69 ± 0.52"]),
        ("parsec", False, ["93.68 ± 0.12", "92.51 ± 0.65"]),
        ("proxylessnas", False, ["93.22 ± 0.08"]),
        ("gdas", False, ["93.46 ± 0.13", "92.53 ± 0.98"]),
        ("advantage", False, ["93.76 ± 0.00", "93.29 ± 0.21"]),
        ("reinforce", True, ["65.15 ± 39.00", "91.40 ± 0.45"]),
        ("parsec", True, ["92.67 ± 0.55", "91.75 ± 0.57"]),
        ("proxylessnas", True, ["10.00 ± 0.00"]),
        ("gdas", True, ["88.62 ± 0.00", "92.82 ± 0.71"]),
        ("advantage", True, ["93.63 ± 0.18", "93.18 ± 0.19"]),
        ("darts", False, []),
        ("fixed", True, []),
    ],
)
def test_the_papers_own_figures_stand_beside_ours(
    tmp_path: Path, strategy: str, zero_op: bool, published: list[str], found_cells: SearchStrategy
) -> None:
    scores = table(tmp_path / "cells.csv", {ARGMAX: (92.25, 44.5), BEST: (93.5, 41.0)})
    lines = CellScores(scores, strategy=strategy, zero_op=zero_op).lines(found_cells)
    found = [match for value in lines.values() for match in re.findall(r"the paper's (.*) % \(", value)]
    assert found == published


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no table at .*nowhere\.csv"):
        CellScores(tmp_path / "nowhere.csv")
