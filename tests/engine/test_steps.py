"""What each of the two steps does, and what it leaves alone."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam

from advnas_lightning import (
    AdvantageNAS,
    Architecture,
    MixedOp,
    SearchLoader,
    SearchStrategy,
    Trial,
)
from advnas_lightning.objectives import Classification
from tests.support.small_search import parameters_of

Fit = Callable[..., Trainer]
Make = Callable[..., Any]


# How many candidates run on an edge, in a weight step and in an architecture step: 1, unless named here.
ALL = 99
WEIGHT_PATHS = {"proxylessnas": 2, "darts": ALL, "darts-second_order": ALL, "snas": ALL, "drnas": ALL}
ARCHITECTURE_PATHS = {**WEIGHT_PATHS, "proxylessnas-binary": 2, "nasp": ALL, "nasp-clip": ALL}


# How often a draw is run in an architecture step: once, but Eq. (6) removes each of 2 edges, and DARTS's second order
# needs two weight gradients and two more gate gradients.
FORWARDS = {"advantage-exact": 3, "darts-second_order": 5}
NO_GRADIENT = ("reinforce", "enas", "parsec", "advantage-exact", "counterfactual-exact")


def weights_side(search: SearchStrategy) -> Any:
    """All that belongs to the weights: parameters, buffers, gradients, the weight optimizer's state."""
    state = {
        "model": search.model.state_dict(),
        "grad": {name: parameter.grad for name, parameter in search.model.named_parameters()},
        "optimizer": search.trainer.optimizers[0].state_dict(),
    }
    return copy.deepcopy(state)


def architecture_side(search: SearchStrategy) -> Any:
    """All that belongs to the search but its random numbers: θ or controller, running means, its optimizer's state."""
    mine = {
        key: value
        for key, value in search.state_dict().items()
        if not key.startswith(("model.", "objective.")) and key != "_extra_state"
    }
    state = {"search": mine, "optimizer": [optimizer.state_dict() for optimizer in search.trainer.optimizers[1:]]}
    if search.searches:
        state["grad"] = [parameter.grad for parameter in search.architecture_parameters()]
    return copy.deepcopy(state)


# -- one step leaves the other's side alone --------------------------------------------------------------------------


class Watched:
    """Checks each step's side effects."""

    def weight_step(self, batch: Any) -> None:
        before = architecture_side(self)
        super().weight_step(batch)
        self.check(before, architecture_side(self))

    def architecture_step(self, batch: Any) -> None:
        before = weights_side(self)
        assert any(gradient is not None for gradient in before["grad"].values())
        super().architecture_step(batch)
        self.check(before, weights_side(self))


