"""Every strategy's θ.grad against enumeration, autograd or its paper's formula written out."""

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from advnas_lightning import (
    DARTS,
    ENAS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    Architecture,
    ArchitectureCost,
    CounterfactualNAS,
    DrNAS,
    ProxylessNAS,
    RandomSearch,
    SearchStrategy,
    Trial,
    functional,
)
from advnas_lightning.engine.clock import SearchClock
from advnas_lightning.objectives import Regression
from advnas_lightning.strategies.enas import Controller
from tests.support.linear_space import (
    Cost,
    Net,
    TableNet,
    batch_of,
    every_choice,
    fit,
    in_double,
    joint,
    loss_of,
    make,
    one_hot_rows,
    row_probs,
    surprise,
    weighted,
)

BATCH = batch_of(1)
SIZES = Net.sizes
WIDTH = max(SIZES)
# Everything is float64 and each number is a sum of at most some hundred terms of order one.
EXACT = {"rtol": 1e-10, "atol": 1e-12}
PROGRESS = {GDAS: 0.9, SNAS: 0.6}  # of the search, for the temperatures


def build(strategy: type[SearchStrategy], **options: Any) -> Any:
    made = make(strategy, Net(), objective=Regression(), **options)
    made.clock = SearchClock(progress=PROGRESS.get(strategy, 0.0))
    return made


def try_choice(strategy: SearchStrategy, choice: Sequence[int], batch: Any = BATCH) -> Trial:
    return strategy.evaluate(in_double(strategy.one_hot(choice)), batch)


def exact_gradient(strategy: SearchStrategy, losses: Tensor, sizes: Sequence[int] = SIZES) -> Tensor:
    """∇θ Σ_a p(a) L(a) by autograd."""
    theta = strategy.theta.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad((joint(theta, sizes) * losses).sum(), theta)
    return gradient


def expected(strategy: SearchStrategy, estimate: Callable[[tuple[int, ...]], Tensor], sizes: Sequence[int]) -> Tensor:
    """Σ_a p(a) estimate(a): no sampling."""
    probs = joint(strategy.theta.detach(), sizes)
    return sum(p * estimate(choice) for p, choice in zip(probs, every_choice(strategy.space), strict=True))


def net_losses(strategy: SearchStrategy) -> Tensor:
    """L(a) of every architecture, without MixedOp."""
    choices = every_choice(strategy.space)
    rows = [loss_of(strategy.model, weighted(one_hot_rows(choice, WIDTH)), BATCH) for choice in choices]
    return torch.stack(rows).detach()


def gate_gradient(net: Net, gates: Tensor, ran: Sequence[Sequence[int]] | None = None, *, ones: bool = False) -> Tensor:
    """G = ∂L/∂a at ``gates`` by autograd of the formula of Eq. (1)."""
    gates = gates.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(net, weighted(gates, ran, ones=ones), BATCH), gates)
    return gradient


def masked_softmax(theta: Tensor) -> Tensor:
    """softmax(θ_i) without the padding, padded with zeros: differentiable, and written without the package."""
    rows = [nn.functional.pad(p, (0, WIDTH - len(p))) for p in row_probs(theta, SIZES)]
    return torch.stack(rows)


def same_noise(strategy: SearchStrategy) -> Tensor:
    """The Gumbel noise that the strategy's next draw will use: −ln of Exp(1) variables."""
    generator = torch.Generator()
    generator.set_state(strategy.generator.get_state())
    return -torch.empty(len(SIZES), WIDTH, dtype=torch.double).exponential_(generator=generator).log()


def theta_of(strategy: SearchStrategy) -> Tensor:
    return strategy.theta.detach().clone().requires_grad_()


# -- the space itself --------------------------------------------------------------------------------------------------


def test_the_space_that_is_enumerated_is_ragged_and_not_additive() -> None:
    strategy = build(REINFORCE)
    assert tuple(map(len, strategy.space.candidates)) == SIZES
    losses = net_losses(strategy)
    torch.testing.assert_close(  # the engine sees the losses that the reference has
        torch.stack([try_choice(strategy, choice).loss for choice in every_choice(strategy.space)]), losses, **EXACT
    )
    table = losses.view(SIZES)
    interaction = table - table.mean((1, 2), True) - table.mean((0, 2), True) - table.mean((0, 1), True)
    assert (interaction + 2 * table.mean()).abs().max() > 0.1 * losses.std()


# -- unbiased estimators -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [-3.0, 0.0, 2.5, 40.0])
def test_reinforce_is_unbiased_under_any_constant_baseline(baseline: float) -> None:
    strategy = build(REINFORCE, gamma=0.5)  # a large rate: a baseline that already knows this step's loss would show

    def estimate(choice: tuple[int, ...]) -> Tensor:
        strategy.baseline = torch.tensor(baseline, dtype=torch.double)
        return strategy.theta_gradient([try_choice(strategy, choice)])

    truth = exact_gradient(strategy, net_losses(strategy))
    assert truth.abs().max() > 0.1
    # The terms are as large as the baseline and cancel: hence its factor.
    torch.testing.assert_close(expected(strategy, estimate, SIZES), truth, rtol=0, atol=1e-12 * (1 + abs(baseline)))


def test_a_reinforce_baseline_that_is_updated_first_shrinks_the_gradient_by_its_rate() -> None:
    """L − (b + γ (L − b)) = (1 − γ)(L − b): the reading that is not the default is biased by exactly this factor."""
    strategy = build(REINFORCE, gamma=0.25, baseline_update="before")

    def estimate(choice: tuple[int, ...]) -> Tensor:
        strategy.baseline = torch.tensor(1.5, dtype=torch.double)
        return strategy.theta_gradient([try_choice(strategy, choice)])

    truth = exact_gradient(strategy, net_losses(strategy))
    torch.testing.assert_close(expected(strategy, estimate, SIZES), 0.75 * truth, **EXACT)


def given(strategy: SearchStrategy, architecture: Architecture) -> list[Trial]:
    """The trials of an architecture step that draws ``architecture``."""
    strategy.sample = lambda: architecture
    return strategy.evaluate_draws(BATCH)


@pytest.mark.parametrize("baseline", ["none", "ema"])
def test_exact_advantage_is_unbiased(baseline: str) -> None:
    strategy = build(AdvantageNAS, advantage="exact", zero_op="none", baseline=baseline, gamma=0.5)
    ema = torch.tensor([0.7, -2.0, 5.0], dtype=torch.double)

    def estimate(choice: tuple[int, ...]) -> Tensor:
        strategy.edge_ema = ema.clone()
        return strategy.theta_gradient(given(strategy, in_double(strategy.one_hot(choice))))

    truth = exact_gradient(strategy, net_losses(strategy))
    torch.testing.assert_close(expected(strategy, estimate, SIZES), truth, rtol=0, atol=1e-12)


def test_exact_advantage_is_the_loss_less_the_loss_without_the_edge() -> None:
    """Eq. (6): edge by edge, its other sites included; nothing is left to averaging."""
    strategy = build(AdvantageNAS, advantage="exact", zero_op="none")
    for choice in every_choice(strategy.space):
        a = one_hot_rows(choice, WIDTH)
        credit = []
        for edge in range(len(SIZES)):
            without = a.clone()
            without[edge] = 0
            parts = [loss_of(strategy.model, weighted(gates), BATCH).detach() for gates in (a, without)]
            credit.append(parts[0] - parts[1])
        gradient = strategy.theta_gradient(given(strategy, in_double(strategy.one_hot(choice))))
        p = masked_softmax(strategy.theta.detach())
        torch.testing.assert_close(gradient, torch.stack(credit).unsqueeze(1) * (a - p), **EXACT)


def test_taylor_advantage_is_the_active_gates_gradient() -> None:
    """Eq. (7), for every draw."""
    strategy = build(AdvantageNAS, zero_op="none")
    p = masked_softmax(strategy.theta.detach())
    for choice in every_choice(strategy.space):
        a = one_hot_rows(choice, WIDTH)
        credit = (a * gate_gradient(strategy.model, a)).sum(1, keepdim=True)
        gradient = strategy.theta_gradient([try_choice(strategy, choice)])
        torch.testing.assert_close(gradient, credit * (a - p), **EXACT)


