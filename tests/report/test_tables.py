"""Tables against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

import numpy as np
import pytest

from advnas_lightning.published import PARAMETERS_2, TABLE_3
from advnas_lightning.report.collection import collect
from advnas_lightning.report.paper_tables import build_table
from advnas_lightning.report.plans import TABLES
from advnas_lightning.report.statistics import bootstrap_interval, mean_and_deviation, paired, quartiles
from advnas_lightning.report.tables import Table
from tests.support.made_up_runs import write_run

OURS = {"advantage": [93.0, 93.5, 94.0], "gdas": [92.0, 93.0, 94.5], "reinforce": [90.0]}
PLANS = {plan.name: plan for plan in TABLES}


def table(name: str, folder: Path) -> Table:
    built = build_table(PLANS[name], collect([folder]).runs)
    assert built is not None
    return built


def rows_of(built: Table) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["strategy"], row["measure"]): row for row in csv.DictReader(io.StringIO(built.to_csv()))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for strategy, scores in OURS.items():
        for seed, score in enumerate(scores):
            write_run(tmp_path / strategy / str(seed), strategy=strategy, seed=seed, score=score, epochs=100)
    write_run(tmp_path / "going", strategy="reinforce", seed=1, epochs=100, done=20)
    return tmp_path


def test_a_table_has_our_values_beside_the_papers(folder: Path) -> None:
    rows = rows_of(table("table2", folder))
    for strategy, scores in OURS.items():
        row = rows[strategy, "argmax"]
        assert int(row["n"]) == len(scores)
        assert float(row["mean"]) == pytest.approx(statistics.mean(scores))
        if len(scores) > 1:
            assert float(row["std"]) == pytest.approx(statistics.stdev(scores))
        if len(scores) > 2:
            assert min(scores) <= float(row["low"]) < float(row["mean"]) < float(row["high"]) <= max(scores)
        assert float(row["paper_params_millions"]) == PARAMETERS_2[strategy]
    gdas = rows["gdas", "argmax"]
    assert (gdas["paper_mean"], gdas["paper_std"]) == ("93.46", "0.13")
    assert float(gdas["difference"]) == pytest.approx((-1.0 - 0.5 + 0.5) / 3)
    assert (gdas["better"], gdas["worse"], gdas["pairs"]) == ("1", "2", "3")
    assert float(gdas["p"]) == pytest.approx(6 / 8)  # only ±(1 + 0.5 − 0.5)/3 in two of eight ways is nearer to 0
    assert rows["reinforce", "argmax"]["note"] == "1 of 3 seeds"
    assert rows["parsec", "argmax"]["note"] == "no runs"
    assert rows["proxylessnas", "process_best"]["paper_mean"] == ""


def test_markdown_and_latex_say_the_same(folder: Path) -> None:
    built = table("table2", folder)
    markdown, latex = built.to_markdown(), built.to_latex()
    assert "| AdvantageNAS | 3 | 93.50 ± 0.50 [93.00, 94.00] | 93.76 ± 0.00 | – |" in markdown
    assert "| REINFORCE | 1 (paper: 3) | 90.00 – |" in markdown  # a single seed has no interval
    assert r"93.50 $\pm$ 0.50 [93.00, 94.00] & " in latex
    assert r"\begin{tabular}" in latex
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines() if "&" in line} == {lines[0].count("|") - 2}
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")


def test_a_shorter_search_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "0", epochs=10, zero_op=True)
    settings = "10 epochs (paper: 100), 5 warm-up epochs (paper: 50)"
    assert f"| {settings} |" in table("table4", tmp_path).to_markdown()
    assert build_table(PLANS["table2"], collect([tmp_path]).runs) is None


def test_a_retraining_stands_under_the_strategy_that_found_its_cell(tmp_path: Path) -> None:
    for strategy in ("advantage", "parsec"):
        for seed in (4, 5):
            found = write_run(tmp_path / "search" / strategy / str(seed), task="ptb", strategy=strategy, seed=seed)
            write_run(tmp_path / "rest" / strategy / str(seed), task="ptb", strategy="fixed", epochs=100,
                      settings={"strategy.genotype": str(found / "genotype.json")},
                      summary={"test/perplexity": 90.0 + seed + (strategy == "parsec")})  # fmt: skip
    write_run(tmp_path / "rest" / "lost", task="ptb", strategy="fixed", settings={"strategy.genotype": "gone.json"})
    for places in ([tmp_path], [tmp_path / "rest"]):  # whether or not the searches are listed, too
        built = build_table(PLANS["table3"], collect(places).runs)
        assert built is not None
        row = rows_of(built)["parsec", "test"]
        assert (row["n"], row["seeds"], float(row["mean"]), float(row["difference"])) == ("2", "4 5", 95.5, 1.0)
        assert (row["better"], row["worse"], row["p"]) == ("0", "2", "")  # a lower perplexity is better
        assert float(row["paper_mean"]) == TABLE_3["parsec"]["test"].mean == 95.51
    assert "fixed" not in {strategy for strategy, _ in rows_of(table("table3_search", tmp_path))}


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    low, high = bootstrap_interval(list(values)) or (0.0, 0.0)
    half = 1.96 * values.std(ddof=1) / 20
    # 10 000 resamples leave a quantile an error of some 0.003, and 400 values a skewness that the normal has not.
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_an_overflow_is_no_number_to_compare() -> None:
    assert mean_and_deviation([1.0, float("inf")]) == (float("inf"), None)
    assert bootstrap_interval([1.0, float("inf")]) is None
    compared = paired({0: float("inf"), 1: 2.0}, {0: 1.0, 1: 1.0})
    assert compared is not None
    assert (compared.pairs, compared.difference) == (1, 1.0)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_quartiles_are_those_of_numpy() -> None:
    curves = np.random.default_rng(2).normal(size=(7, 5))
    x, bands = quartiles([(np.arange(5.0), curve) for curve in curves])
    assert np.allclose(bands, np.quantile(curves, [0.25, 0.5, 0.75], axis=0))
    assert x.tolist() == [0, 1, 2, 3, 4]
