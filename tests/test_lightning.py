"""Lightning as its users know it: what they compile, limit, call back, log and monitor, in a search of their module."""

from __future__ import annotations

import copy
import math
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch.callbacks.timer
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    TQDMProgressBar,
)
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import (
    DARTS,
    AdvantageNAS,
    Fixed,
    Genotype,
    MixedOp,
    ProxylessNAS,
    RandomSearch,
    SearchStrategy,
)
from advnas_lightning.callbacks import ConvergenceStopping

Wrap = Callable[[nn.Module], nn.Module]
Make = Callable[..., Any]
GENOTYPE = {"first": "block", "second": "tanh"}
TRAIN, ARCHITECTURE, VAL = 6, 4, 3  # how many batches the loaders have


def as_it_is(module: nn.Module) -> nn.Module:
    return module


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(inplace=True))


class Classifier(LightningModule):
    """As a user writes it, with two choices in it, one of three and one of two candidates."""

    def __init__(self, wrap: Wrap = as_it_is) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8),
            MixedOp("first", {"linear": wrap(nn.Linear(8, 8)), "block": wrap(block()), "skip": nn.Identity()}),
            MixedOp("second", {"linear": wrap(nn.Linear(8, 8)), "tanh": nn.Tanh()}),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


class OwnLoss(AdvantageNAS):
    """The same for those who override ``loss``."""

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])


def make(kind: type[Classifier] = Classifier, wrap: Wrap = as_it_is) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind(wrap)


def search_of(
    module: nn.Module | None = None, kind: type[SearchStrategy] = AdvantageNAS, **options: Any
) -> SearchStrategy:
    module = make() if module is None else module
    return kind(module, **{"architecture_optimizer": partial(Adam, lr=0.1), **options})


def loader(seed: int, batches: int, *, shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(6 * batches, 4, generator=generator)
    labels = torch.randint(3, (6 * batches,), generator=generator)
    return DataLoader(TensorDataset(inputs, labels), batch_size=6, shuffle=shuffle)


def pair(**options: Any) -> dict[str, DataLoader[Any]]:
    return {"weights": loader(0, TRAIN, **options), "architecture": loader(5, ARCHITECTURE, **options)}


@pytest.fixture
def train(fit: Make) -> Make:
    """``train(module_or_search, …)``: fit it on the loaders above, with the same random numbers each time."""

    def run(module: LightningModule, **options: Any) -> Trainer:
        torch.manual_seed(0)
        loaders = pair() if isinstance(module, SearchStrategy) else pair()["weights"]
        return fit(module, loaders, loader(9, VAL), **{"max_epochs": 2, **options})

    return run


def subject(which: str) -> LightningModule:
    """A plain network, the search of a user's module, or that of a network with an overridden loss."""
    if which == "plain":
        return Genotype(GENOTYPE).apply(make())  # type: ignore[return-value]
    if which == "module":
        return search_of()
    return search_of(make().net, OwnLoss, weight_optimizer=partial(SGD, lr=0.1))


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    pairs = list(zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True))
    assert pairs
    for (name, ours_), (_, theirs_) in pairs:
        if isinstance(ours_, Tensor):
            assert torch.equal(ours_, theirs_), name


# -- compiled candidates ---------------------------------------------------------------------------------------------


