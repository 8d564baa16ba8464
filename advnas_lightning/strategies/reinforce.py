"""REINFORCE, the strategy that gives every edge the whole loss as its credit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.policy import Selection
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_one_of, check_positive


class REINFORCE(SearchStrategy):
    """REINFORCE (Williams 1992) with a moving-average baseline: every edge gets the whole loss as its credit (§3.1).

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        gamma: The rate γ of the baseline b ← b + γ (L − b). Only architecture steps update it.
        baseline_init: The start of b: the ``"first"`` loss or ``"zero"``.
        baseline_update: Whether b moves ``"after"`` its use, which keeps the estimate unbiased, or ``"before"``.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = REINFORCE(edge, architecture_optimizer=Adam, baseline_init="zero")
        >>> trial = Trial(search.one_hot([1]), torch.tensor(2.0), gate_grad=None, size=1)
        >>> search.theta_gradient([trial])  # (2 − 0) (a − p)
        tensor([[-1.,  1.]])
    """

    default_select: ClassVar[Selection] = "process_best"
    needs_gate_grad = False

    def __init__(
        self,
        model: nn.Module,
        *,
        gamma: float = 0.05,
        baseline_init: Literal["first", "zero"] = "first",
        baseline_update: Literal["after", "before"] = "after",
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.gamma = check_positive("gamma", gamma, most=1)
        self.baseline_init = check_one_of("baseline_init", baseline_init, ("first", "zero"))
        self.baseline_update = check_one_of("baseline_update", baseline_update, ("after", "before"))
        self.baseline: Tensor  # scalar; nan until the first loss
        self.register_buffer("baseline", torch.tensor(torch.nan if baseline_init == "first" else 0.0))

    def sample(self) -> Architecture:
        """Draw one candidate per edge, one-hot a ~ p."""
        return self.one_hot(self.draw())

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """The estimate (L − b) ∇θ log p(a)."""
        (trial,) = trials
        return self.excess(trial.loss) * (trial.architecture.gates - self.probs)

    def excess(self, loss: Tensor) -> Tensor:
        """The excess L − b of the loss over the baseline, scalar; this updates b."""
        before = torch.where(self.baseline.isnan(), loss, self.baseline)
        self.baseline = before + self.gamma * (loss - before)
        return loss - (before if self.baseline_update == "after" else self.baseline)
