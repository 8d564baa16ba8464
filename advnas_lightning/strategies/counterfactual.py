"""The strategy CounterfactualNAS: AdvantageNAS with the expectation over each edge's own draw in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.steps import Term
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_one_of, check_positive


class CounterfactualNAS(SearchStrategy):
    """AdvantageNAS that also credits the candidates that it has not drawn: dense information at sparse memory.

    A one-hot a ~ p runs forward and backward. When g_i = ∂L/∂y_i arrives at an edge, the edge's other candidates run on
    its input without a graph, one at a time, and give their credit G_ij = ⟨g_i, O_ij(x_i)⟩. Then

        θ.grad_i = Σ_j p_ij G_ij (e_j − p_i) = p_i ∘ (G_i − ⟨p_i, G_i⟩).

    **What it estimates.** AdvantageNAS (Algorithm 1, line 9, with the cost −A_i = G_ij of Eq. (7) for the drawn j)
    descends G_ij (e_j − p_i). Given what was drawn on all other edges, and if g_i did not depend on this edge's own
    draw, the mean of that over j is the line above. This is a Rao-Blackwellised AdvantageNAS, whose variance comes from
    the other edges' draws alone. It is exact where the loss is affine in each edge's output given the others.

    **Its bias** has two sources. The first is that of Eq. (7), a first-order view of L. The second is that g_i belongs
    to the network in which the drawn candidate runs, but also credits the other candidates, in whose networks it would
    be different. So unless L is affine in y_i, the mean differs from that of AdvantageNAS's gradient, too. ``python -m
    advnas_lightning.diagnose`` measures both against the exact gradient of a supernet.

    **Without the bias.** ``advantage="exact"`` runs the network itself with every other candidate on every edge in
    turn, on the same batch and with the same random numbers, and takes the loss F_ij of that network for G_ij:

        θ.grad_i = p_i ∘ (F_i − ⟨p_i, F_i⟩).

    This is the local expectation gradient (Titsias and Lázaro-Gredilla 2015): Eq. (6) for all candidates. It has no
    bias for any loss. It takes 1 + Σ_i (J_i − 1) forward passes without a graph, so it keeps less than AdvantageNAS and
    takes longer. Process-best is the best of all these architectures. Each pass is one of the whole network, because
    somebody else's code cannot start at the edge that changes. That would save little where cells share their edges,
    since the first cell has all of them: of the time of these passes, 5 % lies before the change with
    ``task=cifar10``, and 6 % with ``task=ptb``.

    **Less bias.** ``mix`` adds a share of AdvantageNAS's estimate with the baseline ⟨p_i, G_i⟩. To second order, its
    bias has the other sign:

        θ.grad_i = (1 − mix) p_i ∘ (G_i − ⟨p_i, G_i⟩) + mix (⟨a_i, G_i⟩ − ⟨p_i, G_i⟩)(a_i − p_i).

    With ``mix=0.5`` this is ReinMax (Liu et al. 2023): Heun's rule. It has no bias where the loss is quadratic in each
    edge's output given the others, but the variance of an edge's own draw is back. ``mix_end`` raises the share over
    the search.

    **Its relatives.** With ``"taylor"`` it is the straight-through estimator of a categorical draw: ∂L/∂a at one-hot
    gates, pulled back through a = softmax(θ). DARTS uses the same line at a = p, with all candidates mixed and kept for
    the backward pass. NASP takes ∂L/∂a at the arg max, also keeps all candidates, and lets the gradient move θ without
    a softmax.

    A counterfactual pass changes no weight and no buffer. In it, a candidate with dropout draws a mask of its own, and
    batch normalization uses the statistics of the batch. The credits of edges that share a name are added up.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        advantage: The credit of the candidates: ``"taylor"`` takes G_ij from one backward pass and ``"exact"`` takes
            F_ij from forward passes alone.
        mix: The share of AdvantageNAS's estimate, from 0 to 0.5, before the first architecture step.
        mix_end: The share after the last architecture step, which it reaches linearly. By default it stays at ``mix``.
        geometry: The step of θ. With ``"softmax"`` the gradient goes through the Jacobian of the softmax. With
            ``"mirror"`` it does not, so that a step of gradient descent, θ ← θ − ηG, multiplies p by exp(−ηG): the
            exponentiated gradient of GAEA (Li, Khodak, Balcan, Talwalkar 2021).
        zero_op: The credit of zero operations. With ``"none"`` it is their own, G_ij or F_ij, which is fair beside the
            credits of the edge's other candidates. With ``"paper"`` it is the worst running mean of those, as in
            Appendix B; losses then count as differences from the loss of the draw.
        gamma: The rate of these running means.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = CounterfactualNAS(edge, architecture_optimizer=Adam)
        >>> trial = Trial(search.one_hot([1]), torch.tensor(1.0), gate_grad=torch.tensor([[0.0, 2.0]]), size=1)
        >>> search.theta_gradient([trial])  # p ∘ (G − ⟨p, G⟩)
        tensor([[-0.5000,  0.5000]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        advantage: Literal["taylor", "exact"] = "taylor",
        mix: float = 0.0,
        mix_end: float | None = None,
        geometry: Literal["softmax", "mirror"] = "softmax",
        zero_op: Literal["none", "paper"] = "none",
        gamma: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.advantage = check_one_of("advantage", advantage, ("taylor", "exact"))
        self.needs_gate_grad = advantage == "taylor"
        self.mix = check_positive("mix", mix, zero=True, most=0.5)
        self.mix_end = None if mix_end is None else check_positive("mix_end", mix_end, zero=True, most=0.5)
        self.geometry = check_one_of("geometry", geometry, ("softmax", "mirror"))
        if geometry == "mirror" and (mix or mix_end):
            raise ValueError("geometry='mirror' takes the credits alone: leave mix and mix_end out")
        if advantage == "exact" and (mix or mix_end):
            raise ValueError("advantage='exact' has no bias that a mix could lower: leave mix and mix_end out")
        self.zero_op = check_one_of("zero_op", zero_op, ("none", "paper"))
        self.gamma = check_positive("gamma", gamma, most=1)
        self.zero_ops: Tensor
        self.register_buffer("zero_ops", self.space.zero_ops, persistent=False)
        self.candidate_ema: Tensor  # [E, J], reward sign
        self.register_buffer("candidate_ema", torch.zeros(self.mask.shape))

    @property
    def current_mix(self) -> float:
        """The share of AdvantageNAS's estimate in the next architecture step."""
        return self.mix if self.mix_end is None else functional.linear(self.mix, self.mix_end, self.progress)

    def sample(self) -> Architecture:
        """Draw one-hot a ~ p; with ``"taylor"`` the candidates that were not drawn get their credit, too."""
        drawn = self.one_hot(self.draw())
        return replace(drawn, inactive="outputs") if self.advantage == "taylor" else drawn

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        """Evaluate one draw; with ``advantage="exact"`` also all architectures that differ from it on one edge."""
        trials = super().evaluate_draws(batch)
        if self.advantage == "exact":
            choice = trials[0].architecture.choice
            assert choice is not None
            for edge, index in self._others(choice):
                trials.append(self.evaluate(self.one_hot([*choice[:edge], index, *choice[edge + 1 :]]), batch))
        return trials

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """The estimate Σ_j p_ij G_ij ∇θ_i log p_ij, or its mixture with A_i ∇θ_i log p(a)."""
        credit = trials[0].gate_grad  # [E, J], G
        if credit is None:
            credit = self._differences(trials)  # F, up to a constant that the estimate does not depend on
        if self.zero_op == "paper":
            reward, self.candidate_ema = functional.credit_zero_ops(
                -credit, self.candidate_ema, self.mask, self.zero_ops, gamma=self.gamma
            )
            credit = -reward
        if self.geometry == "mirror":
            return credit
        return functional.mixed_vjp(self.probs, trials[0].architecture.gates, credit, self.current_mix)

    def term_gradient(self, term: Term) -> Tensor:
        """The gradient of a term in θ; with ``geometry="mirror"`` that in the expected gates, if it is one of them."""
        slope = term.slope(self.probs) if self.geometry == "mirror" else None
        return super().term_gradient(term) if slope is None else slope

    def _others(self, choice: Sequence[int]) -> list[tuple[int, int]]:
        """The edges and candidates that a choice leaves out, in order."""
        rows = enumerate(self.space.candidates)
        return [(edge, index) for edge, names in rows for index in range(len(names)) if index != choice[edge]]

    def _differences(self, trials: Sequence[Trial]) -> Tensor:
        """The loss of each candidate in the place of the drawn one, less the loss of the draw, ``[E, J]``."""
        drawn, *others = trials
        assert drawn.architecture.choice is not None
        credit = torch.zeros_like(self.probs, dtype=torch.promote_types(self.probs.dtype, drawn.loss.dtype))
        edges, indices = zip(*self._others(drawn.architecture.choice), strict=True)
        credit[edges, indices] = (torch.stack([trial.loss for trial in others]) - drawn.loss).to(credit.dtype)
        return credit
