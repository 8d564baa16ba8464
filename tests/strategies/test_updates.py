"""What a strategy keeps between steps and does after one: running means, projections, schedules, ties, its best."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning import (
    DARTS,
    ENAS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    MixedOp,
    ProxylessNAS,
    RandomSearch,
    SearchSpace,
    SearchStrategy,
    Trial,
    functional,
)
from advnas_lightning.engine.clock import SearchClock
from advnas_lightning.objectives import Outcome, Regression
from tests.support.linear_space import Cost, Net, TableNet, batch_of, every_choice, fit, make, row_probs, surprise

# -- the zero operation, Appendix B ------------------------------------------------------------------------------------
#
# Four edges, γ = 1/2 so that every number below is an exact binary fraction, advantages in reward sign:
#   edge 0: x, y and a zero operation      edge 1: x, y, no zero operation
#   edge 2: two zero operations and x      edge 3: zero operations alone
# Each step is (the drawn candidate, the advantage it shows) for each edge.

EDGE_SIZES = (3, 2, 3, 2)
ZERO_OPS = {(0, 2), (2, 0), (2, 1), (3, 0), (3, 1)}
STEPS: list[tuple[tuple[int, float], ...]] = [
    ((0, 4.0), (0, 1.0), (2, -2.0), (0, 3.0)),
    ((2, 1.0), (1, -8.0), (0, 5.0), (1, -4.0)),  # edge 0 draws zero while y was never drawn
    ((1, -6.0), (0, 2.0), (1, -7.0), (0, 1.0)),
    ((2, 2.0), (1, 3.0), (2, 8.0), (1, 6.0)),
    ((0, 6.0), (0, -4.0), (0, 1.0), (0, -2.0)),
    ((2, -20.0), (1, 5.0), (1, 9.0), (1, 2.0)),  # edge 0: the zero column becomes the worst one
]
TREATED = {
    # EMA from 0, min over the columns that are not zero operations, an unvisited one counting 0.
    # Edge 0: x 2, then min(2, 0) = 0; y −3, then min(2, −3); x 4, then min(4, −3).
    # Edge 2: x −1, which both zero operations are credited with; x −1 + (8 + 1)/2 = 3.5, then both with that.
    # Edge 3 has nothing to compare with, edge 1 nothing to treat.
    "paper": [
        [4.0, 1.0, -2.0, 3.0],
        [0.0, -8.0, -1.0, -4.0],
        [-6.0, 2.0, -1.0, 1.0],
        [-3.0, 3.0, 8.0, 6.0],
        [6.0, -4.0, 3.5, -2.0],
        [-3.0, 5.0, 3.5, 2.0],
    ],
    # EMA from the first value, min over every column after this step's update, unvisited ones 0.
    # Edge 0: x 4; zero 1, min(4, 0, 1) = 0; y −6; zero 1.5, min(4, −6, 1.5); x 5; zero (1.5 − 20)/2 = −9.25, the min.
    # Edge 2: x −2; z0 5, min(5, 0, −2) = −2; z1 −7, min(5, −7, −2) = −7; x 3; z0 3, min(3, −7, 3) = −7;
    #         z1 (−7 + 9)/2 = 1, min(3, 1, 3) = 1.
    # Edge 3: z0 3, min(3, 0) = 0; z1 −4, min(3, −4); z0 2, min(2, −4) = −4; z1 1, min(2, 1); z0 0, min(0, 1);
    #         z1 1.5, min(0, 1.5) = 0.
    "authors_code": [
        [4.0, 1.0, -2.0, 0.0],
        [0.0, -8.0, -2.0, -4.0],
        [-6.0, 2.0, -7.0, -4.0],
        [-6.0, 3.0, 8.0, 1.0],
        [6.0, -4.0, -7.0, 0.0],
        [-9.25, 5.0, 1.0, 0.0],
    ],
    "none": [[advantage for _, advantage in step] for step in STEPS],
}
EMA = {
    "paper": [[4.0, -3.0, -9.375], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    "authors_code": [[5.0, -6.0, -9.25], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
}
# The per-edge running mean of the treated advantage of edge 0, in loss sign, from 0, as it was before each step:
#   paper        costs −4  0  6  3  −6  3      mean 0  −2  −1  2.5  2.75  −1.625
#   authors_code costs −4  0  6  6  −6  9.25   mean 0  −2  −1  2.5  4.25  −0.875
#   none         costs −4 −1  6 −2  −6  20     mean 0  −2  −1.5  2.25  0.125  −2.9375
LESS_BASELINE = {
    "paper": [-4.0, 2.0, 7.0, 0.5, -8.75, 4.625],
    "authors_code": [-4.0, 2.0, 7.0, 3.5, -10.25, 10.125],
    "none": [-4.0, 1.0, 7.5, -4.25, -6.125, 22.9375],
}


def draw_of(step: Sequence[tuple[int, float]]) -> Tensor:
    a = torch.zeros(4, 3)
    for edge, (j, _) in enumerate(step):
        a[edge, j] = 1
    return a


@pytest.mark.parametrize("rule", ["paper", "authors_code", "none"])
def test_zero_op_rule_by_hand(rule: Any) -> None:
    space = SearchSpace(TableNet(EDGE_SIZES, ZERO_OPS))
    assert {(int(e), int(j)) for e, j in space.zero_ops.nonzero()} == ZERO_OPS
    ema, visited = torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.bool)
    for step, expected in zip(STEPS, TREATED[rule], strict=True):
        advantage = torch.tensor([observed for _, observed in step])
        treated, ema, visited = functional.treat_zero_op(
            advantage, draw_of(step), ema, visited, space.mask, space.zero_ops, gamma=0.5, rule=rule
        )
        assert treated.tolist() == expected
    if rule == "none":
        assert not ema.any()
        assert not visited.any()
    else:
        assert ema[0].tolist() == EMA[rule][0]
        assert visited.tolist() == space.mask.tolist()  # every candidate was drawn, and no padding


@pytest.mark.parametrize("baseline", ["none", "ema"])
@pytest.mark.parametrize("rule", ["paper", "authors_code", "none"])
@pytest.mark.parametrize("advantage", ["taylor", "exact"])
def test_zero_op_rule_and_baseline_in_advantage_nas(rule: str, baseline: str, advantage: str) -> None:
    """The same sequence through the strategy: for a linear reward an advantage is what the table holds, either way."""
    strategy = make(
        AdvantageNAS,
        TableNet(EDGE_SIZES, ZERO_OPS),
        objective=Cost(),
        gamma=0.5,
        zero_op=rule,
        baseline=baseline,
        advantage=advantage,
    )
    for number, step in enumerate(STEPS):
        table = torch.full((4, 3, 1), 1e3, dtype=torch.double)  # what was not drawn must not matter
        for edge, (j, observed) in enumerate(step):
            table[edge, j] = observed
        architecture = strategy.one_hot([j for j, _ in step])
        strategy.sample = lambda architecture=architecture: architecture
        gradient = strategy.theta_gradient(strategy.evaluate_draws(table))
        cost = -torch.tensor(TREATED[rule][number], dtype=torch.double)
        a = draw_of(step).double()
        if baseline == "ema":
            cost[0] = LESS_BASELINE[rule][number]
        rows = slice(0, 1) if baseline == "ema" else slice(0, 4)
        expected = (cost.unsqueeze(1) * (a - strategy.probs))[rows]
        torch.testing.assert_close(gradient[rows], expected, rtol=0, atol=1e-12)
    if rule != "none":
        assert strategy.candidate_ema[0].tolist() == pytest.approx(EMA[rule][0])


def test_a_zero_operation_is_one_that_says_so() -> None:
    """Neither its name nor its output makes it one."""

    class Says(nn.Identity):
        is_zero_op = True

    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    op = MixedOp("edge", {"identity": Says(), "none": Silent(), "zero": Silent()})
    strategy = make(AdvantageNAS, op)
    assert strategy.zero_ops.tolist() == [[True, False, False]]


# -- ProxylessNAS ------------------------------------------------------------------------------------------------------


def row_probs_padded(theta: Tensor, sizes: Sequence[int]) -> Tensor:
    padded = torch.zeros_like(theta)
    for edge, row in enumerate(row_probs(theta, sizes)):
        padded[edge, : len(row)] = row
    return padded


class WatchedProxylessNAS(ProxylessNAS):
    """Notes θ before the step, after the optimizer and after the shift."""

    def after_theta_step(self, trials: Sequence[Trial], before: Sequence[Tensor]) -> None:
        moved = self.theta.detach().clone()
        super().after_theta_step(trials, before)
        self.seen.append((trials[0].architecture, *before, moved, self.theta.detach().clone()))


@pytest.mark.parametrize("gates", ["two_hot", "binary"])
def test_proxylessnas_leaves_the_probabilities_of_what_it_did_not_draw(gates: str) -> None:
    """In real Adam steps, whose momentum and decay move every logit."""
    sizes = (4, 1, 2, 3)
    adam = partial(torch.optim.Adam, lr=0.1, betas=(0.5, 0.999), weight_decay=0.05)
    cost = Cost(lambda y: (y.sum() - 1).square())
    strategy = WatchedProxylessNAS(TableNet(sizes), architecture_optimizer=adam, gates=gates, objective=cost).double()
    strategy.theta.data.normal_(generator=torch.Generator().manual_seed(7))
    strategy.seen = []
    generator = torch.Generator().manual_seed(2)
    tables = list(torch.randn(40, 4, 4, 1, generator=generator, dtype=torch.double))
    fit(strategy, tables)
    assert len(strategy.seen) == 40
    without_shift, moved_in_pair, previous = [], [], None
    for architecture, before, moved, after in strategy.seen:
        if previous is not None:
            assert torch.equal(before, previous)
        previous = after
        assert [len(paths) for paths in architecture.paths] == [2, 1, 2, 2]
        assert architecture.gates[1, 0] == 1  # an edge with a single candidate runs that one, alone
        pair = torch.zeros(4, 4, dtype=torch.bool)
        for edge, paths in enumerate(architecture.paths):
            pair[edge, list(paths)] = True
        p_before, p_after, p_moved = (row_probs_padded(theta, sizes) for theta in (before, after, moved))
        torch.testing.assert_close(p_after[~pair], p_before[~pair], rtol=0, atol=1e-12)  # float64 rounding
        assert torch.equal(after[~pair], before[~pair])
        torch.testing.assert_close(after[1, 0], before[1, 0], rtol=0, atol=1e-12)
        without_shift.append(float((p_moved[~pair] - p_before[~pair]).abs().max()))
        moved_in_pair.append(float((p_after[pair] - p_before[pair]).abs().max()))
        for edge in (0, 2, 3):  # both logits of a pair are shifted by the same amount
            i, j = architecture.paths[edge]
            ours, theirs = after[edge, i] - after[edge, j], moved[edge, i] - moved[edge, j]
            assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    assert min(without_shift) > 1e-4
    assert min(moved_in_pair) > 1e-4


# -- NASP --------------------------------------------------------------------------------------------------------------


class WatchedNASP(NASP):
    def after_theta_step(self, trials: Sequence[Trial], before: Sequence[Tensor]) -> None:
        moved = self.theta.detach().clone()
        super().after_theta_step(trials, before)
        self.seen.append((moved, self.theta.detach().clone()))


def by_hand(row: Tensor) -> Tensor:
    """Shift by a negative minimum, then divide by a maximum above 1, of one edge without padding."""
    low = min(float(row.min()), 0.0)
    high = max(float(row.max()) - low, 1.0)
    return (row - low) / high


@pytest.mark.parametrize("projection", ["affine", "clip"])
def test_nasp_keeps_theta_in_the_box(projection: str) -> None:
    sizes = (4, 1, 2, 3)
    sgd = partial(torch.optim.SGD, lr=0.2)
    strategy = WatchedNASP(TableNet(sizes), architecture_optimizer=sgd, projection=projection, objective=Cost())
    assert (strategy.theta == (1.0 if projection == "affine" else 0.5)).all()
    strategy.seen = []
    tables = list(torch.randn(60, 4, 4, 1, generator=torch.Generator().manual_seed(2)))
    fit(strategy, tables)
    assert len(strategy.seen) == 60
    below = above = 0
    for moved, after in strategy.seen:
        for edge, size in enumerate(sizes):
            raw, row = moved[edge, :size], after[edge, :size]
            assert row.min() >= 0
            assert row.max() <= 1
            below, above = below + int(raw.min() < 0), above + int(raw.max() > 1)
            reference = by_hand(raw) if projection == "affine" else torch.tensor([min(max(x, 0.0), 1.0) for x in raw])
            torch.testing.assert_close(row, reference, rtol=0, atol=2**-23)  # float32 rounding
            if projection == "affine":
                assert row.argsort().tolist() == raw.argsort().tolist()
    assert below > 10
    assert above > 10


def test_nasp_affine_projection_of_a_ragged_row_by_hand() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    theta = torch.tensor([[-1.0, 0.0, 3.0], [0.25, 0.5, -9.0], [0.5, 1.0, 2.0]])
    projected = functional.project_affine(theta, mask)
    assert projected[0].tolist() == [0.0, 0.25, 1.0]  # shifted by 1, divided by 4
    assert projected[1, :2].tolist() == [0.25, 0.5]  # inside already; the padding shifts nothing
    assert projected[2].tolist() == [0.25, 0.5, 1.0]


def test_nasp_breaks_ties_at_random() -> None:
    """Among the best alone, evenly, in both kinds of step; θ starts with nothing but ties."""
    strategy = make(NASP, TableNet((4, 2)))
    strategy.theta.data.copy_(torch.tensor([[1.0, 0.5, 1.0, 1.0], [0.2, 0.1, 9.0, 9.0]]))
    for sample in (strategy.sample, strategy.sample_for_weights):
        counts = Counter(sample().choice for _ in range(600))
        assert set(counts) == {(0, 0), (2, 0), (3, 0)}
        assert surprise(torch.tensor(list(counts.values())), torch.full((3,), 1 / 3)) < 1
    fresh = NASP(TableNet((4, 2)), architecture_optimizer=partial(torch.optim.Adam, lr=0.1))
    assert len({fresh.sample().choice for _ in range(200)}) == 8


def test_nasp_draws_uniformly_in_the_warm_up() -> None:
    """However clear θ is, and whatever the rows' lengths."""
    strategy = make(NASP, TableNet((4, 2)))
    strategy.clock = SearchClock(searching=False)
    strategy.theta.data[:, 1] = 7.0
    cells = every_choice(strategy.space)
    counts = Counter(strategy.sample_for_weights().choice for _ in range(1000))
    assert surprise(torch.tensor([counts[cell] for cell in cells]), torch.full((8,), 1 / 8)) < 1


