"""An evaluation leaves no trace in buffers, whatever a module does with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advnas_lightning.engine.trace import Trace


class Caching(nn.Module):
    """Empties its buffer and fills it anew, in turns, as a cache does."""

    cache: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(2))

    def forward(self) -> None:
        self.cache = torch.ones(3) if self.cache is None else None


def test_a_buffer_that_is_emptied_and_filled_is_as_it_was() -> None:
    module = Caching()
    trace = Trace(module)
    with trace.removed():
        module()
        assert module.cache is None
    assert module.cache is not None
    assert module.cache.tolist() == [0, 0]
    module()
    with trace.removed():  # it is empty now
        module()
        assert module.cache is not None
    assert module.cache is None
