"""The best architectures are trained again, and those that are as good as tied are decided by what else is known."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import mean, pvariance

import pytest

from advnas_lightning.refine.climb import Budget
from advnas_lightning.refine.ladder import Ladder, Trial
from advnas_lightning.refine.ties import FINALS, decide
from advnas_lightning.space.genotype import Genotype
from tests.support.climbing import RUNGS, VALUES, facts, refined, score
from tests.support.refining import needs_storage


def trials(scores: dict[str, list[float]]) -> list[Trial]:
    found = []
    for name, values in scores.items():
        for repeat, value in enumerate(values):
            found.append(Trial(len(found), Genotype({"edge": name}), "complete", {1: value}, "draw", 0, 1.0, 1, repeat))
    return found


def noisy(genotype: Genotype, folder: Path, epochs: int, repeat: int = 0) -> float:
    return score(genotype, folder, epochs) + random.Random(f"{dict(genotype)} {repeat}").gauss(0, 3)


@needs_storage
def test_the_best_ones_are_trained_again_after_the_climb(tmp_path: Path) -> None:
    climbed, _ = refined(tmp_path / "once", noisy)
    ladder, end = refined(tmp_path / "again", noisy, repeats=2)
    assert end == "optimum"
    assert facts(Ladder(ladder.first, RUNGS, maximize=True)) == facts(climbed)
    again = [trial for trial in ladder.trials if trial.repeat]
    assert all(trial.state == "complete" for trial in again)
    complete = [trial for trial in ladder.first if trial.state == "complete"]
    best = sorted(complete, key=lambda trial: -trial.scores[RUNGS[-1]])[:FINALS]
    wanted = {(trial.genotype, repeat) for trial in best for repeat in (1, 2)}
    assert {(trial.genotype, trial.repeat) for trial in again} == wanted
    assert len(again) == len(wanted)
    for trial in again:
        assert trial.scores[RUNGS[-1]] == noisy(trial.genotype, Path(), RUNGS[-1], trial.repeat)
    same, _ = refined(tmp_path / "again", noisy, repeats=2)
    assert facts(same) == facts(ladder)


@pytest.mark.parametrize("epochs", [20, 28, 36])
def test_the_budget_keeps_enough_for_the_repeats(epochs: int) -> None:
    whole, _ = refined(None, noisy, repeats=1)
    assert whole.epochs > epochs  # so that the climb is cut short
    ladder, end = refined(None, noisy, repeats=1, budget=Budget(epochs=epochs))
    assert end == "budget"
    assert ladder.epochs <= epochs
    decision = decide(ladder)
    assert decision is not None
    complete = [trial for trial in ladder.first if trial.state == "complete"]
    assert len(decision.means) == min(FINALS, len(complete)) > 1
    assert ladder.winner is not None
    assert ladder.winner.genotype in decision.means


@pytest.mark.parametrize(("epochs", "repeats"), [(24, 1), (44, 2)])
def test_the_best_one_at_its_rung_is_not_left_unfinished_for_the_repeats(epochs: int, repeats: int) -> None:
    ladder, _ = refined(None, noisy, repeats=repeats, budget=Budget(epochs=epochs))
    assert ladder.epochs <= epochs
    assert any(trial.repeat for trial in ladder.trials)
    furthest = max(trial.scores[2] for trial in ladder.first if 2 in trial.scores)
    (best,) = (trial for trial in ladder.first if trial.scores.get(2) == furthest)
    assert best.state == "complete"


@pytest.mark.slow
@needs_storage
def test_after_the_repeats_more_budget_goes_on_with_the_climb(tmp_path: Path) -> None:
    whole, _ = refined(None, noisy)
    short, _ = refined(tmp_path, noisy, repeats=1, budget=Budget(epochs=26))
    ladder, end = refined(tmp_path, noisy, repeats=1)
    assert end == "optimum"
    assert facts(ladder)[: len(short.first)] != facts(whole)  # it stands where the short one has ended
    first = {trial.genotype: dict(trial.scores) for trial in ladder.first}
    assert first == {trial.genotype: dict(trial.scores) for trial in whole.first}
    decision = decide(ladder)
    assert decision is not None
    complete = sorted(
        (trial for trial in ladder.first if trial.state == "complete"), key=lambda trial: -trial.scores[RUNGS[-1]]
    )
    assert {trial.genotype for trial in complete[:FINALS]} <= set(decision.means)


@needs_storage
def test_the_search_decides_between_those_that_are_tied(tmp_path: Path) -> None:
    ladder, _ = refined(tmp_path, noisy, repeats=3)
    decision = decide(ladder, VALUES.__getitem__)
    assert decision is not None
    assert decision.winner.genotype == max(decision.tied, key=VALUES.__getitem__)
    assert decision.winner.repeat == 0
    assert decide(ladder).winner.genotype == max(decision.means, key=decision.means.__getitem__)  # type: ignore[union-attr]


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_tied_is_computed_from_the_deviation_over_seeds(sign: int) -> None:
    scores = {"a": [5.0, 6.0, 7.0], "b": [7.0, 7.5], "c": [5.5, 6.5], "d": [1.0, 1.5], "e": [9.0]}
    ladder = Ladder(
        trials({name: [sign * value for value in values] for name, values in scores.items()}), (1,), maximize=sign > 0
    )
    several = {name: values for name, values in scores.items() if len(values) > 1}
    squares = sum(len(values) * pvariance(values) for values in several.values())
    deviation = math.sqrt(squares / sum(len(values) - 1 for values in several.values()))
    decision = decide(ladder, lambda genotype: -ord(genotype["edge"]))
    assert decision is not None
    assert decision.deviation == pytest.approx(deviation)
    tied = {
        name
        for name, values in several.items()
        if mean(scores["b"]) - mean(values) <= deviation * math.sqrt(1 / 2 + 1 / len(values))
    }
    assert {each["edge"] for each in decision.tied} == tied == {"b"}
    assert decision.winner.genotype["edge"] == "b"
    wide = decide(
        Ladder(trials({"a": [sign * 4.0, sign * 8.0], "b": [sign * 5.0, sign * 9.0]}), (1,), maximize=sign > 0),
        lambda genotype: -ord(genotype["edge"]),
    )
    assert wide is not None
    assert wide.winner.genotype["edge"] == "a"


def test_without_repeats_the_best_training_wins() -> None:
    ladder = Ladder(trials({"a": [5.0], "b": [7.0]}), (1,), maximize=True)
    decision = decide(ladder, lambda genotype: -ord(genotype["edge"]))
    assert decision is not None
    assert (decision.winner.genotype["edge"], decision.deviation, decision.means) == ("b", None, {})
    assert decide(Ladder([], (1,), maximize=True)) is None
