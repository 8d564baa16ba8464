"""How far losses are trusted, and how they are blended with probabilities."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torchmetrics.functional.regression import spearman_corrcoef

from advnas_lightning.ranking.blend import blend
from advnas_lightning.ranking.trust import LEAST_HALVES, Trust, spearman


def test_the_rank_correlation_is_that_of_torchmetrics() -> None:
    draws = random.Random(0)
    for _ in range(20):
        first = [float(draws.randint(0, 6)) for _ in range(15)]
        second = [value + draws.gauss(0, 3) for value in first]
        expected = spearman_corrcoef(torch.tensor(first).double(), torch.tensor(second).double())
        assert spearman(first, second) == pytest.approx(float(expected), abs=1e-6)
    assert spearman([1.0], [2.0]) is None
    assert spearman([1.0, math.nan], [2.0, 3.0]) is None


def test_a_third_of_the_differences_is_chance_where_two_halves_agree_by_a_half() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(200_000, generator=generator)
    a, b = true + torch.randn(2, 200_000, generator=generator)  # as much chance as truth: they agree by 1/2
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) == pytest.approx(LEAST_HALVES, abs=0.01)
    mean = (a + b) / 2
    assert float((mean - true).var() / mean.var()) == pytest.approx(1 / 3, abs=0.01)


def test_losses_that_say_nothing_are_warned_of() -> None:
    draws = random.Random(1)
    log_probs = [draws.gauss(0, 1) for _ in range(60)]
    true = [-value for value in log_probs]
    good = Trust.of(log_probs, true, [(loss + draws.gauss(0, 0.1), loss) for loss in true])
    assert good.warnings() == []
    assert good.halves is not None
    assert good.halves > 0.9
    noise = [draws.gauss(0, 1) for _ in range(60)]
    bad = Trust.of(log_probs, noise, [(loss, draws.gauss(0, 1)) for loss in noise])
    assert len(bad.warnings()) == 2
    assert "raise batches=" in bad.warnings()[0]
    assert "advnas refine" in bad.warnings()[1]
    assert "too few" in Trust.of([0.0], [1.0], [(1.0, 1.0)]).warnings()[0]
    assert Trust(0, None, None).lines()[0] == "Whether the losses on two halves of the batches agree is not known."
    few = Trust.of(log_probs[:3], true[:3], [(loss, loss) for loss in true[:3]])
    assert few.lines()[1] == "The losses agree with the search's probabilities by 1.00."  # chance may do that
    assert all(line.endswith(".") for line in [*good.lines(), *bad.lines()])


def test_twice_the_standard_deviation_is_what_unrelated_losses_stay_below() -> None:
    draws = random.Random(2)
    above = 0
    for _ in range(400):
        first, second = ([draws.random() for _ in range(40)] for _ in range(2))
        found = spearman(first, second)
        assert found is not None
        above += found > Trust(40, None, None).chance
    assert above / 400 == pytest.approx(0.023, abs=0.02)


def test_more_probable_with_a_lower_loss_is_better() -> None:
    even = [1.0, 2.0, 3.0, 4.0]
    scores = blend([-1.0, -2.0, -1.0, -2.0], [1.0, 1.5, 1.2, 2.0])
    assert scores.index(max(scores)) == 0
    assert scores.index(min(scores)) == 3
    assert blend([-1.0] * 4, even) == sorted(blend([-1.0] * 4, even), reverse=True)


def test_losses_that_contradict_the_search_do_not_count_and_nan_comes_last() -> None:
    scores = blend([-3.0, -2.0, -1.0], [0.1, 0.2, 0.3])
    assert scores == sorted(scores)
    assert scores == blend([-3.0, -2.0, -1.0], [0.1, 0.2, 7.0])
    scores = blend([-1.0, -2.0, -math.inf], [math.nan, 0.2, 0.3])
    assert scores[0] == -math.inf
    assert all(map(math.isfinite, scores[1:]))
    assert blend([0.0], [math.inf]) == [-math.inf]


def test_losses_that_agree_decide_between_equal_probabilities() -> None:
    scores = blend([-3.0, -2.0, -1.0, -1.0], [0.3, 0.2, 0.12, 0.1])
    assert scores.index(max(scores)) == 3