# -- the baseline of REINFORCE -----------------------------------------------------------------------------------------

LOSSES = [4.0, 2.0, 8.0, 1.0]
EXCESS = {  # L − b with γ = 1/2; in brackets the b that is subtracted
    ("first", "after"): [0.0, -2.0, 5.0, -4.5],  # (4) (4) (3) (5.5)
    ("first", "before"): [0.0, -1.0, 2.5, -2.25],  # (4) (3) (5.5) (3.25)
    ("zero", "after"): [4.0, 0.0, 6.0, -4.0],  # (0) (2) (2) (5)
    ("zero", "before"): [2.0, 0.0, 3.0, -2.0],  # (2) (2) (5) (3)
}


@pytest.mark.parametrize(("init", "update"), list(EXCESS))
@pytest.mark.parametrize("strategy_class", [REINFORCE, ENAS])
def test_reinforce_baseline_by_hand(init: str, update: str, strategy_class: type[REINFORCE]) -> None:
    options = {"baseline_init": init, "baseline_update": update, "gamma": 0.5}
    strategy = make(strategy_class, Net(), **options, **({"entropy_weight": 0} if strategy_class is ENAS else {}))
    architecture = strategy.one_hot((1, 2, 0))
    for loss, excess in zip(LOSSES, EXCESS[init, update], strict=True):
        trial = Trial(architecture, torch.tensor(loss, dtype=torch.double), None, 1)
        gradients = strategy.architecture_gradients([trial])
        if strategy_class is REINFORCE:
            expected = [excess * (architecture.gates - strategy.probs)]
        else:
            log_p = strategy.controller(torch.tensor([[1, 2, 0]]))[0]
            score = log_p[0, 1] + log_p[1, 2] + log_p[2, 0]
            expected = [excess * part for part in torch.autograd.grad(score, strategy.architecture_parameters())]
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    last = 3.25 if init == "first" else 3.0
    assert strategy.baseline.item() == last


