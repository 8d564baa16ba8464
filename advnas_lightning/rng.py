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
    """A context after which the generators have the state that they had before it; of devices, those of CUDA.

    Example:
        >>> before = torch.get_rng_state()
        >>> with kept():
        ...     _ = torch.rand(1)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context in which the generators start from a seed, and after which they have the state from before it.

    Args:
        seed: A whole number from 0 to 2^32 − 1.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(1):
        ...     torch.rand(1)
        tensor([0.7576])
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    with kept():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would format a stack trace where there is no GPU
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield


def mixed(*numbers: int) -> int:
    """A seed for :func:`seeded` from several numbers; other numbers give another seed as a rule.

    Example:
        >>> mixed(0, 1) == mixed(0, 1), mixed(0, 1) == mixed(1, 0)
        (True, False)
    """
    return hash(numbers) % 2**32