def table_of(seed: int) -> Tensor:
    return torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double)  # [E, J, D]


def taylor_expectation(cost: Callable[[Tensor], Tensor], **options: Any) -> tuple[Tensor, Tensor, SearchStrategy]:
    """The expected Taylor estimate, the exact gradient, and the strategy, on a table of outputs."""
    strategy = make(AdvantageNAS, TableNet(SIZES), objective=Cost(cost), **options)
    table = table_of(3)

    def estimate(choice: tuple[int, ...]) -> Tensor:
        strategy.edge_ema = torch.tensor([0.7, -2.0, 5.0], dtype=torch.double)
        return strategy.theta_gradient([try_choice(strategy, choice, table)])

    outputs = [torch.stack([table[e, j] for e, j in enumerate(choice)]) for choice in every_choice(strategy.space)]
    losses = torch.stack([cost(y) for y in outputs])
    return expected(strategy, estimate, SIZES), exact_gradient(strategy, losses), strategy


def multilinear(y: Tensor) -> Tensor:
    """Affine in every edge's output given the others, and not additive."""
    return y.prod(0).sum() + 2 * y[0, 0] * y[2, 1] - y[1].sum() + 3


@pytest.mark.parametrize("baseline", ["none", "ema"])
def test_taylor_advantage_is_unbiased_where_the_loss_is_affine_in_each_edge(baseline: str) -> None:
    estimate, truth, _ = taylor_expectation(multilinear, baseline=baseline, gamma=0.5)
    assert truth.abs().max() > 0.1
    torch.testing.assert_close(estimate, truth, rtol=0, atol=1e-12)


def test_taylor_advantage_is_biased_where_the_loss_is_not_affine() -> None:
    """For L = ‖Σ y_k‖², A_i of Eq. (7) is 2⟨Σ y_k, y_i⟩, that of Eq. (6) less ‖y_i‖²: the bias in closed form."""
    estimate, truth, strategy = taylor_expectation(lambda y: y.sum(0).square().sum())
    squares = table_of(3).square().sum(-1)  # [E, J]
    p = masked_softmax(strategy.theta.detach())
    bias = p * (squares - (p * squares).sum(1, keepdim=True))  # E[‖y_i‖² (a_i − p_i)]
    torch.testing.assert_close(estimate - truth, bias, rtol=0, atol=1e-12)
    relative = float(bias.norm() / truth.norm())
    assert relative > 0.1, f"the bias of Eq. (7) is {relative:.3f} of the gradient here"


def test_taylor_advantage_is_biased_on_a_network() -> None:
    strategy = build(AdvantageNAS, zero_op="none")
    truth = exact_gradient(strategy, net_losses(strategy))
    estimate = expected(strategy, lambda choice: strategy.theta_gradient([try_choice(strategy, choice)]), SIZES)
    assert (estimate - truth).norm() > 0.1 * truth.norm()


# -- CounterfactualNAS -------------------------------------------------------------------------------------------------


def test_counterfactual_credits_every_candidate_of_every_draw() -> None:
    """p ∘ (G − ⟨p, G⟩), G the gradient of all gates of the dense network at the draw."""
    strategy = build(CounterfactualNAS)
    p = masked_softmax(strategy.theta.detach())
    for choice in every_choice(strategy.space):
        credit = gate_gradient(strategy.model, one_hot_rows(choice, WIDTH))
        drawn = replace(in_double(strategy.one_hot(choice)), inactive="outputs")
        gradient = strategy.theta_gradient(given(strategy, drawn))
        torch.testing.assert_close(gradient, p * (credit - (p * credit).sum(1, keepdim=True)), **EXACT)
        assert credit[2, 3] == 0  # the zero operation


def counterfactual_estimates(strategy: SearchStrategy, batch: Any) -> Callable[[tuple[int, ...]], Tensor]:
    def estimate(choice: tuple[int, ...]) -> Tensor:
        drawn = replace(in_double(strategy.one_hot(choice)), inactive="outputs")
        return strategy.theta_gradient([strategy.evaluate(drawn, batch)])

    return estimate


def test_counterfactual_is_unbiased_and_varies_less_where_the_loss_is_affine_in_each_edge() -> None:
    """Rao-Blackwell: the mean over an edge's own draw of AdvantageNAS's estimate, given the other edges'."""
    advantage, truth, _ = taylor_expectation(multilinear)
    strategy = make(CounterfactualNAS, TableNet(SIZES), objective=Cost(multilinear))
    plain = make(AdvantageNAS, TableNet(SIZES), objective=Cost(multilinear))
    table = table_of(3)
    estimate = counterfactual_estimates(strategy, table)
    torch.testing.assert_close(expected(strategy, estimate, SIZES), truth, rtol=0, atol=1e-12)
    torch.testing.assert_close(advantage, truth, rtol=0, atol=1e-12)

    def taylor(choice: tuple[int, ...]) -> Tensor:
        return plain.theta_gradient([try_choice(plain, choice, table)])

    probs = dict(zip(every_choice(strategy.space), joint(strategy.theta.detach(), SIZES), strict=True))
    for edge, size in enumerate(SIZES):
        for choice in probs:
            same = [(*choice[:edge], j, *choice[edge + 1 :]) for j in range(size)]
            weights = torch.stack([probs[each] for each in same])
            terms = torch.stack([taylor(each)[edge] for each in same])
            mean = (weights.unsqueeze(1) * terms).sum(0) / weights.sum()
            torch.testing.assert_close(estimate(choice)[edge], mean, rtol=0, atol=1e-12)
    squares = [expected(strategy, lambda c, f=f: (f(c) - truth).square(), SIZES).sum(1) for f in (estimate, taylor)]
    assert (squares[0] < squares[1]).all()


def test_counterfactual_is_the_straight_through_gradient() -> None:
    """Forward one-hot, backward as if a were p."""
    strategy = build(CounterfactualNAS)
    for choice in [(0, 1, 2), (1, 2, 3)]:
        theta = theta_of(strategy)
        p = masked_softmax(theta)
        through = one_hot_rows(choice, WIDTH) + p - p.detach()
        (reference,) = torch.autograd.grad(loss_of(strategy.model, weighted(through), BATCH), theta)
        torch.testing.assert_close(counterfactual_estimates(strategy, BATCH)(choice), reference, **EXACT)


def test_counterfactual_gives_a_zero_operation_the_worst_mean_of_the_others() -> None:
    strategy = build(CounterfactualNAS, zero_op="paper", gamma=0.25)
    p = masked_softmax(strategy.theta.detach())
    means = torch.zeros(len(SIZES), WIDTH, dtype=torch.double)
    for choice in [(0, 1, 2), (1, 2, 3), (1, 0, 0)]:
        credit = gate_gradient(strategy.model, one_hot_rows(choice, WIDTH))  # loss sign
        means = 0.75 * means + 0.25 * credit
        credit[2, 3] = max(means[2, :3])
        gradient = counterfactual_estimates(strategy, BATCH)(choice)
        torch.testing.assert_close(gradient, p * (credit - (p * credit).sum(1, keepdim=True)), **EXACT)


# -- CounterfactualNAS with the loss of every candidate ----------------------------------------------------------------


def neighbours(choice: Sequence[int]) -> list[list[tuple[int, ...]]]:
    """For each edge, the architectures that have its candidates in turn and are otherwise ``choice``."""
    return [[(*choice[:e], j, *choice[e + 1 :]) for j in range(size)] for e, size in enumerate(SIZES)]


def exact_counterfactual(strategy: SearchStrategy, choice: Sequence[int]) -> Tensor:
    """The estimate of an architecture step that draws ``choice``."""
    strategy.draw = lambda: list(choice)
    return strategy.theta_gradient(strategy.evaluate_draws(BATCH))


