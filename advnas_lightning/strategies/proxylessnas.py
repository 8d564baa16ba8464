"""ProxylessNAS, the strategy that compares two candidates per edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.sending import sent
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_one_of


class ProxylessNAS(SearchStrategy):
    """ProxylessNAS (Cai, Zhu, Han 2019): two candidates per edge run and are compared by their gate gradients.

    An edge with a single candidate runs only that one.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        gates: The gates of the two candidates. With ``"two_hot"`` (Table 1) both gates are 1 and the outputs are
            summed, in weight steps too. With ``"binary"`` (the original) one of the pair is drawn from q and has gate
            1, and the other one contributes only its gate gradient; weight steps are then one-hot a ~ p.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> drawn = ProxylessNAS(edge, architecture_optimizer=Adam).sample()
        >>> drawn.paths, drawn.gates
        (((0, 1),), tensor([[1., 1.]]))
    """

    def __init__(self, model: nn.Module, *, gates: Literal["two_hot", "binary"] = "two_hot", **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.gates = check_one_of("gates", gates, ("two_hot", "binary"))

    def sample(self) -> Architecture:
        """Draw two candidates per edge from the multinomial p without replacement."""
        log_p = self.host_log_probs()
        # The two largest of log p + Gumbel noise are such a draw (Gumbel top-k), also where p underflows.
        top = (log_p + functional.gumbel(log_p, self.generator)).topk(min(2, log_p.shape[1])).indices.tolist()  # [E, 2]
        pairs = [row[: len(names)] for row, names in zip(top, self.space.candidates, strict=True)]
        paths = tuple(tuple(sorted(pair)) for pair in pairs)
        if self.gates == "two_hot":
            return Architecture(self._pairs(paths).to(log_p.dtype), paths)
        q = self.held("probs", lambda: self.probs.cpu()) * _of_pairs(self.space.mask, paths)
        choice = torch.multinomial(q, 1, generator=self.generator).squeeze(1).tolist()
        return Architecture(self.one_hot(choice).gates, paths, choice=tuple(choice))

    def sample_for_weights(self) -> Architecture:
        """Draw the same two gates, or one-hot a ~ p with binary gates."""
        return self.sample() if self.gates == "two_hot" else self.one_hot(self.draw())

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """The gradient Σ_j G_j q_j (δ_ij − q_i) over the pair."""
        (trial,) = trials
        assert trial.gate_grad is not None
        return functional.pair_gradient(trial.gate_grad, self.log_probs.detach(), self._pairs(trial.architecture.paths))

    def after_theta_step(self, trials: Sequence[Trial], before: Sequence[Tensor]) -> None:
        """Shift the pair's logits so that the candidates that were not drawn keep their probabilities."""
        (theta,) = before
        self.theta.copy_(functional.keep_unsampled(theta, self.theta, self._pairs(trials[0].architecture.paths)))

    def _pairs(self, paths: Sequence[Sequence[int]]) -> Tensor:
        """A mask of the candidates that run, ``[E, J]`` bool."""
        return sent(_of_pairs(self.space.mask, paths), self.mask.device)


def _of_pairs(mask: Tensor, paths: Sequence[Sequence[int]]) -> Tensor:
    pair = torch.zeros_like(mask)  # [E, J]
    rows = [edge for edge, path in enumerate(paths) for _ in path]
    pair[rows, [index for path in paths for index in path]] = True
    return pair