@pytest.fixture
def compiler() -> Iterator[Callable[[], int]]:
    """Forgets what was compiled before; the number of graphs that have been compiled since."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def compiling(how: str, backend: str) -> Wrap:
    def wrap(module: nn.Module) -> nn.Module:
        if how == "wrapped":
            return torch.compile(module, backend=backend)  # type: ignore[return-value]
        module.compile(backend=backend)
        return module

    return wrap


@pytest.mark.parametrize("kind", [AdvantageNAS, ProxylessNAS, DARTS])  # one, two and all candidates at a time
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_candidates_are_searched_as_others_are(
    how: str, backend: str, kind: type[SearchStrategy], train: Make, compiler: Callable[[], int]
) -> None:
    plain, compiled = (search_of(make(wrap=wrap), kind) for wrap in (as_it_is, compiling(how, backend)))
    train(plain)
    assert compiler() == 0
    train(compiled)
    assert compiler() >= 3  # the linear layers, and the block for training and evaluation
    assert (compiled.weight_steps, compiled.architecture_steps) == (12, 12)
    if backend == "eager":
        assert_same_state(compiled, plain)
    for ours, theirs in zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True):
        if isinstance(ours, Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    # torch.compile puts a module of its own around the candidate; compiling in place leaves all names.
    ours, theirs = list(compiled.model.state_dict()), list(plain.model.state_dict())
    assert [name.replace("_orig_mod.", "") for name in ours] == theirs
    assert (ours == theirs) == (how == "in place")


def built_by_hand(wrap: Wrap) -> Classifier:
    network = make()
    network.net = nn.Sequential(nn.Linear(4, 8), wrap(block()), nn.Tanh(), nn.Linear(8, 3))
    return network


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_network_found_among_compiled_candidates_is_plain(
    how: str, train: Make, compiler: Callable[[], int], tmp_path: Path
) -> None:
    wrap = compiling(how, "eager")
    search = search_of(make(wrap=wrap))
    train(search)
    search.eval()
    inputs = torch.randn(5, 4)
    derived = search.derive()
    assert torch.equal(derived(inputs), search(inputs))
    found = Genotype(GENOTYPE).apply(search.model)
    assert not any(isinstance(part, MixedOp) for part in [*derived.modules(), *found.modules()])
    with search.space.bind(search.one_hot(search.space.choice(Genotype(GENOTYPE)))):
        expected = search.model(inputs)
    by_hand = built_by_hand(wrap).eval()
    by_hand.load_state_dict(found.state_dict(), strict=True)
    # What was compiled in place is compiled anew in a copy, if that is wanted; what was wrapped stays wrapped.
    assert found.net[1]._compiled_call_impl is None
    assert hasattr(found.net[1], "_orig_mod") == (how == "wrapped")
    plain = built_by_hand(as_it_is).eval()
    if how == "wrapped":
        with pytest.raises(RuntimeError, match="_orig_mod"):
            plain.load_state_dict(found.state_dict(), strict=True)
    plain.load_state_dict({name.replace("_orig_mod.", ""): value for name, value in found.state_dict().items()})
    torch.save(found.state_dict(), tmp_path / "found.pt")
    loaded = built_by_hand(wrap).eval()
    loaded.load_state_dict(torch.load(tmp_path / "found.pt", weights_only=True), strict=True)
    for network in (found, by_hand, plain, loaded, copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert torch.equal(network(inputs), expected)
    train(found)  # in Lightning, as any other


def test_a_network_may_be_compiled_as_a_whole_and_in_place(train: Make, compiler: Callable[[], int]) -> None:
    plain, compiled = search_of(), search_of()
    compiled.model.compile(backend="eager")
    train(plain)
    train(compiled)
    assert_same_state(compiled, plain)


def test_a_compiled_module_says_what_to_compile_instead() -> None:
    # What torch.compile returns is no LightningModule any more, so its training_step would be overlooked.
    with pytest.raises(ValueError, match="compile") as caught:
        search_of(torch.compile(make(), backend="eager"))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_candidates_compiled_to_machine_code(how: str, train: Make, compiler: Callable[[], int]) -> None:
    def quiet(module: nn.Module) -> nn.Module:
        for part in module.modules():
            if isinstance(part, nn.Dropout):  # compiled, it draws other random numbers
                part.p = 0.0
        return module

    wrap = compiling(how, "inductor")
    # Adam would make large steps of rounding errors
    options = {"architecture_optimizer": partial(SGD, lr=1.0)}
    plain = search_of(make(wrap=quiet), **options)
    compiled = search_of(make(wrap=lambda module: wrap(quiet(module))), **options)
    train(plain)
    train(compiled)
    assert compiler() >= 3
    assert compiled.theta.ne(1).any()
    for ours, theirs in zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True):
        if isinstance(ours, Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


# -- what a Trainer limits -------------------------------------------------------------------------------------------


class Count(Callback):
    """Counts what a fit does."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.counts["train"] += 1

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.counts["sanity" if trainer.sanity_checking else "val"] += 1

    def on_train_epoch_end(self, *_: Any) -> None:
        self.counts["epochs"] += 1


USUAL = {"train": 12, "val": 6, "sanity": 2, "epochs": 2}


@pytest.mark.parametrize("which", ["plain", "module", "own loss"])  # the first one says what Lightning does
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"fast_dev_run": True}, {"train": 1, "val": 1, "sanity": 0, "epochs": 1}),
        ({"fast_dev_run": 2}, {"train": 2, "val": 2, "sanity": 0, "epochs": 1}),
        ({"limit_train_batches": 4}, {"train": 8}),
        ({"limit_train_batches": 0.5}, {"train": 6}),
        ({"limit_train_batches": 0}, {"train": 0, "val": 0, "epochs": 0}),
        ({"limit_val_batches": 0}, {"val": 0, "sanity": 0}),
        ({"limit_val_batches": 0.34}, {"val": 2, "sanity": 1}),
        ({"val_check_interval": 2}, {"val": 18}),
        ({"val_check_interval": 0.5}, {"val": 12}),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, {"val": 9}),
        ({"check_val_every_n_epoch": 2}, {"val": 3}),
        ({"overfit_batches": 2}, {"train": 4, "val": 4}),
        ({"overfit_batches": 0.5}, {"train": 6, "val": 2, "sanity": 1}),
        ({"max_steps": 7, "max_epochs": -1}, {"train": 7, "val": 3}),
        ({"max_steps": 0}, {"train": 0, "val": 0, "epochs": 0}),
        ({"max_epochs": 1, "min_steps": 20}, {"train": 6, "val": 3, "epochs": 1}),
        ({"num_sanity_val_steps": 0}, {"sanity": 0}),
        ({"num_sanity_val_steps": -1}, {"sanity": 3}),
        ({"reload_dataloaders_every_n_epochs": 1}, {}),
        ({"plugins": []}, {}),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_limits_are_those_of_any_training(
    which: str, options: dict[str, Any], expected: dict[str, int], train: Make
) -> None:
    count, module = Count(), subject(which)
    trainer = train(module, callbacks=[count], **options)
    assert {**dict.fromkeys(USUAL, 0), **count.counts} == {**USUAL, **expected}
    assert trainer.global_step == count.counts["train"]
    if isinstance(module, SearchStrategy):
        assert module.weight_steps == module.architecture_steps == count.counts["train"]


