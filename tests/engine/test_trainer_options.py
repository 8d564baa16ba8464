"""What a Trainer switches on, in a search of a user's module."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim import SGD, Adam

from advnas_lightning import AdvantageNAS
from advnas_lightning.engine.trainer_options import check_trainer_options
from tests.support.classifier import VAL, Classifier, OwnLoss, Wrap, as_it_is, loader, make, search_of, subject
from tests.support.speed import slow_but

Make = Callable[..., Any]


@pytest.fixture
def _switches_back() -> Iterator[None]:
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = benchmark
    torch.autograd.set_detect_anomaly(False)


SWITCHES: dict[str, Callable[[], bool]] = {
    "detect_anomaly": torch.is_anomaly_enabled,
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "benchmark": lambda: torch.backends.cudnn.benchmark,
}


NOTED: dict[str, list[Any]] = {}  # what an object or its class keeps is as it was after an evaluation


class Noting(Classifier):
    """Notes in what surroundings its steps run."""

    def __init__(self, wrap: Wrap = as_it_is) -> None:
        super().__init__(wrap)
        NOTED.update(train=[], val=[])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.note("train", batch[0])
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.note("val", batch[0])
        super().validation_step(batch, batch_idx)

    def note(self, step: str, x: Tensor) -> None:
        on = {name: is_on() for name, is_on in SWITCHES.items()}
        dtypes = (self.net[0].weight.dtype, self.net[0](x).dtype)
        NOTED[step].append({**on, "inference_mode": torch.is_inference_mode_enabled(), "dtypes": dtypes})


@pytest.mark.usefixtures("_switches_back")
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_is_on_in_both_kinds_of_step(switch: str, train: Make) -> None:
    search = search_of(make(Noting), calibrate=0)
    train(search, **{switch: True})
    assert (search.weight_steps, search.architecture_steps) == (12, 12)
    assert len(NOTED["train"]) == 24
    assert all(noted[switch] for noted in NOTED["train"])


@pytest.mark.parametrize(
    ("which", "mode"),
    slow_but(itertools.product(["module", "own loss"], [True, False]), [("module", True), ("own loss", False)]),
)
def test_after_an_evaluation_in_inference_mode_a_search_goes_on(which: str, mode: bool, train: Make) -> None:
    module = make(Noting)
    search = search_of(module) if which == "module" else subject(which)
    trainer = train(search, inference_mode=mode)
    trainer.validate(search, loader(9, VAL), verbose=False)
    train(search, inference_mode=mode)
    assert (search.weight_steps, search.architecture_steps) == (24, 24)
    if which == "module":
        # Within a fit, Lightning itself evaluates without.
        modes = [noted["inference_mode"] for noted in NOTED["val"]]
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


@pytest.mark.parametrize("precision", slow_but(PRECISIONS, ["32-true", "16-true", "bf16-mixed"]))
def test_every_precision_that_lightning_has_on_a_cpu(precision: str, train: Make) -> None:
    search = search_of(make(Noting), calibrate=0)
    trainer = train(search, precision=precision)
    noted = [each["dtypes"] for step in NOTED.values() for each in step]
    assert set(noted) == {PRECISIONS[precision]}
    assert len(noted) == 24 + 8
    assert (search.weight_steps, search.architecture_steps) == (12, 12)
    assert search.guard.total == {"weight": 0, "architecture": 0}
    assert search.theta.isfinite().all()
    assert search.theta.ne(1).all(-1).any()
    assert trainer.callback_metrics["val_loss"].isfinite()


@pytest.mark.parametrize("precision", slow_but(["32-true", "bf16-true", "16-true"], ["bf16-true"]))
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


def test_a_strategy_that_shards_parameters_is_refused() -> None:
    trainer = Trainer(accelerator="cpu", devices=1, strategy=ModelParallelStrategy(), logger=False)
    with pytest.raises(MisconfigurationException, match=r'ModelParallelStrategy\) .* use strategy="ddp_find_unused'):
        check_trainer_options(trainer, [], rate=False)