def test_exact_counterfactual_is_the_local_expectation_gradient() -> None:
    """θ.grad_i = p_i ∘ (F_i − ⟨p_i, F_i⟩) for every draw, F_ij the loss of the draw with edge i at candidate j."""
    strategy = build(CounterfactualNAS, advantage="exact")
    losses = dict(zip(every_choice(strategy.space), net_losses(strategy), strict=True))
    p = row_probs(strategy.theta.detach(), SIZES)
    for choice in losses:
        reference = torch.zeros(len(SIZES), WIDTH, dtype=torch.double)
        for edge, row in enumerate(neighbours(choice)):
            f = torch.stack([losses[each] for each in row])
            reference[edge, : len(f)] = p[edge] * (f - (p[edge] * f).sum())
        torch.testing.assert_close(exact_counterfactual(strategy, choice), reference, **EXACT)


def test_exact_counterfactual_is_unbiased_and_varies_less_than_exact_advantage() -> None:
    strategy = build(CounterfactualNAS, advantage="exact")
    truth = exact_gradient(strategy, net_losses(strategy))
    assert truth.abs().max() > 0.1
    mean = expected(strategy, partial(exact_counterfactual, strategy), SIZES)
    torch.testing.assert_close(mean, truth, rtol=0, atol=1e-12)
    plain = build(AdvantageNAS, advantage="exact", zero_op="none")

    def single(choice: tuple[int, ...]) -> Tensor:
        return plain.theta_gradient(given(plain, in_double(plain.one_hot(choice))))

    ours, theirs = (
        expected(strategy, lambda choice, f=f: (f(choice) - truth).square(), SIZES).sum(1)
        for f in (partial(exact_counterfactual, strategy), single)
    )
    assert (ours < theirs).all()


def test_exact_counterfactual_runs_each_neighbour_once_without_a_graph() -> None:
    strategy = build(CounterfactualNAS, advantage="exact")
    drawn, *others = strategy.evaluate_draws(BATCH)
    choice = drawn.architecture.choice
    wanted = {each for row in neighbours(choice) for each in row} - {choice}
    assert sorted(trial.architecture.choice for trial in others) == sorted(wanted)
    assert all(trial.gate_grad is None for trial in (drawn, *others))


def test_exact_counterfactual_gives_a_zero_operation_the_worst_mean_of_the_others() -> None:
    strategy = build(CounterfactualNAS, advantage="exact", zero_op="paper", gamma=0.25)
    losses = dict(zip(every_choice(strategy.space), net_losses(strategy), strict=True))
    p = masked_softmax(strategy.theta.detach())
    means = torch.zeros(len(SIZES), WIDTH, dtype=torch.double)
    for choice in [(0, 1, 2), (1, 2, 3), (1, 0, 0)]:
        credit = torch.zeros_like(means)
        for edge, row in enumerate(neighbours(choice)):
            credit[edge, : len(row)] = torch.stack([losses[each] for each in row]) - losses[choice]
        means = 0.75 * means + 0.25 * credit
        credit[2, 3] = max(means[2, :3])
        reference = p * (credit - (p * credit).sum(1, keepdim=True))
        torch.testing.assert_close(exact_counterfactual(strategy, choice), reference, **EXACT)


def test_exact_counterfactual_of_an_edge_without_a_choice_is_zero() -> None:
    strategy = make(CounterfactualNAS, TableNet((1, 3)), objective=Cost(), advantage="exact")
    trials = strategy.evaluate_draws(table_of(3)[:2])
    assert len(trials) == 3
    gradient = strategy.theta_gradient(trials)
    assert gradient[0].tolist() == [0, 0, 0]
    assert (gradient[1] != 0).all()


# -- CounterfactualNAS with a share of AdvantageNAS --------------------------------------------------------------------


@pytest.mark.parametrize("mix", [0.0, 0.2, 0.5])
def test_mix_is_a_share_of_advantage_with_a_baseline(mix: float) -> None:
    strategy = build(CounterfactualNAS, mix=mix)
    p = masked_softmax(strategy.theta.detach())
    for choice in every_choice(strategy.space):
        a = one_hot_rows(choice, WIDTH)
        credit = gate_gradient(strategy.model, a)
        mean = (p * credit).sum(1, keepdim=True)
        reference = (1 - mix) * p * (credit - mean) + mix * ((a * credit).sum(1, keepdim=True) - mean) * (a - p)
        torch.testing.assert_close(counterfactual_estimates(strategy, BATCH)(choice), reference, **EXACT)


def test_half_a_mix_is_reinmax() -> None:
    """2 J(½(a + p)) G − ½ J(p) G with J(q) = diag(q) − q qᵀ, as Liu et al. (2023) write it."""
    strategy = build(CounterfactualNAS, mix=0.5)
    p = masked_softmax(strategy.theta.detach())

    def jacobian(q: Tensor) -> Tensor:
        return torch.diag_embed(q) - q.unsqueeze(2) * q.unsqueeze(1)

    for choice in every_choice(strategy.space):
        a = one_hot_rows(choice, WIDTH)
        credit = gate_gradient(strategy.model, a).unsqueeze(2)
        reference = (2 * jacobian((a + p) / 2) @ credit - jacobian(p) @ credit / 2).squeeze(2)
        torch.testing.assert_close(counterfactual_estimates(strategy, BATCH)(choice), reference, **EXACT)


def quadratic(y: Tensor) -> Tensor:
    """Quadratic in each edge's output given the others, and in all of them together of a higher degree."""
    return y.sum(0).square().sum() + 3 * (y[0] * y[1]).sum().square() - y[2].square().sum() * y[0, 1]


def bias_of(cost: Callable[[Tensor], Tensor], mix: float) -> float:
    """The bias of the mixed estimate on a table of outputs, as a share of the exact gradient."""
    strategy = make(CounterfactualNAS, TableNet(SIZES), objective=Cost(cost), mix=mix)
    table = table_of(3)
    outputs = [torch.stack([table[e, j] for e, j in enumerate(choice)]) for choice in every_choice(strategy.space)]
    truth = exact_gradient(strategy, torch.stack([cost(y) for y in outputs]))
    assert truth.abs().max() > 0.1
    return float((expected(strategy, counterfactual_estimates(strategy, table), SIZES) - truth).norm() / truth.norm())


def test_half_a_mix_has_no_bias_where_the_loss_is_quadratic_in_each_edge() -> None:
    assert bias_of(quadratic, 0.5) < 1e-12
    assert bias_of(quadratic, 0.0) > 0.1
    assert bias_of(quadratic, 0.25) == pytest.approx(bias_of(quadratic, 0.0) / 2)  # linear in the share


def test_half_a_mix_is_biased_where_the_loss_is_cubic() -> None:
    assert bias_of(lambda y: y.sum(0).pow(3).sum(), 0.5) > 1e-3


def test_the_mix_goes_linearly_to_its_end() -> None:
    strategy = build(CounterfactualNAS, mix=0.1, mix_end=0.5)
    found = []
    for progress in (0.0, 0.5, 1.0):
        strategy.clock = SearchClock(progress=progress)
        found.append(strategy.current_mix)
    assert found == pytest.approx([0.1, 0.3, 0.5])
    assert strategy.is_annealed
    constant = build(CounterfactualNAS, mix=0.3)
    constant.clock = SearchClock(progress=None)  # a run without an end
    assert constant.current_mix == 0.3


def test_a_mix_of_exact_losses_is_refused() -> None:
    with pytest.raises(ValueError, match="advantage='exact' has no bias"):
        build(CounterfactualNAS, advantage="exact", mix_end=0.5)


# -- ENAS --------------------------------------------------------------------------------------------------------------


def build_enas(**options: Any) -> Any:
    """A controller far from uniform, whose choices depend on the earlier ones."""
    strategy = build(ENAS, **{"hidden_size": 6, **options})
    with torch.no_grad():
        for parameter in strategy.controller.parameters():
            parameter.mul_(20)
    return strategy