def test_without_extras_there_are_none(fit: Make) -> None:
    search = search_of()
    off = {"logger": None, "enable_checkpointing": None, "enable_progress_bar": None, "enable_model_summary": None}
    trainer = fit(search, pair(), barebones=True, **off)
    assert (search.weight_steps, search.architecture_steps) == (6, 6)
    assert not trainer.callback_metrics


@pytest.mark.parametrize("which", ["module", "own loss"])
def test_max_time_ends_at_the_clock(which: str, train: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0

    class Tick(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            nonlocal seconds
            seconds += 1

    clock = SimpleNamespace(monotonic=lambda: seconds)
    monkeypatch.setattr(lightning.pytorch.callbacks.timer, "time", clock)
    search = subject(which)
    train(search, max_time={"seconds": 8}, max_epochs=-1, callbacks=[Tick()])
    assert search.weight_steps == search.architecture_steps == 8


def test_max_steps_counts_weight_steps_alone(train: Make) -> None:
    class Net(Classifier):
        """Without a parameter where the tanh is drawn, and then there is no weight step."""

        def __init__(self, wrap: Wrap = as_it_is) -> None:
            super().__init__(wrap)
            self.net = nn.Sequential(MixedOp("edge", {"tanh": nn.Tanh(), "linear": nn.Linear(4, 4)}))

    search = search_of(make(Net))
    trainer = train(search, max_steps=5, max_epochs=-1)
    assert search.skipped_weight_steps > 0
    assert search.weight_steps == trainer.global_step == 5
    assert search.architecture_steps == 5 + search.skipped_weight_steps


def test_max_steps_counts_accumulated_batches_once(train: Make) -> None:
    count, search = Count(), search_of(accumulate=2)
    train(search, max_steps=4, max_epochs=-1, callbacks=[count])
    assert (search.weight_steps, search.architecture_steps, count.counts["train"]) == (4, 4, 8)


def test_max_steps_counts_architecture_steps_where_there_are_no_others(train: Make) -> None:
    search = search_of(make().net, OwnLoss)
    train(search, max_steps=5, max_epochs=-1)
    assert (search.weight_steps, search.architecture_steps) == (0, 5)


def test_overfitting_repeats_the_same_batches_of_both_loaders(fit: Make) -> None:
    seen: list[tuple[float, float]] = []

    class Note(Callback):
        def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
            seen.append((float(batch["weights"][0][0, 0]), float(batch["architecture"][0][0, 0])))

    loaders = pair(shuffle=True)
    fit(search_of(), loaders, overfit_batches=2, max_epochs=3, callbacks=[Note()])
    firsts = [[float(each.dataset[6 * batch][0][0]) for batch in (0, 1)] for each in loaders.values()]
    assert seen == 3 * list(zip(*firsts, strict=True))


def test_the_modules_own_loaders_are_reloaded(fit: Make) -> None:
    class WithData(Classifier):
        asked = 0

        def train_dataloader(self) -> Any:
            self.asked += 1
            return pair()

        def val_dataloader(self) -> Any:
            return loader(9, VAL)

    for every, asked in ((0, 1), (1, 3), (2, 2)):
        search, count = search_of(make(WithData)), Count()
        fit(search, None, max_epochs=3, reload_dataloaders_every_n_epochs=every, callbacks=[count])
        assert search.model.asked == asked
        assert (search.weight_steps, search.architecture_steps, count.counts["val"]) == (18, 18, 9)


# -- what a Trainer switches on --------------------------------------------------------------------------------------


@pytest.fixture
def _switches_back() -> Iterator[None]:
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark
    torch.autograd.set_detect_anomaly(False)


SWITCHES: dict[str, Callable[[], bool]] = {
    "detect_anomaly": torch.is_anomaly_enabled,
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "benchmark": lambda: torch.backends.cudnn.benchmark,
}


class Noting(Classifier):
    """Notes in what surroundings its steps run."""

    def __init__(self, wrap: Wrap = as_it_is) -> None:
        super().__init__(wrap)
        self.noted: dict[str, list[Any]] = {"train": [], "val": []}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.note("train", batch[0])
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.note("val", batch[0])
        super().validation_step(batch, batch_idx)

    def note(self, step: str, x: Tensor) -> None:
        on = {name: is_on() for name, is_on in SWITCHES.items()}
        dtypes = (self.net[0].weight.dtype, self.net[0](x).dtype)
        self.noted[step].append({**on, "inference_mode": torch.is_inference_mode_enabled(), "dtypes": dtypes})


@pytest.mark.usefixtures("_switches_back")
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_is_on_in_both_kinds_of_step(switch: str, train: Make) -> None:
    search = search_of(make(Noting))
    train(search, **{switch: True})
    assert (search.weight_steps, search.architecture_steps) == (12, 12)
    assert len(search.model.noted["train"]) == 24
    assert all(noted[switch] for noted in search.model.noted["train"])


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("which", ["module", "own loss"])
def test_after_an_evaluation_in_inference_mode_a_search_goes_on(which: str, mode: bool, train: Make) -> None:
    module = make(Noting)
    search = search_of(module) if which == "module" else subject(which)
    trainer = train(search, inference_mode=mode)
    trainer.validate(search, loader(9, VAL), verbose=False)
    train(search, inference_mode=mode)
    assert (search.weight_steps, search.architecture_steps) == (24, 24)
    if which == "module":
        # Within a fit, Lightning itself evaluates without.
        modes = [noted["inference_mode"] for noted in module.noted["val"]]
        assert modes == 8 * [False] + 3 * [mode] + 8 * [False]


def test_an_anomaly_is_traced_in_an_architecture_step(train: Make) -> None:
    class Broken(OwnLoss):
        def architecture_step(self, batch: Any) -> None:
            self.spoil = self.architecture_steps == 3
            super().architecture_step(batch)
            self.spoil = False

        def loss(self, batch: Any) -> Tensor:
            loss = super().loss(batch)
            # finite, with a gradient of 0 · inf
            return loss + 0 * (0 * loss).sqrt() if getattr(self, "spoil", False) else loss

    search = search_of(make().net, Broken, weight_optimizer=partial(SGD, lr=0.1))
    try:
        with pytest.warns(UserWarning, match="Error detected in"), pytest.raises(RuntimeError, match="nan values"):
            train(search, detect_anomaly=True)
    finally:
        torch.autograd.set_detect_anomaly(False)
    assert (search.weight_steps, search.architecture_steps) == (4, 3)


@pytest.mark.parametrize("which", ["module", "own loss"])
def test_the_profiler_sees_every_step(which: str, train: Make) -> None:
    trainer = train(subject(which), profiler="simple")
    calls = {name: len(durations) for name, durations in trainer.profiler.recorded_durations.items()}  # type: ignore[attr-defined]
    strategy = "[Strategy]SingleDeviceStrategy"
    assert calls["run_training_epoch"] == 2
    assert calls["run_training_batch"] == calls[f"{strategy}.training_step"] == 12
    assert calls[f"{strategy}.validation_step"] == 8
    name = "OwnLoss" if which == "own loss" else "AdvantageNAS"
    assert calls[f"[LightningModule]{name}.on_before_optimizer_step"] == 24
    assert f"{name}.on_before_optimizer_step" in trainer.profiler.summary()  # type: ignore[attr-defined]


# The type of the weights, and of what a layer returns. Lightning itself does "16-mixed" on a CPU in bfloat16.
PRECISIONS = {
    "32-true": (torch.float32, torch.float32),
    "64-true": (torch.float64, torch.float64),
    "bf16-true": (torch.bfloat16, torch.bfloat16),
    "16-true": (torch.float16, torch.float16),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.bfloat16),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_that_lightning_has_on_a_cpu(precision: str, train: Make) -> None:
    search = search_of(make(Noting))
    trainer = train(search, precision=precision)
    noted = [each["dtypes"] for step in search.model.noted.values() for each in step]
    assert set(noted) == {PRECISIONS[precision]}
    assert len(noted) == 24 + 8
    assert (search.weight_steps, search.architecture_steps) == (12, 12)
    assert search.guard.total == {"weight": 0, "architecture": 0}
    assert search.theta.isfinite().all()
    assert search.theta.ne(1).all(-1).any()
    assert trainer.callback_metrics["val_loss"].isfinite()


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "16-true"])
def test_small_steps_of_theta_are_not_lost_in_half_precision(precision: str, train: Make) -> None:
    """In bfloat16 a one does not feel the paper's learning rate of 3e-4: the next numbers are 0.996 and 1.008."""
    gradient = torch.tensor([[1.0, -1.0, 1e-4], [-1.0, 1.0, 0.0]])

    class Steady(AdvantageNAS):
        def theta_gradient(self, trials: Any) -> Tensor:
            return gradient.to(self.theta.dtype)

    rate = 3e-4
    search = search_of(kind=Steady, architecture_optimizer=partial(Adam, lr=rate))
    train(search, precision=precision, max_epochs=4)
    expected = 1 - 24 * rate * gradient.sign()  # what Adam does where the gradient stays the same
    torch.testing.assert_close(search.theta.detach().float(), expected, rtol=0, atol=rate)


