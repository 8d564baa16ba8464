"""What several test files need: a small searchable network, its data, every strategy, and a quiet trainer."""

import copy
import functools
import gc
import importlib.metadata
import logging
import os
import random
import shutil
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra._internal.hydra import Hydra
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

from advnas_lightning import SearchStrategy
from advnas_lightning.objectives import Classification
from tests.support.classifier import VAL, loader, pair
from tests.support.command_line import SMALL_TOY, launch
from tests.support.small_search import CLASSES, SAME_ENGINE, STRATEGIES, CountingData, SmallNet


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """No garbage is looked for in the modules and tests, which all stay: also not by the software device's uses."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _scan_packages_once() -> Iterator[None]:
    """Every Trainer looks for plug-ins in all installed packages, which takes a third of a small fit's time."""
    with pytest.MonkeyPatch.context() as patch:
        cached = functools.cache(importlib.metadata.entry_points)
        patch.setattr("lightning.fabric.utilities.registry.entry_points", cached, raising=False)
        yield


@pytest.fixture(autouse=True)
def _any_algorithms_again() -> Iterator[None]:
    """``Trainer(deterministic=True)`` holds for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="session")
def _compose_once() -> Iterator[None]:
    """Hydra composes a run's whole configuration once more for its mode, which experiments alone set."""
    real = Hydra.get_mode

    def get_mode(hydra: Hydra, config_name: str, overrides: list[str]) -> Any:
        asked = any(each.lstrip("+").startswith(("experiment", "hydra.mode")) for each in overrides)
        return real(hydra, config_name, overrides) if asked else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", get_mode)
        yield


@pytest.fixture(autouse=True, scope="session")
def _parse_once() -> Iterator[None]:
    """Each composition parses the same files, which takes a tenth of its time."""
    real, known = yaml.load, {}

    def load(stream: Any, Loader: Any) -> Any:
        if Loader.__name__ != "OmegaConfLoader" or isinstance(stream, str):
            return real(stream, Loader)
        text = stream.read()
        stream.seek(0)  # for an error to name the file
        if text not in known:
            known[text] = real(stream, Loader)
        return copy.deepcopy(known[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "load", load)
        yield


@pytest.fixture(autouse=True, scope="session")
def _without_waiting_for_the_disk() -> Iterator[None]:
    """Each checkpoint waits until it is on the disk, for a machine that loses its power. That takes 6 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def _on_its_own() -> Iterator[None]:
    """A test begins with the same random numbers and settings whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    threads, environment = torch.get_num_threads(), dict(os.environ)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Lightning's hints (few workers, no GPU) are not about what is tested here."""
    # Tests may have imported the packages of the other names too, and Lightning then logs with their loggers.
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the toy task, which nobody changes."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launch(patch, *SMALL_TOY, "hydra.run.dir=run")
    return folder / "run"


@pytest.fixture
def toy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as ``run`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """``assert_same(a, b)``: nested containers of tensors and plain values, bit for bit."""

    def check(a: Any, b: Any, place: str = "") -> None:
        assert type(a) is type(b), place
        if isinstance(a, Tensor):
            assert a.dtype == b.dtype, place
            assert torch.equal(a.nan_to_num(nan=-12345.0), b.nan_to_num(nan=-12345.0)), place
        elif isinstance(a, Mapping):
            assert list(a) == list(b), place
            for key in a:
                check(a[key], b[key], f"{place}[{key!r}]")
        elif isinstance(a, list | tuple):
            assert len(a) == len(b), place
            for index, (left, right) in enumerate(zip(a, b, strict=True)):
                check(left, right, f"{place}[{index}]")
        else:
            assert a == b, place

    return check


@pytest.fixture(params=[each for each in STRATEGIES if each not in SAME_ENGINE])
def engine(request: pytest.FixtureRequest) -> str:
    """Each strategy in turn, with the options that the engine can tell apart."""
    return request.param


@pytest.fixture
def small_net() -> Callable[..., nn.Module]:
    """``small_net(dropout=…, norm=…, seed=…)``: the same weights for the same seed."""

    def make(*, seed: int = 0, **options: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SmallNet(**options)

    return make


@pytest.fixture
def make_search(small_net: Callable[..., nn.Module]) -> Callable[..., SearchStrategy]:
    """``make_search(name, model=None, mixin=None, **options)``: a strategy that classifies with the small network."""

    def make(name: str, model: nn.Module | None = None, *, mixin: type | None = None, **options: Any) -> SearchStrategy:
        kind, own = STRATEGIES[name]
        if mixin is not None:
            kind = type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {})
        shared = {
            "weight_optimizer": partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-2),
            "architecture_optimizer": partial(Adam, lr=0.1, weight_decay=1e-3),
            "objective": Classification(CLASSES),
        }
        return kind(small_net() if model is None else model, **{**shared, **own, **options})

    return make


@pytest.fixture
def make_loaders() -> Callable[..., dict[str, DataLoader[Any]]]:
    """``make_loaders(weights=…, architecture=…)``: loaders of so many batches of 6."""

    def make(*, weights: int = 4, architecture: int = 3, shuffle: bool = False) -> dict[str, DataLoader[Any]]:
        return {
            "weights": DataLoader(CountingData(6 * weights, seed=1), batch_size=6, shuffle=shuffle),
            "architecture": DataLoader(CountingData(6 * architecture, seed=2), batch_size=6, shuffle=shuffle),
        }

    return make


@pytest.fixture
def fit() -> Callable[..., Trainer]:
    """``fit(search, train, val=None, ckpt_path=None, **trainer)``: a fitted trainer that writes nothing."""

    def run(search: LightningModule, train: Any, val: Any = None, *, ckpt_path: Any = None, **options: Any) -> Trainer:
        quiet = {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = Trainer(**{**quiet, "max_epochs": 1, **options})
        trainer.fit(search, train, val, ckpt_path=ckpt_path)
        return trainer

    return run


@pytest.fixture
def train(fit: Callable[..., Any]) -> Callable[..., Any]:
    """``train(module_or_search, …)``: fit it on the classifier's loaders, with the same random numbers each time."""

    def run(module: LightningModule, **options: Any) -> Trainer:
        torch.manual_seed(0)
        loaders = pair() if isinstance(module, SearchStrategy) else pair()["weights"]
        return fit(module, loaders, loader(9, VAL), **{"max_epochs": 2, **options})

    return run