def lstm_log_probs(
    controller: Controller, choice: Sequence[int], temperature: float = 1.0, tanh_constant: float | None = None
) -> list[Tensor]:
    """log p(a_e | a_<e) per edge, without padding: the LSTM's equations one vector at a time."""
    lstm = controller.lstm
    hidden = cell = torch.zeros(lstm.hidden_size, dtype=torch.double)
    token, rows = 0, []
    for edge, size in enumerate(SIZES):
        z = lstm.weight_ih_l0 @ controller.inputs.weight[token] + lstm.bias_ih_l0
        i, f, g, o = (z + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        logits = controller.heads[edge, :size] @ hidden / temperature
        if tanh_constant is not None:
            logits = tanh_constant * logits.tanh()
        rows.append(logits - logits.exp().sum().log())
        token = 1 + edge * WIDTH + choice[edge]
    return rows


def enas_joint(strategy: Any) -> Tensor:
    """p(a) of every architecture, [N], with a graph to the controller."""
    rows = []
    for choice in every_choice(strategy.space):
        log_p = lstm_log_probs(strategy.controller, choice)
        rows.append(torch.stack([row[j] for row, j in zip(log_p, choice, strict=True)]).sum().exp())
    return torch.stack(rows)


@pytest.mark.parametrize(("temperature", "tanh_constant"), [(1.0, None), (5.0, None), (1.0, 2.5), (5.0, 2.5)])
def test_enas_controller_is_an_lstm_over_the_edges(temperature: float, tanh_constant: float | None) -> None:
    strategy = build_enas(temperature=temperature, tanh_constant=tanh_constant)
    for choice in every_choice(strategy.space):
        ours = strategy.controller(torch.tensor([choice]))[0]
        for row, reference, size in zip(
            ours, lstm_log_probs(strategy.controller, choice, temperature, tanh_constant), SIZES, strict=True
        ):
            torch.testing.assert_close(row[:size], reference, **EXACT)
            assert row[size:].isneginf().all()


@pytest.mark.parametrize("baseline", [-3.0, 0.0, 2.5])
def test_enas_is_unbiased_in_every_parameter_of_the_controller(baseline: float) -> None:
    strategy = build_enas(entropy_weight=0, gamma=0.5)
    probs, losses = enas_joint(strategy), net_losses(strategy)
    assert probs.sum().item() == pytest.approx(1, abs=1e-12)
    parameters = list(strategy.controller.parameters())
    truth = torch.autograd.grad((probs * losses).sum(), parameters)

    estimates = [torch.zeros_like(parameter) for parameter in parameters]
    for p, choice in zip(probs.detach(), every_choice(strategy.space), strict=True):
        strategy.baseline = torch.tensor(baseline, dtype=torch.double)
        for total, part in zip(estimates, strategy.architecture_gradients([try_choice(strategy, choice)]), strict=True):
            total += p * part
    assert len(truth) == 6  # embedding, the LSTM's four, heads
    for estimate, reference in zip(estimates, truth, strict=True):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(estimate, reference, rtol=0, atol=1e-11)


def test_enas_entropy_bonus_raises_the_entropy_of_the_conditionals() -> None:
    """With L = b nothing but the bonus is left."""
    strategy = build_enas(entropy_weight=0.3)
    parameters = list(strategy.controller.parameters())
    choice = (1, 2, 3)
    trial = try_choice(strategy, choice)
    strategy.baseline = trial.loss.clone()
    entropies = [-(row.exp() * row).sum() for row in lstm_log_probs(strategy.controller, choice)]
    reference = torch.autograd.grad(-0.3 * torch.stack(entropies).sum(), parameters)
    for ours, theirs in zip(strategy.architecture_gradients([trial]), reference, strict=True):
        assert theirs.abs().max() > 1e-4
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_enas_draws_follow_the_conditionals() -> None:
    strategy = build_enas(temperature=4.0)  # no architecture so rare that a χ² statistic would not hold
    choices = every_choice(strategy.space)
    draws = Counter(map(tuple, strategy.controller.draw(20_000, torch.Generator().manual_seed(5)).tolist()))
    counts = torch.tensor([draws[choice] for choice in choices])
    log_p = strategy.controller(torch.tensor(choices))  # [N, E, J], checked above against an LSTM written out
    probs = torch.stack([log_p[n, range(len(SIZES)), choice].sum().exp() for n, choice in enumerate(choices)]).detach()
    assert surprise(counts, probs) < 1
    table = probs.view(SIZES)
    product = table.sum((1, 2)).view(-1, 1, 1) * table.sum((0, 2)).view(1, -1, 1) * table.sum((0, 1)).view(1, 1, -1)
    assert surprise(counts, product.flatten()) > 1  # independent edges with the same marginals would be noticed


def test_enas_entropy_and_marginals_are_those_of_the_joint_distribution() -> None:
    strategy = build_enas()
    choices, probs = every_choice(strategy.space), enas_joint(strategy).detach()
    conditionals = [[row.detach() for row in lstm_log_probs(strategy.controller, choice)] for choice in choices]

    def mean_and_bound(values: Tensor) -> tuple[Tensor, Tensor]:
        """The exact mean, and five standard errors of a mean over the 128 draws that the properties use."""
        mean = (probs.unsqueeze(-1) * values).sum(0)
        return mean, 5 * ((probs.unsqueeze(-1) * (values - mean) ** 2).sum(0) / 128).sqrt() + 1e-12

    entropies = torch.stack([sum(-(row.exp() * row).sum() for row in rows) / len(SIZES) for rows in conditionals])
    exact = -(probs * probs.log()).sum() / len(SIZES)  # H(a)/E, by its definition
    mean, bound = mean_and_bound(entropies.unsqueeze(1))
    torch.testing.assert_close(mean[0], exact, **EXACT)  # the chain rule, so that the bound is one for H(a)/E
    assert abs(strategy.entropy - exact) <= bound[0]
    assert abs(entropies.mean() - exact) > bound[0]  # uniform draws would be noticed

    for edge, size in enumerate(SIZES):
        exact_row = torch.stack([probs[[choice[edge] == j for choice in choices]].sum() for j in range(size)])
        mean, bound = mean_and_bound(torch.stack([rows[edge].exp() for rows in conditionals]))
        torch.testing.assert_close(mean, exact_row, **EXACT)
        assert ((strategy.probs[edge, :size] - exact_row).abs() <= bound).all()
    torch.testing.assert_close(strategy.probs.sum(1), torch.ones(len(SIZES), dtype=torch.double), **EXACT)


# -- PARSEC ------------------------------------------------------------------------------------------------------------

DRAWS = [(0, 0, 0), (1, 2, 3), (1, 0, 2), (0, 2, 1), (1, 2, 3)]  # one of them twice, as a draw with replacement may


def parsec_reference(strategy: Any, losses: Sequence[float], scale: float) -> Tensor:
    """Σ_k ω_k (a^k − p), ω_k ∝ exp(scale · L_k), term by term."""
    p = masked_softmax(strategy.theta.detach())
    importance = [math.exp(scale * loss) for loss in losses]
    terms = [w / sum(importance) * (one_hot_rows(c, WIDTH) - p) for w, c in zip(importance, DRAWS, strict=True)]
    return torch.stack(terms).sum(0)


@pytest.mark.parametrize(("scale", "factor"), [(1, 1.0), (0.4, 0.4), ("batch", 7.0)])
def test_parsec_is_self_normalised_importance_weighting(scale: Any, factor: float) -> None:
    strategy = make(PARSEC, Net(), objective=SevenTerms(), samples=5, scale=scale)
    trials = [try_choice(strategy, choice) for choice in DRAWS]
    losses = [trial.loss.item() for trial in trials]
    assert max(losses) - min(losses) > 0.1
    reference = -parsec_reference(strategy, losses, -factor)
    torch.testing.assert_close(strategy.theta_gradient(trials), reference, **EXACT)


class SevenTerms(Regression):
    """A loss that is the mean of more terms than the batch is long, as a language model's is."""

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        return super().forward(model, batch)._replace(size=7)


def test_parsec_descends_the_negative_log_of_the_mean_likelihood() -> None:
    """With every architecture drawn as often as p says, it is exactly −∇θ ln Σ_a p(a) exp(−n L(a))."""
    strategy = build(PARSEC, samples=24)
    strategy.theta.data.fill_(1.0)  # uniform: each architecture once
    trials = [try_choice(strategy, choice) for choice in every_choice(strategy.space)]
    theta = theta_of(strategy)
    likelihood = (joint(theta, SIZES) * (-len(BATCH[0]) * net_losses(strategy)).exp()).sum()
    (reference,) = torch.autograd.grad(-likelihood.log(), theta)
    torch.testing.assert_close(strategy.theta_gradient(trials), reference, **EXACT)


def test_parsec_evaluates_all_its_draws_on_one_minibatch() -> None:
    strategy = build(PARSEC, samples=6)
    trials = strategy.evaluate_draws(BATCH)
    assert len(trials) == 6
    assert len({trial.architecture.choice for trial in trials}) > 1
    for trial in trials:
        loss = loss_of(strategy.model, weighted(one_hot_rows(trial.architecture.choice, WIDTH)), BATCH)
        torch.testing.assert_close(trial.loss, loss.detach(), **EXACT)


def test_parsec_authors_code_gathers_its_draws_over_steps_and_favours_large_losses() -> None:
    strategy = build(PARSEC, samples=len(DRAWS), weighting="authors_code")
    assert len(strategy.evaluate_draws(BATCH)) == 1
    for cycle in range(2):  # the second one must forget the first one's draws
        losses = []
        for step, choice in enumerate(DRAWS):
            trial = try_choice(strategy, choice, batch_of(10 * cycle + step))
            losses.append(trial.loss.item())
            gradient = strategy.theta_gradient([trial])
            strategy.architecture_steps += 1  # as the engine does
            assert (gradient is None) == (step < len(DRAWS) - 1)
        torch.testing.assert_close(gradient, parsec_reference(strategy, losses, 1.0), **EXACT)


# -- strategies that differentiate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inactive", ["ones", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_gdas_is_the_straight_through_gumbel_softmax(inactive: str, seed: int) -> None:
    strategy = build(GDAS, inactive=inactive, tau_max=6.0, tau_min=1.0, seed=seed)
    theta, noise = theta_of(strategy), same_noise(strategy)
    tau = 6.0 * 0.1 + 1.0 * 0.9
    log_p = masked_softmax(theta).log()  # −∞ on the padding
    scores = [((log_p + noise)[e, :size] / tau).softmax(0) for e, size in enumerate(SIZES)]
    soft = torch.stack([nn.functional.pad(row, (0, WIDTH - len(row))) for row in scores])
    choice = tuple(int(row.argmax()) for row in scores)
    gates = one_hot_rows(choice, WIDTH) + soft - soft.detach()
    # The released code's sum: the active operation's gate times its output, and of every other the bare gate.
    mix = weighted(gates, [(j,) for j in choice], ones=inactive == "ones")
    (reference,) = torch.autograd.grad(loss_of(strategy.model, mix, BATCH), theta)

    architecture = strategy.sample()
    assert architecture.choice == choice
    assert architecture.paths == tuple((j,) for j in choice)
    trial = strategy.evaluate(in_double(architecture), BATCH)
    assert reference.abs().max() > 1e-3
    torch.testing.assert_close(strategy.theta_gradient([trial]), reference, **EXACT)


def test_gdas_counts_inactive_operations_only_when_told_to() -> None:
    gradients = []
    for inactive in ("ones", "none"):
        strategy = build(GDAS, inactive=inactive)
        gradients.append(strategy.theta_gradient([strategy.evaluate(strategy.sample(), BATCH)]))
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_conditional_noise_draws_what_was_drawn_and_is_gumbel_over_all_draws() -> None:
    """The mixture over j ~ p of the noise given that j was drawn is independent standard Gumbel noise."""
    generator = torch.Generator().manual_seed(4)
    p = torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.double)
    draws = torch.multinomial(p, 20_000, replacement=True, generator=generator)
    noise = torch.zeros(len(draws), 4, dtype=torch.double)
    for j in range(3):
        drawn = nn.functional.one_hot(torch.tensor([j]), 4).bool()
        found = functional.conditional_gumbel(p.log().unsqueeze(0), drawn, int((draws == j).sum()), generator)[:, 0]
        assert ((p.log() + found).argmax(1) == j).all()
        noise[draws == j] = found
    assert (noise[:, 3] == 0).all()  # there is no such candidate
    places = (noise[:, :3].neg().exp().neg().exp() * 4).long()  # four bins of equal probability for each
    cells = places[:, 0] * 16 + places[:, 1] * 4 + places[:, 2]
    assert surprise(torch.bincount(cells, minlength=64), torch.full((64,), 1 / 64)) < 1