# -- logs ------------------------------------------------------------------------------------------------------------


class Rows(Logger):
    """Keeps what is logged, in order."""

    name = version = ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def places(self) -> list[tuple[int | None, float | None, tuple[str, ...]]]:
        """The step, the epoch and the names of each row, without what a search adds to it."""
        added = {"epoch", "entropy", "architecture/loss", "lr-Adam"}
        rows = [
            (step, row.get("epoch"), tuple(name for name in row if name not in added))
            for step, row in self.rows
            if not row.keys() <= added
        ]
        return [(step, epoch, tuple(sorted(names))) for step, epoch, names in rows]

    def values(self, name: str) -> list[float]:
        return [row[name] for _, row in self.rows if name in row]


class Talkative(Classifier):
    """Logs in every hook that may, and in every way."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("mean", loss, on_step=False, on_epoch=True)
        self.log("best", loss, on_step=False, on_epoch=True, reduce_fx="min")
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("after", 1.0)

    def on_train_epoch_end(self) -> None:
        self.log("end", 2.0)

    def on_validation_epoch_end(self) -> None:
        self.log("val_end", 3.0)


def logs(train: Make, accumulate: int = 1, **options: Any) -> tuple[Rows, Rows]:
    """What plain training logs, and what a search does."""
    rows = Rows(), Rows()
    alone = Genotype(GENOTYPE).apply(make(Talkative))
    search = search_of(make(Talkative), accumulate=accumulate)
    for module, logger in zip((alone, search), rows, strict=True):
        own = {"accumulate_grad_batches": accumulate} if module is alone else {}
        train(module, logger=logger, callbacks=[LearningRateMonitor()], **own, **options)
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {"log_every_n_steps": 1},
        {"log_every_n_steps": 2, "val_check_interval": 3},
        {"log_every_n_steps": 3, "max_steps": 8, "max_epochs": -1},
        {"log_every_n_steps": 4, "val_check_interval": 4, "check_val_every_n_epoch": None},
        {"log_every_n_steps": 50, "max_epochs": 3, "check_val_every_n_epoch": 2},
    ],
    ids=str,
)
def test_every_log_of_a_module_is_at_the_step_of_plain_training(options: dict[str, Any], train: Make) -> None:
    plain, search = logs(train, **options)
    assert search.places() == plain.places()
    names = {name for _, _, row in plain.places() for name in row}
    assert {"mean", "best", "end", "val_loss", "val_end", "both_epoch"} <= names
    assert ("train_loss" in names) == (options["log_every_n_steps"] < 50)


def test_every_log_of_a_module_that_accumulates_is_at_the_step_of_plain_training(train: Make) -> None:
    plain, search = logs(train, accumulate=2, log_every_n_steps=1)
    steps = [[step for step, _, names in rows.places() if "train_loss" in names] for rows in (plain, search)]
    assert steps[0] == [0, 1, 2, 3, 4, 5]
    assert steps[1] == [each for each in steps[0] for _ in range(2)]  # every batch, not only the last one of a step


def test_a_searchs_own_logs_are_at_the_number_of_batches(train: Make) -> None:
    logger = Rows()
    train(subject("own loss"), logger=logger, log_every_n_steps=1)
    assert [(step, row["epoch"]) for step, row in logger.rows if "entropy" in row] == [(6, 0), (12, 1)]
    assert [(step, row["epoch"]) for step, row in logger.rows if "val/loss" in row] == [(6, 0), (12, 1)]


# -- callbacks that watch --------------------------------------------------------------------------------------------


class Scored(Classifier):
    """Logs a score that is known beforehand, epoch by epoch."""

    scores = (5.0, 3.0, 2.0, 2.5, 2.0, 1.0, 9.0)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("score", self.scores[self.current_epoch])

    def on_train_epoch_end(self) -> None:
        self.log("train_score", self.scores[self.current_epoch])


@pytest.mark.parametrize("monitor", ["score", "train_score"])
@pytest.mark.parametrize(("patience", "epochs"), [(1, 4), (2, 5), (3, 7)])
def test_early_stopping_on_the_modules_metric(monitor: str, patience: int, epochs: int, train: Make) -> None:
    # The best is that of epoch 2, and 2 again is no better.
    search = search_of(make(Scored))
    trainer = train(search, max_epochs=7, callbacks=[EarlyStopping(monitor, patience=patience)])
    assert trainer.current_epoch == epochs
    assert search.weight_steps == search.architecture_steps == 6 * epochs


class Scripted(AdvantageNAS):
    """A search whose entropy is known beforehand, epoch by epoch."""

    entropies: tuple[float, ...] = (0.9, 0.5, 0.31, 0.3, 0.29, 0.4, 0.1)

    @property
    def entropy(self) -> Tensor:
        return torch.tensor(self.entropies[self.current_epoch])


@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize("own_loss", [False, True])
def test_early_stopping_on_the_entropy(validates: bool, own_loss: bool, train: Make) -> None:
    kind: type[SearchStrategy] = type("Search", (Scripted, OwnLoss), {}) if own_loss else Scripted
    search = search_of(make().net if own_loss else make(), kind)
    off = {} if validates else {"limit_val_batches": 0}
    # From 0.5 on, no epoch is better by 0.25.
    trainer = train(search, max_epochs=7, callbacks=[EarlyStopping("entropy", patience=2, min_delta=0.25)], **off)
    assert trainer.current_epoch == 4


def test_early_stopping_names_the_metrics_that_there_are(train: Make) -> None:
    with pytest.raises(RuntimeError, match=r"`loss` which is not available.*`train_loss`.*`val_loss`.*`entropy`"):
        train(search_of(), callbacks=[EarlyStopping("loss")])


@pytest.mark.parametrize("adam", [False, True])
def test_the_learning_rates_of_both_optimizers_are_logged(adam: bool, train: Make) -> None:
    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = Adam(self.parameters(), lr=0.1) if adam else SGD(self.parameters(), lr=0.1)
            return [optimizer], [StepLR(optimizer, 1, 0.5)]

    logger = Rows()
    search = search_of(make(Scheduled), architecture_scheduler=partial(StepLR, step_size=1, gamma=0.1), warmup_epochs=1)
    trainer = train(search, max_epochs=4, logger=logger, callbacks=[LearningRateMonitor("epoch")])
    weights, theta = ("lr-Adam", "lr/architecture") if adam else ("lr-SGD", "lr/architecture")
    assert logger.values(weights) == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    assert logger.values(theta) == pytest.approx([0.1, 0.1, 0.01, 0.001])  # θ's stays in the warm-up
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.00625)


def test_optimizers_without_a_schedule_are_told_apart(train: Make) -> None:
    class WithAdam(Classifier):
        def configure_optimizers(self) -> Any:
            return Adam(self.parameters(), lr=0.01)

    for kind, names in ((Classifier, {"lr-SGD": 0.1, "lr-Adam": 0.3}), (WithAdam, {"lr-Adam": 0.01, "lr-Adam-1": 0.3})):
        logger = Rows()
        search = search_of(make(kind), architecture_optimizer=partial(Adam, lr=0.3))
        train(search, logger=logger, callbacks=[LearningRateMonitor()], log_every_n_steps=1)
        for name, rate in names.items():
            assert set(logger.values(name)) == {rate}


class Entropies(Callback):
    """Notes each epoch's entropy and θ."""

    def __init__(self) -> None:
        self.entropies: list[float] = []
        self.states: list[dict[str, Any]] = []
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SearchStrategy)
        self.entropies.append(float(pl_module.entropy))
        self.states.append(copy.deepcopy(pl_module.state_dict()))
        self.losses.append(float(trainer.callback_metrics["val_loss"]))


