"""AdvantageNAS, the strategy that gives each edge its own credit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_one_of, check_positive


class AdvantageNAS(SearchStrategy):
    """AdvantageNAS (Sato, Sakuma, Akimoto, AAAI 2021, Algorithm 1): each edge gets its own credit.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        advantage: The way in which the advantage is computed. ``"taylor"`` takes A_i = ⟨∂r/∂O_i, O_i⟩ (Eq. 7) from one
            backward pass. This is the slope of r in the scale of O_i, so it is 0 where a normalization of O_i alone
            follows. ``"exact"`` takes A_i = r(a) − r(a with edge i set to zero) (Eq. 6). It needs E more forward passes
            and is meant for analysis.
        baseline: The baseline of the advantage. With ``"ema"`` the running mean of A_i, as it was before this step, is
            subtracted on each edge (A2 in the authors' code). With ``"none"`` there is no baseline.
        zero_op: The credit of a drawn zero operation: ``"paper"`` (Eq. 9), ``"authors_code"`` (see
            :func:`~advnas_lightning.functional.treat_zero_op`) or ``"none"``.
        gamma: The rate of both running means.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = AdvantageNAS(edge, architecture_optimizer=Adam)
        >>> trial = Trial(search.one_hot([1]), torch.tensor(1.0), gate_grad=torch.tensor([[0.0, 2.0]]), size=1)
        >>> search.theta_gradient([trial])  # 2 (a − p)
        tensor([[-1.,  1.]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        advantage: Literal["taylor", "exact"] = "taylor",
        baseline: Literal["none", "ema"] = "none",
        zero_op: functional.ZeroOpRule = "paper",
        gamma: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.advantage = check_one_of("advantage", advantage, ("taylor", "exact"))
        self.baseline = check_one_of("baseline", baseline, ("none", "ema"))
        self.zero_op = check_one_of("zero_op", zero_op, ("paper", "authors_code", "none"))
        self.gamma = check_positive("gamma", gamma, most=1)
        self.needs_gate_grad = advantage == "taylor"
        self.zero_ops: Tensor
        self.register_buffer("zero_ops", self.space.zero_ops, persistent=False)
        self.candidate_ema: Tensor  # [E, J], reward sign
        self.register_buffer("candidate_ema", torch.zeros(self.mask.shape))
        self.visited: Tensor  # [E, J]
        self.register_buffer("visited", torch.zeros_like(self.mask))
        self.edge_ema: Tensor  # [E], loss sign
        self.register_buffer("edge_ema", torch.zeros(len(self.space)))

    def sample(self) -> Architecture:
        """Draw one candidate per edge, one-hot a ~ p."""
        return self.one_hot(self.draw())

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        """Evaluate one draw; with ``advantage="exact"`` also the same draw with each edge in turn set to zero."""
        trials = super().evaluate_draws(batch)
        if self.advantage == "exact":
            drawn = trials[0].architecture
            for edge in range(len(self.space)):
                gates = drawn.gates.clone()
                gates[edge] = 0
                trials.append(self.evaluate(Architecture(gates, drawn.paths), batch))
        return trials

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """The estimate A_i ∇θ_i log p(a) (Algorithm 1, line 9), with A_i in loss sign."""
        drawn, *without_edge = trials
        a = drawn.architecture.gates  # [E, J]
        if drawn.gate_grad is not None:
            cost = (drawn.gate_grad * a).sum(-1)  # [E], −A_i of Eq. (7)
        else:
            cost = drawn.loss - torch.stack([trial.loss for trial in without_edge])  # [E], −A_i of Eq. (6)
        reward, self.candidate_ema, self.visited = functional.treat_zero_op(
            -cost, a, self.candidate_ema, self.visited, self.mask, self.zero_ops, gamma=self.gamma, rule=self.zero_op
        )
        cost = -reward
        if self.baseline == "ema":
            baseline, self.edge_ema = self.edge_ema, self.edge_ema + self.gamma * (cost - self.edge_ema)
            cost = cost - baseline
        return cost.unsqueeze(-1) * (a - self.probs)
