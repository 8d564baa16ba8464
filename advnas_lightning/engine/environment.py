"""What a Trainer decides about a step: how many processes there are, and in which precision they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning import Trainer
from torch import Tensor, nn

from advnas_lightning.space.gates import without_autocast

HALF = (torch.bfloat16, torch.float16)


def no_trainer() -> Trainer | None:
    """Stands for a strategy that is used without a Trainer."""
    return None


class Ranks:
    """The processes of a run, which agree on losses and gradients.

    Args:
        trainer: Gives the Trainer, or ``None`` where there is none and so one process.

    Example:
        >>> ranks = Ranks()
        >>> ranks.count, ranks.mean(torch.tensor(2.0))
        (1, tensor(2.))
    """

    def __init__(self, trainer: Callable[[], Trainer | None] = no_trainer) -> None:
        self._attached = trainer

    @property
    def count(self) -> int:
        """How many processes there are."""
        trainer = self._attached()
        return 1 if trainer is None else trainer.world_size

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values, on the device of ``value``."""
        trainer = self._attached()
        if trainer is None or trainer.world_size == 1:
            return value
        reduced: Tensor = trainer.strategy.reduce(value.to(trainer.strategy.root_device), reduce_op="mean")
        return reduced.to(value.device)

    def broadcast(self, value: Tensor) -> Tensor:
        """The first process's value."""
        trainer = self._attached()
        if trainer is None or trainer.world_size == 1:
            return value
        sent: Tensor = trainer.strategy.broadcast(value.cpu())
        return sent


class Precision:
    """How losses are differentiated: under ``precision="16-mixed"`` by way of the scale of a GradScaler.

    Args:
        trainer: Gives the Trainer, or ``None`` where there is none and so no scale.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> Precision().gradients(x * x, [x])
        [tensor(6.)]
    """

    def __init__(self, trainer: Callable[[], Trainer | None] = no_trainer) -> None:
        self._attached = trainer

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The GradScaler, if there is one."""
        trainer = self._attached()
        return None if trainer is None else trainer.scaler

    def gradients(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """∂L/∂x for each of the inputs, ``None`` where the loss does not depend on it.

        Raises:
            ValueError: A part of the network on the way is recomputed by reentrant checkpointing, which adds gradients
                to those that weights have, and can't return them.
        """
        if any(isinstance(given, nn.Parameter) for given in inputs):
            _refuse_reentrant(loss)
        scaler = self.scaler
        scaled = loss if scaler is None else scaler.scale(loss)
        try:
            with without_autocast(loss.device):  # each operation goes back in the type in which it went forth
                gradients = torch.autograd.grad(scaled, inputs, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" in str(error):
                raise _reentrant() from error
            raise
        if scaler is None:
            return list(gradients)
        scale = scaler.get_scale()
        return [None if gradient is None else gradient / scale for gradient in gradients]

    def scaled(self, gradient: Tensor) -> Tensor:
        """A gradient as an optimizer's step expects it, which divides by the scale."""
        scaler = self.scaler
        return gradient if scaler is None else scaler.scale(gradient)


def _refuse_reentrant(loss: Tensor) -> None:
    """Refuse a loss with a checkpointed part in its graph, whose weights would seem not to be there."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if node.name().startswith("CheckpointFunction"):
                raise _reentrant()
            waiting += [before for before, _ in node.next_functions]


def _reentrant() -> ValueError:
    return ValueError(
        "a part of the network is checkpointed with use_reentrant=True, which gives a search no gradients: use"
        " use_reentrant=False"
    )


@contextmanager
def single_precision(owners: Iterable[nn.Module], parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """A context after which what was converted to half precision is in single precision again.

    In bfloat16 a θ of 1 would not feel the paper's learning rate of 3e-4: the next numbers are 0.996 and 1.008.

    Args:
        owners: Modules whose own buffers are meant.
        parameters: The parameters that are meant.

    Example:
        >>> theta = nn.Parameter(torch.ones(1))
        >>> with single_precision([], [theta]):
        ...     theta.data = theta.data.half()
        >>> theta.dtype
        torch.float32
    """
    values = [(parameter, parameter.data) for parameter in parameters]
    buffers = [(owner, name, buffer) for owner in owners for name, buffer in owner.named_buffers(recurse=False)]
    yield
    for parameter, value in values:
        if parameter.dtype in HALF:
            parameter.data = value.to(parameter.device)
    for owner, name, buffer in buffers:
        converted = getattr(owner, name)
        if converted.dtype in HALF:
            setattr(owner, name, buffer.to(converted.device))