def test_neither_step_touches_the_other_side(
    name: str, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    search = make_search(name, mixin=Watched)
    search.check = assert_same
    start = copy.deepcopy(search.state_dict())
    fit(search, make_loaders(weights=3))
    tensors = {key: value for key, value in search.state_dict().items() if isinstance(value, Tensor)}
    moved = {key for key, value in tensors.items() if not torch.equal(value, start[key])}
    assert search.weight_steps == 3
    assert search.architecture_steps == (3 if search.searches else 0)
    assert {"model.stem.weight", "model.norm.running_mean", "model.head.bias"} <= moved
    assert any(key.startswith(("theta", "controller")) for key in moved) == search.searches


def test_an_architecture_step_restores_buffers_that_a_forward_replaces(make_loaders: Make, fit: Fit) -> None:
    class Averaging(nn.Module):
        """Rebinds its buffer, as ``self.mean = 0.9 * self.mean + …`` does."""

        def __init__(self) -> None:
            super().__init__()
            self.edge = MixedOp("a", {"linear": nn.Linear(4, 3), "other": nn.Linear(4, 3)})
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return self.edge(x)

    class Both(AdvantageNAS):
        def architecture_step(self, batch: Any) -> None:
            before = self.model.mean.clone()
            super().architecture_step(batch)
            assert torch.equal(before, self.model.mean)

    search = Both(
        Averaging(), weight_optimizer=partial(SGD, lr=0.1), architecture_optimizer=Adam, objective=Classification(3)
    )
    fit(search, make_loaders())
    assert search.model.mean.any()


# -- who runs --------------------------------------------------------------------------------------------------------


# What an object or its class keeps is as it was after an evaluation.
CALLED: Counter[tuple[int, str, str]] = Counter()
GRAD_MODES: set[bool] = set()


class Recorded:
    """Compares the candidates that ran in each step with the draws, and what became of those that did not."""

    def begin(self, name: str) -> None:
        self.drawn, self.checked = [], Counter()
        self.weight_paths, self.architecture_paths = WEIGHT_PATHS.get(name, 1), ARCHITECTURE_PATHS.get(name, 1)
        self.forwards, self.no_grad = FORWARDS.get(name, 1), name.startswith(NO_GRADIENT)
        for cell in range(2):
            for op in self.model.cells[cell]:
                for candidate, module in op.candidates.items():
                    module.register_forward_hook(partial(self.note, (cell, op.name, candidate)))

    def note(self, who: tuple[int, str, str], *_: Any) -> None:
        CALLED[who] += 1
        GRAD_MODES.add(torch.is_grad_enabled())

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        trials = super().evaluate_draws(batch)
        self.drawn = [trial.architecture for trial in trials[: self.draws]]
        differ = len({trial.architecture.paths for trial in trials}) > 1  # those of Eq. (6) run the same candidates
        self.tried = [trial.architecture for trial in trials] if differ else self.drawn
        return trials

    def sample_for_weights(self) -> Architecture:
        architecture = super().sample_for_weights()
        self.drawn = self.tried = [architecture]
        return architecture

    def expected(self, paths: int, forwards: int = 1, *, credited: bool = False) -> Counter[tuple[int, str, str]]:
        calls: Counter[tuple[int, str, str]] = Counter()
        for draw in self.tried:
            for edge, names, path in zip(self.space.edges, self.space.candidates, draw.paths, strict=True):
                assert len(path) == min(paths, len(names))
                ran = range(len(names)) if credited and draw.inactive == "outputs" else path
                for cell in range(2):
                    for index in ran:
                        calls[cell, edge, names[index]] += forwards
        return calls

    def of_candidates(self) -> dict[tuple[int, str, str], list[nn.Parameter]]:
        return {
            (cell, op.name, candidate): list(module.parameters())
            for cell in range(2)
            for op in self.model.cells[cell]
            for candidate, module in op.candidates.items()
        }

    def weight_step(self, batch: Any) -> None:
        optimizer = self.trainer.optimizers[0]
        momentum = {p: dict(optimizer.state[p]) for p in self.model.parameters() if p in optimizer.state}
        momentum = copy.deepcopy({id(p): value for p, value in momentum.items()})
        values = {id(p): p.detach().clone() for p in self.model.parameters()}
        CALLED.clear()
        super().weight_step(batch)
        ran = self.expected(self.weight_paths)
        assert ran == CALLED
        for who, parameters in self.of_candidates().items():
            for p in parameters:
                assert (p.grad is not None) == (who in ran)
                assert torch.equal(p, values[id(p)]) == (who not in ran)
                if who not in ran:
                    self.check(momentum.get(id(p)), dict(optimizer.state[p]) if p in optimizer.state else None)
                    self.checked["inactive"] += 1
        self.checked["weights"] += 1

    def architecture_step(self, batch: Any) -> None:
        CALLED.clear()
        GRAD_MODES.clear()
        super().architecture_step(batch)
        assert len(self.drawn) == self.draws
        assert self.expected(self.architecture_paths, self.forwards, credited=True) == CALLED
        without_graph = self.drawn[0].inactive == "outputs"  # the counterfactual passes
        assert ({True, False} if without_graph else {not self.no_grad}) == GRAD_MODES
        self.checked["architecture"] += 1


def test_exactly_the_drawn_candidates_run(
    name: str, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    if name == "fixed":
        pytest.skip("its network has no candidates left")
    search = make_search(name, mixin=Recorded)
    search.check = assert_same
    search.begin(name)
    fit(search, make_loaders(weights=4))
    assert search.checked["weights"] == 4
    assert search.checked["architecture"] == (4 if search.searches else 0)
    assert (search.checked["inactive"] > 0) == (WEIGHT_PATHS.get(name, 1) < ALL)


def test_a_fixed_network_has_no_other_candidates(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search = make_search("fixed")
    assert not any(isinstance(module, MixedOp) for module in search.modules())
    start = copy.deepcopy(search.model.state_dict())
    fit(search, make_loaders())
    assert (search.weight_steps, search.architecture_steps) == (4, 0)
    assert not torch.equal(search.model.cells[0][0][0].weight, start["cells.0.0.0.weight"])
    assert search.genotype() == search.space.genotype([2, 0])
    assert search.entropy == 0


# -- warm-up ---------------------------------------------------------------------------------------------------------


class Moved:
    """Notes what is sent to the device."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.transfers.append((self.trainer.current_epoch, *batch))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def test_no_architecture_work_in_the_warm_up(
    engine: str, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    alternate = engine in ("reinforce", "darts", "snas", "random")  # some of them with one loader for both
    search = make_search(engine, mixin=Moved, warmup_epochs=2)
    search.transfers = []
    loaders = make_loaders(weights=2, architecture=3)
    train = SearchLoader({"weights": loaders["weights"]}, alternate=True) if alternate else loaders
    start = parameters_of(search)
    counts, thetas = [], []

    class Look(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            counts.append((search.architecture_steps, loaders["architecture"].dataset.fetched))
            thetas.append(parameters_of(search))

    fit(search, train, max_epochs=3, callbacks=[Look()])
    each = (1 if alternate else 2) if search.searches else 0
    assert counts == [(0, 0), (0, 0), (each, 0 if alternate else 6 * each)]
    assert_same(thetas[1], start)
    assert search.weight_steps + search.skipped_weight_steps == (6 - each if alternate else 6)
    both = ("weights",) if not search.searches else ("weights", "architecture")
    after = [(2, "weights"), (2, both[-1])] if alternate else [(2, *both)] * 2
    assert search.transfers == [(0, "weights")] * 2 + [(1, "weights")] * 2 + after
    if search.searches and engine != "parsec-authors_code":  # which waits for its third draw
        assert not all(torch.equal(a, b) for a, b in zip(thetas[2], start, strict=True))
