"""A search in half and in double precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD

from advnas_lightning import AdvantageNAS, Fixed, Genotype, MixedOp, SearchStrategy, Trial
from tests.support.classifier import loader
from tests.support.small_search import CLASSES, FEATURES, parameters_of
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


def test_bfloat16_networks_are_searched(engine: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search, loaders = make_search(engine), make_loaders(weights=2)
    fit(search, loaders, precision="bf16-mixed")
    assert search.weight_steps == 2
    if search.searches:
        assert all(parameter.isfinite().all() for parameter in search.architecture_parameters())
        assert {parameter.dtype for parameter in search.architecture_parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["advantage", "enas", "parsec", "proxylessnas", "gdas", "darts", "snas", "nasp", "drnas"],
        ["advantage", "enas", "gdas", "darts"],
    ),
)
def test_double_precision_networks_are_searched(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search, loaders = make_search(name), make_loaders(weights=3)
    for each in loaders.values():
        each.dataset.inputs = each.dataset.inputs.double()
    fit(search, loaders, loaders["architecture"], precision="64-true")
    assert search.architecture_steps == 3
    assert {parameter.dtype for parameter in search.architecture_parameters()} == {torch.float64}


def test_the_mathematics_of_a_step_is_in_full_precision_under_autocast(
    make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    class Checked:
        def theta_gradient(self, trials: Sequence[Trial]) -> Tensor:
            gradient = super().theta_gradient(trials)
            with torch.autocast("cpu", enabled=False):
                omega = torch.stack([-trial.size * trial.loss for trial in trials]).softmax(0)
                mean = sum(w * trial.architecture.gates for w, trial in zip(omega, trials, strict=True))
                torch.testing.assert_close(gradient, self.probs - mean)
            return gradient

    search = make_search("parsec", mixin=Checked)
    fit(search, make_loaders(), precision="bf16-mixed")
    assert search.architecture_steps == 4


@pytest.mark.parametrize("name", ["advantage", "enas", "darts", "gdas", "nasp"])
def test_the_loss_scaling_of_half_precision_changes_no_architecture_step(
    name: str, small_net: Make, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    """The gradient scaler unscales what an optimizer is given, so θ's gradient must be given scaled."""

    def theta(**options: Any) -> list[Tensor]:
        search = make_search(
            name,
            small_net(dropout=0.0, norm=False),  # a norm after a choice's scale leaves it no gradient
            weight_optimizer=partial(SGD, lr=0.0),
            architecture_optimizer=partial(SGD, lr=1.0),
            **({"baseline_init": "zero"} if name == "enas" else {}),  # so that the first loss is no baseline of itself
        )
        start = parameters_of(search)
        fit(search, make_loaders(weights=1), **options)
        return [after - before for before, after in zip(start, parameters_of(search), strict=True)]

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plain, scaled = theta(), theta(plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    largest = max(part.abs().max().item() for part in plain)
    assert largest > 0
    for part, expected in zip(scaled, plain, strict=True):
        torch.testing.assert_close(part, expected, rtol=0.05, atol=0.05 * largest)


class Wide(nn.Module):
    """Returns single precision whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().tanh()


class MixedTypes(nn.Module):
    """Two edges whose candidates return different types: that of the input, that of autocast, and single precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(FEATURES, 6), nn.Linear(6, CLASSES)
        self.edges = nn.ModuleList(
            MixedOp(name, {"wide": Wide(), "linear": nn.Linear(6, 6), "skip": nn.Identity()}) for name in "ab"
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for edge in self.edges:
            x = x + edge(x.sin()).to(x.dtype)
        return self.head(x)


def half_precision(kind: str) -> dict[str, Any]:
    if kind == "16-mixed":  # on a CPU
        return {"plugins": [MixedPrecision(kind, "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}
    return {"precision": kind}


@pytest.mark.parametrize(
    "kind", slow_but(["bf16-mixed", "16-mixed", "bf16-true", "16-true"], ["16-mixed", "bf16-true"])
)
def test_candidates_of_different_types_teach_what_they_teach_in_single_precision(
    kind: str, engine: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    """A strategy with a gradient of the gates; the others, which rank losses, need only run."""

    def moved(**options: Any) -> tuple[SearchStrategy, list[Tensor]]:
        torch.manual_seed(0)
        own: dict[str, Any] = {"genotype": {"a": "linear", "b": "skip"}} if engine == "fixed" else {}
        optimizers = {"weight_optimizer": partial(SGD, lr=1e-3), "architecture_optimizer": partial(SGD, lr=1.0)}
        search: SearchStrategy = make_search(engine, MixedTypes(), **optimizers, **own)
        start = parameters_of(search) if search.searches else []
        fit(search, make_loaders(weights=1), **options)
        end = parameters_of(search) if search.searches else []
        return search, [after - before for before, after in zip(start, end, strict=True)]

    (search, plain), (_, halves) = moved(), moved(**half_precision(kind))
    assert search.weight_steps == 1
    largest = max((part.abs().max().item() for part in plain), default=0.0)
    assert largest > 0 or not (search.searches and search.needs_gate_grad)
    for part, expected in zip(halves, plain, strict=True):
        assert part.dtype is torch.float32
        assert part.isfinite().all()
        if search.needs_gate_grad:
            torch.testing.assert_close(part, expected, rtol=0.05, atol=0.05 * largest)


class SinglePart(LightningModule):
    """A user's module with a part in single precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "tanh": nn.Tanh()})
        self.weight = nn.Parameter(torch.randn(8, 8))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x = self.edge(self.stem(batch[0]))
        with torch.autocast("cpu", enabled=False):
            x = x.float() @ self.weight
        return nn.functional.cross_entropy(self.head(x), batch[1])

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.5)


@pytest.mark.parametrize("searching", [False, True])
def test_weight_steps_under_autocast_are_those_of_plain_training(searching: bool, fit: Fit) -> None:
    class First(AdvantageNAS):
        def sample(self) -> Any:
            return self.one_hot([0])

    genotype = Genotype({"edge": "linear"})
    plain = genotype.apply(SinglePart())
    fit(plain, loader(1, 4), max_epochs=2, precision="bf16-mixed")
    if searching:
        search: SearchStrategy = First(SinglePart(), architecture_optimizer=partial(SGD, lr=0.0))
        fit(search, {"weights": loader(1, 4), "architecture": loader(2, 4)}, max_epochs=2, precision="bf16-mixed")
    else:
        search = Fixed(SinglePart(), genotype=genotype)
        fit(search, {"weights": loader(1, 4)}, max_epochs=2, precision="bf16-mixed")
    assert search.weight_steps == 8
    found = genotype.apply(search.model) if searching else search.derive()
    for ours, theirs in zip(found.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
