"""Optimizers that call their closure otherwise than PyTorch's most do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, Optimizer

from advnas_lightning.engine.optimization import OptimizerFactory


class OfClosure(Optimizer):
    """What the optimizers of this file share: a learning rate, and steps along a gradient."""

    def __init__(self, parameters: Any, lr: float = 0.1) -> None:
        super().__init__(parameters, {"lr": lr})

    def weights(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]

    @torch.no_grad()
    def move(self, directions: list[Tensor | None], by: float) -> None:
        for weight, direction in zip(self.weights(), directions, strict=True):
            if direction is not None:
                weight.add_(direction, alpha=by)

    def gradients(self) -> list[Tensor | None]:
        return [None if weight.grad is None else weight.grad.clone() for weight in self.weights()]


class SharpnessAware(OfClosure):
    """Descends the gradient at a point uphill (Foret et al., 2021)."""

    @torch.no_grad()  # so the closure has to turn gradients on
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        loss = closure()
        uphill = self.gradients()
        self.move(uphill, 0.05)
        closure()
        self.move(uphill, -0.05)
        self.move(self.gradients(), -self.param_groups[0]["lr"])
        return loss


class ExtraGradient(OfClosure):
    """Descends the gradient at a point downhill (Korpelevich, 1976), and forgets which gradients there were before."""

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        closure()
        downhill = self.gradients()
        self.move(downhill, -self.param_groups[0]["lr"])
        self.zero_grad()
        loss = closure()
        self.move(downhill, self.param_groups[0]["lr"])
        self.move(self.gradients(), -self.param_groups[0]["lr"])
        return loss


class Lookahead(OfClosure):
    """Moves on along its last step before it calls its closure, and then steps from where it was (Nesterov, 1983)."""

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        last = [self.state[weight].get("last") for weight in self.weights()]
        self.move(last, 0.9)
        loss = closure()
        self.move(last, -0.9)
        gradients = self.gradients()
        self.move(gradients, -self.param_groups[0]["lr"])
        for weight, gradient in zip(self.weights(), gradients, strict=True):
            if gradient is not None:
                self.state[weight]["last"] = -self.param_groups[0]["lr"] * gradient
        return loss


class CautiousLookahead(Lookahead):
    """Says that it can do without a closure, and cannot."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        assert closure is not None
        return super().step(closure)


class Polyak(OfClosure):
    """Steps as far as the loss says (Polyak, 1969)."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        loss = closure()
        gradients = self.gradients()
        square = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
        self.move(gradients, -0.1 * float(loss) / square)
        return loss


class Clipping(SGD):
    """Needs its gradients before its closure would compute them."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        torch.nn.utils.clip_grad_value_(self.param_groups[0]["params"], 0.01)
        return super().step(closure)


class Deaf(SGD):
    """Never calls its closure."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        return super().step()


CALL_AGAIN: dict[str, OptimizerFactory] = {
    "lbfgs": partial(LBFGS, lr=0.1, max_iter=3, history_size=5),
    "line_search": partial(LBFGS, max_iter=4, line_search_fn="strong_wolfe"),
    "sharpness_aware": SharpnessAware,
    "extra_gradient": ExtraGradient,
}
CALL_ONCE: dict[str, OptimizerFactory] = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "one_lbfgs": partial(LBFGS, lr=0.1, max_iter=1),
    "polyak": Polyak,
    "lookahead": Lookahead,
}
