"""The plain sentences on top of the page, and the settings that are not the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import initialize
from hydra.core.global_hydra import GlobalHydra

from advnas_lightning.report.collection import collect
from advnas_lightning.report.findings import Finding, find
from advnas_lightning.report.networks import MOST_NETWORKS, Networks
from advnas_lightning.report.palette import styles
from advnas_lightning.report.paper import departures, paper_settings
from tests.support.made_up_runs import write_run


def findings(folder: Path) -> list[Finding]:
    runs = collect([folder]).runs
    return find(runs, styles(run.strategy for run in runs))


def write_scores(folder: Path, **scores: list[float]) -> None:
    for strategy, values in scores.items():
        for seed, score in enumerate(values):
            write_run(folder / strategy / str(seed), strategy=strategy, seed=seed, score=score, epochs=100)


@pytest.mark.parametrize(
    ("gdas", "word", "says"),
    [
        ([92.0, 92.5], "unknown", "The two have 2 seeds in common. At least 3 are needed to say how sure this is."),
        ([93.4, 92.0, 93.2], "not sure", "The difference may be chance."),
        ([92.0, 92.1, 92.2], "likely", "p = 0.25. With so few seeds p cannot be smaller. More seeds would tell."),
        ([92.0, 92.1, 92.2, 92.3, 92.4, 92.5], "sure", "So large a difference is unlikely to be chance."),
    ],
)
def test_it_is_said_what_is_best_and_how_sure_that_is(gdas: list[float], word: str, says: str, tmp_path: Path) -> None:
    write_scores(tmp_path, advantage=[93.0, 93.1, 93.2, 93.3, 93.4, 93.5][: len(gdas)], gdas=gdas)
    (finding,) = findings(tmp_path)
    assert finding.best.startswith("AdvantageNAS is best with 93.")
    assert "The second is GDAS with 9" in finding.best
    assert finding.certainty is not None
    assert finding.certainty[0] == word
    assert finding.certainty[1].endswith(says)
    assert finding.departures == ()


def test_only_what_has_the_same_settings_is_compared(tmp_path: Path) -> None:
    write_scores(tmp_path, advantage=[93.0], gdas=[92.0])
    write_run(tmp_path / "short", strategy="darts", score=94.0, epochs=2)
    compared, alone = findings(tmp_path)
    assert [each.label for each in compared.standings] == ["AdvantageNAS", "GDAS"]
    assert alone.best == "DARTS: 94.00 % test accuracy."
    assert alone.departures == ("2 epochs (paper: 100)", "1 warm-up epoch (paper: 50 warm-up epochs)")


def test_equal_results_have_no_winner(tmp_path: Path) -> None:
    for strategy in ("advantage", "gdas"):
        summary = {"argmax/edges_right": 10, "edges": 10}
        write_run(tmp_path / strategy, strategy=strategy, task="toy", epochs=20, summary=summary)
    (finding,) = findings(tmp_path)
    assert finding.best == "AdvantageNAS and GDAS are equally good with 10 of 10 edges right."
    assert finding.certainty is None


def test_a_lower_perplexity_is_better(tmp_path: Path) -> None:
    for strategy, value in (("advantage", 95.0), ("gdas", 91.0)):
        write_run(tmp_path / strategy, strategy=strategy, task="ptb", summary={"test/perplexity": value})
    (finding,) = findings(tmp_path)
    assert finding.best.startswith("GDAS is best with 91.00 perplexity.")
    assert finding.best.endswith("which is 4.00 higher.")


def test_departures_are_those_from_the_papers_settings(tmp_path: Path) -> None:
    (run,) = collect([write_run(tmp_path / "0", task="toy", epochs=20)]).runs
    assert departures(run) == []
    settings = {"trainer.max_epochs": 3, "trainer.limit_train_batches": 50, "strategy.advantage": "exact"}
    (run,) = collect([write_run(tmp_path / "1", task="toy", epochs=20, settings=settings)]).runs
    assert list(map(str, departures(run))) == [
        "3 epochs (paper: 20)",
        "50 batches an epoch (paper: all batches)",
        "exact advantage (paper: taylor)",
    ]
    settings = {"task.optimization.weight_scheduler": None, "strategy.new": 3, "strategy.nothing": None}
    (run,) = collect([write_run(tmp_path / "2", task="ptb", epochs=30, settings=settings)]).runs
    assert list(map(str, departures(run))) == ["new 3 (paper: not set)", "weight scheduler off (paper: on)"]
    assert paper_settings("advantage", "a task of mine") is None
    own = paper_settings("a strategy of mine", "toy")
    assert own is not None
    assert not any(key.startswith("strategy.") for key in own)


def test_another_use_of_hydra_is_not_disturbed() -> None:
    paper_settings.cache_clear()
    with initialize(config_path=None, version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert paper_settings("darts", "toy") is not None
        assert GlobalHydra.instance().hydra is hydra is not None


def test_equal_networks_are_drawn_once_and_few_enough_are(tmp_path: Path) -> None:
    networks = Networks({"mine": {name: number for number, name in enumerate("abcdef")}})
    cell = {"0->1": "a", "0->2": "b", "1->2": "c"}
    assert networks.add("mine", cell) == networks.add("mine", dict(cell)) == "net0"
    for number in range(2 * MOST_NETWORKS):
        networks.add("mine", {f"{number}->x": "a"})
    assert len(networks.symbols) == MOST_NETWORKS
    assert networks.add("mine", {"new->x": "a"}) is None
    assert networks.add("mine", cell) == "net0"
