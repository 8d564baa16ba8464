"""The loader of a search: it pairs training batches with the weight step and the architecture step they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import CombinedLoader

from advnas_lightning import rng
from advnas_lightning.loader_pass import Keeper, LoaderPass, generator_states, set_generator_states, start_workers
from advnas_lightning.own_data import seen

KEYS = ("weights", "architecture")
BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def hook_seed(step_seed: int, hook: str) -> int:
    """The seed from which a batch hook draws for an architecture step: not the numbers of the step or of other hooks.

    Args:
        step_seed: The seed of the step.
        hook: The name of the hook, one of ``BATCH_HOOKS``.

    Example:
        >>> len({0, *(hook_seed(0, hook) for hook in BATCH_HOOKS)})
        4
    """
    return rng.mixed(step_seed, 1 + BATCH_HOOKS.index(hook))


class SearchLoader(CombinedLoader):
    """Gives ``{"weights": batch, "architecture": batch}``, where each batch is present only if its step is to be taken.

    The strategy wraps the loaders that it is given in a SearchLoader. An epoch is one pass over the ``"weights"``
    loader, or over the ``"architecture"`` loader where that is the only one. The architecture loader starts anew with
    each epoch and is repeated when it ends. No batch of it is loaded while ``searching()`` is false, as in the warm-up.
    It draws its random numbers from seeds of its own, so that the ``"weights"`` loader gives what it would give alone.

    Args:
        loaders: A loader under ``"weights"`` or ``"architecture"``, or under both.
        alternate: Whether the two kinds of step share the ``"weights"`` loader. Its batches then go to weight and
            architecture steps in turn, and all of them go to weight steps while ``searching()`` is false.

    Attributes:
        sizes: The number of batches of each loader, their size, and the number of examples, as far as they are known. A
            run that goes on within an epoch needs the same ones.

    Raises:
        MisconfigurationException: The keys are other ones, or ``alternate`` is given with more than a ``"weights"``
            loader.

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
            if isinstance(loader, list | tuple | dict | CombinedLoader):  # Lightning takes it for a collection
                raise MisconfigurationException(
                    f"the {key} loader is a {type(loader).__name__}: give one DataLoader, or one iterable that joins"
                    " the batches of several"
                )
        super().__init__(loaders, "min_size")
        self.alternate = alternate
        self.sizes = {"alternate": alternate, **_sizes(loaders)}  # before Lightning parts the batches among processes
        self.searching: Callable[[], bool] = lambda: True
        self.between_batches: Callable[[], None] = lambda: None  # is called before each batch but an epoch's first one
        self.seed: Callable[[], int] = lambda: 0  # gives the running epoch's seed of the architecture loader
        self.keeper: Keeper | None = None  # gets the batches of the loader that an epoch is one pass over
        self._epoch: Iterator[dict[str, Any]] | None = None
        self._index = 0  # the index of the next batch
        self._passes: dict[str, LoaderPass] = {}
        self._begun = dict.fromkeys(loaders, 0)  # how many passes there have been, the running ones included
        self._last: dict[str, Any] | None = None  # where the pass has ended whose batches the keeper has
        self._before_fetch: dict[str, Any] | None = None  # is set only where Lightning fetches ahead
        self._place: dict[str, Any] | None = None  # the place that the next batch continues from
        self._goes_on = False  # whether the next batch is the first one after go_on_from

    @classmethod
    def wrap(cls, loaders: Any) -> SearchLoader:
        """Make a SearchLoader of anything that ``train_dataloader`` may return; a single loader is for weight steps."""
        if isinstance(loaders, SearchLoader):
            return loaders
        if isinstance(loaders, CombinedLoader):
            loaders = loaders.iterables
        return cls(loaders if isinstance(loaders, dict) else {"weights": loaders})

    def check_roles(self, strategy: str, *, weights: bool, architecture: bool) -> None:
        """Check that there are batches for the steps that a strategy takes.

        Args:
            strategy: The strategy's name, for the message.
            weights: Whether the strategy takes weight steps.
            architecture: Whether the strategy takes architecture steps.

        Raises:
            MisconfigurationException: One kind of step has no batches.
        """
        asked = 'train on search_loaders(data, architecture=0.5), or on {"weights": loader, "architecture": loader}'
        if architecture and not (self.alternate or "architecture" in self._loaders):
            raise MisconfigurationException(f"{strategy} has no batches for its architecture steps: {asked}")
        if "weights" in self._loaders and sized_len(self._loaders["weights"]) == 0:
            raise MisconfigurationException("the weights loader is empty: an epoch is one pass over it")
        if "weights" not in self._loaders and weights:
            raise MisconfigurationException(f"{strategy} has no batches for its weight steps: {asked}")

    def architecture_steps(self, batches: int) -> int:
        """The number of architecture steps in the first ``batches`` batches of an epoch."""
        if self.alternate:
            return batches // 2
        return batches if "architecture" in self._loaders else 0

    @property
    def fetches_ahead(self) -> bool:
        """Whether Lightning fetches one batch in advance, as it does for loaders without a length."""
        return self._length() == float("inf")

    def place(self, used: int | None) -> dict[str, Any]:
        """The place that the loaders have reached, for :meth:`go_on_from` in another process.

        Args:
            used: The number of batches of the running epoch that were used; ``None`` at its end.
        """
        return {
            "generators": {key: generator_states(loader) for key, loader in self._loaders.items()},
            "running": self._running(used) if used is not None and self._passes else None,
            "last": None if used else self._end_of_pass(),
            "begun": dict(self._begun),
        }

    def go_on_from(self, place: dict[str, Any]) -> None:
        """Let the next epoch continue from a place, with the same batches and random numbers bit for bit.

        The batches before that place are loaded once more and dropped. This is not done for loaders that keep their own
        place (by ``state_dict`` and ``load_state_dict``, as torchdata's do): Lightning restores those.
        """
        self._place, self._goes_on, self._last = place["running"], True, place.get("last")
        self._begun |= place.get("begun", {})
        running = [] if self._place is None else self._place["passes"]
        for key, loader in self._loaders.items():
            if self._begun[key] > (key in running):
                start_workers(loader)
            set_generator_states(loader, place["generators"].get(key, []))

    def load_last(self) -> None:
        """Load the last epoch's batches again, for the keeper, where a search was resumed after that epoch."""
        keeper, place, loader = self._keeper_of(self._leader), self._last, self._loaders[self._leader]
        if keeper is not None and place is not None:
            states = generator_states(loader)
            with rng.kept():
                LoaderPass.again(loader, place, f"the {self._leader} loader", keeper)
            set_generator_states(loader, states)

    def _end_of_pass(self) -> dict[str, Any] | None:
        if self._leader in self._passes and self._keeper_of(self._leader) is not None:
            return self._passes[self._leader].place()
        return self._last

    def _running(self, used: int) -> dict[str, Any]:
        if self._before_fetch is not None and self._index == used + 1:
            return self._before_fetch
        return {"index": self._index, "passes": {key: each.place() for key, each in self._passes.items()}, "rng": None}

    def __iter__(self) -> SearchLoader:
        if self.keeper is not None:
            self.keeper.begin_epoch()
        self._epoch = self._alternate() if self.alternate else self._pair()
        self._index = 0 if self._place is None else self._place["index"]
        self._passes = {}
        if "weights" in self._loaders and not self._goes_on:
            self._pass("weights")  # it draws a number now, before what runs at the start of a training draws any
        return self

    def __next__(self) -> tuple[dict[str, Any], int, int]:
        if self._epoch is None:
            iter(self)
        assert self._epoch is not None
        if self._index and self._place is None:
            self.between_batches()
        if self._index >= self._length():
            raise StopIteration
        if self._place is not None:
            batch = self._next_from(self._place)
            self._place = None
        else:
            if self.fetches_ahead:
                self._before_fetch = {**self._running(self._index), "rng": rng.collect()}
            batch = next(self._epoch)
        self._index, self._goes_on = self._index + 1, False
        return batch, self._index - 1, 0

    def _next_from(self, place: dict[str, Any]) -> dict[str, Any]:
        """The next batch after a place.

        Raises:
            ValueError: The loaders have fewer batches than were taken, or no next one.
        """
        for key, pass_place in place["passes"].items():
            with rng.kept():
                keeper = self._keeper_of(key)
                self._passes[key] = LoaderPass.again(self._loaders[key], pass_place, f"the {key} loader", keeper)
        if place["rng"] is None:
            return self._next_one()
        with rng.kept():  # this batch was fetched before the state that training continues with was recorded
            rng.restore(place["rng"])
            self._before_fetch = place
            return self._next_one()

    def _next_one(self) -> dict[str, Any]:
        assert self._epoch is not None
        for batch in self._epoch:
            return batch
        raise ValueError(
            f"the loader ends after {self._index} batches, and the checkpoint was saved before another one: within an"
            " epoch a search goes on with the data that it had"
        )

    @property
    def iterables(self) -> Any:
        """What ``Trainer.train_dataloader`` gives: the loader of each kind of step, or what a module sees of them."""
        return seen(self._loaders)

    @property
    def _loaders(self) -> dict[str, Any]:
        loaders: dict[str, Any] = super().iterables
        return loaders

    def __len__(self) -> int:
        length = self._length()
        if length == float("inf"):
            raise TypeError("this loader has no length")
        return int(length)

    @property
    def _leader(self) -> str:
        """The loader that an epoch is one pass over."""
        return "weights" if "weights" in self._loaders else "architecture"

    def _keeper_of(self, key: str) -> Keeper | None:
        return self.keeper if key == self._leader and self.keeper is not None and self.keeper.is_on else None

    def _length(self) -> float:
        length = sized_len(self._loaders[self._leader])
        # Lightning sets the limits, in the order of the loaders.
        limit = self.limits[list(self._loaders).index(self._leader)] if self.limits else float("inf")
        return min(float("inf") if length is None else length, limit)

    def reset(self) -> None:
        """Drop the running epoch and shut down its worker processes."""
        self._last = self._end_of_pass()
        self._epoch = None
        self._passes = {}
        super().reset()

    def _pass(self, key: str) -> LoaderPass:
        """The running pass over a loader; if there is none, a new one."""
        if key not in self._passes:
            seed = rng.mixed(self.seed(), self._index) if key == "architecture" else None
            self._passes[key] = LoaderPass(self._loaders[key], seed, self._keeper_of(key))
            self._begun[key] += 1
        return self._passes[key]

    def _pair(self) -> Iterator[dict[str, Any]]:
        architecture = self._cycle()
        if "weights" not in self._loaders:
            while True:
                yield {"architecture": next(architecture)} if self.searching() else {}
        running = self._pass("weights")
        for batch in running:
            pair = {"weights": batch}
            if "architecture" in self._loaders and self.searching():
                pair["architecture"] = next(architecture)
            yield pair
        if not running.taken:
            raise MisconfigurationException("the weights loader is empty: an epoch is one pass over it")

    def _cycle(self) -> Iterator[Any]:
        while True:
            running = self._pass("architecture")
            yield from running
            if not running.taken:
                raise MisconfigurationException(
                    "the architecture loader is empty: a search needs at least one batch of it"
                )
            del self._passes["architecture"]

    def _alternate(self) -> Iterator[dict[str, Any]]:
        for batch in self._pass("weights"):
            yield {"architecture" if self._index % 2 and self.searching() else "weights": batch}


