"""What the engine promises of every strategy."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import (
    DARTS,
    ENAS,
    GDAS,
    NASP,
    PARSEC,
    REINFORCE,
    SNAS,
    AdvantageNAS,
    Architecture,
    Fixed,
    MixedOp,
    ProxylessNAS,
    SearchLoader,
    SearchStrategy,
    Trial,
)
from advnas_lightning.objectives import Classification, Outcome

Fit = Callable[..., Trainer]
Make = Callable[..., Any]

# How many candidates run on an edge, in a weight step and in an architecture step: 1, unless named here.
ALL = 99
WEIGHT_PATHS = {"proxylessnas": 2, "darts": ALL, "darts-second_order": ALL, "snas": ALL}
ARCHITECTURE_PATHS = {**WEIGHT_PATHS, "proxylessnas-binary": 2, "nasp": ALL, "nasp-clip": ALL}
# How often a draw is run in an architecture step: once, but Eq. (6) removes each of 2 edges, and DARTS's second order
# needs two weight gradients and two more gate gradients.
FORWARDS = {"advantage-exact": 3, "darts-second_order": 5}
SINGLE_PATH = [
    "advantage",
    "counterfactual",
    "reinforce",
    "enas",
    "parsec",
    "parsec-authors_code",
    "proxylessnas-binary",
    "gdas",
    "nasp",
    "random",
]
NO_ONE_HOT = {"darts", "darts-second_order", "snas", "proxylessnas"}  # never evaluate a one-hot architecture
NO_GRADIENT = ("reinforce", "enas", "parsec", "advantage-exact")


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


def parameters_of(search: SearchStrategy) -> list[Tensor]:
    """θ, or the controller's weights; nothing of a fixed network."""
    state = search.state_dict()
    return [state[key].clone() for key in sorted(state) if key.startswith(("theta", "controller"))]


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
    moved = {key for key, value in search.state_dict().items() if key in start and not same_bits(value, start[key])}
    assert search.weight_steps == 3
    assert search.architecture_steps == (3 if search.searches else 0)
    assert {"model.stem.weight", "model.norm.running_mean", "model.head.bias"} <= moved
    assert any(key.startswith(("theta", "controller")) for key in moved) == search.searches