@pytest.mark.parametrize("monitor", ["val_loss", "entropy"])
def test_the_best_epoch_is_kept_and_can_be_loaded(monitor: str, train: Make, assert_same: Make, tmp_path: Path) -> None:
    saving, noted = ModelCheckpoint(tmp_path, "{epoch}", monitor=monitor), Entropies()
    search = search_of(warmup_epochs=1)
    train(search, max_epochs=5, callbacks=[saving, noted], enable_checkpointing=True)
    values = noted.losses if monitor == "val_loss" else noted.entropies
    best = min(range(5), key=values.__getitem__)
    assert [path.name for path in tmp_path.iterdir()] == [f"epoch={best}.ckpt"]
    assert float(saving.best_model_score) == pytest.approx(values[best])  # type: ignore[arg-type]
    saved = torch.load(saving.best_model_path, weights_only=True)["state_dict"]
    assert_same({name: saved[name] for name in noted.states[best]}, dict(noted.states[best]))
    again = search_of(warmup_epochs=1)
    again.load_state_dict(saved)
    assert torch.equal(again.theta, noted.states[best]["theta"])
    validated = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (metrics,) = validated.validate(again.derive(), loader(9, VAL), verbose=False)
    assert metrics["val_loss"] == pytest.approx(noted.losses[best], rel=1e-5)


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar, None])
def test_progress_bars_show_the_modules_metrics(
    bar: type[Callback] | None, train: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    search = search_of()
    train(search, callbacks=[bar()] if bar else [], enable_progress_bar=bar is not None, log_every_n_steps=1)
    printed = "".join(capsys.readouterr())
    assert all((text in printed) == (bar is not None) for text in ("train_loss", "entropy", "architecture/loss"))
    assert (search.weight_steps, search.architecture_steps) == (12, 12)


# -- the end of a search ---------------------------------------------------------------------------------------------


def test_a_search_stops_at_the_first_epoch_below_the_threshold(train: Make) -> None:
    search = search_of(kind=Scripted)
    trainer = train(search, max_epochs=7, callbacks=[ConvergenceStopping(0.3)])
    assert trainer.current_epoch == 5  # 0.3 is not below
    assert search.architecture_steps == 30


@pytest.mark.parametrize("which", ["module", "own loss"])
def test_a_search_that_converges_stops(which: str, train: Make) -> None:
    noted: list[float] = []

    class Note(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            noted.append(float(pl_module.entropy))

    search = subject(which)
    trainer = train(search, max_epochs=60, callbacks=[ConvergenceStopping(0.4), Note()])
    assert 1 < trainer.current_epoch < 60
    assert len(noted) == trainer.current_epoch
    assert min(noted[:-1]) >= 0.4 > noted[-1]


def test_a_search_that_does_not_converge_is_left_alone(train: Make) -> None:
    assert train(search_of(), max_epochs=4, callbacks=[ConvergenceStopping(1e-6)]).current_epoch == 4


class OneChoiceOfMany(Classifier):
    """Nine edges, of which one has a second candidate: the mean entropy of equal θ is log 2 / 9 = 0.077."""

    def __init__(self, wrap: Wrap = as_it_is) -> None:
        super().__init__(wrap)
        alone = [MixedOp(f"alone{index}", {"tanh": nn.Tanh()}) for index in range(8)]
        choice = MixedOp("choice", {"tanh": nn.Tanh(), "linear": nn.Linear(8, 8)})
        self.net = nn.Sequential(nn.Linear(4, 8), *alone, choice, nn.Linear(8, 3))


@pytest.mark.parametrize("kind", [Classifier, OneChoiceOfMany])
def test_the_warm_up_is_no_convergence(kind: type[Classifier], train: Make) -> None:
    search = search_of(make(kind), warmup_epochs=3, architecture_optimizer=partial(Adam, lr=1e-3))
    train(search, max_epochs=4, callbacks=[ConvergenceStopping()])
    assert search.architecture_steps == 6


def test_edges_without_a_choice_do_not_count(train: Make) -> None:
    search = search_of(make(OneChoiceOfMany), architecture_optimizer=partial(Adam, lr=1e-3))
    assert train(search, max_epochs=3, callbacks=[ConvergenceStopping(0.6)]).current_epoch == 3  # that of the one: 0.69
    assert train(search, max_epochs=6, callbacks=[ConvergenceStopping(0.7)]).current_epoch < 6


@pytest.mark.parametrize("crash", [1, 3])
def test_a_resumed_search_stops_where_the_whole_one_does(crash: int, train: Make, tmp_path: Path) -> None:
    def go(**options: Any) -> tuple[SearchStrategy, int]:
        search = search_of(kind=Scripted)
        trainer = train(search, callbacks=[ConvergenceStopping(0.3)], **{"max_epochs": 7, **options})
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return search, trainer.current_epoch

    whole, epochs = go()
    assert go(max_epochs=crash)[1] == crash
    resumed, stopped = go(ckpt_path=tmp_path / "end.ckpt")
    assert stopped == epochs == 5
    assert torch.equal(resumed.theta, whole.theta)


@pytest.mark.parametrize("threshold", [0, -0.1, float("nan"), "0.1", None, True, float("inf")])
def test_a_threshold_is_a_number_above_0(threshold: Any) -> None:
    with pytest.raises(ValueError, match=f"entropy={threshold!r} must be") as caught:
        ConvergenceStopping(threshold)
    assert "\n" not in str(caught.value)


# -- callbacks that take a hand in training --------------------------------------------------------------------------


class WithBackbone(Classifier):
    @property
    def backbone(self) -> nn.Module:
        return self.net[0]


# Each relies on Lightning's automatic optimization; what to do instead must be said.
OF_AUTOMATIC_OPTIMIZATION: dict[str, tuple[Callable[[Path], Callback], str]] = {
    "GradientAccumulationScheduler": (lambda _: GradientAccumulationScheduler({0: 2}), "accumulate="),
    "StochasticWeightAveraging": (lambda _: StochasticWeightAveraging(0.05, swa_epoch_start=1), "derive"),
    "BackboneFinetuning": (lambda _: BackboneFinetuning(unfreeze_backbone_at_epoch=1), "derive"),
    # In manual optimization Lightning's own ModelCheckpoint never looks at the clock.
    "ModelCheckpoint": (lambda at: ModelCheckpoint(at, train_time_interval=timedelta(0)), "LastCheckpoint"),
}


@pytest.mark.parametrize("name", OF_AUTOMATIC_OPTIMIZATION)
@pytest.mark.parametrize("which", ["search", "one optimizer"])
def test_a_callback_for_automatic_optimization_says_what_to_do_instead(
    name: str, which: str, train: Make, tmp_path: Path
) -> None:
    create, instead = OF_AUTOMATIC_OPTIMIZATION[name]
    module = make(WithBackbone)
    search = search_of(module) if which == "search" else RandomSearch(module)
    with pytest.raises(MisconfigurationException, match=name) as caught:
        train(search, max_epochs=3, callbacks=[create(tmp_path)], enable_checkpointing=True)
    assert instead in str(caught.value)
    assert "\n" not in str(caught.value)
    assert search.weight_steps == 0


def test_a_finetuning_callback_gives_no_weights_to_the_architecture_optimizer(train: Make) -> None:
    class Search(OwnLoss):
        """Has the attribute that the callback asks for."""

        moved = 0

        @property
        def backbone(self) -> nn.Module:
            return self.model[0]

        def architecture_step(self, batch: Any) -> None:
            before = self.backbone.weight.clone()
            super().architecture_step(batch)
            self.moved += not torch.equal(before, self.backbone.weight)

    search = search_of(make().net, Search, weight_optimizer=partial(SGD, lr=0.1))
    try:
        train(search, max_epochs=3, callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=1)])
    except MisconfigurationException:
        return
    assert search.moved == 0


