"""What an evaluation of an architecture must not leave behind in the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from advnas_lightning.engine.lightning_private import metric_states


class Trace:
    """Puts a network's buffers (running statistics) and the states of its metrics back as they were.

    Args:
        model: The network.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with Trace(norm).removed():
        ...     _ = norm(torch.ones(3, 2))
        >>> norm.running_mean
        tensor([0., 0.])
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._places: list[tuple[nn.Module, str]] | None = None
        self._metrics: list[Metric] = []

    def look_again(self) -> None:
        """Find the buffers and metrics anew: modules may have been added since."""
        self._places = None

    @contextmanager
    def removed(self) -> Iterator[None]:
        """A context after which the network is as it was before."""
        if self._places is None:
            modules = list(self._model.modules())
            self._places = [(module, name) for module in modules for name, _ in module.named_buffers(recurse=False)]
            self._metrics = [module for module in modules if isinstance(module, Metric)]
        buffers = [(module, name, getattr(module, name)) for module, name in self._places]
        values = [None if buffer is None else buffer.clone() for _, _, buffer in buffers]  # a cache may be emptied
        metrics = [(metric, dict(vars(metric))) for metric in self._metrics]
        for metric, attributes in metrics:
            for name in metric_states(metric):
                setattr(metric, name, _copied(attributes[name]))
        try:
            yield
        finally:
            for (module, name, buffer), value in zip(buffers, values, strict=True):
                if value is not None:
                    buffer.copy_(value)
                if getattr(module, name) is not buffer:  # the forward pass put another tensor there
                    setattr(module, name, buffer)
            for metric, attributes in metrics:
                vars(metric).clear()
                vars(metric).update(attributes)


def _copied(state: Any) -> Any:
    """A copy of a metric's state, a tensor or a list of tensors."""
    return state.clone() if isinstance(state, Tensor) else list(state)
