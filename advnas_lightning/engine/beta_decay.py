"""β-decay, a term of the objective that keeps θ from growing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class BetaDecay:
    """β-decay (Ye, Li, Li, Chen, Fan, Ouyang 2022): λ mean_i logsumexp(θ_i) is added to the loss of a search.

    Its gradient in θ_i is λ softmax(θ_i)/E. It lowers large θ more than small ones, and so keeps the probabilities
    close to each other. λ rises linearly over the architecture steps, from 0 to ``final``. In the paper it rises with
    the epochs: to 50 on NAS-Bench-201, by a half in each of 100 epochs.

    Args:
        final: The value of λ after the last architecture step.
        edges: The number of edges E.
        progress: A function that gives the share of the architecture steps that is done.

    Example:
        >>> BetaDecay(50.0, edges=2, progress=lambda: 0.5).gradient(torch.tensor([[0.2, 0.8]]))
        tensor([[ 2.5000, 10.0000]])
    """

    def __init__(self, final: float, edges: int, progress: Callable[[], float]) -> None:
        self.final, self.edges, self.progress = final, edges, progress

    def slope(self, expected_gates: Tensor) -> None:
        """The gradient in the expected gates; there is none, because this is a term of θ itself."""

    def gradient(self, probs: Tensor) -> Tensor:
        """The gradient in θ, λ p_i/E, for p = softmax(θ), ``[E, J]``."""
        return self.final * self.progress() / self.edges * probs

    def after_step(self, expected_gates: Tensor) -> None:
        """Do nothing: λ follows from the progress of the search."""

    def allows(self, gates: Tensor) -> Tensor:
        """True, scalar: any architecture may be chosen."""
        return torch.ones((), dtype=torch.bool, device=gates.device)

    def best_choice(self, choice: list[int], log_probs: Tensor) -> list[int]:
        """The most probable architecture."""
        return choice
