"""What the search finds more probable than the winner is trained at last, unless it is ruled out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from advnas_lightning.refine.book import TrialBook
from advnas_lightning.refine.climb import Budget, climb
from advnas_lightning.refine.ladder import Ladder, Trial
from advnas_lightning.refine.probable import differences, next_probable
from advnas_lightning.refine.proposals import Scope
from advnas_lightning.refine.ties import decide
from advnas_lightning.space.genotype import Genotype
from tests.support.refining import needs_storage

CANDIDATES = {f"edge {number}": ["conv", "skip", "pool"] for number in range(6)}
SPACE = [Genotype(dict(zip(CANDIDATES, names, strict=True))) for names in product(*CANDIDATES.values())]
NEEDED = Genotype(dict.fromkeys(CANDIDATES, "conv") | {"edge 5": "skip"})


def prior(genotype: Genotype) -> float:
    """A search that prefers convolutions everywhere."""
    return -sum(
        3.0 * (name == "pool") + (name == "skip") * (1 + 0.1 * place) for place, name in enumerate(genotype.values())
    )


def flat(genotype: Genotype, *, slope: float = 0.02) -> float:
    """Short trainings see that poolings are bad, and that the last edge must be a skip, and little else."""
    names = list(genotype.values())
    return 10.0 * (names[5] == "skip") - 5.0 * names.count("pool") + slope * names[:5].count("skip")


def trained(value: Callable[[Genotype], float], folder: Path | None = None, **options: object) -> Ladder:
    def train(genotype: Genotype, folder: Path, epochs: int, repeat: int) -> float:
        noise = random.Random(f"{sorted(genotype.items())} {repeat} {epochs}").gauss(0, 0.2)
        return value(genotype) + noise

    probable = sorted(SPACE, key=prior, reverse=True)
    start = Genotype(dict.fromkeys(CANDIDATES, "skip"))
    settings = {"around": (2,), "repeats": 1, "probable": probable, "prior": prior, **options}
    scope = Scope({start: "argmax"}, CANDIDATES, **settings)  # type: ignore[arg-type]
    ladder, end = climb(TrialBook(folder, CANDIDATES, (1, 3), maximize=True), scope, train)
    assert end == "optimum"
    return ladder


@needs_storage
def test_of_architectures_that_short_trainings_cannot_tell_apart_the_most_probable_one_wins() -> None:
    ladder = trained(flat)
    decision = decide(ladder, prior)
    assert decision is not None
    assert decision.winner.genotype == NEEDED
    late = [trial for trial in ladder.trials if trial.proposed_by == "more probable"]
    for trial in late:  # all convolutions and poolings are ruled out, though some of them are more probable
        assert trial.genotype["edge 5"] == "skip"
        assert "pool" not in trial.genotype.values()
    assert [trial.repeat for trial in late if trial.genotype == NEEDED] == [1, 2]


@needs_storage
def test_an_architecture_that_is_clearly_worse_never_wins() -> None:
    ladder = trained(lambda genotype: flat(genotype, slope=5.0))  # skips are better by far
    decision = decide(ladder, prior)
    assert decision is not None
    assert set(decision.winner.genotype.values()) == {"skip"}
    late = {trial.genotype for trial in ladder.trials if trial.proposed_by == "more probable"}
    assert len(late) <= 2


@needs_storage
def test_a_more_probable_one_that_the_first_rung_rules_out_ends_there() -> None:
    ladder = trained(lambda genotype: flat(genotype) - 6.0 * (genotype == NEEDED))
    (late,) = [trial for trial in ladder.trials if trial.genotype == NEEDED]
    assert (late.proposed_by, late.state, late.last) == ("more probable", "pruned", 1)


@needs_storage
def test_without_repeats_or_a_search_nothing_more_is_trained() -> None:
    for options in ({"repeats": 0}, {"probable": ()}):
        assert not [trial for trial in trained(flat, **options).trials if trial.proposed_by == "more probable"]


@needs_storage
def test_scores_without_chance_are_the_whole_truth() -> None:
    scope = Scope({SPACE[0]: "argmax"}, CANDIDATES, repeats=1, probable=SPACE, prior=prior)
    book = TrialBook(None, CANDIDATES, (1,), maximize=True)
    ladder, _ = climb(book, scope, lambda genotype, *_: float(SPACE.index(genotype)))
    assert not [trial for trial in ladder.trials if trial.proposed_by == "more probable"]
    decision = decide(ladder, prior)
    assert decision is not None
    assert decision.winner.genotype == SPACE[-1]


@needs_storage
def test_the_budget_holds_for_them_too() -> None:
    probable = sorted(SPACE, key=prior, reverse=True)
    scope = Scope({SPACE[-1]: "argmax"}, CANDIDATES, repeats=1, probable=probable, prior=prior)
    for epochs in (30, 60, 90):
        book = TrialBook(None, CANDIDATES, (1, 3), maximize=True)
        ladder, _ = climb(
            book,
            scope,
            lambda genotype, _, epochs, repeat: flat(genotype) + 0.01 * repeat,
            budget=Budget(epochs=epochs),
        )
        assert ladder.epochs <= epochs


@needs_storage
def test_an_architecture_whose_loss_is_not_finite_is_tried_once() -> None:
    ladder = trained(lambda genotype: math.nan if genotype == NEEDED else flat(genotype))
    assert [trial.state for trial in ladder.trials if trial.genotype == NEEDED] == ["failed"]


def trial(number: int, name: str, scores: dict[int, float], repeat: int = 0, state: str = "complete") -> Trial:
    return Trial(number, Genotype({"edge": name}), state, scores, "draw", 0, 1.0, max(scores, default=1), repeat)  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_of_different_rungs_are_compared_in_standard_errors(sign: int) -> None:
    rows = [
        ("a", {1: 0.5, 3: 0.70}, 0),
        ("a", {1: 0.3, 3: 0.72}, 1),
        ("b", {1: 0.6, 3: 0.60}, 0),
        ("b", {1: 0.5, 3: 0.62}, 1),
    ]
    trials = [
        trial(n, name, {rung: sign * each for rung, each in own.items()}, repeat)
        for n, (name, own, repeat) in enumerate(rows)
    ]
    ladder = Ladder([*trials, trial(4, "c", {1: sign * 0.2}, state="pruned")], (1, 3), maximize=sign > 0)
    first = ((0.1**2 * 2 + 0.05**2 * 2) / 2) ** 0.5
    assert ladder.deviations() == pytest.approx({1: first, 3: 0.01 * 2**0.5})
    found = differences(ladder, Genotype({"edge": "a"}))
    assert found[Genotype({"edge": "b"})] == pytest.approx(-0.1 / (0.01 * 2**0.5))
    assert found[Genotype({"edge": "c"})] == pytest.approx(-0.2 / (first * (1 + 1 / 2) ** 0.5))


def test_a_pruned_one_is_trained_again_until_it_is_decided() -> None:
    names, order = [Genotype({"edge": name}) for name in "cab"], {"c": 3.0, "a": 2.0, "b": 1.0}

    def prior(genotype: Genotype) -> float:
        return order[genotype["edge"]]

    trials = [
        trial(0, "a", {1: 0.5, 3: 0.70}), trial(1, "a", {1: 0.3, 3: 0.72}, 1),
        trial(2, "b", {1: 0.6, 3: 0.60}), trial(3, "b", {1: 0.5, 3: 0.62}, 1),
        trial(4, "c", {1: 0.3}, state="pruned"),
    ]  # fmt: skip
    assert next_probable(Ladder(trials, (1, 3), maximize=True), names, prior, 1) == (names[0], 1)
    other = Genotype({"edge": "d"})  # for a second process, while the first one trains "c" to its first rung
    order["d"] = 2.5
    first = [*trials, trial(5, "c", {}, 1, "unfinished")]
    assert next_probable(Ladder(first, (1, 3), maximize=True), [names[0], other], prior, 1) == (other, 1)
    trials.append(trial(5, "c", {1: 0.3, 3: 0.70}, 1))
    assert next_probable(Ladder(trials, (1, 3), maximize=True), names, prior, 1) == (names[0], 2)
    running = [*trials, trial(6, "c", {}, 2, "unfinished")]
    assert next_probable(Ladder(running, (1, 3), maximize=True), names, prior, 1) is None
    worse = [*trials, trial(6, "c", {1: 0.3, 3: 0.60}, 2)]
    assert next_probable(Ladder(worse, (1, 3), maximize=True), names, prior, 1) is None
    assert decide(Ladder(worse, (1, 3), maximize=True), prior).winner.genotype == names[1]  # type: ignore[union-attr]
    tied = [*trials, trial(6, "c", {1: 0.3, 3: 0.71}, 2)]
    assert decide(Ladder(tied, (1, 3), maximize=True), prior).winner.genotype == names[0]  # type: ignore[union-attr]