def _sizes(loaders: dict[str, Iterable[Any]]) -> dict[str, Any]:
    """What a loader is known to give, by its role and the kind of size."""
    sizes: dict[str, Any] = {}
    for role, loader in loaders.items():
        batch_size = getattr(loader, "batch_size", None)
        if batch_size is None:
            batch_size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
        sizes[f"{role}.batches"] = sized_len(loader)
        sizes[f"{role}.batch_size"] = batch_size if isinstance(batch_size, int) else None
        sizes[f"{role}.examples"] = sized_len(getattr(loader, "dataset", None))
    return sizes


def raising_later(request: Callable[[], Any]) -> Callable[[], Any]:
    """A request for loaders whose error is raised when the Trainer looks at them.

    While Lightning requests loaders, PyTorch's DataLoader has methods of Lightning. An error would leave it with them,
    and a notebook could not predict with any model from then on.

    Args:
        request: Gives the loaders.

    Example:
        >>> loaders = raising_later(lambda: 1 / 0)()
        >>> loaders.flattened
        Traceback (most recent call last):
            ...
        ZeroDivisionError: division by zero
    """

    def requested() -> Any:
        try:
            return request()
        except Exception as error:
            return _Failed(error)

    return requested


class _Failed(CombinedLoader):
    """Stands for loaders that there are not."""

    def __init__(self, error: Exception) -> None:
        super().__init__([])
        self._error = error

    @property  # type: ignore[misc]  # nobody gets to set it
    def flattened(self) -> Any:
        raise self._error
