"""REINFORCE."""

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
    """REINFORCE (Williams 1992) with a moving-average baseline: every edge is credited with the whole loss (§3.1).

    Args:
        model: a network with MixedOp edges; further arguments as in :class:`SearchStrategy`.
        gamma: rate of the baseline b ← b + γ (L − b), fed by architecture steps only.
        baseline_init: b starts at the ``"first"`` loss or at ``"zero"``.
        baseline_update: b is moved ``"after"`` its use (which keeps the estimate unbiased) or ``"before"``.

    Raises:
        ValueError: a bad argument.
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
        """One-hot a ~ p."""
        return self.one_hot(self.draw())

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """(L − b) ∇θ log p(a)."""
        (trial,) = trials
        return self.excess(trial.loss) * (trial.architecture.gates - self.probs)

    def excess(self, loss: Tensor) -> Tensor:
        """L − b, scalar; moves b on."""
        before = torch.where(self.baseline.isnan(), loss, self.baseline)
        self.baseline = before + self.gamma * (loss - before)
        return loss - (before if self.baseline_update == "after" else self.baseline)