def test_averaged_weights_leave_the_best_architecture_alone(train: Make) -> None:
    class Both(Callback):
        """What the search itself knows, before an average of all buffers takes its place."""

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            assert isinstance(pl_module, SearchStrategy)
            self.best = pl_module.genotype("process_best"), float(pl_module.best.loss)

    noted, search = Both(), search_of()
    try:
        train(search, max_epochs=4, callbacks=[noted, EMAWeightAveraging(decay=0.9)])
    except MisconfigurationException:
        return
    assert (search.genotype("process_best"), float(search.best.loss)) == noted.best


def test_a_plain_network_that_was_found_may_be_averaged(train: Make) -> None:
    search = search_of()
    train(search)
    found = search.derive()
    rates: list[float] = []

    class Note(Callback):
        def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    averaging = StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1)
    train(found, max_epochs=3, callbacks=[averaging, Note()])
    assert rates[-1] == 0.05


# -- a search travels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["module", "own loss"])
@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_a_search_may_be_taken_elsewhere_after_its_fit(which: str, how: str, train: Make) -> None:
    search = subject(which)
    train(search)
    again = copy.deepcopy(search) if how == "copied" else pickle.loads(pickle.dumps(search))
    assert_same_state(again, search)
    inputs = torch.randn(5, 4)
    assert torch.equal(again.eval()(inputs), search.eval()(inputs))
    train(again, max_epochs=1)
    assert again.weight_steps == 18


