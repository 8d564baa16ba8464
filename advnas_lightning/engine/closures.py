"""What the step of an optimizer calls for its loss and gradients. LBFGS and others call it more than once a step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer

Passes = Callable[[], Tensor | None]


class Closure:
    """Computes a loss and its gradients, at the first call in another way than at later ones.

    Args:
        first: Computes them at the first call.
        again: Computes them at each call after it.

    Attributes:
        was_called: Whether there was a call.

    Example:
        >>> closure = Closure(lambda: torch.tensor(1.0), lambda: torch.tensor(2.0))
        >>> closure(), closure(), closure()
        (tensor(1.), tensor(2.), tensor(2.))
    """

    def __init__(self, first: Passes, again: Passes) -> None:
        self.was_called = False
        self._first, self._again = first, again

    def __call__(self, *_: Any, **__: Any) -> Tensor | None:
        """Compute the loss and its gradients."""
        passes = self._again if self.was_called else self._first
        self.was_called = True
        with torch.enable_grad():  # some optimizers turn gradients off in their step
            return passes()


def needs_closure(optimizer: Any) -> bool:
    """Whether the step of an optimizer cannot do without a closure.

    Example:
        >>> weights = [torch.zeros(1)]
        >>> needs_closure(torch.optim.LBFGS(weights)), needs_closure(torch.optim.SGD(weights))
        (True, False)
    """
    kind: Any = type(_unwrapped(optimizer))
    return _needs_closure(kind)


def refuse_scaling(optimizer: Optimizer | None) -> None:
    """Refuse an optimizer that computes gradients itself, where a GradScaler scales them and steps without a closure.

    Raises:
        MisconfigurationException: It is one.

    Example:
        >>> refuse_scaling(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    """
    if optimizer is not None and needs_closure(optimizer):
        raise MisconfigurationException(
            f"{type(optimizer).__name__} calls for its gradients itself, and precision=16-mixed scales them: use"
            " precision=bf16-mixed or 32-true"
        )


@cache
def _needs_closure(kind: Any) -> bool:
    closure = inspect.signature(kind.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


class ComputedClosure(Closure):
    """A closure for gradients that are there already, as most optimizers expect.

    Where an optimizer has moved its parameters before the first call, that call computes anew like all later ones.

    Args:
        loss: The loss whose gradients are there.
        optimizer: The optimizer of the parameters.
        again: Computes the loss and the gradients anew.

    Example:
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> closure = ComputedClosure(torch.tensor(1.0), sgd, lambda: torch.tensor(2.0))
        >>> closure(), closure()
        (tensor(1.), tensor(2.))
    """

    def __init__(self, loss: Tensor | None, optimizer: Any, again: Passes) -> None:
        if type(_unwrapped(optimizer)).__module__.split(".")[:2] == ["torch", "optim"]:  # they call it first of all
            super().__init__(lambda: loss, again)
        else:
            before = _versions(optimizer)
            super().__init__(lambda: loss if _versions(optimizer) == before else again(), again)


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer as its factory made it, also where Lightning has wrapped it and so hides its class."""
    return getattr(optimizer, "optimizer", optimizer)


def _versions(optimizer: Any) -> list[int]:
    """How often each of an optimizer's parameters was written to."""
    return [parameter._version for group in optimizer.param_groups for parameter in group["params"]]
