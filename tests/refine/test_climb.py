"""The procedure on a table of made-up values: it finds a local optimum, within its budget, whatever interrupts it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from advnas_lightning.refine.book import TrialBook, is_pruned
from advnas_lightning.refine.climb import Budget, climb
from advnas_lightning.refine.figure import plot_ladder
from advnas_lightning.refine.ladder import WIDTHS, Ladder, Trial
from advnas_lightning.refine.neighbours import RIDGE, exchanges, neighbours, predict
from advnas_lightning.refine.proposals import Proposal, Scope, next_proposal
from advnas_lightning.space.genotype import Genotype
from tests.support.climbing import (
    CANDIDATES,
    FINALISTS,
    RUNGS,
    VALUES,
    facts,
    is_local_optimum,
    neighbours_of,
    refined,
    score,
    unfinished,
)
from tests.support.refining import needs_storage
from tests.support.refusals import one_line

ROOT = Path(__file__).parents[2]


class Interrupted(Exception):
    """Stands for the end of a process."""


def test_the_neighbours_are_those_of_the_whole_table() -> None:
    for genotype in VALUES:
        assert set(neighbours(genotype, CANDIDATES)) == set(neighbours_of(genotype))


def test_the_regression_is_that_on_the_features_themselves() -> None:
    rng = np.random.default_rng(0)
    everything = list(VALUES)
    known = {everything[i]: float(rng.normal()) for i in rng.choice(len(everything), 7, replace=False)}

    def features(genotype: Genotype) -> list[float]:
        single = [genotype[edge] == name for edge, row in CANDIDATES.items() for name in row]
        edges = list(CANDIDATES)
        pairs = [
            genotype[a] == x and genotype[b] == y
            for i, a in enumerate(edges)
            for b in edges[:i]
            for x in CANDIDATES[a]
            for y in CANDIDATES[b]
        ]
        return [float(each) for each in (*single, *pairs)]

    x = np.array([features(genotype) for genotype in known])
    y = np.array(list(known.values()))
    # The normal equations of ridge regression, whose number of unknowns is that of the features.
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    direct = [y.mean() + float(features(each) @ weights) for each in everything]
    assert predict(known, everything) == pytest.approx(direct, abs=1e-9)


@pytest.mark.parametrize("rungs", [(4,), (1, 2, 4), (2, 6)])
def test_what_is_refined_is_a_local_optimum(rungs: tuple[int, ...]) -> None:
    ladder, end = refined(None, rungs=rungs)
    assert end == "optimum"
    assert ladder.winner is not None
    assert is_local_optimum(ladder.winner.genotype)
    tried = Counter(trial.genotype for trial in ladder.trials)
    assert set(tried.values()) == {1}
    assert set(tried) >= {*FINALISTS, *neighbours_of(ladder.winner.genotype), *neighbours_of(next(iter(FINALISTS)))}
    assert [trial.genotype for trial in ladder.trials[:2]] == list(FINALISTS)


def test_the_neighbours_of_the_first_finalist_lead_out_of_a_local_optimum() -> None:
    names = {"first": "abc", "second": "abc"}
    values = {("a", "a"): 1.0, ("c", "c"): 5.0, ("b", "a"): 9.0}
    finalists = {Genotype({"first": name, "second": name}): name for name in "ac"}
    tried: list[tuple[str, ...]] = []

    def train(genotype: Genotype, *_: object) -> float:
        tried.append(tuple(genotype.values()))
        return values.get(tried[-1], 0.0)

    ladder, end = climb(TrialBook(None, names, (1,), maximize=True), Scope(finalists, names), train)
    assert ladder.winner is not None
    assert (tuple(ladder.winner.genotype.values()), ladder.winner.proposed_by, end) == (
        ("b", "a"),
        "neighbour of 0",
        "optimum",
    )
    assert set(tried[2:6]) == {("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")}  # those of the first one come first


@needs_storage
def test_an_architecture_of_the_book_has_its_edges_in_the_order_of_the_space(tmp_path: Path) -> None:
    candidates = {"node2": ["a", "b"], "node10": ["a", "b"]}
    TrialBook(tmp_path, candidates, (1,), maximize=True).add(Genotype({"node2": "a", "node10": "b"}), "argmax", 0)
    (trial,) = TrialBook(tmp_path, candidates, (1,), maximize=True).ladder().trials
    assert list(trial.genotype.items()) == [("node2", "a"), ("node10", "b")]


def test_the_lowest_score_may_be_the_best() -> None:
    book = TrialBook(None, CANDIDATES, (1, 2), maximize=False)
    ladder, _ = climb(book, Scope(FINALISTS, CANDIDATES), lambda *arguments: -score(*arguments))
    same, _ = refined(None, rungs=(1, 2))
    assert [trial.genotype for trial in ladder.trials] == [trial.genotype for trial in same.trials]
    assert [trial.state for trial in ladder.trials] == [trial.state for trial in same.trials]


def test_a_neighbour_or_an_exchange_is_of_the_best_ones_of_its_time_and_has_the_next_round() -> None:
    ladders: list[Ladder] = []
    ladder, _ = refined(None, on_change=ladders.append)
    assert ladder.path[-1] == ladder.winner
    widths = set()
    for before, after in pairwise(ladders):
        for trial in after.trials[max(len(before.trials), len(FINALISTS)) :]:
            by, _, number = trial.proposed_by.rpartition(" ")
            of = after.trials[int(number)]
            found = neighbours_of(of.genotype) if by == "neighbour of" else exchanges(of.genotype, CANDIDATES)
            assert of in [after.trials[0], *after.best(trial.among)]
            assert trial.genotype in set(found)
            assert trial.round == of.round + 1
            widths.add(trial.among)
    assert max(trial.round for trial in ladder.trials) >= 2
    assert widths == {*WIDTHS}


def test_a_training_that_was_ended_too_early_goes_on_from_what_it_has_left(tmp_path: Path) -> None:
    names = "abcdefg"
    scores = {"a": (5, 5, 5), "b": (6, 4, 9), "c": (4,), "d": (3,), "e": (1,), "f": (7, 2), "g": (8, 1)}
    trained: list[tuple[str, str]] = []

    def train(genotype: Genotype, folder: Path, epochs: int, repeat: int) -> float:
        left = folder / "epochs"
        trained.append((genotype["edge"], f"{left.read_text() if left.exists() else 0} to {epochs}"))
        left.write_text(str(epochs))
        return float(scores[genotype["edge"]][RUNGS.index(epochs)])

    scope = Scope({Genotype({"edge": name}): name for name in "abc"}, {"edge": names})
    ladder, _ = climb(TrialBook(tmp_path, {"edge": names}, RUNGS, maximize=True), scope, train)
    assert trained[3:6] == [("b", "0 to 1"), ("b", "1 to 2"), ("c", "0 to 1")]  # b is the worse one of two at 2
    assert trained[-1] == ("b", "2 to 4")  # but it is among the best half of four
    assert [trial.state for trial in ladder.trials] == ["complete", "complete", *5 * ["pruned"]]
    assert ladder.winner == ladder.trials[1]
    assert ladder.epochs == sum(trial.last for trial in ladder.trials)
    assert not (tmp_path / "trials").exists()


def test_an_exchange_is_the_way_to_what_is_better_within_a_budget() -> None:
    names = {"first": "ab", "second": "ab"}
    values = {("a", "b"): 1.0, ("b", "a"): 2.0}  # "b" is dear: with two of them a network is over the budget
    start = Genotype({"first": "a", "second": "b"})
    tried: list[tuple[str, ...]] = []

    def train(genotype: Genotype, *_: object) -> float:
        tried.append(tuple(genotype.values()))
        return values.get(tried[-1], 0.0)

    scope = Scope({start: "start"}, names, allows=lambda genotype: [*genotype.values()] != ["b", "b"])
    ladder, end = climb(TrialBook(None, names, (1,), maximize=True), scope, train)
    assert tried == [("a", "b"), ("a", "a"), ("b", "a")]
    assert ladder.winner is not None
    assert (ladder.winner.proposed_by, end) == ("exchange in 0", "optimum")
    labels = [text.get_text() for text in plot_ladder(ladder).axes[0].texts]
    assert labels == ["start", "exchange first, second"]


def test_the_picture_of_one_short_training_counts_whole_epochs() -> None:
    trial = Trial(0, Genotype({"edge": "a"}), "complete", {1: 0.5, 2: 0.6}, "argmax", 0, 1.0, 2)
    (axes,) = plot_ladder(Ladder([trial], (1, 2), maximize=True)).axes
    assert all(tick == round(tick) for tick in axes.get_xticks())
    assert axes.get_title("left").startswith("1 training, 1 of them to the end")


def test_the_neighbours_of_the_second_best_lead_out_of_a_local_optimum() -> None:
    names = {"first": "abc", "second": "abc", "third": "abc"}
    values = {"aaa": 5.0, "baa": 4.0, "bba": 6.0, "aab": 1.0}  # all others have 0
    tried: list[str] = []

    def train(genotype: Genotype, *_: object) -> float:
        tried.append("".join(genotype.values()))
        return values.get(tried[-1], 0.0)

    start = Genotype(dict.fromkeys(names, "a"))
    ladder, end = climb(TrialBook(None, names, (1,), maximize=True), Scope({start: "start"}, names), train)
    assert set(tried[1:7]) == {"baa", "caa", "aba", "aca", "aab", "aac"}
    assert ladder.winner is not None
    assert ("".join(ladder.winner.genotype.values()), ladder.winner.proposed_by, end) == (
        "bba",
        f"neighbour of {tried.index('baa')}",
        "optimum",
    )


def test_exchanges_are_all_pairs_of_edges_that_can_have_each_other_s_candidate() -> None:
    names = {"a": "xy", "b": "xyz", "c": "zx"}
    found = exchanges(Genotype({"a": "x", "b": "y", "c": "z"}), names)
    assert [tuple(each.values()) for each in found] == [("y", "x", "z")]
    everything = [Genotype({"a": a, "b": b, "c": c}) for a in "xy" for b in "xyz" for c in "zx"]
    for each in everything:
        pairs = [one for one in everything if sum(one[edge] != each[edge] for edge in names) == 2]
        assert exchanges(each, names) == [one for one in pairs if sorted(one.values()) == sorted(each.values())]


def test_there_are_no_more_exchanges_of_a_winner_than_neighbours() -> None:
    edges = [f"edge {number}" for number in range(12)]
    start = Genotype({edge: "ab"[place % 2] for place, edge in enumerate(edges)})  # 36 pairs differ, with 12 neighbours
    scope = Scope({start: "start"}, dict.fromkeys(edges, "ab"))
    book = TrialBook(None, scope.candidates, (1,), maximize=True)
    ladder, _ = climb(book, scope, lambda genotype, *_: float(genotype == start))
    by = Counter(trial.proposed_by for trial in ladder.trials[1:])
    assert (by["neighbour of 0"], by["exchange in 0"]) == (12, 12)


def test_without_neighbours_the_finalists_alone_are_trained() -> None:
    ladder, end = refined(None, around=())
    assert (len(ladder.trials), end) == (2, "finalists")


def test_halving_prunes_as_the_paper_says_and_neighbours_that_are_behind_the_best() -> None:
    ladders: list[Ladder] = []
    refined(None, on_change=ladders.append)
    count: Counter[bool] = Counter()
    for ladder, after in pairwise(ladders):
        for trial in ladder.trials:
            if trial.state != "unfinished" or trial.last in (0, RUNGS[-1]):
                continue
            values = sorted(
                (each.scores[trial.last] for each in ladder.trials if trial.last in each.scores), reverse=True
            )
            goes_on = trial.scores[trial.last] >= values[max(len(values) // 2, 1) - 1]  # the best half, or the best
            bars = [each.scores[trial.last] for each in ladder.best(trial.among)]
            if trial.round and bars and all(trial.scores[trial.last] <= bar for bar in bars):
                goes_on = False
            assert after.trials[trial.number].state == ("unfinished" if goes_on else "pruned")
            count[goes_on] += 1
    assert min(count[False], count[True]) > 3


def test_the_answer_of_the_pruner_does_not_depend_on_the_order() -> None:
    trials = [
        Trial(i, genotype, "unfinished", {1: VALUES[genotype]}, "draw", 0, 0.0, 1) for i, genotype in enumerate(VALUES)
    ]
    alive = {each.number for each in trials if not is_pruned(each, Ladder(trials, (1, 2), maximize=True))}
    best = sorted(trials, key=lambda each: -each.scores[1])[: len(trials) // 2]
    assert alive == {each.number for each in best}


def test_a_training_that_is_not_finite_has_failed_and_is_never_the_winner() -> None:
    def train(genotype: Genotype, folder: Path, epochs: int, repeat: int) -> float:
        if genotype == next(iter(FINALISTS)):
            return math.nan
        if genotype["first"] == "c":
            raise FloatingPointError("the loss is not finite")
        return score(genotype, folder, epochs)

    ladder, _ = refined(None, train)
    failed = [trial for trial in ladder.trials if trial.state == "failed"]
    assert ladder.trials[0] in failed
    assert len(failed) > 1
    assert ladder.winner is not None
    assert ladder.winner.genotype["first"] != "c"


def test_while_a_neighbour_is_trained_others_have_its_neighbours_and_repeat_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"first": "abc", "second": "ab"}
    scope = Scope({Genotype({"first": "a", "second": "a"}): "argmax"}, names, repeats=1)
    done: list[tuple[str, ...]] = []

    def train(genotype: Genotype, folder: Path, epochs: int, repeat: int) -> float:
        edges = tuple(genotype.values())
        if edges == ("b", "a") and epochs == 2:
            raise Interrupted
        done.append(edges)
        return {("a", "a"): 2.0, ("b", "a"): 3.0, ("c", "a"): 3.5}.get(edges, 0.0)

    def book(kind: type[TrialBook] = TrialBook) -> TrialBook:
        return kind(tmp_path, names, (1, 2), maximize=True)

    with pytest.raises(Interrupted):
        climb(book(), scope, train)

    class OfAnother(TrialBook):
        """The book as one process sees it while another one works on the neighbour."""

        def hold(self, number: int) -> bool:
            return number != 1 and super().hold(number)

    def interrupt(seconds: float) -> None:
        raise Interrupted

    monkeypatch.setattr(time, "sleep", interrupt)
    done.clear()
    with pytest.raises(Interrupted):  # it waits
        climb(book(OfAnother), scope, train)
    assert set(done) == {("a", "b"), ("b", "b"), ("c", "a"), ("c", "b")}
    ladder = book().ladder()
    assert [trial.state for trial in ladder.trials].count("complete") == 2  # which could be trained again
    assert all(trial.repeat == 0 for trial in ladder.trials)


def test_while_the_first_one_is_trained_others_have_its_neighbours() -> None:
    names = [Genotype({"edge": name}) for name in "abc"]
    begun = [
        Trial(0, names[0], "unfinished", {1: 0.5}, "argmax", 0, 1.0, 2),
        Trial(1, names[1], "pruned", {1: 0.4}, "draw 1", 0, 1.0, 1),
    ]
    ladder = Ladder(begun, (1, 2), maximize=True)
    assert ladder.winner is None
    scope = Scope({names[0]: "argmax"}, {"edge": ["a", "b", "c"]})
    assert next_proposal(ladder, scope) == Proposal(names[2], "neighbour of 0", 1)
    without = Ladder([replace(begun[0], scores={})], (1, 2), maximize=True)
    assert next_proposal(without, scope) is None
    low = Ladder([replace(begun[0], scores={}), replace(begun[0], number=2)], (1, 2), maximize=True)
    assert low.leader == low.trials[1]


def test_a_neighbour_that_leads_while_the_first_one_is_trained_goes_on() -> None:
    names = [Genotype({"edge": name}) for name in "ab"]
    rows = [({1: 0.3}, "argmax", 0), ({1: 0.4, 3: 0.5}, "neighbour of 0", 1)]
    begun = [
        Trial(number, name, "unfinished", scores, by, round_, 1.0, max(scores))
        for number, (name, (scores, by, round_)) in enumerate(zip(names, rows, strict=True))
    ]
    ladder = Ladder(begun, (1, 3, 9), maximize=True)
    assert ladder.leader == begun[1]
    assert not ladder.is_behind(begun[1])  # not even itself
    assert not is_pruned(begun[1], ladder)
    worse = replace(begun[1], scores={1: 0.2}, begun=1)
    assert Ladder([begun[0], worse], (1, 3, 9), maximize=True).is_behind(worse)


@pytest.mark.parametrize("epochs", [4, 9, 13])
def test_the_budget_of_epochs_is_never_exceeded(epochs: int) -> None:
    spent = []

    def train(genotype: Genotype, folder: Path, rung: int, repeat: int) -> float:
        spent.append((genotype, rung))
        return score(genotype, folder, rung)

    ladder, end = refined(None, train, budget=Budget(epochs=epochs))
    assert end == "budget"
    longest = {genotype: max(rung for other, rung in spent if other == genotype) for genotype, _ in spent}
    assert sum(longest.values()) == ladder.epochs <= epochs
    assert ladder.winner is not None


def test_the_budget_of_minutes_ends_it() -> None:
    def train(genotype: Genotype, folder: Path, rung: int, repeat: int) -> float:
        time.sleep(0.02)
        return score(genotype, folder, rung)

    ladder, end = refined(None, train, budget=Budget(minutes=0.15 / 60))
    assert end == "budget"
    assert len(ladder.trials) < len(refined(None)[0].trials)


def test_a_budget_below_one_training_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs=3 is less than one whole training: give at least 4"):
        refined(None, budget=Budget(epochs=3))


@needs_storage
def test_more_budget_goes_on_where_it_ended(tmp_path: Path) -> None:
    whole, _ = refined(None)
    first, _ = refined(tmp_path, budget=Budget(epochs=9))
    assert len(first.trials) < len(whole.trials)
    pruned = {trial.number for trial in first.trials if trial.state == "pruned"}
    again, end = refined(tmp_path, budget=Budget(epochs=9))
    assert (facts(again), end) == (facts(first), "budget")
    last, end = refined(tmp_path)
    assert (facts(last), end) == (facts(whole), "optimum")
    assert pruned <= {trial.number for trial in last.trials if trial.state == "pruned"}


@pytest.mark.slow
@needs_storage
def test_a_process_that_ends_in_any_training_changes_nothing(tmp_path: Path) -> None:
    whole, _ = refined(None)
    rungs = sum(len(trial.scores) for trial in whole.trials)
    for stop in (0, 1, 5, rungs - 1):
        count = 0

        def train(genotype: Genotype, folder: Path, epochs: int, repeat: int, stop: int = stop) -> float:
            nonlocal count
            if count == stop:
                raise Interrupted
            count += 1
            return score(genotype, folder, epochs)

        folder = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            refined(folder, train)
        assert len(unfinished(TrialBook(folder, CANDIDATES, RUNGS, maximize=True).ladder())) == 1
        assert facts(refined(folder)[0]) == facts(whole)


@pytest.mark.slow
@needs_storage
@pytest.mark.parametrize("method", ["begin", "report", "finish", "add"])
def test_a_process_that_ends_between_two_notes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole, _ = refined(None)
    real = getattr(TrialBook, method)
    for before in (True, False):
        calls = 0

        def noted(book: TrialBook, *arguments: object, before: bool = before, **keywords: object) -> object:
            nonlocal calls
            calls += 1
            if calls == 5 and before:
                raise Interrupted
            result = real(book, *arguments, **keywords)
            if calls == 5:
                raise Interrupted
            return result

        monkeypatch.setattr(TrialBook, method, noted)
        with pytest.raises(Interrupted):
            refined(tmp_path / str(before))
        monkeypatch.setattr(TrialBook, method, real)
        assert facts(refined(tmp_path / str(before))[0]) == facts(whole)


def start(folder: Path, seconds: float, name: str, processes: int) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "tests.support.climbing", str(folder), str(seconds), name, str(processes)]
    return subprocess.Popen(line, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def calls(folder: Path) -> list[list[str]]:
    file = folder.parent / "calls.txt"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(folder: Path, *names: str, number: int) -> None:
    """Wait until each of these processes has trained so many rungs."""
    for _ in range(2400):  # two minutes: a process imports PyTorch first
        counts = Counter(name for name, *_ in calls(folder))
        if all(counts[name] >= number for name in names):
            return
        time.sleep(0.05)
    raise AssertionError(f"too little was trained: {calls(folder)}")


@needs_storage
def test_a_damaged_book_is_named(tmp_path: Path) -> None:
    TrialBook(tmp_path, CANDIDATES, RUNGS, maximize=True)
    (file,) = tmp_path.glob("optuna.*")
    file.write_text("neither a journal\nnor a database\n")
    with one_line(f"{file} cannot be read", f"move {tmp_path} away"):
        TrialBook(tmp_path, CANDIDATES, RUNGS, maximize=True)


@pytest.mark.slow
@needs_storage
def test_a_killed_process_is_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "refine"
    process = start(folder, 0.1, "killed", 1)
    wait_for(folder, "killed", number=4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ladder, _ = refined(folder)
    assert facts(ladder) == facts(refined(None)[0])


@pytest.mark.slow
@needs_storage
def test_two_processes_share_the_work_and_one_outlives_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "refine"
    both = [start(folder, 0.3, name, 2) for name in ("one", "two")]
    wait_for(folder, "one", "two", number=2)
    both[0].send_signal(signal.SIGKILL)
    assert both[1].wait(timeout=120) == 0
    both[0].wait()
    done = calls(folder)
    assert {name for name, *_ in done} == {"one", "two"}
    # Only the rung at which the killed one was may have been trained twice.
    assert sum(count - 1 for count in Counter(tuple(rest) for _, *rest in done).values()) <= 1
    ladder, end = refined(folder)
    assert end == "optimum"
    assert not unfinished(ladder)
    assert ladder.winner is not None
    assert is_local_optimum(ladder.winner.genotype)
    assert max(Counter(trial.genotype for trial in ladder.trials).values()) == 1