@pytest.mark.parametrize("drawn", [0, 1])
def test_gdas_rao_is_the_conditional_expectation(drawn: int) -> None:
    """For two candidates the difference of the noise is logistic, and E[∂soft/∂θ | draw] a quadrature."""
    strategy = make(GDAS, TableNet((2, 1)), objective=Cost(), rao=200_000, tau_max=2.0, tau_min=2.0)
    p, tau = row_probs(strategy.theta.detach(), (2, 1))[0], 2.0
    delta = (p[1] / p[0]).log()
    x = torch.linspace(-40, 40, 400_001, dtype=torch.double)  # log odds of candidate 1 with the noise
    density = (x - delta).sigmoid() * (delta - x).sigmoid()
    slope = (x / tau).sigmoid() * (-x / tau).sigmoid() / tau
    side = (x > 0) == bool(drawn)
    truth = (density * slope * side).sum() / (density * side).sum()
    while (architecture := strategy.sample()).choice != (drawn, 0):
        pass
    credit = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.double)
    gradient = strategy.theta_gradient([Trial(architecture, torch.zeros(()), credit, size=1)])
    assert gradient[0, 1].item() == pytest.approx(float(truth), rel=0.01)  # 1/√K is 0.2 %
    plain = density * slope
    assert abs(float(plain.sum() / density.sum() / truth) - 1) > 0.02  # another condition would be noticed


@pytest.mark.slow  # follows from the test before it
def test_gdas_rao_keeps_the_mean_and_lowers_the_variance() -> None:
    means, errors, spreads = [], [], []
    for rao, draws in ((None, 6000), (32, 3000)):
        strategy = build(GDAS, rao=rao, tau_max=1.0, tau_min=1.0, seed=5)
        known: dict[Any, Tensor] = {}  # the gates' gradient follows from the draw
        found = []
        for _ in range(draws):
            architecture = strategy.sample()
            if architecture.choice not in known:
                known[architecture.choice] = strategy.evaluate(in_double(architecture), BATCH).gate_grad
            trial = Trial(architecture, torch.zeros(()), known[architecture.choice], size=1)
            found.append(strategy.theta_gradient([trial]))
        estimates = torch.stack(found)
        means.append(estimates.mean(0))
        spreads.append(estimates.var(0))
        errors.append(spreads[-1] / draws)
    assert ((means[0] - means[1]).abs() <= 5 * (errors[0] + errors[1]).sqrt() + 1e-12).all()
    assert means[0].norm() > 10 * (errors[0] + errors[1]).sum().sqrt()  # the statistic can tell
    assert spreads[1].sum() < 0.9 * spreads[0].sum()