@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_reinforce_baseline_is_fed_by_architecture_steps_only(warmup_epochs: int) -> None:
    sgd = partial(torch.optim.SGD, lr=0.01)
    strategy = make(REINFORCE, Net(), objective=Regression(), weight_optimizer=sgd, warmup_epochs=warmup_epochs)
    batches = [batch_of(seed) for seed in range(3)]
    fit(strategy, batches)
    assert strategy.weight_steps == 3
    assert strategy.architecture_steps == 3 * (1 - warmup_epochs)
    assert strategy.baseline.isnan().item() == bool(warmup_epochs)


# -- PARSEC in the loop ------------------------------------------------------------------------------------------------


class WatchedPARSEC(PARSEC):
    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append(self.theta.detach().clone())


@pytest.mark.parametrize(("weighting", "moves"), [("importance", [0, 1, 2, 3, 4, 5, 6]), ("authors_code", [2, 5])])
def test_parsec_moves_theta_at_every_step_or_at_every_kth(weighting: str, moves: list[int]) -> None:
    strategy = WatchedPARSEC(
        Net(),
        objective=Regression(),
        architecture_optimizer=partial(torch.optim.SGD, lr=1.0),
        samples=3,
        weighting=weighting,
    ).double()
    strategy.seen = [strategy.theta.detach().clone()]
    batches = [batch_of(seed) for seed in range(7)]
    fit(strategy, batches)
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(strategy.seen)]
    assert [step for step, moved in enumerate(changed) if moved] == moves


