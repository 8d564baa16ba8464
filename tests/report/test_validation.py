"""Validation accuracies of a benchmark have figures, tables and words of their own, apart from test accuracies."""

from __future__ import annotations

from pathlib import Path

import pytest

from advnas_lightning.cli.sweep_jobs import Measure
from advnas_lightning.report.collection import collect
from advnas_lightning.report.figures import make_plots
from advnas_lightning.report.findings import find, score_of
from advnas_lightning.report.palette import styles
from advnas_lightning.report.paper_tables import build_table
from advnas_lightning.report.plans import TABLES
from advnas_lightning.report.plots import Plot
from tests.support.made_up_runs import write_run

PLANS = {plan.name: plan for plan in TABLES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        write_run(path / f"test{seed}", seed=seed, score=93.0)
        write_run(path / f"valid{seed}", seed=seed, strategy="gdas", score=90.0, images="valid")
    return path


def test_figures_are_apart(folder: Path) -> None:
    plots: dict[str, Plot] = {plot.name: plot for plot in make_plots(collect([folder]).runs)}
    for name, word, strategy in (("fig2", "test", "advantage"), ("fig2_validation", "validation", "gdas")):
        for suffix in ("", "_time"):
            plot = plots[name + suffix]
            assert list(plot.strategies) == [strategy]
            assert f"{word} accuracy by" in plot.title
            assert plot.caption.startswith(f"{word.capitalize()} accuracy in NAS-Bench-201")
            assert next(axes.get_ylabel() for axes in plot.figure.axes if axes.get_ylabel()) == f"{word} accuracy (%)"
    assert plots["fig2_validation"].remark == "Figure 2 of the paper, with validation accuracies"


def test_tables_are_apart_and_the_papers_numbers_stand_beside_test(folder: Path) -> None:
    runs = collect([folder]).runs
    tested, validated = (build_table(PLANS[name], runs) for name in ("table2", "table2_validation"))
    assert tested is not None
    assert validated is not None
    assert "90.00" not in tested.to_csv()
    assert "93.00" not in validated.to_csv()
    assert "93.76" in tested.to_markdown()
    assert "paper" not in [column.title for column in validated.columns]
    assert "validation accuracy of the arg max (%)" in {column.group for column in validated.columns}


def test_only_one_of_both_is_compared(folder: Path) -> None:
    runs = collect([folder]).runs
    both = score_of("cifar10", runs)
    assert both is not None
    assert both.key == "argmax/cifar10_test"
    alone = score_of("cifar10", [run for run in runs if run.strategy == "gdas"])
    assert alone is not None
    assert alone.text(90.0) == "90.00 % validation accuracy"


def test_the_summary_compares_validation_apart(folder: Path) -> None:
    runs = collect([folder]).runs
    found = find(runs, styles(run.strategy for run in runs))
    assert sorted(each.best for each in found) == [
        "AdvantageNAS: 93.00 % test accuracy on average over 2 seeds.",
        "GDAS: 90.00 % validation accuracy on average over 2 seeds.",
    ]


def test_a_sweep_names_the_images() -> None:
    measure = Measure.of({"selected": "argmax", "argmax/cifar10_valid": 90.0, "loss": 1})
    assert measure == Measure("benchmark validation accuracy, %", 90.0, True)