def test_darts_is_autograd_through_the_softmax() -> None:
    strategy = build(DARTS)
    theta = theta_of(strategy)
    (reference,) = torch.autograd.grad(loss_of(strategy.model, weighted(masked_softmax(theta)), BATCH), theta)
    (trial,) = strategy.evaluate_draws(BATCH)
    torch.testing.assert_close(trial.architecture.gates, masked_softmax(theta).detach(), **EXACT)
    torch.testing.assert_close(strategy.theta_gradient([trial]), reference, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_snas_is_autograd_through_the_concrete_sample(seed: int) -> None:
    strategy = build(SNAS, seed=seed)
    theta, noise = theta_of(strategy), same_noise(strategy)
    tau = (1 + math.cos(0.6 * math.pi)) / 2
    log_p = masked_softmax(theta).log()
    rows = [((log_p + noise)[e, :size] / tau).softmax(0) for e, size in enumerate(SIZES)]
    gates = torch.stack([nn.functional.pad(row, (0, WIDTH - len(row))) for row in rows])
    (reference,) = torch.autograd.grad(loss_of(strategy.model, weighted(gates), BATCH), theta)
    (trial,) = strategy.evaluate_draws(BATCH)
    torch.testing.assert_close(trial.architecture.gates, gates.detach(), **EXACT)
    torch.testing.assert_close(strategy.theta_gradient([trial]), reference, **EXACT)


def dirichlet_gates(strategy: Any, theta: Tensor) -> list[Tensor]:
    """The gates that the strategy's next sample will have, row by row, with a graph to θ."""
    generator = torch.Generator()
    generator.set_state(strategy.generator.get_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**32, (), generator=generator)))
        rows = [nn.functional.elu(theta[e, :size]) + 1 for e, size in enumerate(SIZES)]
        return [torch.distributions.Dirichlet(row).rsample() for row in rows]


def divergence(beta: Tensor) -> Tensor:
    """KL(Dir(β) ‖ Dir(1)) written out."""
    total = beta.sum()
    logs = total.lgamma() - beta.lgamma().sum() - torch.tensor(float(len(beta))).double().lgamma()
    return logs + ((beta - 1) * (beta.digamma() - total.digamma())).sum()


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_drnas_is_autograd_through_the_dirichlet_sample(kl: float, seed: int) -> None:
    strategy = build(DrNAS, kl=kl, seed=seed)
    theta = theta_of(strategy)
    rows = dirichlet_gates(strategy, theta)
    gates = torch.stack([nn.functional.pad(row, (0, WIDTH - len(row))) for row in rows])
    apart = sum(divergence(nn.functional.elu(theta[e, :size]) + 1) for e, size in enumerate(SIZES))
    (reference,) = torch.autograd.grad(loss_of(strategy.model, weighted(gates), BATCH) + kl * apart, theta)
    (trial,) = strategy.evaluate_draws(BATCH)
    torch.testing.assert_close(trial.architecture.gates, gates.detach(), **EXACT)
    torch.testing.assert_close(strategy.theta_gradient([trial]), reference, **EXACT)


def test_drnas_pathwise_gradient_has_the_mean_of_the_exact_one() -> None:
    """For L = Σ ⟨c_i, a_i⟩ + Σ a_ij², the moments of a Dirichlet distribution give E[L] in closed form."""
    strategy = build(DrNAS, kl=0.0, seed=3)
    costs = table_of(5)[..., 0]
    theta = theta_of(strategy)
    total = torch.zeros((), dtype=torch.double)
    for e, size in enumerate(SIZES):
        beta = nn.functional.elu(theta[e, :size]) + 1
        whole = beta.sum()
        total = total + (costs[e, :size] * beta / whole).sum() + (beta * (beta + 1)).sum() / (whole * (whole + 1))
    (truth,) = torch.autograd.grad(total, theta)
    found = []
    for _ in range(1000):
        architecture = strategy.sample()
        gradient = costs * strategy.mask + 2 * architecture.gates
        found.append(strategy.theta_gradient([Trial(architecture, torch.zeros(()), gradient, size=1)]))
    estimates = torch.stack(found)
    error = (estimates.var(0) / len(found)).sqrt()
    assert ((estimates.mean(0) - truth).abs() <= 5 * error + 1e-12).all()
    assert truth.norm() > 20 * error.norm()  # the statistic can tell


def test_drnas_concentration_is_elu_plus_one_and_has_its_slope() -> None:
    theta = torch.tensor([-40.0, -3.0, 0.0, 1e-9, 2.0], dtype=torch.double, requires_grad=True)
    beta = functional.concentration(theta)
    torch.testing.assert_close(beta, nn.functional.elu(theta) + 1, rtol=0, atol=1e-15)
    assert beta[0] == math.exp(-40)  # which the difference from −1 would lose
    slope, reference = (torch.autograd.grad(each.sum(), theta)[0] for each in (beta, nn.functional.elu(theta)))
    torch.testing.assert_close(slope, reference, rtol=1e-12, atol=0)


def test_drnas_starts_from_uniform_gates_and_reports_their_mean() -> None:
    strategy = DrNAS(Net().double(), architecture_optimizer=partial(torch.optim.Adam, lr=0.1)).double()
    assert [each.concentration.tolist() for each in strategy.distributions()] == [[1.0] * size for size in SIZES]
    strategy = build(DrNAS)
    means = [each.mean.detach() for each in strategy.distributions()]
    for mean, row, size in zip(means, strategy.probs, SIZES, strict=True):
        torch.testing.assert_close(row[:size], mean, **EXACT)
    assert strategy.argmax_choice() == [int(mean.argmax()) for mean in means]
    torch.testing.assert_close(masked_softmax(strategy.logits), strategy.probs, **EXACT)
    entropies = [-(mean * mean.log()).sum() for mean in means]
    torch.testing.assert_close(strategy.entropy, sum(entropies) / len(SIZES), **EXACT)


def straight_through(theta: Tensor, pairs: Sequence[Sequence[int]], forward: Tensor) -> Tensor:
    """Gates that are ``forward`` and have the gradient of q = p renormalised over the pair (Cai et al. 2019, Eq. 4)."""
    q = torch.zeros_like(theta)
    for edge, pair in enumerate(pairs):
        weights = theta[edge, list(pair)].exp()
        q = q.index_put((torch.tensor([edge] * len(pair)), torch.tensor(list(pair))), weights / weights.sum())
    return forward + q - q.detach()


@pytest.mark.parametrize("gates", ["two_hot", "binary"])
@pytest.mark.parametrize("seed", range(4))
def test_proxylessnas_pulls_the_gate_gradient_back_through_the_renormalised_pair(gates: str, seed: int) -> None:
    strategy = build(ProxylessNAS, gates=gates, seed=seed)
    theta, noise = theta_of(strategy), same_noise(strategy)
    log_p = masked_softmax(theta).detach().log()
    # Draws without replacement in the Gumbel form (Vieira 2014); their frequencies are tested below.
    pairs = [sorted((log_p + noise)[e, :size].argsort()[-2:].tolist()) for e, size in enumerate(SIZES)]
    architecture = strategy.sample()
    assert architecture.paths == tuple(map(tuple, pairs))
    if gates == "two_hot":
        assert architecture.choice is None
        forward = sum(one_hot_rows([pair[k] for pair in pairs], WIDTH) for k in range(2))
    else:
        assert architecture.choice is not None
        assert all(j in pair for j, pair in zip(architecture.choice, pairs, strict=True))
        forward = one_hot_rows(architecture.choice, WIDTH)
    torch.testing.assert_close(architecture.gates.double(), forward, rtol=0, atol=0)
    mix = weighted(straight_through(theta, pairs, forward), pairs)
    (reference,) = torch.autograd.grad(loss_of(strategy.model, mix, BATCH), theta)
    trial = strategy.evaluate(in_double(architecture), BATCH)
    assert reference.abs().max() > 1e-3
    torch.testing.assert_close(strategy.theta_gradient([trial]), reference, **EXACT)


def test_nasp_takes_the_gate_gradient_at_the_best_one_hot() -> None:
    strategy = build(NASP)
    best = tuple(int(strategy.theta[e, :size].argmax()) for e, size in enumerate(SIZES))
    architecture = strategy.sample()
    assert architecture.choice == best
    assert architecture.paths == tuple(tuple(range(size)) for size in SIZES)  # dense: every gate gets its gradient
    assert strategy.sample_for_weights().paths == tuple((j,) for j in best)
    reference = gate_gradient(strategy.model, one_hot_rows(best, WIDTH))
    assert all((reference[e, :size].abs() > 0).sum() > 1 for e, size in enumerate(SIZES))
    gradient = strategy.theta_gradient([strategy.evaluate(in_double(architecture), BATCH)])
    torch.testing.assert_close(gradient, reference, **EXACT)


