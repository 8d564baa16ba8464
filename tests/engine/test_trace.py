"""What the trace of an evaluation finds and puts back, and when it says that it may have come too late."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import AdvantageNAS, MixedOp
from advnas_lightning.engine.snapshot import DEEP
from advnas_lightning.engine.trace import Trace
from tests.support.classifier import Classifier, loader, make, pair, search_of
from tests.support.labelled import Labelled

Fit = Callable[..., Trainer]


class Caching(nn.Module):
    """Empties its buffer and fills it anew, in turns, as a cache does."""

    cache: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(2))

    def forward(self) -> None:
        self.cache = torch.ones(3) if self.cache is None else None


def test_a_buffer_that_is_emptied_and_filled_is_as_it_was() -> None:
    module = Caching()
    trace = Trace(module)
    with trace.removed():
        module()
        assert module.cache is None
    assert module.cache is not None
    assert module.cache.tolist() == [0, 0]
    module()
    with trace.removed():  # it is empty now
        module()
        assert module.cache is not None
    assert module.cache is None


class Net(nn.Module):
    """An edge of two linear candidates, with a large tensor and a frozen parameter beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = MixedOp("edge", {"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
        self.head = nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("large", torch.zeros(300_000))

    def candidate(self, name: str) -> nn.Linear:
        return self.edge.candidates[name]  # type: ignore[return-value]


@torch.no_grad()
def test_what_changes_late_is_named_in_a_warning_and_put_back_from_then_on() -> None:
    net = Net()
    trace = Trace(net)
    start = net.head.weight.clone()

    def evaluation() -> None:
        with trace.removed({("edge", 0)}):
            net.head.weight.data.add_(1)
            net.large.data.add_(1)

    for _ in range(2):
        with trace.removed({("edge", 0)}):
            pass
    evaluation()  # the third one is not looked at wholly
    assert torch.equal(net.head.weight, start + 1)
    with pytest.warns(UserWarning, match=r"^head\.weight, large: .* may not have been$"):
        evaluation()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            evaluation()
    assert torch.equal(net.head.weight, start + 1)
    assert bool((net.large == 1).all())


@torch.no_grad()
def test_a_candidate_is_looked_at_wholly_when_it_first_runs() -> None:
    net = Net()
    trace = Trace(net)
    start = net.candidate("two").weight.clone()
    for _ in range(4):
        with trace.removed({("edge", 0)}):
            pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            with trace.removed({("edge", 1)}):  # in evaluations 5 to 9 of the network
                net.candidate("two").weight.data.clamp_(-0.01, 0.01)
    assert torch.equal(net.candidate("two").weight, start)


@torch.no_grad()
def test_frozen_parameters_and_what_does_not_run_are_put_back_once_one_of_them_has_changed() -> None:
    net = Net()
    trace = Trace(net)
    net.head.requires_grad_(False)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    with trace.removed({("edge", 0)}):
        net.frozen.add_(1)
    for _ in range(2):
        with trace.removed({("edge", 0)}):
            pass
    for _ in range(6):
        with trace.removed({("edge", 0)}):  # for the first time in the fourth evaluation, and then in the fifth
            net.head.weight.data.add_(1)
            net.candidate("two").custom = 1
    assert all(torch.equal(value, start[name]) for name, value in net.state_dict().items())
    assert not hasattr(net.candidate("two"), "custom")


def test_a_tensor_of_a_class_of_its_own_is_put_back() -> None:
    module = nn.Module()
    module.kept = kept = torch.zeros(2).as_subclass(Labelled)
    with Trace(module).removed():
        module.kept += 1
    assert type(module.kept) is Labelled
    assert module.kept is kept
    assert kept.tolist() == [0, 0]


def test_an_error_within_an_evaluation_leaves_no_trace_either() -> None:
    module = Caching()

    def evaluation() -> None:
        with Trace(module).removed():
            module()
            raise KeyError

    with pytest.raises(KeyError):
        evaluation()
    assert module.cache is not None


class Odd(nn.Module):
    """Keeps what cannot be copied, or not written to."""

    def __init__(self) -> None:
        super().__init__()
        self.expanded = torch.zeros(1, 3).expand(2, 3)
        self.sparse = torch.eye(3).to_sparse()
        self.lock, self.thread = threading.Lock(), threading.current_thread()
        self.iterator = iter([1, 2])
        self.myself, self.list = self, []
        self.list.append(self.list)
        self.kind, self.function, self.nothing = Odd, torch.relu, None
        self.meta = torch.zeros(2, device="meta")
        self.empty = torch.zeros(0)
        self.bits, self.complex = torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.complex64)
        self.eighth = torch.zeros(2).to(torch.float8_e5m2)
        self.nan = torch.full((2,), torch.nan)
        with torch.inference_mode():
            self.inference = torch.zeros(2)
        self.with_graph = nn.Parameter(torch.zeros(2)) * 2
        self.part = torch.zeros(4)[::2]
        self.counted = 0


def test_what_cannot_be_put_back_does_not_disturb() -> None:
    odd = Odd()
    trace = Trace(odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            with trace.removed():
                odd.counted += 1
                odd.bits.logical_not_()
                odd.complex += 1j
                odd.part += 1
                odd.nan.data.mul_(2)
                with torch.inference_mode():
                    odd.inference += 1
    assert odd.counted == 0
    assert not odd.bits.any()
    assert not odd.complex.any()
    assert not odd.part.any()
    assert not odd.inference.any()
    assert odd.list[0] is odd.list
    odd.with_graph.sum().backward()  # its graph is whole


@pytest.mark.parametrize("is_loaded", [False, True])
def test_lazy_modules_are_made_in_an_evaluation(is_loaded: bool) -> None:
    net = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    if is_loaded:  # as where a search goes on; they are not yet made by that
        net.load_state_dict(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).state_dict())
    trace = Trace(net)
    for _ in range(3):
        with trace.removed():
            net(torch.ones(2, 4))
    assert net(torch.ones(2, 4)).shape == (2, 3)
    assert net[1].num_batches_tracked == 1 + 1  # of the evaluation that made it, and of the last call


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("how", ["trace", "script"])
def test_a_candidate_in_torchscript(how: str) -> None:
    layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    compiled = torch.jit.trace(layers, torch.randn(4, 3)) if how == "trace" else torch.jit.script(layers)
    net = nn.Sequential(MixedOp("edge", {"one": compiled, "two": nn.Identity()}))
    trace = Trace(net)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            with trace.removed({("edge", 0)}):
                compiled(torch.randn(4, 3))
    assert all(torch.equal(value, start[name]) for name, value in net.state_dict().items())


class OwnLoss(AdvantageNAS):
    """Keeps a list and a metric of its own, and logs."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        self.outputs: list[Tensor] = []
        self.accuracy = MulticlassAccuracy(3)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits = self.model(batch[0])
        self.outputs.append(logits.detach())
        self.accuracy.update(logits, batch[1])
        self.log("calls", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")
        return F.cross_entropy(logits, batch[1])


def test_a_strategy_with_a_loss_of_its_own_keeps_what_weight_steps_gave(fit: Fit) -> None:
    search = search_of(make().net, OwnLoss, weight_optimizer=partial(SGD, lr=0.1))
    trainer = fit(search, pair(4, 3), max_epochs=2)
    assert search.architecture_steps == 8
    assert len(search.outputs) == 8
    assert int(search.accuracy.tp.sum() + search.accuracy.fn.sum()) == 8 * 6
    assert float(trainer.callback_metrics["calls"]) == 4


def test_a_module_can_ask_whether_it_is_in_an_architecture_step(fit: Fit) -> None:
    asked: list[bool] = []

    class Asking(Classifier):
        def ask(self) -> None:
            asked.append(self.trainer.lightning_module.in_architecture_step)  # type: ignore[union-attr]

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            self.ask()
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            self.ask()

        def on_train_batch_end(self, *_: Any) -> None:
            self.ask()

    fit(search_of(make(Asking), calibrate=0), pair(2, 2), loader(9, 1), num_sanity_val_steps=0)
    assert asked == 2 * [False, True, False] + [False]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_evaluation_begins_where_the_weight_step_ended(accumulate: int, fit: Fit) -> None:
    """Also the second one of the same step; the batches of one evaluation follow each other."""
    seen: list[int] = []

    class Counting(Classifier):
        count = 0

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            self.count += 1
            if self.trainer.lightning_module.in_architecture_step:  # type: ignore[union-attr]
                seen.append(self.count)
            return super().training_step(batch, batch_idx)

    search = search_of(make(Counting), advantage="exact", accumulate=accumulate)  # one draw, and each edge cut
    fit(search, pair(2, 2))
    assert seen == (3 * [2] + 3 * [3] if accumulate == 1 else 3 * [3, 4])
    assert search.model.count == 2


def test_a_copy_of_a_search_learns_anew(fit: Fit) -> None:
    search = search_of(make())
    fit(search, pair(2, 2))
    copied = copy.deepcopy(search)
    start = {name: value.clone() for name, value in copied.model.state_dict().items()}
    weight = copied.model.net[0].weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            with copied.trace.removed():
                weight.data.add_(1)
    assert all(torch.equal(value, start[name]) for name, value in copied.model.state_dict().items())


@torch.no_grad()
def test_a_parameter_that_is_written_between_the_comparisons_is_named_at_once() -> None:
    net = Net()
    trace, start = Trace(net), net.candidate("two").weight.clone()
    for number in range(1, 16):  # as a target network that is copied in every third step: in no power of two
        with warnings.catch_warnings(record=True) as caught, trace.removed({("edge", 0)}):
            if number % 3 == 0:
                net.candidate("two").weight.add_(1)
            elif number == 1:  # with what it has already, so that nothing has changed
                net.head.weight.copy_(net.head.weight.clone())
        assert [str(each.message).split(":")[0] for each in caught] == ["edge.candidates.two.weight"] * (number == 3)
    assert torch.equal(net.candidate("two").weight, start + 1)


class Summing(nn.Module):
    """Adds up in place, with its graph, what it computes: in a tensor, a view and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.total, self.row, self.sums = torch.zeros(()), torch.zeros(2, 2)[0], [torch.zeros(())]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.total += y.sum()
        self.row += y.mean(0)
        self.sums[0] += y.sum()
        return y.sum()


def test_what_is_added_up_in_place_from_the_first_evaluation_on_is_put_back() -> None:
    net = Summing()
    trace = Trace(net)
    for _ in range(4):
        with trace.removed():
            torch.autograd.grad(net(torch.ones(3, 2)), net.layer.weight)
        assert (float(net.total), net.row.tolist(), float(net.sums[0])) == (0.0, [0.0, 0.0], 0.0)
    loss = net(torch.ones(3, 2))
    (gradient,) = torch.autograd.grad(loss + net.total, net.layer.weight)  # through the graph of this pass alone
    assert float(net.total) == float(net.sums[0]) == float(loss)
    assert torch.equal(gradient, torch.full((2, 2), 6.0))


class Listing(nn.Module):
    """All of its objects add to one list, one sum and one count."""

    rows: list[float] = []  # noqa: RUF012
    total = torch.zeros(())
    count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(float(x.sum()))
        self.total += 1
        Listing.count += 1
        Listing.latest = x
        return x


def test_what_a_modules_class_has_is_put_back() -> None:
    listing = Listing()
    trace, rows = Trace(listing), Listing.rows
    for count in range(1, 6):
        listing(torch.ones(2))
        with trace.removed():
            listing(torch.ones(3))
        assert Listing.rows is rows
        assert rows == [2.0] * count
        assert float(Listing.total) == Listing.count == count
        assert Listing.latest.sum() == 2.0


def test_what_a_modules_class_gets_is_taken_from_it() -> None:
    class Limited(nn.Identity):
        limit = 3

    with Trace(Limited()).removed():
        Limited.latest = torch.ones(2)
        del Limited.limit
    assert not hasattr(Limited, "latest")
    assert Limited.limit == 3


def test_a_pool_of_workers_goes_on() -> None:
    module, may_end = nn.Identity(), threading.Event()
    module.pool = ThreadPool(1)
    result = module.pool.apply_async(may_end.wait)
    with Trace(module).removed():
        may_end.set()
        result.wait()
    module.pool.close()
    closing = threading.Thread(target=module.pool.join, daemon=True)  # which waits for all results to have come
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


def test_an_object_is_followed_as_deep_as_from_its_shallowest_place() -> None:
    innermost = SimpleNamespace(count=0)
    chain = innermost
    for _ in range(DEEP):
        chain = SimpleNamespace(inner=chain)
    module = nn.Identity()
    module.chain, module.innermost = chain, innermost  # the chain is found first, and is too deep
    with Trace(module).removed():
        innermost.count += 1
    assert innermost.count == 0
