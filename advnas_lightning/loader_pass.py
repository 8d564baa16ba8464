"""One pass over a loader, which a run that goes on can repeat up to the batch where it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from advnas_lightning import rng


class Keeper(Protocol):
    """Keeps the newest batches of an epoch.

    Attributes:
        size: How many of them.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import Fixed, MixedOp
        >>> edge = MixedOp("edge", {"relu": nn.ReLU(), "tanh": nn.Tanh()})
        >>> keeper: Keeper = Fixed(edge, genotype={"edge": "relu"}).calibration
        >>> keeper.size
        0
    """

    size: int

    @property
    def is_on(self) -> bool:
        """Whether it keeps any."""

    def begin_epoch(self) -> None:
        """Drop those of the epoch before."""

    def keep(self, batch: Any) -> None:
        """Take a batch as the loader has given it."""


class LoaderPass:
    """One pass over a loader, which can be repeated up to any of its batches.

    Args:
        loader: The loader.
        seed: The seed of the random numbers that the pass draws. Without one it draws from the global generators, as
            Lightning's own training does.
        keeper: Gets each batch. The newest ones can then be loaded again with all random numbers in them.

    Attributes:
        taken: The number of batches so far.

    Example:
        >>> running = LoaderPass("abc")
        >>> next(running), next(running), running.taken
        ('a', 'b', 2)
        >>> next(LoaderPass.again("abc", running.place(), "the loader"))
        'c'
    """

    def __init__(self, loader: Iterable[Any], seed: int | None = None, keeper: Keeper | None = None) -> None:
        self.start: dict[str, Any] = {"rng": rng.collect()} if seed is None else {"seed": seed}
        self.start["generators"] = generator_states(loader)
        self.taken = 0
        self._loader, self._seed, self._keeper = loader, seed, keeper
        draws = keeper is not None and seed is None and not getattr(loader, "num_workers", 0)
        self._states: deque[dict[str, Any]] = deque(maxlen=keeper.size if keeper is not None and draws else 0)
        with self._own_numbers(0):
            self._batches = iter(loader)

    def _own_numbers(self, moment: int) -> AbstractContextManager[None]:
        return nullcontext() if self._seed is None else rng.seeded(rng.mixed(self._seed, moment))

    def __iter__(self) -> LoaderPass:
        return self

    def __next__(self) -> Any:
        if self._states.maxlen:
            self._states.append(rng.collect())
        if self._seed is None and not self.taken:  # hooks of an epoch's start may have drawn numbers since it began
            self.start["first"] = rng.collect()
        with self._own_numbers(self.taken + 1):
            batch = next(self._batches)
        if self._keeper is not None:
            self._keeper.keep(batch)
        self.taken += 1
        return batch

    def place(self) -> dict[str, Any]:
        """What :meth:`again` needs to repeat this pass up to the current batch."""
        return {**self.start, "taken": self.taken, "states": list(self._states)}

    @classmethod
    def again(cls, loader: Iterable[Any], place: dict[str, Any], name: str, keeper: Keeper | None = None) -> LoaderPass:
        """A new pass over the loader, moved to the place of an earlier one.

        Raises:
            ValueError: The loader has fewer batches than were taken.
        """
        if "rng" in place:
            rng.restore(place["rng"])
        set_generator_states(loader, place["generators"])
        running, states = cls(loader, place.get("seed"), keeper), place.get("states", [])
        if hasattr(loader, "load_state_dict"):
            running.taken = place["taken"]
        while running.taken < place["taken"]:
            left = place["taken"] - running.taken
            if left <= len(states):
                rng.restore(states[-left])
            elif not running.taken and "first" in place:  # older checkpoints have none
                rng.restore(place["first"])
            if next(running, running) is running:
                raise ValueError(
                    f"{name} ends after {running.taken} batches, and the checkpoint was saved after {place['taken']}"
                    " of them: within an epoch a search goes on with the data that it had"
                )
        return running


def _generators(loader: Any) -> list[torch.Generator]:
    """The random number generators that were given to a DataLoader or to its samplers."""
    samplers = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    owners = (loader, *samplers, *(getattr(each, "sampler", None) for each in samplers))
    found = (getattr(owner, "generator", None) for owner in owners)
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def generator_states(loader: Any) -> list[Tensor]:
    """The states of the random number generators that were given to a loader.

    Args:
        loader: The loader.

    Example:
        >>> len(generator_states(torch.utils.data.DataLoader("ab", generator=torch.Generator())))
        1
    """
    return [generator.get_state() for generator in _generators(loader)]


def set_generator_states(loader: Any, states: list[Tensor]) -> None:
    """Restore the states of :func:`generator_states`.

    Args:
        loader: The loader.
        states: The states.

    Example:
        >>> loader = torch.utils.data.DataLoader("ab", generator=torch.Generator().manual_seed(5))
        >>> set_generator_states(loader, [torch.Generator().manual_seed(7).get_state()])
        >>> loader.generator.initial_seed()
        7
    """
    for generator, state in zip(_generators(loader), states, strict=False):  # another loader may have fewer of them
        generator.set_state(state.cpu())


def first_batches(loader: Any, count: int) -> list[Any]:
    """The first batches that a loader gives next, after which it would give them again.

    Its own generators and the global ones have the states from before, so that a training draws what it would have
    drawn. Persistent workers are an exception: the numbers that are drawn within them go on, and to start them takes
    a number from the training's first pass.

    Args:
        loader: The loader.
        count: How many batches at most.

    Example:
        >>> loader = torch.utils.data.DataLoader(range(9), shuffle=True, generator=torch.Generator())
        >>> first_batches(loader, 2) == first_batches(loader, 2)
        True
    """
    states = generator_states(loader)
    try:
        with rng.kept():
            return list(islice(loader, count))
    finally:
        set_generator_states(loader, states)


def start_workers(loader: Any) -> None:
    """Start a loader's persistent workers, if it is to have any, and draw nothing.

    To start them draws a number, which no pass after the first one does. So they are started before a run goes on with
    a later pass.

    Args:
        loader: The loader.

    Example:
        >>> before = torch.get_rng_state()
        >>> start_workers(torch.utils.data.DataLoader("ab", num_workers=1, persistent_workers=True))
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    if getattr(loader, "persistent_workers", False):
        states = generator_states(loader)
        with rng.kept():
            iter(loader)
        set_generator_states(loader, states)


def refuse_one_batch(given: Any) -> None:
    """Refuse what is neither a loader nor a list of batches, but a batch or a text.

    Args:
        given: What was given in the place of a loader or a list of batches.

    Raises:
        ValueError: It is a text, a tensor, or a tuple or mapping of tensors.

    Example:
        >>> refuse_one_batch("val")
        Traceback (most recent call last):
            ...
        ValueError: batches come from a loader or a list of batches, and here is the text 'val'
    """
    wanted = "batches come from a loader or a list of batches, and here is"
    if isinstance(given, str):
        raise ValueError(f"{wanted} the text {given!r}")
    parts = tuple(given.values()) if isinstance(given, Mapping) else given
    is_batch = isinstance(parts, tuple) and bool(parts) and all(isinstance(each, Tensor) for each in parts)
    if is_batch or isinstance(given, Tensor):
        raise ValueError(f"{wanted} a {type(given).__name__}, as a batch is: give [batch], or more of them")
