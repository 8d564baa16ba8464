"""Batches for the two kinds of step: ``{"weights": batch, "architecture": batch}``, each only where it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import CombinedLoader

KEYS = ("weights", "architecture")


class SearchLoader(CombinedLoader):
    """Pairs training batches with the steps they are for. The strategy wraps whatever loaders it is given in one.

    An epoch is one pass over the ``"weights"`` loader (the ``"architecture"`` loader where that is the only one). The
    architecture loader starts anew with each epoch and is cycled; while ``searching()`` is false, as in the warm-up, it
    is not touched: no batch of it is loaded or moved.

    Args:
        loaders: a loader under ``"weights"`` or ``"architecture"``, or under both.
        alternate: share the ``"weights"`` loader: its batches go to weight and architecture steps in turn, and all of
            them to weight steps while ``searching()`` is false.

    Raises:
        MisconfigurationException: other keys, or ``alternate`` with more than a ``"weights"`` loader.

    Example:
        >>> loader = SearchLoader({"weights": "abc", "architecture": "xy"})
        >>> [tuple(batch.values()) for batch, _, _ in loader]
        [('a', 'x'), ('b', 'y'), ('c', 'x')]
        >>> [batch for batch, _, _ in SearchLoader({"weights": "ab"}, alternate=True)]
        [{'weights': 'a'}, {'architecture': 'b'}]
    """

    def __init__(self, loaders: dict[str, Iterable[Any]], *, alternate: bool = False) -> None:
        keys = set(loaders) if isinstance(loaders, dict) else set()
        if not keys or not keys <= set(KEYS) or (alternate and keys != {"weights"}):
            given = sorted(map(str, keys)) if keys else type(loaders).__name__
            raise MisconfigurationException(
                f'a search trains on {{"weights": loader, "architecture": loader}}, not on {given}: name them so'
            )
        for key, loader in loaders.items():
            if isinstance(loader, list | tuple | dict):  # to Lightning that is a collection of loaders
                raise MisconfigurationException(
                    f"the {key} loader is a {type(loader).__name__}: give one DataLoader, or another single iterable"
                )
        super().__init__(loaders, "min_size")
        self.alternate = alternate
        self.searching: Callable[[], bool] = lambda: True
        self._epoch: Iterator[dict[str, Any]] | None = None

    @classmethod
    def wrap(cls, loaders: Any) -> SearchLoader:
        """A SearchLoader of whatever a ``train_dataloader`` may return; a single loader is for weight steps."""
        if isinstance(loaders, SearchLoader):
            return loaders
        if isinstance(loaders, CombinedLoader):
            loaders = loaders.iterables
        return cls(loaders if isinstance(loaders, dict) else {"weights": loaders})

    def architecture_steps(self, batches: int) -> int:
        """How many of an epoch's first ``batches`` are for an architecture step."""
        if self.alternate:
            return batches // 2
        return batches if "architecture" in self.iterables else 0

    def __iter__(self) -> SearchLoader:
        self._epoch = self._alternate() if self.alternate else self._pair()
        self._index = 0
        return self

    def __next__(self) -> tuple[dict[str, Any], int, int]:
        if self._epoch is None:
            iter(self)
        assert self._epoch is not None
        if self._index >= self._length():
            raise StopIteration
        batch = next(self._epoch)
        self._index += 1
        return batch, self._index - 1, 0

    def __len__(self) -> int:
        length = self._length()
        if length == float("inf"):
            raise TypeError("this loader has no length")
        return int(length)

    def _length(self) -> float:
        leader = "weights" if "weights" in self.iterables else "architecture"
        length = sized_len(self.iterables[leader])
        # Lightning fills the limits in, in the order of the loaders
        limit = self.limits[list(self.iterables).index(leader)] if self.limits else float("inf")
        return min(float("inf") if length is None else length, limit)

    def reset(self) -> None:
        """Forget the running epoch and shut its workers down."""
        self._epoch = None
        super().reset()

    def _pair(self) -> Iterator[dict[str, Any]]:
        architecture = self._cycle()
        if "weights" not in self.iterables:
            while True:
                yield {"architecture": next(architecture)} if self.searching() else {}
        for batch in self.iterables["weights"]:
            pair = {"weights": batch}
            if "architecture" in self.iterables and self.searching():
                pair["architecture"] = next(architecture)
            yield pair

    def _cycle(self) -> Iterator[Any]:
        while True:
            empty = True
            for batch in self.iterables["architecture"]:
                empty = False
                yield batch
            if empty:
                raise MisconfigurationException(
                    "the architecture loader is empty: a search needs at least one batch of it"
                )

    def _alternate(self) -> Iterator[dict[str, Any]]:
        for index, batch in enumerate(self.iterables["weights"]):
            yield {"architecture" if index % 2 and self.searching() else "weights": batch}
