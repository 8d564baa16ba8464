"""The mathematics of the strategies, as pure functions on ``[E, J]`` tensors: E edges with at most J candidates each.

Numbers of sections, equations and algorithms without a name are those of Sato, Sakuma, Akimoto (AAAI 2021). ``mask`` is
true where an edge has a candidate. Entries of θ where it is false are ignored and get no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from advnas_lightning.sending import sent

ZeroOpRule = Literal["paper", "authors_code", "none"]


def log_probs(theta: Tensor, mask: Tensor) -> Tensor:
    """The logarithm of p_i = log softmax(θ_i), ``[E, J]``; −∞ where there is no candidate.

    Example:
        >>> log_probs(torch.ones(1, 3), torch.tensor([[True, True, False]])).exp()
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    return theta.masked_fill(~mask, -torch.inf).log_softmax(-1)


def entropy(log_p: Tensor) -> Tensor:
    """The mean entropy (1/E) Σ_i H(p_i) of the edges in nats, scalar (Appendix H).

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()) / math.log(2)
        tensor(0.5000)
    """
    return (log_p.exp() * -log_p.masked_fill(log_p.isneginf(), 0)).sum(-1).mean().clamp(min=0)  # avoids −0


def widened(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The values in a type, by default their own, or in single precision where that is a half.

    Products of halves overflow beyond 65504 in float16, and sums of them are rounded to three digits in bfloat16.

    Example:
        >>> widened(torch.ones((), dtype=torch.bfloat16)).dtype, widened(torch.ones(()), torch.float64).dtype
        (torch.float32, torch.float64)
    """
    wide = torch.promote_types(values.dtype if dtype is None else dtype, torch.float32)
    return values if values.dtype == wide else values.to(wide)  # what is wide enough already costs nothing


def concentration(theta: Tensor) -> Tensor:
    """The concentration β = ELU(θ) + 1 of DrNAS, written without a difference of nearly equal numbers.

    Example:
        >>> concentration(torch.tensor([-20.0, 0.0, 2.0]))
        tensor([2.0612e-09, 1.0000e+00, 3.0000e+00])
    """
    return torch.where(theta > 0, theta + 1, theta.masked_fill(theta > 0, 0).exp())  # the slope at 0 is 1


def gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise of the shape of ``like``, always drawn on the CPU.

    Example:
        >>> gumbel(torch.zeros(2, 3), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    exponential = torch.empty(like.shape, dtype=like.dtype).exponential_(generator=generator)
    return sent(exponential.log().neg(), like.device)


def conditional_gumbel(log_p: Tensor, drawn: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Gumbel noise g whose arg max_j (log p_ij + g_ij) is a given candidate (Maddison, Tarlow, Minka 2014).

    With independent E_j ~ Exp(1), the largest value is −log E_drawn, since Σ_j p_ij = 1. Each of the others is
    −log(E_j/p_ij + E_drawn), a Gumbel variable that is cut off there.

    Args:
        log_p: ``[E, J]``, the logarithm of p.
        drawn: ``[E, J]`` bool, the candidate of each edge that was drawn.
        samples: K, the number of samples.
        generator: The source of the noise.

    Returns:
        The noise, ``[K, E, J]``; 0 where there is no candidate.

    Example:
        >>> log_p, drawn = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[False, True]])
        >>> noise = conditional_gumbel(log_p, drawn, 100, torch.Generator().manual_seed(0))
        >>> noise.shape, (log_p + noise).argmax(-1).unique()
        (torch.Size([100, 1, 2]), tensor([1]))
    """
    logs = -gumbel(log_p.expand(samples, -1, -1), generator)  # [K, E, J], log E
    least = logs.masked_fill(~drawn, 0).sum(-1, keepdim=True)  # [K, E, 1], log E_drawn
    noise = -torch.where(drawn, least, torch.logaddexp(logs - log_p, least)) - log_p
    return noise.masked_fill(log_p.isneginf(), 0)


def argmax(theta: Tensor, mask: Tensor, tie_breaker: Tensor) -> list[int]:
    """The arg max_j θ_ij of each edge; of equal ones it is the one with the largest ``tie_breaker`` ``[E, J]``.

    Example:
        >>> theta, mask = torch.tensor([[1.0, 1.0, 9.0]]), torch.tensor([[True, True, False]])
        >>> argmax(theta, mask, tie_breaker=torch.tensor([[0.1, 0.2, 0.3]]))
        [1]
    """
    theta = theta.masked_fill(~mask, -torch.inf)
    best = theta == theta.amax(-1, keepdim=True)  # [E, J]
    chosen: list[int] = tie_breaker.masked_fill(~(best & mask), -torch.inf).argmax(-1).tolist()
    return chosen


def knapsack_argmax(
    scores: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], least: float, most: float
) -> list[int] | None:
    """Choose one candidate per edge so that the sum of scores is greatest while the costs sum to ``least`` … ``most``.

    If no choice costs as much as ``least``, the choice is among those that cost the most. This is a knapsack problem,
    solved by dynamic programming over the edges. Partial choices are grouped by cost into steps of a thousandth of
    ``most``, and only the best of each group is continued.

    Args:
        scores: The scores by edge and candidate.
        costs: The costs by edge and candidate, which are at least 0.
        least: The lower bound of the sum of costs.
        most: The upper bound of the sum of costs.

    Returns:
        The index of each edge's candidate, or ``None`` if every choice costs more than ``most``.

    Example:
        >>> knapsack_argmax([[0.0, 3.0], [0.0, 2.0]], [[0, 5], [0, 4]], least=0, most=8)
        [1, 0]
    """
    rest = sum(map(min, costs))  # the least cost of the remaining edges
    partial: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}  # score, cost, choice
    for own_scores, own_costs in zip(scores, costs, strict=True):
        rest -= min(own_costs)
        longer: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        for score, cost, choice in partial.values():
            for index, value in enumerate(own_costs):
                total = cost + value
                if total + rest <= most:
                    place = int(1000 * total / most) if most else 0
                    entry = (score + own_scores[index], total, (*choice, index))
                    longer[place] = max(longer.get(place, entry), entry)
        partial = longer
    if not partial:
        return None
    least = min(least, max(cost for _, cost, _ in partial.values()))
    _, _, best = max(entry for entry in partial.values() if entry[1] >= least)
    return list(best)


