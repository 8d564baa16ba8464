"""Candidates whose weights wait in host memory: the same numbers, on a device in software that counts its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from advnas_lightning import AdvantageNAS, ArchitectureCost, MixedOp, SearchStrategy
from advnas_lightning.diagnose import diagnose
from advnas_lightning.objectives import Classification
from advnas_lightning.space.offload import WaitingCopies
from benchmarks.cases.offload import peak
from benchmarks.software_device import DEVICE, Memory, OnDevice, on_device, software_device
from tests.support.offloading import ADAM, Places, check_going_on, ends, expected
from tests.support.small_search import CLASSES, FEATURES, SAME_ENGINE, STRATEGIES, SmallNet
from tests.support.speed import slow_but

Make = Callable[..., Any]


@pytest.fixture
def device() -> Iterator[Memory]:
    with software_device() as memory:
        yield memory


def offloaded(search: SearchStrategy) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in search.named_parameters() if ".candidates." in name}


def check(name: str, make_search: Make, make_loaders: Make, fit: Make, assert_same: Make, **options: Any) -> None:
    """Adam for the weights, whose state would change if a gradient were lost on its way."""

    def result(*, offload: bool, **trainer: Any) -> tuple[dict[str, Any], dict[str, float]]:
        search = make_search(name, weight_optimizer=ADAM, offload=offload, **options)
        torch.manual_seed(3)  # of the dropout
        loaders = make_loaders(weights=4 if options else 2, architecture=2)  # two steps of Adam
        fitted = fit(search, loaders, make_loaders(weights=1)["weights"], **trainer)
        return ends(search), {key: float(value) for key, value in fitted.callback_metrics.items()}

    with software_device():
        without, with_it = (result(offload=offload, **on_device()) for offload in (False, True))
    assert_same(with_it, without)
    on_cpu, _ = result(offload=True)
    for key, value in on_cpu.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(with_it[0][key], value, rtol=1e-6, atol=1e-6)  # the LSTM of ENAS: other kernels


@pytest.mark.parametrize(
    "engine",
    slow_but(
        [name for name in STRATEGIES if name not in SAME_ENGINE],
        ["advantage"],
    ),
)
def test_the_numbers_are_those_of_a_search_without(
    engine: str, make_search: Make, make_loaders: Make, fit: Make, assert_same: Make
) -> None:
    check(engine, make_search, make_loaders, fit, assert_same)


@pytest.mark.parametrize("name", slow_but(["advantage", "counterfactual", "darts"], ["counterfactual"]))
def test_gradients_add_up_in_host_memory(
    name: str, make_search: Make, make_loaders: Make, fit: Make, assert_same: Make
) -> None:
    check(name, make_search, make_loaders, fit, assert_same, accumulate=2)


def test_what_is_where(make_search: Make, make_loaders: Make, fit: Make, device: Memory) -> None:
    places = Places()
    fit(
        make_search("advantage", weight_optimizer=ADAM, offload=True), make_loaders(), callbacks=[places], **on_device()
    )
    assert places.kinds == expected(DEVICE.type)


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 2], ids=["middle", "end"])
def test_a_search_goes_on_and_nothing_has_moved(
    at: int, make_search: Make, make_loaders: Make, fit: Make, device: Memory, tmp_path: Path, assert_same: Make
) -> None:
    places = Places()
    loaders = partial(make_loaders, weights=2)
    check_going_on(at, places, on_device, make_search, loaders, fit, tmp_path, assert_same, assert_same)
    assert places.kinds == expected(DEVICE.type)
    assert places.steps == 4


@pytest.mark.parametrize("name", ["advantage", "counterfactual"])
@pytest.mark.slow
def test_device_memory_is_flat_in_the_number_of_candidates(name: str) -> None:
    few, many = (peak(name, candidates, offload=True, batch_size=4, batches=2) for candidates in (3, 9))
    assert many - few < 4096  # θ, its optimizer's state, gates and masks are [6, J]
    few, many = (peak(name, candidates, offload=False, batch_size=4, batches=2) for candidates in (3, 9))
    assert many - few > 2**20


# -- when weights are copied ------------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each candidate's weights were copied."""
    counter: Counter[tuple[str, int]] = Counter()
    load = MixedOp.load

    def counting(self: MixedOp, index: int) -> Any:
        counter[self.name, index] += 1
        return load(self, index)

    monkeypatch.setattr(MixedOp, "load", counting)
    return counter


