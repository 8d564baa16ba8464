from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from advnas_lightning import AdvantageNAS, SearchLoader, SearchStrategy

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


class Untouchable:
    """A loader that must not be read."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the architecture loader was read")


class Endless:
    """A loader without a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(10**6))


def batches(loader: SearchLoader) -> list[dict[str, Any]]:
    return [batch for batch, _, _ in list(loader)]  # in Python 3.13 a comprehension calls `__iter__` twice


def test_pairs_and_cycles_the_architecture_loader() -> None:
    loader = SearchLoader({"weights": "abcde", "architecture": "xy"})
    assert batches(loader) == [{"weights": w, "architecture": a} for w, a in zip("abcde", "xyxyx", strict=True)]
    assert len(loader) == loader.architecture_steps(5) == 5
    assert batches(loader)[0] == {"weights": "a", "architecture": "x"}  # anew with each epoch
    assert [(i, j) for _, i, j in loader] == [(i, 0) for i in range(5)]


def test_a_longer_architecture_loader_does_not_lengthen_the_epoch() -> None:
    loader = SearchLoader({"architecture": "xyz", "weights": "a"})
    assert batches(loader) == [{"weights": "a", "architecture": "x"}]
    assert len(loader) == 1


def test_every_batch_of_either_loader_is_read_once_per_pass() -> None:
    reads = []

    class Noting:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[int]:
            for index in range(2):
                reads.append(index)
                yield index

    batches(SearchLoader({"weights": "abc", "architecture": Noting()}))
    assert reads == [0, 1, 0]


def test_alternates_one_loader() -> None:
    loader = SearchLoader({"weights": "abcde"}, alternate=True)
    expected = ["weights", "architecture", "weights", "architecture", "weights"]
    assert [next(iter(batch)) for batch in batches(loader)] == expected
    assert [next(iter(batch.values())) for batch in batches(loader)] == list("abcde")
    assert [loader.architecture_steps(n) for n in range(6)] == [0, 0, 1, 1, 2, 2]
    loader.searching = lambda: False
    assert batches(loader) == [{"weights": letter} for letter in "abcde"]


def test_while_nothing_is_searched_the_architecture_loader_is_not_read() -> None:
    loader = SearchLoader({"weights": "ab", "architecture": Untouchable()})
    loader.searching = lambda: False
    assert batches(loader) == [{"weights": "a"}, {"weights": "b"}]
    loader.searching = lambda: True
    with pytest.raises(AssertionError, match="was read"):
        batches(loader)

    alone = SearchLoader({"architecture": Untouchable()})
    alone.searching = lambda: False
    assert batches(alone) == [{}, {}, {}]


def test_the_architecture_loader_alone_makes_the_epoch() -> None:
    loader = SearchLoader({"architecture": "xy"})
    assert batches(loader) == [{"architecture": "x"}, {"architecture": "y"}]
    assert len(loader) == loader.architecture_steps(2) == 2


def test_weights_alone_have_no_architecture_steps() -> None:
    loader = SearchLoader({"weights": "ab"})
    assert batches(loader) == [{"weights": "a"}, {"weights": "b"}]
    assert loader.architecture_steps(2) == 0


@pytest.mark.parametrize("order", [("weights", "architecture"), ("architecture", "weights")])
def test_the_limit_is_the_weights_loaders(order: tuple[str, str]) -> None:
    loader = SearchLoader(dict.fromkeys(order, range(4)))
    loader.limits = [2 if key == "weights" else 1 for key in order]
    assert batches(loader) == [{"weights": 0, "architecture": 0}, {"weights": 1, "architecture": 1}]
    assert len(loader) == 2
    loader.limits = 3
    assert len(batches(loader)) == 3
    loader.limits = 10
    assert len(batches(loader)) == 4


def test_a_loader_without_a_length_needs_a_limit() -> None:
    loader = SearchLoader({"weights": Endless(), "architecture": "x"})
    with pytest.raises(TypeError, match="no length"):
        len(loader)
    loader.limits = 2
    assert [batch["weights"] for batch in batches(loader)] == [0, 1]
    assert len(loader) == 2