def treat_zero_op(
    advantage: Tensor,
    a: Tensor,
    ema: Tensor,
    visited: Tensor,
    mask: Tensor,
    zero_ops: Tensor,
    *,
    gamma: float = 0.05,
    rule: ZeroOpRule = "paper",
) -> tuple[Tensor, Tensor, Tensor]:
    """Give a drawn zero operation the worst advantage that another candidate has shown (Appendix B, Eq. 9).

    Under ``"paper"`` EMA_ij starts at 0 and moves by γ (A_i − EMA_ij) for the drawn j. Where a zero operation was
    drawn, A_i becomes min_j EMA_ij over the candidates that are not zero operations. Under ``"authors_code"`` the EMA
    starts at the first value and the minimum is over all columns, including unvisited ones (0) and the zero column.

    Args:
        advantage: ``[E]``, A_i in **reward** sign.
        a: ``[E, J]``, the one-hot draw.
        ema: ``[E, J]``, the running means.
        visited: ``[E, J]`` bool, true where a candidate was drawn before.
        mask: ``[E, J]`` bool, true where there is a candidate.
        zero_ops: ``[E, J]`` bool, true where the candidate is a zero operation.
        gamma: The rate γ of the running means.
        rule: The reading of Eq. (9) to follow; ``"none"`` changes nothing.

    Returns:
        The treated advantage, the new running means and the new ``visited``.

    Example:
        >>> a, yes = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
        >>> ema, zero = torch.tensor([[-3.0, 0.0]]), torch.tensor([[False, True]])
        >>> treat_zero_op(torch.tensor([1.0]), a, ema, yes, yes, zero)[0]
        tensor([-3.])
    """
    if rule == "none":
        return advantage, ema, visited
    drawn = a.bool()
    observed = advantage.unsqueeze(-1)  # [E, 1]
    moved = ema + gamma * (observed - ema)
    if rule == "authors_code":
        moved = torch.where(visited, moved, observed)
    ema = torch.where(drawn, moved, ema)
    eligible = mask if rule == "authors_code" else mask & ~zero_ops
    worst = ema.masked_fill(~eligible, torch.inf).amin(-1)  # [E]
    replace = (drawn & zero_ops).any(-1) & eligible.any(-1)  # an edge of zero operations alone is left as it is
    return torch.where(replace, worst, advantage), ema, visited | drawn