class AsModule(nn.Module):
    """The reference's loss as a function of the network's parameters, for ``functional_call``."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, gates: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss_of(self.net, weighted(gates), batch)


def test_darts_second_order_is_the_gradient_through_one_weight_step() -> None:
    train, valid, xi = batch_of(21), batch_of(22), 0.2
    net = Net(seed=4)
    module = AsModule(copy.deepcopy(net))
    start = {name: parameter.detach().clone().requires_grad_() for name, parameter in module.named_parameters()}
    strategy = make(
        DARTS, net, objective=Regression(), second_order=True, weight_optimizer=partial(torch.optim.SGD, lr=xi)
    )
    strategy.optimizations["architecture"].factory = partial(
        torch.optim.SGD, lr=1.0
    )  # so that θ's step is minus its gradient
    theta = theta_of(strategy)
    fit(strategy, [train], valid=[valid])
    gradient = theta.detach() - strategy.theta.detach()

    def step(weights: dict[str, Tensor], *, graph: bool) -> dict[str, Tensor]:
        loss = functional_call(module, weights, (masked_softmax(theta), train))
        moved = torch.autograd.grad(loss, list(weights.values()), create_graph=graph)
        return {name: weight - xi * part for (name, weight), part in zip(weights.items(), moved, strict=True)}

    reached = {name: weight.detach().requires_grad_() for name, weight in step(start, graph=False).items()}
    for parameter, weight in zip(strategy.model.parameters(), reached.values(), strict=True):
        torch.testing.assert_close(parameter.detach(), weight.detach(), **EXACT)  # the look-ahead left no trace

    def pull(weights: dict[str, Tensor]) -> Tensor:
        return torch.autograd.grad(functional_call(module, weights, (masked_softmax(theta), valid)), theta)[0]

    exact = pull(step(reached, graph=True))
    first = pull({name: weight.detach() for name, weight in step(reached, graph=False).items()})
    second_order_term = (exact - first).norm()
    assert second_order_term > 0.05 * exact.norm()
    # A central difference over ±0.01 in weights of order one errs by the third derivative's 1e-4 / 6, relatively.
    assert (gradient - exact).norm() < 1e-3 * second_order_term


# -- the exponentiated gradient ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CounterfactualNAS, DARTS])
def test_a_mirror_step_multiplies_p_by_the_exponential_of_the_gradient(kind: type[SearchStrategy]) -> None:
    """GAEA: p_i ← p_i ∘ exp(−ηG_i)/Z_i is θ ← θ − ηG, with G at the gates that ran."""
    strategy, eta = build(kind, geometry="mirror"), 0.3
    p = masked_softmax(strategy.theta.detach())
    (trial,) = strategy.evaluate_draws(BATCH)
    credit = gate_gradient(strategy.model, trial.architecture.gates.double()) * strategy.mask
    moved = p * (-eta * credit).exp()
    gradient = strategy.theta_gradient([trial])
    found = masked_softmax(strategy.theta.detach() - eta * gradient)
    torch.testing.assert_close(found, moved / moved.sum(1, keepdim=True), rtol=1e-5, atol=1e-6)  # one-hots are float32


@pytest.mark.parametrize("kind", [CounterfactualNAS, DARTS])
def test_a_term_of_the_gates_moves_theta_as_the_loss_does_in_a_mirror_step(kind: type[SearchStrategy]) -> None:
    cost = ArchitectureCost("params", penalty=0.5)
    strategy = build(kind, geometry="mirror", cost=cost)
    cost.measure(strategy.model, strategy.evaluator, BATCH)
    slope = cost.slope(strategy.probs)
    assert slope.abs().max() > 0
    assert torch.equal(strategy.term_gradient(cost), slope)


def test_a_mix_has_no_mirror_step() -> None:
    with pytest.raises(ValueError, match="geometry='mirror' takes the credits alone"):
        build(CounterfactualNAS, geometry="mirror", mix=0.5)


# -- gradients in the gates --------------------------------------------------------------------------------------------


def architectures() -> dict[str, Architecture]:
    dense = torch.rand(3, WIDTH, generator=torch.Generator().manual_seed(6), dtype=torch.double)
    two = [(0, 1), (0, 2), (1, 3)]
    two_hot = sum(one_hot_rows([pair[k] for pair in two], WIDTH) for k in range(2))
    one = (1, 0, 2)
    return {
        "one-hot": Architecture(one_hot_rows(one, WIDTH), tuple((j,) for j in one), choice=one),
        "two-hot": Architecture(two_hot, tuple(two)),
        "binary": Architecture(one_hot_rows(one, WIDTH), ((0, 1), (0, 2), (2, 3)), choice=one),
        "dense": Architecture(dense, tuple(tuple(range(size)) for size in SIZES)),
        "dense one-hot": Architecture(
            one_hot_rows(one, WIDTH), tuple(tuple(range(size)) for size in SIZES), choice=one
        ),
        "one edge cut": Architecture(
            one_hot_rows(one, WIDTH) * torch.tensor([[1.0], [0.0], [1.0]]), tuple((j,) for j in one)
        ),
    }


@pytest.mark.parametrize("kind", list(architectures()))
def test_gate_gradient_is_the_central_difference(kind: str) -> None:
    """Edge ``a`` is met twice under one gate, so G holds both of its sites."""
    strategy = build(AdvantageNAS)
    architecture = architectures()[kind]
    trial = strategy.evaluate(architecture, BATCH)
    h = 1e-5  # error h² ≈ 1e-10 of truncation and 1e-16 / h ≈ 1e-11 of rounding, times derivatives of order ten
    reference = torch.zeros(3, WIDTH, dtype=torch.double)
    for edge, paths in enumerate(architecture.paths):
        for j in paths:
            losses = []
            for sign in (1, -1):
                gates = architecture.gates.clone()
                gates[edge, j] += sign * h
                losses.append(loss_of(strategy.model, weighted(gates, architecture.paths), BATCH).item())
            reference[edge, j] = (losses[0] - losses[1]) / (2 * h)
    assert (reference.abs() > 1e-3).sum() >= 3
    torch.testing.assert_close(trial.gate_grad, reference, rtol=0, atol=1e-7)
    ran = torch.zeros(3, WIDTH, dtype=torch.bool)
    for edge, paths in enumerate(architecture.paths):
        ran[edge, list(paths)] = True
    assert (trial.gate_grad[~ran] == 0).all()  # no path, no gradient: not even rounding


def test_gate_gradient_of_a_shared_edge_is_the_sum_over_its_places() -> None:
    strategy = build(AdvantageNAS)
    net, gates = strategy.model, architectures()["dense"].gates
    sites = [gates.clone().requires_grad_(), gates.clone().requires_grad_()]

    def mix(op: Any, x: Tensor) -> Tensor:
        return weighted(sites[op is net.second])(op, x)

    parts = torch.autograd.grad(loss_of(net, mix, BATCH), sites)
    assert all(part[0, :2].abs().min() > 1e-3 for part in parts)
    trial = strategy.evaluate(architectures()["dense"], BATCH)
    torch.testing.assert_close(trial.gate_grad, parts[0] + parts[1], **EXACT)


def test_float32_gates_only_round_the_gradient() -> None:
    """What a strategy draws itself in float64: its one-hot gates may be float32, the gradient then is to 2^-24."""
    strategy = build(AdvantageNAS, zero_op="none")
    choice = (1, 2, 0)
    rounded = strategy.theta_gradient([strategy.evaluate(strategy.one_hot(choice), BATCH)])
    torch.testing.assert_close(
        rounded.double(), strategy.theta_gradient([try_choice(strategy, choice)]), rtol=4 * 2**-24, atol=0
    )


# -- entropy -----------------------------------------------------------------------------------------------------------


def test_entropy_of_ragged_rows_by_hand() -> None:
    strategy = build(AdvantageNAS)
    # (1/2, 1/2): ln 2.  (1/4, 1/4, 1/2): 1.5 ln 2.  Four equal: 2 ln 2.  The padding counts for nothing.
    rows = [[0.0, 0.0, 50.0, 9.0], [0.0, 0.0, math.log(2), 50.0], [3.0, 3.0, 3.0, 3.0]]
    strategy.theta.data.copy_(torch.tensor(rows, dtype=torch.double))
    assert strategy.entropy.item() == pytest.approx(1.5 * math.log(2), rel=1e-14)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_entropy_and_probabilities_of_a_saturated_theta_are_finite(size: float) -> None:
    strategy = build(AdvantageNAS)
    strategy.theta.data.zero_()
    strategy.theta.data[:, 1] = size
    assert strategy.entropy.item() == 0
    assert strategy.probs.tolist() == one_hot_rows((1, 1, 1), WIDTH).tolist()
    assert strategy.draw() == [1, 1, 1]
    (gradient,) = torch.autograd.grad(functional.entropy(strategy.log_probs), strategy.theta)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("strategy_class", [AdvantageNAS, REINFORCE, PARSEC, ProxylessNAS, GDAS, DARTS, SNAS, DrNAS])
def test_estimates_of_a_saturated_theta_are_finite(strategy_class: type[SearchStrategy]) -> None:
    strategy = build(strategy_class)
    strategy.theta.data.zero_()
    strategy.theta.data[:, 1] = 1e3
    trials = strategy.evaluate_draws(BATCH)
    assert strategy.theta_gradient(trials).isfinite().all()


# -- draws -------------------------------------------------------------------------------------------------------------

N = 1_200  # enough for every cell below to be expected more than five times, as a χ² statistic needs
UNIFORM = torch.full((24,), 1 / 24)


def build_mild(strategy: type[SearchStrategy], **options: Any) -> Any:
    """A θ under which no architecture is rare."""
    built = build(strategy, seed=11, **options)
    built.theta.data.copy_(torch.tensor([[0.0, 0.8, 9.0, 9.0], [0.0, 0.7, -0.5, 9.0], [0.0, 0.9, -0.6, 0.4]]))
    return built


def counts_of(draws: Sequence[Any], cells: Sequence[Any]) -> Tensor:
    counter = Counter(draws)
    assert set(counter) <= set(cells)
    return torch.tensor([counter[cell] for cell in cells])


@pytest.mark.parametrize("strategy_class", [AdvantageNAS, REINFORCE, PARSEC])
def test_architectures_are_drawn_with_their_probability(strategy_class: type[SearchStrategy]) -> None:
    """All edges at once: noise that edges share would show too."""
    strategy = build_mild(strategy_class)
    counts = counts_of([strategy.sample().choice for _ in range(N)], every_choice(strategy.space))
    assert surprise(counts, joint(strategy.theta.detach(), SIZES)) < 1
    assert surprise(counts, UNIFORM) > 1  # the statistic can tell


def test_random_search_draws_uniformly_whatever_the_rows_lengths() -> None:
    strategy = RandomSearch(Net(), objective=Regression(), seed=11)
    counts = counts_of([strategy.sample().choice for _ in range(N)], every_choice(strategy.space))
    assert surprise(counts, UNIFORM) < 1


def test_gdas_index_is_drawn_with_probability_p() -> None:
    """The Gumbel-max trick: dividing by the temperature changes no arg max."""
    strategy = build_mild(GDAS)
    with torch.no_grad():
        counts = counts_of([strategy.sample().choice for _ in range(N)], every_choice(strategy.space))
    assert surprise(counts, joint(strategy.theta.detach(), SIZES)) < 1
    assert surprise(counts, UNIFORM) > 1


def test_snas_sample_is_largest_with_probability_p() -> None:
    strategy = build_mild(SNAS)
    with torch.no_grad():
        largest = [tuple(strategy.sample().gates.argmax(1).tolist()) for _ in range(N)]
    counts = counts_of(largest, every_choice(strategy.space))
    assert surprise(counts, joint(strategy.theta.detach(), SIZES)) < 1
    assert surprise(counts, UNIFORM) > 1


def pair_probs(p: Tensor) -> dict[tuple[int, int], float]:
    """P{i, j} of two draws without replacement: p_i p_j / (1 − p_i) + p_j p_i / (1 − p_j)."""
    return {
        (i, j): float(p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]))
        for i, j in itertools.combinations(range(len(p)), 2)
    }


def test_proxylessnas_draws_pairs_without_replacement() -> None:
    strategy = build(ProxylessNAS, seed=11)
    p = [[0.3, 0.7], [0.6, 0.3, 0.1], [0.7, 0.15, 0.1, 0.05]]  # peaked, for replacement to matter
    strategy.theta.data.copy_(torch.tensor([row + [1.0] * (WIDTH - len(row)) for row in p]).log())
    draws = [strategy.sample() for _ in range(2 * N)]
    assert {draw.paths[0] for draw in draws} == {(0, 1)}
    for edge in (1, 2):
        exact = pair_probs(torch.tensor(p[edge], dtype=torch.double))
        assert sum(exact.values()) == pytest.approx(1)
        counts = counts_of([draw.paths[edge] for draw in draws], list(exact))
        assert surprise(counts, torch.tensor(list(exact.values()))) < 1
    replaced = torch.tensor([p[2][i] * p[2][j] for i, j in exact])  # two draws from p that happen to differ
    assert surprise(counts, replaced / replaced.sum()) > 1  # the statistic can tell


def test_proxylessnas_binary_gate_is_drawn_from_the_renormalised_pair() -> None:
    strategy = build_mild(ProxylessNAS, gates="binary")
    draws = [strategy.sample() for _ in range(N)]
    for edge, p in enumerate(row_probs(strategy.theta.detach(), SIZES)):
        cells, exact, fair = [], [], []
        for pair, probability in pair_probs(p).items():
            for j in pair:
                cells.append((pair, j))
                exact.append(probability * float(p[j] / p[list(pair)].sum()))
                fair.append(probability / 2)
        counts = counts_of([(draw.paths[edge], draw.choice[edge]) for draw in draws], cells)
        assert surprise(counts, torch.tensor(exact)) < 1
        assert surprise(counts, torch.tensor(fair)) > 1


def test_proxylessnas_weight_steps_run_the_pair_or_one_operation() -> None:
    pair = build_mild(ProxylessNAS).sample_for_weights()
    assert pair.choice is None
    assert pair.gates.sum(1).tolist() == [2, 2, 2]
    binary = build_mild(ProxylessNAS, gates="binary")
    draws = [binary.sample_for_weights() for _ in range(N)]
    assert all(len(path) == 1 for draw in draws for path in draw.paths)
    counts = counts_of([draw.choice for draw in draws], every_choice(binary.space))
    assert surprise(counts, joint(binary.theta.detach(), SIZES)) < 1  # a ~ p; the active one of a pair is flatter


def test_gumbel_noise_is_standard_gumbel() -> None:
    """P(g ≤ x) = exp(−exp(−x)), in ten bins of equal probability."""
    noise = functional.gumbel(torch.zeros(20_000, dtype=torch.double), torch.Generator().manual_seed(3))
    cells = (noise.neg().exp().neg().exp() * 10).long()
    assert surprise(torch.bincount(cells, minlength=10), torch.full((10,), 0.1)) < 1


@pytest.mark.parametrize("strategy_class", [AdvantageNAS, GDAS, SNAS, ProxylessNAS, ENAS])
def test_draws_depend_on_the_seed_alone(strategy_class: type[SearchStrategy]) -> None:
    def drawn(seed: int) -> list[Any]:
        strategy = build(strategy_class, seed=seed)
        torch.rand(seed + 1)  # whoever else draws numbers does not matter
        with torch.no_grad():
            return [replace(strategy.sample(), relaxed=None).gates.tolist() for _ in range(8)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