def same_bits(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else True


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


class Recorded:
    """Compares the candidates that ran in each step with the draws, and what became of those that did not."""

    def begin(self, name: str) -> None:
        self.called, self.drawn, self.checked = Counter(), [], Counter()
        self.weight_paths, self.architecture_paths = WEIGHT_PATHS.get(name, 1), ARCHITECTURE_PATHS.get(name, 1)
        self.forwards, self.no_grad = FORWARDS.get(name, 1), name.startswith(NO_GRADIENT)
        self.grad_modes: set[bool] = set()
        for cell in range(2):
            for op in self.model.cells[cell]:
                for candidate, module in op.candidates.items():
                    module.register_forward_hook(partial(self.note, (cell, op.name, candidate)))

    def note(self, who: tuple[int, str, str], *_: Any) -> None:
        self.called[who] += 1
        self.grad_modes.add(torch.is_grad_enabled())

    def evaluate_draws(self, batch: Any) -> list[Trial]:
        trials = super().evaluate_draws(batch)
        self.drawn = [trial.architecture for trial in trials[: self.draws]]
        return trials

    def sample_for_weights(self) -> Architecture:
        architecture = super().sample_for_weights()
        self.drawn = [architecture]
        return architecture

    def expected(self, paths: int, forwards: int = 1, *, credited: bool = False) -> Counter[tuple[int, str, str]]:
        calls: Counter[tuple[int, str, str]] = Counter()
        for draw in self.drawn:
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
        self.called.clear()
        super().weight_step(batch)
        ran = self.expected(self.weight_paths)
        assert self.called == ran
        for who, parameters in self.of_candidates().items():
            for p in parameters:
                assert (p.grad is not None) == (who in ran)
                assert torch.equal(p, values[id(p)]) == (who not in ran)
                if who not in ran:
                    self.check(momentum.get(id(p)), dict(optimizer.state[p]) if p in optimizer.state else None)
                    self.checked["inactive"] += 1
        self.checked["weights"] += 1

    def architecture_step(self, batch: Any) -> None:
        self.called.clear()
        self.grad_modes.clear()
        super().architecture_step(batch)
        assert len(self.drawn) == self.draws
        assert self.called == self.expected(self.architecture_paths, self.forwards, credited=True)
        without_graph = self.drawn[0].inactive == "outputs"  # the counterfactual passes
        assert self.grad_modes == ({True, False} if without_graph else {not self.no_grad})
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


# -- temperatures ----------------------------------------------------------------------------------------------------


class Tempered:
    def architecture_step(self, batch: Any) -> None:
        self.temperatures.append(self.temperature)
        super().architecture_step(batch)


@pytest.mark.parametrize(
    ("options", "trainer", "alternate", "steps"),
    [
        ({}, {"max_epochs": 2}, False, 10),
        ({"warmup_epochs": 2}, {"max_epochs": 4}, False, 10),
        ({"warmup_epochs": 1}, {"max_epochs": 3, "limit_train_batches": 3}, False, 6),
        ({"warmup_epochs": 1}, {"max_epochs": 3, "limit_train_batches": 0.5}, False, 4),
        ({}, {"max_epochs": 3}, True, 6),
        ({"warmup_epochs": 1}, {"max_epochs": 3, "limit_train_batches": 3}, True, 2),
    ],
)
def test_temperatures_follow_the_architecture_steps_that_are_taken(
    options: dict[str, Any],
    trainer: dict[str, Any],
    alternate: bool,
    steps: int,
    make_search: Make,
    make_loaders: Make,
    fit: Fit,
) -> None:
    loaders = make_loaders(weights=5)
    train = SearchLoader({"weights": loaders["weights"]}, alternate=True) if alternate else loaders
    gdas, snas = (make_search(name, mixin=Tempered, **options) for name in ("gdas", "snas"))
    for search in (gdas, snas):
        search.temperatures = []
        fit(search, train, **trainer)
        assert search.architecture_steps == steps
    assert gdas.temperatures == pytest.approx([10 + (0.1 - 10) * k / steps for k in range(steps)])
    assert snas.temperatures == pytest.approx([(1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)])
    assert gdas.temperatures[0] == 10
    assert snas.temperatures[0] == 1
    assert gdas.temperature == 0.1
    assert snas.temperature == 1e-3


def test_temperatures_stay_in_the_warm_up(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    for name, tau in (("gdas", 10), ("snas", 1)):
        search = make_search(name, warmup_epochs=1)
        temperatures = []

        class Look(Callback):
            def on_train_batch_end(self, *_: Any, search: Any = search, noted: list[float] = temperatures) -> None:
                noted.append(search.temperature)

        fit(search, make_loaders(), max_epochs=2, callbacks=[Look()])
        assert temperatures[:4] == [tau] * 4
        assert temperatures[4] < tau


@pytest.mark.parametrize("name", ["gdas", "snas"])
def test_temperatures_need_to_know_the_end(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    for unbounded in ({"max_epochs": None, "max_steps": 4}, {"max_epochs": -1, "max_steps": 4}):
        with pytest.raises(MisconfigurationException, match=r"anneals.*max_epochs"):
            fit(make_search(name), make_loaders(), **unbounded)
    endless = {"weights": _Endless(), "architecture": _Endless()}
    with pytest.raises(MisconfigurationException, match=r"anneals.*limit_train_batches"):
        fit(make_search(name), endless)


class _Endless:
    def __iter__(self) -> Any:
        while True:
            yield torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)


# -- optimizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["advantage", "enas", "nasp", "random", "fixed"])
def test_schedules_move_in_the_epochs_in_which_their_parameters_do(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    halve = partial(StepLR, step_size=1, gamma=0.5)
    search = make_search(
        name,
        weight_optimizer=partial(SGD, lr=1.0),
        architecture_optimizer=partial(Adam, lr=1.0),
        weight_scheduler=halve,
        architecture_scheduler=halve,
        warmup_epochs=2,
    )
    rates = []

    class Look(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    trainer = fit(search, make_loaders(weights=1), max_epochs=4, callbacks=[Look()])
    rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
    assert [rate[0] for rate in rates] == [1, 0.5, 0.25, 0.125, 0.0625]
    assert [rate[1:] for rate in rates] == ([[1], [1], [1], [0.5], [0.25]] if search.searches else [[]] * 5)


@pytest.mark.parametrize("order", [("weights",), ("architecture",), ("weights", "architecture")])
def test_schedules_move_once_per_epoch_whichever_optimizers_there_are(
    order: tuple[str, ...], make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    """A schedule is told from its optimizer, not from its place in the list."""
    halve = partial(StepLR, step_size=1, gamma=0.5)
    search = make_search(
        "advantage",
        weight_optimizer=partial(SGD, lr=1.0),
        architecture_optimizer=partial(Adam, lr=1.0),
        weight_scheduler=halve if "weights" in order else None,
        architecture_scheduler=halve if "architecture" in order else None,
        warmup_epochs=1,
    )
    trainer = fit(search, make_loaders(weights=1), max_epochs=3)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == [0.125 if "weights" in order else 1, 0.25 if "architecture" in order else 1]


class NormSGD(SGD):
    """Notes the norm of each gradient that it is given."""

    def __init__(self, parameters: Any, norms: list[float]) -> None:
        super().__init__(parameters, lr=0.0)
        self.norms = norms

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)  # Lightning's closure clips
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return result


@pytest.mark.parametrize("name", ["advantage", "enas", "random"])
def test_each_optimizer_has_its_own_clip(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    def norms(**clips: float) -> tuple[list[float], list[float]]:
        weights: list[float] = []
        theta: list[float] = []
        search = make_search(
            name,
            weight_optimizer=partial(NormSGD, norms=weights),
            architecture_optimizer=partial(NormSGD, norms=theta),
            **clips,
        )
        torch.manual_seed(0)  # the dropout's
        fit(search, make_loaders())
        return weights, theta

    weights, theta = norms()
    assert len(weights) == 4
    assert len(theta) == (0 if name == "random" else 4)
    w, t = sorted(weights)[2] * 0.99, (sorted(theta)[2] * 0.99 if theta else 1.0)
    for clips in ({"weight_clip": w}, {"architecture_clip": t}):
        clipped = norms(**clips)
        assert clipped[0] == pytest.approx(
            [min(norm, clips.get("weight_clip", math.inf)) for norm in weights], rel=1e-4
        )
        assert clipped[1] == pytest.approx(
            [min(norm, clips.get("architecture_clip", math.inf)) for norm in theta], rel=1e-4
        )


@pytest.mark.parametrize("name", SINGLE_PATH)
def test_a_draw_without_parameters_skips_the_weight_step(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    model = nn.Sequential(MixedOp("first", {"tanh": nn.Tanh(), "linear": nn.Linear(4, 4)}), nn.Softsign())
    search = make_search(name, model, objective=Classification(4), weight_clip=1.0)
    fit(search, make_loaders(weights=12, architecture=12))
    assert search.weight_steps + search.skipped_weight_steps == 12
    assert search.weight_steps > 0
    assert search.skipped_weight_steps > 0
    assert search.architecture_steps == (12 if search.searches else 0)


@pytest.mark.parametrize("name", [*SINGLE_PATH, "proxylessnas", "darts", "snas", "fixed"])
def test_a_network_without_parameters_skips_every_weight_step(
    name: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    options = {"genotype": {"first": "tanh"}} if name == "fixed" else {}
    model = nn.Sequential(MixedOp("first", {"tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}))
    search = make_search(name, model, objective=Classification(4), **options)
    fit(search, make_loaders())
    assert (search.weight_steps, search.skipped_weight_steps) == (0, 4)
    assert search.architecture_steps == (4 if search.searches else 0)


def test_without_a_weight_optimizer_the_weights_stay(
    engine: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    search = make_search(engine, weight_optimizer=None)
    start, theta = copy.deepcopy(search.model.state_dict()), parameters_of(search)
    keys = ("architecture",) if engine.startswith(("advantage", "snas", "random")) else ("weights", "architecture")
    loaders = {key: loader for key, loader in make_loaders(weights=3, architecture=3).items() if key in keys}
    if engine == "darts-second_order":
        with pytest.raises(MisconfigurationException, match="second_order=true"):
            fit(search, loaders)
        return
    fit(search, loaders)
    assert (search.weight_steps, search.architecture_steps) == (0, 3 if search.searches else 0)
    assert all(torch.equal(value, start[key]) for key, value in search.model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(theta, parameters_of(search), strict=True)) != search.searches


# -- random numbers --------------------------------------------------------------------------------------------------


def test_draws_come_from_the_strategys_own_generator(
    engine: str, small_net: Make, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    class Noise(Callback):
        def __init__(self, count: int) -> None:
            self.count = count

        def on_train_batch_start(self, *_: Any) -> None:
            torch.rand(self.count)

    def run(seed: int, noise: int) -> Any:
        torch.manual_seed(noise)
        search = make_search(engine, small_net(dropout=0.0), seed=seed)
        fit(search, make_loaders(weights=2), callbacks=[Noise(noise)])
        return {key: value for key, value in search.state_dict().items() if not key.startswith("objective.")}

    first = run(seed=0, noise=0)
    assert_same(run(seed=0, noise=3), first)
    weights, other = ({key: v for key, v in run_.items() if "model" in key} for run_ in (first, run(seed=1, noise=0)))
    same = all(torch.equal(value, weights[key]) for key, value in other.items())
    assert same == engine.startswith(("darts", "fixed"))


def test_building_a_strategy_draws_no_global_random_numbers(engine: str, small_net: Make, make_search: Make) -> None:
    model = small_net()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    make_search(engine, model)
    assert torch.equal(torch.rand(3), expected)


# -- what a user sees ------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """The README's network."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.edge(x))


def readme_loader(seed: int, batch_size: int = 4) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(torch.randn(10, 8, generator=generator), torch.randint(2, (10,), generator=generator))
    return DataLoader(data, batch_size=batch_size)


@pytest.mark.parametrize("kind", [AdvantageNAS, REINFORCE, GDAS, DARTS, ProxylessNAS, SNAS, NASP, PARSEC, ENAS])
def test_a_users_own_loss_is_enough(kind: type[SearchStrategy], fit: Fit) -> None:
    class Search(kind):
        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.model(x), y)

    torch.manual_seed(0)
    search = Search(Net(), weight_optimizer=partial(SGD, lr=0.1), architecture_optimizer=partial(Adam, lr=0.3), seed=2)
    valid = readme_loader(2)
    trainer = fit(search, {"weights": readme_loader(0), "architecture": readme_loader(1)}, valid, max_epochs=4)
    (x, y), model = valid.dataset.tensors, search.genotype().apply(search.model)
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    assert {"train/loss", "architecture/loss", "entropy"} <= set(trainer.callback_metrics)
    assert not any(isinstance(module, MixedOp) for module in model.modules())
    assert search.genotype()["edge"] in ("linear", "skip")
    if kind in (DARTS, SNAS, ProxylessNAS):
        with pytest.raises(ValueError, match="no process_best"):
            search.genotype("process_best")
        selected = search.genotype()
    else:
        assert search.genotype("process_best")["edge"] in ("linear", "skip")
        selected = search.genotype("process_best" if kind in (REINFORCE, ENAS, GDAS) else "argmax")
    for stage in ("validate", "test"):
        (metrics,) = getattr(trainer, stage)(search, valid, verbose=False)
        key = "val/loss" if stage == "validate" else "test/loss"
        expected = F.cross_entropy(selected.apply(search.model)(x), y).item()
        assert metrics == {key: pytest.approx(expected, rel=1e-5)}
    assert torch.equal(search(x), selected.apply(search.model)(x))


@pytest.mark.parametrize("name", ["advantage", "enas", "gdas", "darts", "fixed"])
def test_evaluations_do_not_train(
    name: str, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    class Plain:
        """Draws no global random numbers, as a DataLoader does, so that the dropout is the same in both runs."""

        def __iter__(self) -> Any:
            return iter(batches)

    batches = list(make_loaders()["architecture"])
    states, metrics = [], []
    for valid in (Plain(), None):
        search = make_search(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            trainer = fit(search, make_loaders(), valid, max_epochs=2)
        states.append({key: value for key, value in search.state_dict().items() if not key.startswith("objective.")})
        metrics.append(set(trainer.callback_metrics) & {"val/loss", "val/accuracy"})
    assert_same(*states)
    assert metrics == [{"val/loss", "val/accuracy"}, set()]


class Evaluated:
    def evaluate(self, architecture: Architecture, batch: Any) -> Trial:
        trial = super().evaluate(architecture, batch)
        if architecture.gates.sum(-1).eq(1).all() and architecture.gates.amax(-1).eq(1).all():
            self.trials.append((trial.loss.item(), tuple(architecture.gates.argmax(-1).tolist())))
        return trial


def test_process_best_is_the_lowest_one_hot_loss_of_an_architecture_step(
    engine: str, make_search: Make, make_loaders: Make, fit: Fit
) -> None:
    search = make_search(engine, mixin=Evaluated)
    search.trials = []
    fit(search, make_loaders(weights=4))
    if engine in NO_ONE_HOT or not search.searches:
        assert search.process_best is None
        assert search.selected == "argmax"
        with pytest.raises(ValueError, match="no process_best"):
            search.genotype("process_best")
    else:
        assert len(search.trials) == 4 * search.draws
        assert search.genotype("process_best") == search.space.genotype(min(search.trials)[1])
        own = "process_best" if isinstance(search, REINFORCE | GDAS) else "argmax"
        assert search.selected == own
    with pytest.raises(ValueError, match="select='best'"):
        search.genotype("best")


def test_which_overrides_the_strategys_own_selection(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    for name, which in (("advantage", "process_best"), ("reinforce", "argmax")):
        search = make_search(name, select=which)
        assert search.selected == "argmax"  # while there is no other
        fit(search, make_loaders())
        assert search.selected == which
        assert search.selected_choice() == search.space.choice(search.genotype(which))


def test_a_nan_loss_is_never_the_process_best(make_search: Make, make_loaders: Make, fit: Fit) -> None:
    class Nan:
        def loss(self, batch: Any) -> Outcome:
            self.count = getattr(self, "count", 0) + 1
            outcome = super().loss(batch)
            return outcome._replace(loss=outcome.loss * torch.nan) if self.count in (1, 4) else outcome

        def theta_gradient(self, trials: Sequence[Trial]) -> None:
            return None  # which nan would spoil

    search = make_search("advantage", mixin=Nan, weight_optimizer=None)
    fit(search, make_loaders(weights=4))
    assert search.best.loss.isfinite()
    assert search.process_best is not None


@pytest.mark.parametrize("name", ["advantage", "parsec", "enas", "darts", "nasp", "random", "fixed"])
def test_logged_losses_are_the_epochs_means(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    class Noting:
        def outcome(self, batch: Any) -> Outcome:
            outcome = super().outcome(batch)
            self.noted.append((outcome.loss.item(), outcome.size))
            return outcome

        def weight_step(self, batch: Any) -> None:
            self.noted = self.per_step["train"]
            super().weight_step(batch)
            self.noted = []

        def architecture_step(self, batch: Any) -> None:
            self.noted = []
            super().architecture_step(batch)
            self.per_step["architecture"].append(self.noted)

    search = make_search(name, mixin=Noting)
    search.per_step = {"train": [], "architecture": []}
    loaders = make_loaders(weights=3)
    loaders["weights"] = DataLoader(loaders["weights"].dataset, batch_size=7)  # 7, 7, 4
    trainer = fit(search, loaders)
    metrics = trainer.callback_metrics
    mean = sum(loss * size for loss, size in search.per_step["train"]) / 18
    assert metrics["train/loss"].item() == pytest.approx(mean, rel=1e-5)
    assert metrics["entropy"].item() == pytest.approx(search.entropy.item())
    if search.searches:
        means = [sum(loss for loss, _ in noted) / len(noted) for noted in search.per_step["architecture"]]
        assert metrics["architecture/loss"].item() == pytest.approx(sum(means) / 3, rel=1e-5)


@pytest.mark.parametrize("every", [0, 1, 2])
def test_any_logging_interval(every: int, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search = make_search("advantage")
    trainer = fit(search, make_loaders(), log_every_n_steps=every)
    assert search.architecture_steps == 4
    assert "train/loss" in trainer.callback_metrics


# -- bad arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (AdvantageNAS, {"architecture_optimizer": None}, "architecture_optimizer=None"),
        (AdvantageNAS, {"warmup_epochs": -1}, "warmup_epochs=-1"),
        (AdvantageNAS, {"warmup_epochs": 0.5}, r"warmup_epochs=0\.5"),
        (AdvantageNAS, {"seed": "a"}, "seed='a'"),
        (AdvantageNAS, {"seed": 1.5}, r"seed=1\.5"),
        (AdvantageNAS, {"weight_clip": 0}, "weight_clip=0"),
        (AdvantageNAS, {"architecture_clip": -1.0}, r"architecture_clip=-1\.0"),
        (AdvantageNAS, {"architecture_clip": "1"}, "architecture_clip='1'"),
        (AdvantageNAS, {"select": "best"}, r"select='best'.*argmax or process_best"),
        (AdvantageNAS, {"advantage": "eq7"}, r"advantage='eq7'.*taylor or exact"),
        (AdvantageNAS, {"baseline": "A2"}, r"baseline='A2'.*none or ema"),
        (AdvantageNAS, {"zero_op": True}, "zero_op=True"),
        (AdvantageNAS, {"gamma": 0}, "gamma=0"),
        (AdvantageNAS, {"gamma": math.nan}, "gamma=nan"),
        (REINFORCE, {"gamma": -0.1}, r"gamma=-0\.1"),
        (REINFORCE, {"baseline_init": "one"}, "baseline_init='one'"),
        (REINFORCE, {"baseline_update": "never"}, "baseline_update='never'"),
        (ENAS, {"hidden_size": 0}, "hidden_size=0"),
        (ENAS, {"hidden_size": 2.5}, r"hidden_size=2\.5"),
        (ENAS, {"temperature": 0.0}, r"temperature=0\.0"),
        (ENAS, {"tanh_constant": 0.0}, r"tanh_constant=0\.0"),
        (ENAS, {"entropy_weight": -1}, "entropy_weight=-1"),
        (PARSEC, {"samples": 0}, "samples=0"),
        (PARSEC, {"samples": 0.5}, r"samples=0\.5"),
        (PARSEC, {"samples": 2.5}, r"samples=2\.5"),
        (PARSEC, {"scale": 0}, "scale=0"),
        (PARSEC, {"scale": "tokens"}, "scale='tokens'"),
        (PARSEC, {"weighting": "authors"}, r"weighting='authors'.*importance or authors_code"),
        (ProxylessNAS, {"gates": "three_hot"}, r"gates='three_hot'.*two_hot or binary"),
        (GDAS, {"inactive": "zeros"}, r"inactive='zeros'.*ones or none"),
        (GDAS, {"tau_max": 0}, "tau_max=0"),
        (GDAS, {"tau_min": -0.1}, r"tau_min=-0\.1"),
        (SNAS, {"tau_max": 0}, "tau_max=0"),
        (SNAS, {"tau_min": 0}, "tau_min=0"),
        (NASP, {"projection": "simplex"}, r"projection='simplex'.*affine or clip"),
        (Fixed, {"genotype": None}, "genotype=None"),
        (Fixed, {"genotype": {"edge": "tanh"}}, r"edge 'edge' has no candidate 'tanh'.*linear, skip"),
        (Fixed, {"genotype": {}}, "no edge 'edge'"),
        (Fixed, {"genotype": "missing.json"}, r"missing\.json"),
    ],
)
def test_bad_arguments_are_named(kind: type[SearchStrategy], options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        kind(Net(), **{"architecture_optimizer": Adam, **options})


def test_a_model_without_edges_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear contains no MixedOp"):
        AdvantageNAS(nn.Linear(1, 1), architecture_optimizer=Adam)


def test_without_a_loss_the_strategy_says_what_to_define(make_loaders: Make, fit: Fit) -> None:
    search = AdvantageNAS(Net(), architecture_optimizer=Adam, weight_optimizer=partial(SGD, lr=0.1))
    with pytest.raises(NotImplementedError, match=r"objective=.*loss\(batch\)"):
        fit(search, make_loaders())


# -- activation checkpointing and precision --------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """Two edges around a nonlinearity, recomputed in the backward pass where ``recompute``."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.recompute, self.runs = recompute, 0
        self.stem = nn.Linear(4, 5)
        self.edges = nn.ModuleList(
            MixedOp(name, {"linear": nn.Linear(5, 5), "tanh": nn.Tanh(), "skip": nn.Identity()})
            for name in ("a", "b", "a")
        )
        self.head = nn.Linear(5, 3)

    def inner(self, x: Tensor) -> Tensor:
        self.runs += 1
        for edge in self.edges:
            x = edge(x).sigmoid()
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = checkpoint(self.inner, x, use_reentrant=False) if self.recompute else self.inner(x)
        return self.head(x)


@pytest.mark.parametrize("name", ["advantage", "proxylessnas", "proxylessnas-binary", "gdas", "darts", "nasp"])
def test_activation_checkpointing_changes_no_gradient(
    name: str, make_search: Make, make_loaders: Make, fit: Fit, assert_same: Make
) -> None:
    class Noting:
        def evaluate(self, architecture: Architecture, batch: Any) -> Trial:
            trial = super().evaluate(architecture, batch)
            self.gradients.append(trial.gate_grad)
            return trial

    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = Checkpointed(recompute)
        search = make_search(name, model, mixin=Noting)
        search.gradients = []
        fit(search, make_loaders(weights=5))
        found.append((search.gradients, search.state_dict()["theta"], model.state_dict()))
        assert model.runs == (20 if recompute else 10)
    assert_same(*found)
    assert all(gradient.any() for gradient in found[0][0])


def test_bfloat16_networks_are_searched(engine: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search, loaders = make_search(engine), make_loaders(weights=2)
    fit(search, loaders, precision="bf16-mixed")
    assert search.weight_steps == 2
    if search.searches:
        assert all(parameter.isfinite().all() for parameter in search.architecture_parameters())
        assert {parameter.dtype for parameter in search.architecture_parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["advantage", "enas", "parsec", "proxylessnas", "gdas", "darts", "snas", "nasp"])
def test_double_precision_networks_are_searched(name: str, make_search: Make, make_loaders: Make, fit: Fit) -> None:
    search, loaders = make_search(name), make_loaders(weights=3)
    for loader in loaders.values():
        loader.dataset.inputs = loader.dataset.inputs.double()
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
            small_net(dropout=0.0),
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


def test_a_scaled_loss_changes_no_gradient_of_weights(
    make_search: Make, make_loaders: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that second-order DARTS looks ahead by."""
    search = make_search("darts-second_order")
    search.model.eval()  # no dropout
    weights = list(search.model.parameters())
    batch = next(iter(make_loaders()["weights"]))
    plain = search.evaluator.weight_gradients(search.sample(), batch, weights)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monkeypatch.setattr(type(search.evaluator.precision), "scaler", scaler)
    scaled = search.evaluator.weight_gradients(search.sample(), batch, weights)
    assert any(part.any() for part in plain)
    for part, expected in zip(scaled, plain, strict=True):
        torch.testing.assert_close(part, expected)