# -- probabilities ---------------------------------------------------------------------------------------------------


def test_probabilities_are_the_softmax_of_theta_edge_by_edge() -> None:
    search = search_of()
    with torch.no_grad():
        search.theta.copy_(torch.tensor([[0.5, -1.0, 2.0], [1.0, 3.0, 50.0]]))  # the last one belongs to no candidate
    probabilities = search.probabilities()
    by_hand = {
        "first": {name: math.exp(theta) for name, theta in {"linear": 0.5, "block": -1.0, "skip": 2.0}.items()},
        "second": {name: math.exp(theta) for name, theta in {"linear": 1.0, "tanh": 3.0}.items()},
    }
    assert list(probabilities) == ["first", "second"]
    for edge, row in by_hand.items():
        total = sum(row.values())
        assert probabilities[edge] == pytest.approx({name: value / total for name, value in row.items()})
        assert list(probabilities[edge]) == list(row)
        assert sum(probabilities[edge].values()) == pytest.approx(1)


def test_probabilities_print_the_best_first(capsys: pytest.CaptureFixture[str]) -> None:
    search = search_of()
    with torch.no_grad():
        search.theta[0] = torch.tensor([0.2, 0.5, 0.3]).log()
        search.theta[1, :2] = torch.tensor([0.0625, 0.9375]).log()
    print(search.probabilities())
    assert capsys.readouterr().out == (
        "first   block 0.500  skip 0.300  linear 0.200\nsecond  tanh 0.938  linear 0.062\n"
    )