# -- temperatures ------------------------------------------------------------------------------------------------------


class ByHandGDAS(GDAS):
    progress = 0.0


class ByHandSNAS(SNAS):
    progress = 0.0


def test_gdas_temperature_is_linear_and_ends_exactly() -> None:
    strategy = make(ByHandGDAS, Net())
    for progress, temperature in ((0.0, 10.0), (0.25, 7.525), (0.5, 5.05), (0.75, 2.575)):
        strategy.progress = progress
        assert strategy.temperature == pytest.approx(temperature, rel=1e-15)
    strategy.progress = 1.0
    assert strategy.temperature == 0.1  # not merely close


def test_snas_temperature_is_a_cosine_with_a_floor() -> None:
    strategy = make(ByHandSNAS, Net())
    for progress, temperature in ((0.0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25)):
        strategy.progress = progress
        assert strategy.temperature == pytest.approx(temperature, rel=1e-12)
    for progress in (0.99, 1.0):  # (1 + cos 0.99π) / 2 = 2.5e-4 lies below the floor
        strategy.progress = progress
        assert strategy.temperature == 1e-3
    strategy.progress = 0.97  # 2.2e-3 does not
    assert strategy.temperature == pytest.approx((1 + math.cos(0.97 * math.pi)) / 2, rel=1e-12)
    assert strategy.sample().gates.isfinite().all()


