"""The state of the global random number generators, so that a resumed run draws what an uninterrupted one would."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def collect() -> dict[str, Any]:
    """The state of torch's, NumPy's and Python's generators, in a form that ``torch.load(weights_only=True)`` reads.

    Example:
        >>> sorted(collect())
        ['cuda', 'numpy', 'python', 'torch']
    """
    _, key, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [torch.from_numpy(np.asarray(key, dtype=np.int64)), *rest],
        "python": [version, torch.tensor(internal), gauss],
    }


def restore(state: dict[str, Any]) -> None:
    """Set the generators to a state that :func:`collect` returned.

    Example:
        >>> state = collect()
        >>> first = torch.rand(1)
        >>> restore(state)
        >>> torch.equal(torch.rand(1), first)
        True
    """
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])
    key, *rest = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))


@contextmanager
def kept() -> Iterator[None]:
    """A context after which the generators have the state that they had before it.

    Example:
        >>> before = torch.get_rng_state()
        >>> with kept():
        ...     _ = torch.rand(1)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    state = collect()
    try:
        yield
    finally:
        restore(state)