def test_wrap_takes_what_a_train_dataloader_may_return() -> None:
    pair, both = {"weights": "a", "architecture": "x"}, [{"weights": "a", "architecture": "x"}]
    ready = SearchLoader({"weights": "ab"}, alternate=True)
    assert SearchLoader.wrap(ready) is ready
    assert batches(SearchLoader.wrap(pair)) == both
    assert batches(SearchLoader.wrap(CombinedLoader(pair, "max_size"))) == both
    alone = [{"weights": "a"}, {"weights": "b"}]
    assert batches(SearchLoader.wrap("ab")) == alone
    assert batches(SearchLoader.wrap(DataLoader(list("ab"), batch_size=None))) == alone
    assert batches(SearchLoader.wrap(CombinedLoader(DataLoader(list("ab"), batch_size=None)))) == alone


@pytest.mark.parametrize(
    ("loaders", "named"),
    [
        ({"weights": "a", "valid": "b"}, r"not on \['valid', 'weights'\]"),
        ({0: "a"}, r"not on \['0'\]"),
        ({}, "not on dict"),
        (["a"], "not on list"),
        ({"weights": ["a"]}, "weights loader is a list"),
        ({"weights": "a", "architecture": ("x", "y")}, "architecture loader is a tuple"),
        ({"weights": {"nested": "a"}}, "weights loader is a dict"),
        (
            {"weights": CombinedLoader({"labelled": "a", "unlabelled": "b"})},
            "a CombinedLoader: .* joins",
        ),
    ],
)
def test_anything_but_two_loaders_by_name_is_refused(loaders: Any, named: str) -> None:
    with pytest.raises(MisconfigurationException, match=named):
        SearchLoader(loaders)


def test_alternating_needs_a_single_loader() -> None:
    for loaders in ({"weights": "a", "architecture": "x"}, {"architecture": "x"}):
        with pytest.raises(MisconfigurationException, match="not on"):
            SearchLoader(loaders, alternate=True)


def test_an_empty_architecture_loader_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="architecture loader is empty"):
        batches(SearchLoader({"weights": "a", "architecture": ""}))


def test_reset_begins_a_new_epoch() -> None:
    loader = SearchLoader({"weights": "abc"})
    iterator = iter(loader)
    assert next(iterator)[:2] == ({"weights": "a"}, 0)
    loader.reset()
    assert batches(loader) == [{"weights": letter} for letter in "abc"]


# -- under a trainer -------------------------------------------------------------------------------------------------


class Noting:
    """Notes the first feature of each step's first point."""

    def weight_step(self, batch: Any) -> None:
        super().weight_step(batch)  # type: ignore[misc]
        self.noted.setdefault("weights", []).append(batch[0][0, 0].item())

    def architecture_step(self, batch: Any) -> None:
        super().architecture_step(batch)  # type: ignore[misc]
        self.noted.setdefault("architecture", []).append(batch[0][0, 0].item())


@pytest.fixture
def noting(make_search: Make) -> Callable[..., SearchStrategy]:
    def make(**options: Any) -> SearchStrategy:
        search = make_search("advantage", mixin=Noting, **options)
        search.noted = {}
        return search

    return make


def firsts(loader: DataLoader[Any]) -> list[float]:
    return [inputs[0, 0].item() for inputs, _ in loader]


@pytest.mark.parametrize("architecture", [2, 7])
def test_an_epoch_is_one_pass_over_the_weights_loader(
    noting: Make, make_loaders: Make, fit: Fit, architecture: int
) -> None:
    search, loaders = noting(), make_loaders(weights=4, architecture=architecture)
    trainer = fit(search, loaders, max_epochs=2)
    assert (search.weight_steps, search.architecture_steps) == (8, 8)
    assert trainer.num_training_batches == 4
    assert search.noted["weights"] == 2 * firsts(loaders["weights"])
    assert search.noted["architecture"] == 2 * (2 * firsts(loaders["architecture"]))[:4]