@pytest.mark.parametrize("option", ["tau_max", "tau_min"])
def test_temperature_bounds_are_options(option: str) -> None:
    strategy = make(ByHandGDAS, Net(), **{option: 2.5})
    strategy.progress = 0.0 if option == "tau_max" else 1.0
    assert strategy.temperature == 2.5


class WatchedGDAS(GDAS):
    def evaluate(self, architecture: Any, batch: Any) -> Trial:
        self.seen.append(self.temperature)
        return super().evaluate(architecture, batch)


def test_temperature_falls_with_the_architecture_steps_and_not_in_the_warm_up() -> None:
    sgd = partial(torch.optim.SGD, lr=0.01)
    strategy = make(WatchedGDAS, Net(), objective=Regression(), weight_optimizer=sgd, warmup_epochs=1)
    strategy.seen = []
    batches = [batch_of(seed) for seed in range(4)]
    after = []
    strategy.on_train_end = lambda: after.append(strategy.temperature)
    fit(strategy, batches, epochs=3)
    # Eight architecture steps: the k-th is taken at k/8 of the way, and after the last one the end is reached.
    assert strategy.seen == pytest.approx([10 - 9.9 * k / 8 for k in range(8)], rel=1e-12)
    assert after == [0.1]


# -- the final architecture --------------------------------------------------------------------------------------------