def test_every_strategy_has_probabilities_after_a_search(
    name: str, make_search: Make, make_loaders: Make, fit: Make
) -> None:
    search = make_search(name)
    fit(search, make_loaders(), max_epochs=2)
    probabilities = search.probabilities()
    assert {edge: tuple(row) for edge, row in probabilities.items()} == {
        "first": ("linear", "tanh", "block", "zero"),
        "second": ("linear", "skip"),
    }
    for edge, row in probabilities.items():
        assert sum(row.values()) == pytest.approx(1)
        assert all(0 <= value <= 1 for value in row.values())
        if name == "fixed":
            assert row == {each: float(each == search.genotype()[edge]) for each in row}
        elif name == "random":
            assert row == pytest.approx({each: 1 / len(row) for each in row})
        elif not name.startswith("enas"):
            theta = search.theta[search.space.edges.index(edge), : len(row)].tolist()
            total = sum(map(math.exp, theta))
            assert list(row.values()) == pytest.approx([math.exp(each) / total for each in theta], rel=1e-4)
    assert len(str(probabilities).splitlines()) == 2


def test_enas_has_the_marginals_of_its_controller(make_search: Make) -> None:
    search = make_search("enas")
    generator = torch.Generator().manual_seed(50)
    joint: dict[tuple[int, int], float] = {}
    with torch.no_grad():
        for weight in search.controller.parameters():  # so that the second choice depends on the first
            weight.normal_(std=1.5, generator=generator)
        for first in range(4):
            for second in range(2):
                steps = search.controller(torch.tensor([[first, second]]))[0].exp()
                joint[first, second] = float(steps[0, first] * steps[1, second])
    assert sum(joint.values()) == pytest.approx(1)
    probabilities = search.probabilities()
    firsts = [sum(p for (first, _), p in joint.items() if first == index) for index in range(4)]
    assert list(probabilities["first"].values()) == pytest.approx(firsts)  # conditional on nothing
    seconds = [sum(p for (_, second), p in joint.items() if second == index) for index in range(2)]
    assert list(probabilities["second"].values()) == pytest.approx(seconds, abs=0.1)  # a mean over 128 draws
    conditionals = [joint[first, 0] / (joint[first, 0] + joint[first, 1]) for first in range(4)]
    assert min(abs(each - seconds[0]) for each in conditionals) > 0.15  # and no single one would do
    assert search.probabilities() == probabilities  # of the same draws each time


def test_a_fixed_search_of_a_module_is_certain() -> None:
    assert str(Fixed(make(), genotype=GENOTYPE).probabilities()) == (
        "first   block 1.000  linear 0.000  skip 0.000\nsecond  tanh 1.000  linear 0.000"
    )