def step(search: SearchStrategy, *sizes: int) -> Any:
    batch = torch.randn(6, *sizes).to(DEVICE), torch.randint(CLASSES, (6,)).to(DEVICE)
    return search.evaluate_draws(batch)


def test_only_what_is_drawn_is_copied(make_search: Make, device: Memory, loads: Counter[tuple[str, int]]) -> None:
    search = make_search("advantage", offload=True).to(DEVICE)
    (trial,) = step(search, FEATURES)
    assert loads == {
        (edge, index): 2 for edge, index in zip(search.space.edges, trial.architecture.choice, strict=True)
    }


def test_what_is_drawn_is_on_its_way_before_the_second_edge_runs(
    make_search: Make, device: Memory, loads: Counter[tuple[str, int]]
) -> None:
    search = make_search("advantage", offload=True).to(DEVICE)
    known: list[int] = []
    for candidate in search.model.cells[0][0].candidates.values():
        candidate.register_forward_pre_hook(lambda *_: known.append(loads.total()))
    step(search, FEATURES)
    assert known == [4]


def test_credit_alone_keeps_no_weights(make_search: Make, device: Memory, loads: Counter[tuple[str, int]]) -> None:
    search = make_search("counterfactual", offload=True).to(DEVICE)
    step(search, FEATURES)
    assert set(loads) == {("first", j) for j in range(4)} | {("second", j) for j in range(2)}
    assert set(loads.values()) == {2}  # of two cells