def test_argmax_breaks_ties_by_the_seed() -> None:
    def choice(seed: int) -> tuple[int, ...]:
        strategy = AdvantageNAS(
            TableNet((4, 1, 2)), architecture_optimizer=partial(torch.optim.Adam, lr=0.1), seed=seed
        )
        strategy.theta.data[0, 3] = 0.0
        return tuple(strategy.argmax_choice())

    seeds = range(60)
    first = [choice(seed) for seed in seeds]
    assert [choice(seed) for seed in seeds] == first
    counts = Counter(first)
    cells = [(i, 0, k) for i in range(3) for k in range(2)]  # never the padding, never the worse one
    assert set(counts) == set(cells)
    assert surprise(torch.tensor([counts[cell] for cell in cells]), torch.full((6,), 1 / 6)) < 1


def test_argmax_ignores_the_tie_breaker_where_there_is_no_tie() -> None:
    for seed in range(20):
        strategy = make(AdvantageNAS, TableNet((4, 2)), seed=seed)
        strategy.theta.data.copy_(torch.tensor([[1.0, 1.0 + 1e-6, 0.9, 1.0], [0.1, 0.2, 9.0, 9.0]]))
        assert strategy.argmax_choice() == [1, 1]


def test_random_search_ends_with_a_draw_by_seed() -> None:
    found = [tuple(RandomSearch(Net(), seed=seed).argmax_choice()) for seed in range(40)]
    assert len(set(found)) > 10
    assert found[3] == tuple(RandomSearch(Net(), seed=3).argmax_choice())


def watched(strategy_class: type[SearchStrategy]) -> type[SearchStrategy]:
    class Watched(strategy_class):  # type: ignore[misc,valid-type]
        def evaluate(self, architecture: Any, batch: Any) -> Trial:
            trial = super().evaluate(architecture, batch)
            self.seen.append(trial)
            return trial

    return Watched


ONE_HOT: list[tuple[type[SearchStrategy], dict[str, Any]]] = [
    (AdvantageNAS, {}),
    (AdvantageNAS, {"advantage": "exact"}),
    (REINFORCE, {}),
    (ENAS, {}),
    (PARSEC, {}),
    (PARSEC, {"weighting": "authors_code", "samples": 2}),
    (ProxylessNAS, {"gates": "binary"}),
    (GDAS, {}),
    (NASP, {}),
]
NEVER: list[tuple[type[SearchStrategy], dict[str, Any]]] = [
    (DARTS, {}),
    (SNAS, {}),
    (ProxylessNAS, {"gates": "two_hot"}),
]


