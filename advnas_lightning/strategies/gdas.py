"""GDAS, the strategy of one-hot draws that get the gradient of a soft sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.policy import Selection
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.sending import sent
from advnas_lightning.space.search_space import Architecture
from advnas_lightning.validate import check_int, check_one_of, check_temperatures


class GDAS(SearchStrategy):
    """GDAS (Dong, Yang 2019): a one-hot Gumbel-max draw runs forward, and its soft sample gives the gradient.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`SearchStrategy`.
        inactive: The gate gradient of candidates that did not run. With ``"ones"`` it is Σ ∂L/∂y_i, as if their outputs
            were ones (the released GDAS code). With ``"none"`` they have none.
        rao: K, the number of soft samples whose mean gives the gradient. All are drawn given the candidate that was
            drawn (Gumbel-Rao, Paulus, Maddison, Krause 2021). The gradient has the same mean and less variance, for no
            more passes. By default there is one sample, which is the one that has drawn the candidate.
        tau_max: The temperature before the first architecture step.
        tau_min: The temperature after the last architecture step. It falls linearly from ``tau_max``.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = GDAS(edge, architecture_optimizer=Adam)
        >>> search.temperature, search.sample().relaxed.shape
        (10.0, torch.Size([1, 2]))
    """

    default_select: ClassVar[Selection] = "process_best"

    def __init__(
        self,
        model: nn.Module,
        *,
        inactive: Literal["ones", "none"] = "ones",
        rao: int | None = None,
        tau_max: float = 10.0,
        tau_min: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.inactive = check_one_of("inactive", inactive, ("ones", "none"))
        self.rao = None if rao is None else check_int("rao", rao, least=1)
        self.tau_max, self.tau_min = check_temperatures(tau_max, tau_min)

    @property
    def temperature(self) -> float:
        """The temperature τ of the next architecture step."""
        return functional.linear(self.tau_max, self.tau_min, self.progress)

    def sample(self) -> Architecture:
        """Draw one_hot(arg max (log p + g)/τ), with the soft sample's graph to θ."""
        on_host = self.host_log_probs()
        noise = functional.gumbel(on_host, self.generator)  # [E, J]
        hard = self.one_hot(self._softened(on_host, noise).argmax(-1).tolist())
        log_p = self.log_probs
        if self.rao is None:
            soft = self._softened(log_p, sent(noise, log_p.device))  # [E, J]
        else:
            noise = functional.conditional_gumbel(log_p.detach(), hard.gates.bool(), self.rao, self.generator)
            soft = self._softened(log_p, noise).mean(0)
        return replace(hard, relaxed=soft, inactive=self.inactive)

    def _softened(self, log_p: Tensor, noise: Tensor) -> Tensor:
        return ((log_p + noise) / self.temperature).softmax(-1)

    def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
        """The straight-through gradient: ∂L/∂a, pulled back through the soft sample."""
        return self.pull_back(trials[0])