def test_a_recurrent_edge_is_copied_once_for_all_steps(device: Memory, loads: Counter[tuple[str, int]]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edge = MixedOp("edge", {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})

        def forward(self, x: Tensor) -> Tensor:
            state = torch.zeros_like(x[:, 0])
            for each in x.unbind(1):
                state = self.edge(state + each).tanh()
            return state[:, :CLASSES]

    nets = []
    for offload in (False, True):
        torch.manual_seed(0)
        search = AdvantageNAS(Net(), architecture_optimizer=ADAM, objective=Classification(CLASSES), offload=offload)
        search.to(DEVICE)
        torch.manual_seed(1)
        (trial,) = step(search, 7, 4)
        nets.append(trial.gate_grad.cpu())
    assert torch.equal(*nets)
    assert loads.total() == 1


def test_hooks_that_run_no_network_copy_nothing(
    make_search: Make, device: Memory, loads: Counter[tuple[str, int]]
) -> None:
    search = make_search("advantage", offload=True).to(DEVICE)
    with search.bound():
        pass
    assert not loads


def test_a_pass_without_a_graph_takes_none_from_the_next(make_search: Make, device: Memory) -> None:
    search = make_search("advantage", offload=True).to(DEVICE)
    x = torch.randn(6, FEATURES).to(DEVICE)
    with search.space.bind(search.one_hot([0, 0])):
        with torch.no_grad():
            search.model(x)
        with torch.inference_mode():
            search.model(x)
        search.model(x).sum().backward()
    assert search.model.cells[0][0].candidates["linear"].weight.grad.abs().sum() > 0
    assert search.model.cells[0][0].candidates["block"][0].weight.grad is None


# -- other networks ---------------------------------------------------------------------------------------------------


class Stateful(nn.Module):
    """Candidates of all kinds: recurrent, attending, with tied and with frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        tied = nn.Linear(8, 8)
        frozen = nn.Linear(8, 8).requires_grad_(False)
        first = {"lstm": Recurrent(), "tied": nn.Sequential(tied, nn.Tanh(), tied), "norm": nn.BatchNorm1d(5)}
        second = {"attention": Attention(), "frozen": frozen, "weight_norm": normed(nn.Linear(8, 8))}
        self.edges = nn.Sequential(MixedOp("first", first), MixedOp("second", second))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.edges(x).mean(1))


class Recurrent(nn.LSTM):
    def __init__(self) -> None:
        super().__init__(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


class Attention(nn.MultiheadAttention):
    def __init__(self) -> None:
        super().__init__(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x)[0]


def normed(module: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(module)


@pytest.mark.parametrize("choice", [(0, 0), (1, 1), (2, 2)], ids=str)
def test_candidates_of_all_kinds(choice: tuple[int, int], device: Memory, make_search: Make, assert_same: Make) -> None:
    results = []
    for offload in (False, True):
        torch.manual_seed(0)
        search = make_search("advantage", Stateful(), offload=offload).to(DEVICE)
        torch.manual_seed(1)
        x = torch.randn(6, 5, 8).to(DEVICE)
        with search.space.bind(search.one_hot(choice)):
            search.model(x).square().mean().backward()
        grads = {name: weight.grad for name, weight in search.model.named_parameters() if weight.grad is not None}
        results.append(
            [{name: values[name].cpu() for name in sorted(values)} for values in (grads, search.model.state_dict())]
        )
    assert_same(*results)


class Own(LightningModule):
    """A user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallNet()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("own", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("algorithm", slow_but(["value", "norm"], ["norm"]))
def test_a_module_of_ones_own(algorithm: str, device: Memory, make_loaders: Make, fit: Make, assert_same: Make) -> None:
    clip: dict[str, Any] = {"weight_clip": 0.5, "weight_clip_algorithm": algorithm}
    found = []
    for offload in (False, True):
        torch.manual_seed(0)  # of the dropout, too
        search = AdvantageNAS(Own(), architecture_optimizer=ADAM, **clip, offload=offload)
        fit(search, make_loaders(weights=2), max_epochs=2, **on_device())
        found.append(ends(search))
    if algorithm == "value":
        assert_same(*found)
    assert_same(*(each.pop("extra") for each in found))
    for name, value in found[0].items():
        # The clipped norm sums the gradients of the two places in another order.
        torch.testing.assert_close(found[1][name], value, rtol=1e-6, atol=1e-6)


class Recomputed(nn.Module):
    """Recomputes its edges in the backward pass, or what is inside its candidates."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.edge = MixedOp("edge", {name: Block(what == "candidates") for name in "ab"})

    def forward(self, x: Tensor) -> Tensor:
        return recompute(self.edge, x) if self.what == "edges" else self.edge(x)


class Block(nn.Sequential):
    def __init__(self, recompute: bool) -> None:
        super().__init__(nn.Linear(FEATURES, 9), nn.Tanh(), nn.Linear(9, CLASSES))
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        return recompute(super().forward, x) if self.recompute else super().forward(x)


def recompute(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    no_context = nullcontext(), nullcontext()
    made: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: no_context)
    return made


def test_whole_edges_can_be_recomputed(device: Memory, make_search: Make, assert_same: Make) -> None:
    found = []
    for what in ("nothing", "edges"):
        torch.manual_seed(0)
        search = make_search("advantage", Recomputed(what), offload=True).to(DEVICE)
        with search.space.bind(search.one_hot([0])):
            search.model(torch.ones(6, FEATURES).to(DEVICE)).square().mean().backward()
        found.append({name: weight.grad for name, weight in offloaded(search).items() if weight.grad is not None})
    assert len(found[0]) == 4
    assert_same(*found)


def test_a_candidate_that_recomputes_itself_fails_loudly(device: Memory, make_search: Make) -> None:
    search = make_search("advantage", Recomputed("candidates"), offload=True).to(DEVICE)
    with search.space.bind(search.one_hot([0])):
        loss = search.model(torch.ones(6, FEATURES).to(DEVICE)).square().mean()
        with pytest.raises(RuntimeError, match="on the CPU"):
            loss.backward()


def test_what_is_derived_is_where_the_network_is(make_search: Make, device: Memory) -> None:
    search = make_search("advantage", offload=True).to(DEVICE)
    network = search.derive()
    assert {weight.device.type for weight in network.parameters()} == {DEVICE.type}
    assert network(torch.randn(6, FEATURES).to(DEVICE)).device == DEVICE
    assert {weight.device.type for weight in offloaded(search).values()} == {"cpu"}  # and the search is as it was


def test_numbers_are_converted_in_host_memory(make_search: Make, device: Memory) -> None:
    search = make_search("advantage", offload=True)
    for weight in search.parameters():
        weight.grad = torch.ones_like(weight)
    search.to(DEVICE, torch.float64)
    for weight in offloaded(search).values():
        assert (weight.dtype, weight.device.type) == (torch.float64, "cpu")
        assert weight.grad is not None
        assert (weight.grad.dtype, weight.grad.device.type) == (torch.float64, "cpu")
    assert isinstance(search.model.stem.weight, OnDevice)
    assert search.model.cells[0][0].candidates["block"][1].running_mean.device == DEVICE


@pytest.mark.parametrize("kind", slow_but(["params", "macs"], ["macs"]))
def test_costs_are_the_same(kind: str, device: Memory, make_search: Make, make_loaders: Make, fit: Make) -> None:
    tables = []
    for offload in (False, True):
        cost = ArchitectureCost(kind, penalty=0.1)
        fit(make_search("advantage", cost=cost, offload=offload), make_loaders(weights=1), **on_device())
        tables.append(cost.result().edges)
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_diagnosis_leaves_the_weights_where_they_are(device: Memory, make_search: Make, assert_same: Make) -> None:
    found = []
    for offload in (False, True):
        search = make_search("advantage", SmallNet(dropout=0.0), offload=offload)
        torch.manual_seed(0)
        search.model.load_state_dict(SmallNet(dropout=0.0).state_dict())
        search.to(DEVICE)
        batch = torch.ones(6, FEATURES).cumsum(0).to(DEVICE), torch.arange(6).to(DEVICE) % CLASSES
        _, qualities, _ = diagnose(search, [batch], strategies=["advantage", "counterfactual", "darts"], draws=4)
        found.append({quality.name: (quality.bias, quality.variance) for quality in qualities})
        place = "cpu" if offload else DEVICE.type
        assert {weight.device.type for weight in offloaded(search).values()} == {place}
    assert_same(*found)


def test_a_network_can_be_searched_without_afterwards(make_search: Make, device: Memory) -> None:
    search = make_search("advantage", offload=True).to(DEVICE)
    again = make_search("advantage", search.model).to(DEVICE)
    assert {weight.device.type for weight in again.parameters()} == {DEVICE.type}
    step(again, FEATURES)


def test_the_device_refuses_what_is_elsewhere(make_search: Make, device: Memory) -> None:
    """So the tests above can fail."""
    search = make_search("advantage").to(DEVICE)
    search.model.cells[0][0].candidates["linear"].cpu()
    with pytest.raises(RuntimeError, match="on the CPU"), search.space.bind(search.one_hot([0, 0])):
        search.model(torch.randn(6, FEATURES).to(DEVICE))


def test_the_scale_of_a_loss_has_arrived_in_host_memory_before_it_is_used() -> None:
    """What a GradScaler does for gradients there; elsewhere nothing waits."""
    seen: list[Any] = []

    class Noting(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is Tensor.to:
                seen.append((kwargs["device"].type, kwargs["non_blocking"]))
                kwargs = {**kwargs, "device": "cpu"}
            return func(*args, **(kwargs or {}))

    with Noting(), WaitingCopies():
        torch.ones(1).to(device=torch.device("cpu"), non_blocking=True, copy=True)
        torch.ones(1).to(device=torch.device("cuda"), non_blocking=True)
    assert seen == [("cpu", False), ("cuda", True)]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_weight_that_is_also_outside_is_refused(make_search: Make) -> None:
    net = SmallNet()
    net.cells[0][1].candidates["linear"].weight = net.cells[1][0].candidates["linear"].weight  # two candidates may
    assert isinstance(make_search("advantage", net, offload=True), SearchStrategy)
    net.head.weight = net.cells[0][0].candidates["linear"].weight
    with pytest.raises(ValueError, match=r"head\.weight is also a candidate's parameter"):
        make_search("advantage", net, offload=True)
    net = SmallNet()
    net.dropout = nn.Sequential(net.cells[0][0].candidates["linear"])
    with pytest.raises(ValueError, match=r"dropout\.0\.weight is also a candidate's parameter"):
        make_search("advantage", net, offload=True)