@pytest.mark.parametrize(("strategy_class", "options"), ONE_HOT)
def test_process_best_is_the_one_hot_with_the_lowest_loss_so_far(
    strategy_class: type[SearchStrategy], options: dict[str, Any]
) -> None:
    strategy = make(watched(strategy_class), Net(), objective=Regression(), **options).float()
    assert strategy.process_best is None
    strategy.seen = []
    batches = [tuple(part.float() for part in batch_of(seed)) for seed in range(6)]
    fit(strategy, batches, epochs=2)
    one_hot = [trial for trial in strategy.seen if (trial.architecture.gates.sum(1) == 1).all()]
    assert len(one_hot) >= 12
    losses = [trial.loss.item() for trial in one_hot]
    best = one_hot[losses.index(min(losses))].architecture
    assert strategy.process_best == strategy.space.genotype(best.gates.argmax(1).tolist())
    assert strategy.best.loss.item() == min(losses)
    assert strategy.genotype("process_best") == strategy.process_best
    if options == {"advantage": "exact"}:  # an architecture with an edge cut is none of the space, however good
        assert min(trial.loss for trial in strategy.seen) < min(losses)


@pytest.mark.parametrize(("strategy_class", "options"), NEVER)
def test_process_best_is_none_where_no_one_hot_is_evaluated(
    strategy_class: type[SearchStrategy], options: dict[str, Any]
) -> None:
    strategy = make(strategy_class, Net(), objective=Regression(), select="process_best", **options)
    batches = [batch_of(seed) for seed in range(3)]
    fit(strategy, batches)
    assert strategy.architecture_steps == 3
    assert strategy.process_best is None
    assert strategy.selected == "argmax"
    with pytest.raises(ValueError, match="no process_best"):
        strategy.genotype("process_best")


@pytest.mark.parametrize(
    ("strategy_class", "selects"),
    [
        (AdvantageNAS, "argmax"),
        (REINFORCE, "process_best"),
        (ENAS, "process_best"),
        (PARSEC, "argmax"),
        (ProxylessNAS, "argmax"),
        (GDAS, "process_best"),
        (DARTS, "argmax"),
        (SNAS, "argmax"),
        (NASP, "argmax"),
    ],
)
def test_the_kind_of_genotype_that_is_selected_by_default(strategy_class: type[SearchStrategy], selects: str) -> None:
    assert make(strategy_class, Net()).select == selects


@pytest.mark.parametrize(("strategy_class", "options"), ONE_HOT + NEVER)
def test_every_strategy_searches_in_float64(strategy_class: type[SearchStrategy], options: dict[str, Any]) -> None:
    strategy = make(strategy_class, Net(), objective=Regression(), **options)
    before = [parameter.detach().clone() for parameter in strategy.architecture_parameters()]
    fit(strategy, [batch_of(seed) for seed in range(2)])
    for was, parameter in zip(before, strategy.architecture_parameters(), strict=True):
        assert parameter.dtype == torch.double
        assert not torch.equal(was, parameter)


def test_exact_advantage_reports_the_loss_of_the_draw() -> None:
    """The networks with an edge cut are for the credit alone: their losses are no architecture's."""
    strategy = make(watched(AdvantageNAS), Net(), objective=Regression(), advantage="exact")
    strategy.seen = []
    fit(strategy, [batch_of(0)])
    losses = [trial.loss.item() for trial in strategy.seen]
    assert len(losses) == 4
    assert max(losses) - min(losses) > 0.1
    assert strategy.trainer.callback_metrics["architecture/loss"].item() == pytest.approx(losses[0], rel=1e-6)


class Overflowing(Regression):
    """Every loss but one is not a number."""

    losses = (math.nan, 3.0, math.nan, math.inf)
    step = 0

    def forward(self, model: nn.Module, batch: Any) -> Outcome:
        outcome = super().forward(model, batch)
        self.step += 1
        return outcome._replace(loss=outcome.loss * 0 + self.losses[self.step - 1])


def test_process_best_is_never_a_draw_that_diverged() -> None:
    strategy = make(watched(PARSEC), Net(), objective=Overflowing(), samples=4)
    strategy.seen = []
    with torch.no_grad():
        strategy.best.see(strategy.evaluate_draws(batch_of(0)))
    assert strategy.best.loss.item() == 3.0
    assert strategy.process_best == strategy.space.genotype(strategy.seen[1].architecture.choice)