@pytest.mark.parametrize(("limit", "steps"), [(3, 3), (0.5, 2), (1.0, 4), (1, 1)])
@pytest.mark.parametrize("architecture", [2, 9])  # Lightning itself refuses half of a single batch
def test_limit_train_batches_counts_weight_batches(
    noting: Make, make_loaders: Make, fit: Fit, limit: float, steps: int, architecture: int
) -> None:
    search, loaders = noting(), make_loaders(weights=4, architecture=architecture)
    loaders = dict(reversed(loaders.items()))
    fit(search, loaders, limit_train_batches=limit)
    assert (search.weight_steps, search.architecture_steps) == (steps, steps)


def test_a_datamodule_may_give_the_dict_anew_in_each_epoch(noting: Make, make_loaders: Make, fit: Fit) -> None:
    class Data(LightningDataModule):
        asked = 0

        def train_dataloader(self) -> dict[str, DataLoader[Any]]:
            self.asked += 1
            return make_loaders(weights=self.asked, architecture=1)

    data, search = Data(), noting(warmup_epochs=1)
    fit(search, data, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert data.asked == 3
    assert (search.weight_steps, search.architecture_steps) == (1 + 2 + 3, 2 + 3)

    data, search = Data(), noting()
    fit(search, data, max_epochs=2)
    assert data.asked == 1
    assert (search.weight_steps, search.architecture_steps) == (2, 2)


def test_raw_loaders_are_reloaded_too(noting: Make, make_loaders: Make, fit: Fit) -> None:
    search = noting(warmup_epochs=1)
    fit(search, make_loaders(weights=2), max_epochs=3, reload_dataloaders_every_n_epochs=1)
    assert (search.weight_steps, search.architecture_steps) == (6, 4)


def test_a_strategys_own_dataloader_and_a_second_fit(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    class Own:
        def train_dataloader(self) -> CombinedLoader:
            return CombinedLoader(make_loaders(weights=2, architecture=5), "max_size_cycle")

    search = make_search("advantage", mixin=Own)
    fit(search, None)
    assert (search.weight_steps, search.architecture_steps) == (2, 2)
    trainer = fit(search, make_loaders(weights=3, architecture=1))
    assert (search.weight_steps, search.architecture_steps) == (5, 5)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(search, make_loaders(weights=3, architecture=1))
    assert (search.weight_steps, search.architecture_steps) == (8, 8)


def test_one_loader_shared_in_turn(noting: Make, make_loaders: Make, fit: Fit) -> None:
    search, loader = noting(warmup_epochs=1), make_loaders(weights=5)["weights"]
    fit(search, SearchLoader({"weights": loader}, alternate=True), max_epochs=2)
    first = firsts(loader)
    assert search.noted == {"weights": first + first[::2], "architecture": first[1::2]}


def test_a_single_loader_will_not_do_for_a_search(noting: Make, make_loaders: Make, fit: Fit) -> None:
    for loaders in (make_loaders()["weights"], {"weights": make_loaders()["weights"]}):
        with pytest.raises(
            MisconfigurationException,
            match=r"AdvantageNAS has no batches for its architecture steps: train on search_loaders\(",
        ):
            fit(noting(), loaders)
    with pytest.raises(MisconfigurationException, match=r"not on \['train'\]"):
        fit(noting(), {"train": make_loaders()["weights"]})


def test_a_refusal_leaves_the_loaders_of_torch_alone(noting: Make, make_loaders: Make, fit: Fit) -> None:
    methods = DataLoader.__init__, DataLoader.__setattr__, BatchSampler.__init__
    with pytest.raises(MisconfigurationException, match="has no batches for its architecture steps"):
        fit(noting(), make_loaders()["weights"])
    assert methods == (DataLoader.__init__, DataLoader.__setattr__, BatchSampler.__init__)


def test_a_single_loader_will_do_where_nothing_is_searched(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    for name in ("random", "fixed"):
        search = make_search(name)
        fit(search, make_loaders(weights=3)["weights"])
        assert (search.weight_steps, search.architecture_steps) == (3, 0)


def test_an_empty_architecture_loader_stops_the_fit(noting: Make, make_loaders: Make, fit: Fit) -> None:
    with pytest.raises(MisconfigurationException, match="architecture loader is empty"):
        fit(noting(), {"weights": make_loaders()["weights"], "architecture": range(0)})


def test_streams_without_a_length(noting: Make, fit: Fit) -> None:
    class Stream(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(0)
            for label in range(24):
                yield torch.randn(4, generator=generator), torch.tensor(label % 3)

    loaders = {key: DataLoader(Stream(), batch_size=6) for key in ("weights", "architecture")}
    search = noting(warmup_epochs=1)
    fit(search, loaders, max_epochs=2)
    assert (search.weight_steps, search.architecture_steps) == (8, 4)
    assert search.noted["weights"] == 2 * firsts(loaders["weights"])
    search = noting()
    fit(search, loaders, max_epochs=2, limit_train_batches=3)
    assert (search.weight_steps, search.architecture_steps) == (6, 6)


def test_worker_processes(noting: Make, make_loaders: Make, fit: Fit) -> None:
    plain = make_loaders(weights=2, architecture=1)
    workers = {key: DataLoader(loader.dataset, batch_size=6, num_workers=1) for key, loader in plain.items()}
    search = noting()
    fit(search, workers, max_epochs=2)
    assert search.noted == {"weights": 2 * firsts(plain["weights"]), "architecture": 4 * firsts(plain["architecture"])}


def test_fast_dev_run(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search: AdvantageNAS = make_search("advantage")
    fit(search, make_loaders(), make_loaders()["architecture"], fast_dev_run=True)
    assert (search.weight_steps, search.architecture_steps) == (1, 1)


class Drawing:
    """Draws a number when a pass begins, and one for each batch, as a DataLoader does that shuffles."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[float]:
        self.begun.append(float(torch.rand(())))
        return (float(torch.rand(())) for _ in range(2))


def test_a_pass_begins_when_lightning_begins_it_and_again_from_a_checkpoint_of_that_moment() -> None:
    torch.manual_seed(0)
    expected = [float(number) for number in torch.rand(6)]
    torch.manual_seed(0)
    loader = SearchLoader({"weights": (drawing := Drawing())})
    iter(loader)  # as before the first hook of a training
    assert drawing.begun == expected[:1]
    place = loader.place(0)
    rest = [next(loader)[0]["weights"] for _ in range(2)]
    assert rest == expected[1:3]
    assert batches(loader) == [{"weights": number} for number in expected[4:6]]

    torch.manual_seed(1)
    again = SearchLoader({"weights": (drawing := Drawing())})
    again.go_on_from(place)
    iter(again)
    assert drawing.begun == []
    torch.manual_seed(0)
    torch.rand(1)  # what the checkpoint has: the numbers after the first one
    assert [next(again)[0]["weights"] for _ in range(2)] == rest
    assert drawing.begun == expected[:1]


def test_numbers_that_are_drawn_before_the_first_batch_are_drawn_again_by_a_run_that_goes_on() -> None:
    def taken(loader: SearchLoader, count: int) -> list[int]:
        return [next(loader)[0]["weights"].item() for _ in range(count)]

    torch.manual_seed(0)
    straight, again = (SearchLoader({"weights": DataLoader(range(9), shuffle=True)}) for _ in range(2))
    iter(straight)
    torch.rand(1)  # as a hook does when training begins
    before = taken(straight, 3)
    again.go_on_from(straight.place(3))
    iter(again)
    after = taken(again, 6)
    assert sorted(before + after) == list(range(9))
    assert after == taken(straight, 6)


@pytest.mark.parametrize("place", ["sampler", "batch_sampler"])
def test_the_generator_of_a_sampler_that_gives_batches_goes_on(place: str) -> None:
    def pair() -> SearchLoader:
        sampler = RandomSampler(range(40), generator=torch.Generator().manual_seed(5))
        options: dict[str, Any] = {"batch_size": None} if place == "sampler" else {}
        options[place] = BatchSampler(sampler, 4, drop_last=False)
        return SearchLoader({"weights": DataLoader(torch.arange(40), **options)})

    def taken(loader: SearchLoader, count: int) -> list[list[int]]:
        return [next(loader)[0]["weights"].tolist() for _ in range(count)]

    straight, again = pair(), pair()
    batches(straight)  # the first epoch
    iter(straight)
    taken(straight, 3)
    again.go_on_from(straight.place(3))
    iter(again)
    assert taken(again, 7) == taken(straight, 7)