def credit_zero_ops(
    reward: Tensor, ema: Tensor, mask: Tensor, zero_ops: Tensor, *, gamma: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Give each zero operation the worst running mean of the others' rewards: Eq. (9) with all candidates observed.

    Args:
        reward: ``[E, J]``, the reward of every candidate.
        ema: ``[E, J]``, the running means, which are 0 at the start.
        mask: ``[E, J]`` bool, true where there is a candidate.
        zero_ops: ``[E, J]`` bool, true where the candidate is a zero operation.
        gamma: The rate of the running means.

    Returns:
        The treated reward and the new running means.

    Example:
        >>> yes, zero = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[False, True]])
        >>> credit_zero_ops(torch.tensor([[-4.0, 0.0]]), torch.zeros(1, 2), yes, zero, gamma=0.5)[0]
        tensor([[-4., -2.]])
    """
    ema = ema + gamma * (reward - ema)
    eligible = mask & ~zero_ops
    worst = ema.masked_fill(~eligible, torch.inf).amin(-1, keepdim=True)  # [E, 1]
    return torch.where(zero_ops & eligible.any(-1, keepdim=True), worst, reward), ema


def softmax_vjp(p: Tensor, gradient: Tensor) -> Tensor:
    """Turn a gradient c in p_i = softmax(θ_i) into one in θ: p_i ∘ (c_i − ⟨p_i, c_i⟩).

    Args:
        p: ``[E, J]``, the probabilities.
        gradient: ``[E, J]``, the gradient c. With costs as c, the result is the gradient of the expected cost
            Σ_i ⟨p_i, c_i⟩.

    Example:
        >>> softmax_vjp(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 3.0]]))
        tensor([[-0.5000,  0.5000]])
    """
    return p * (gradient - (p * gradient).sum(-1, keepdim=True))


def mixed_vjp(p: Tensor, a: Tensor, gradient: Tensor, mix: float) -> Tensor:
    """The gradient in θ of a one-hot draw a ~ p, between first and second order in a.

    It is

        (1 − mix) p_i ∘ (G_i − ⟨p_i, G_i⟩) + mix (⟨a_i, G_i⟩ − ⟨p_i, G_i⟩)(a_i − p_i).

    With ``mix`` = 0 it is the straight-through estimator, :func:`softmax_vjp`. With ``mix`` = 1/2 it is ReinMax (Liu et
    al. 2023, Heun's rule), which is written there as 2 J(½(a + p)) G − ½ J(p) G with J(q) = diag(q) − q qᵀ.

    Args:
        p: ``[E, J]``, the probabilities.
        a: ``[E, J]``, the one-hot draw.
        gradient: ``[E, J]``, the gradient G in a, at the draw.
        mix: The weight of the second part.

    Example:
        >>> p, a, gradient = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]])
        >>> mixed_vjp(p, a, gradient, 0.5)
        tensor([[-0.5000,  0.5000]])
    """
    excess = ((a - p) * gradient).sum(-1, keepdim=True)  # [E, 1], ⟨a, G⟩ − ⟨p, G⟩
    return (1 - mix) * softmax_vjp(p, gradient) + mix * excess * (a - p)


def importance_weights(losses: Tensor, scale: float) -> Tensor:
    """PARSEC's weights ω_k = softmax_k(−scale · L_k) of K draws, ``[K]``.

    Example:
        >>> importance_weights(torch.tensor([1.0, 1.0]), scale=64)
        tensor([0.5000, 0.5000])
    """
    return (-scale * losses).softmax(0)


def pair_gradient(gate_grad: Tensor, log_p: Tensor, pair: Tensor) -> Tensor:
    """ProxylessNAS's gradient ∂L/∂θ_i = Σ_j G_ij q_j (δ_ij − q_i) (Cai et al. 2019, Eq. 4).

    Here q is p, normalised over the two candidates that were drawn.

    Args:
        gate_grad: ``[E, J]``, the gate gradient G.
        log_p: ``[E, J]``, the logarithm of p.
        pair: ``[E, J]`` bool, the two candidates that were drawn on each edge.

    Example:
        >>> pair = torch.tensor([[True, True, False]])
        >>> pair_gradient(torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1, 3), pair)[:, :2]
        tensor([[ 0.2500, -0.2500]])
    """
    q = log_p.masked_fill(~pair, -torch.inf).softmax(-1)  # [E, J]
    return softmax_vjp(q, gate_grad)


def keep_unsampled(before: Tensor, after: Tensor, pair: Tensor) -> Tensor:
    """Let a step move only the pair's logits, shifted together so that all other candidates keep their probabilities.

    The shift restores the earlier Σ exp(θ) over the pair. The other logits return to ``before``, since an optimizer
    with momentum or decay moves them too.

    Example:
        >>> pair = torch.tensor([[True, True, False]])
        >>> theta = keep_unsampled(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.5]]), pair)
        >>> round(theta.softmax(-1)[0, 2].item(), 4)
        0.3333
    """
    old = before.masked_fill(~pair, -torch.inf).logsumexp(-1, keepdim=True)  # [E, 1]
    new = after.masked_fill(~pair, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.where(pair, after + (old - new), before)


def project_affine(theta: Tensor, mask: Tensor) -> Tensor:
    """Bring each row into [0, 1] in the same order: subtract a negative minimum, then divide by a maximum above 1.

    Example:
        >>> project_affine(torch.tensor([[-1.0, 1.0]]), torch.tensor([[True, True]]))
        tensor([[0., 1.]])
    """
    low = theta.masked_fill(~mask, torch.inf).amin(-1, keepdim=True).clamp(max=0)
    theta = theta - low
    high = theta.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True).clamp(min=1)
    return theta / high


def linear(start: float, end: float, progress: float) -> float:
    """Go linearly from ``start`` at progress 0 to exactly ``end`` at progress 1.

    Example:
        >>> linear(10, 0.1, 0), linear(10, 0.1, 1)
        (10.0, 0.1)
    """
    return start * (1 - progress) + end * progress


def cosine(start: float, end: float, progress: float) -> float:
    """Go from ``start`` at progress 0 to ``end`` at progress 1 along half a cosine.

    Example:
        >>> round(cosine(1, 0, 0.5), 6)
        0.5
    """
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0, dim: int = -1) -> Tensor:
    """T² KL(softmax(z_t / T) ‖ softmax(z_s / T)), how far a student's classes are from its teacher's, scalar.

    It is a sum over the classes and a mean over all else (Hinton, Vinyals, Dean 2015, §2, whose factor T² keeps the
    size of the gradient when T changes).

    Args:
        student: The student's logits z_s, of any shape.
        teacher: The teacher's logits z_t, of the same shape.
        temperature: T, above 0.
        dim: The dimension of the classes.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> soft_divergence(logits, logits), soft_divergence(logits, torch.tensor([[9.0, -9.0]]))
        (tensor(0.), tensor(0.6931))
    """
    log_student = torch.log_softmax(widened(student) / temperature, dim)
    log_teacher = torch.log_softmax(widened(teacher) / temperature, dim)
    terms = log_teacher.exp() * (log_teacher - log_student)
    terms = torch.where(log_teacher.isneginf(), 0.0, terms)  # a class that is ruled out
    return temperature**2 * terms.sum(dim).mean()
