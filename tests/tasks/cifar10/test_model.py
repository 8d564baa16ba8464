import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning.cost import count_macs
from advnas_lightning.space import Architecture, Genotype, MixedOp, SearchSpace
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.cifar10.operations import OPERATIONS, ReLUConvBN
from benchmarks.software_device import DEVICE, software_device
from tests.support.speed import slow_but

EDGES = ("0->1", "0->2", "1->2", "0->3", "1->3", "2->3")
NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
TRAINED = {"affine": True, "running_statistics": True}

# Parameters and millions of multiply-accumulates as the benchmark's own files give them, for its CIFAR-10 network.
OFFICIAL = {
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|": (
        129_306,
        15.64737,
    ),
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|": (802_426, 113.95137),
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|none~0|nor_conv_1x1~1|none~2|": (101_306, 11.71521),
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|": (
        1_531_546,
        None,
    ),
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|": (73_306, None),
}


def cells() -> list[dict[str, str]]:
    """Edge -> operation: each operation alone, and random ones."""
    drawn = random.Random(0)
    alone = [dict.fromkeys(EDGES, name) for name in NAMES]
    return alone + [{edge: drawn.choice(NAMES) for edge in EDGES} for _ in range(5)]


def make(*, seed: int = 0, **options: Any) -> NASBench201:
    """A small network in double precision, with nothing left at a value that would hide a mistake."""
    torch.manual_seed(seed)
    model = NASBench201(**{"channels": 4, "cells": 1, "zero_op": True, **options}).double()
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(std=0.3)
            if norm.running_mean is not None:
                norm.running_mean.normal_(std=0.3)
                norm.running_var.uniform_(0.5, 1.5)
    return model


def pictures(size: int = 8, batch: int = 4, *, dtype: torch.dtype = torch.double) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def labels(batch: int = 4) -> Tensor:
    return torch.arange(batch) % 10


def one_hot(space: SearchSpace, edges: dict[str, str], dtype: torch.dtype = torch.double) -> Architecture:
    return space.one_hot(space.choice(Genotype(edges)), like=torch.zeros((), dtype=dtype))


def mixed_ops(model: nn.Module) -> list[MixedOp]:
    return [module for module in model.modules() if isinstance(module, MixedOp)]


# -- written out by hand ---------------------------------------------------------------------------------------------


def find(module: nn.Module, kind: type[nn.Module]) -> Any:
    """The only module of that kind."""
    (found,) = (each for each in module.modules() if isinstance(each, kind))
    return found


def normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    if norm.running_mean is not None and not norm.training:
        mean, var = norm.running_mean, norm.running_var
    x = (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + 1e-5).sqrt()
    return x if norm.weight is None else x * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def relu_conv_bn(module: nn.Module, x: Tensor, kernel: int, stride: int = 1) -> Tensor:
    weight = find(module, nn.Conv2d).weight
    assert weight.shape[2:] == (kernel, kernel)
    return normalised(F.conv2d(x.clamp(min=0), weight, None, stride, kernel // 2), find(module, nn.BatchNorm2d))


def average(x: Tensor) -> Tensor:
    """Over the pixels of a 3×3 window that lie inside of the picture."""
    ones = x.new_ones(x.shape[1], 1, 3, 3)
    inside = F.conv2d(torch.ones_like(x), ones, padding=1, groups=x.shape[1])
    return F.conv2d(x, ones, padding=1, groups=x.shape[1]) / inside


APPLY: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "none": lambda module, x: torch.zeros_like(x),
    "skip_connect": lambda module, x: x,
    "nor_conv_1x1": partial(relu_conv_bn, kernel=1),
    "nor_conv_3x3": partial(relu_conv_bn, kernel=3),
    "avg_pool_3x3": lambda module, x: average(x),
}


def cell_by_hand(cell: nn.Module, x: Tensor, gates: dict[str, dict[str, float]]) -> Tensor:
    """Node by node; ``gates[edge][operation]``, where an operation that is missing does not run."""

    def edge(name: str, node: Tensor) -> Tensor:
        candidates = cell.edges[name].candidates
        return sum(gate * APPLY[op](candidates[op], node) for op, gate in gates[name].items())

    node_1 = edge("0->1", x)
    node_2 = edge("0->2", x) + edge("1->2", node_1)
    return edge("0->3", x) + edge("1->3", node_1) + edge("2->3", node_2)


def network_by_hand(model: NASBench201, images: Tensor, gates: dict[str, dict[str, float]]) -> Tensor:
    x = normalised(F.conv2d(images, find(model.stem, nn.Conv2d).weight, padding=1), find(model.stem, nn.BatchNorm2d))
    for index, stage in enumerate(model.stages):
        if index > 0:
            block = model.reductions[index - 1]
            first, second = block.main
            shortcut = F.conv2d(
                (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4,
                find(block.shortcut, nn.Conv2d).weight,
            )
            x = relu_conv_bn(second, relu_conv_bn(first, x, 3, stride=2), 3) + shortcut
        for cell in stage:
            x = cell_by_hand(cell, x, gates)
    x = normalised(x, find(model.head, nn.BatchNorm2d)).clamp(min=0).mean((2, 3))
    linear = find(model.head, nn.Linear)
    return x @ linear.weight.T + linear.bias


def as_gates(edges: dict[str, str]) -> dict[str, dict[str, float]]:
    return {edge: {op: 1.0} for edge, op in edges.items()}


def random_gates(space: SearchSpace) -> tuple[Architecture, dict[str, dict[str, float]]]:
    """Gates for all candidates at once."""
    weights = torch.rand(space.mask.shape, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    rows = zip(space.edges, space.candidates, weights.tolist(), strict=True)
    gates = {edge: dict(zip(names, row, strict=True)) for edge, names, row in rows}
    return Architecture(weights, space.all_paths), gates


@pytest.mark.parametrize("edges", cells(), ids=lambda edges: "-".join(edges.values()))
@pytest.mark.parametrize("options", [{}, TRAINED], ids=["search", "trained"])
def test_a_cell_equals_its_formula(edges: dict[str, str], options: dict[str, bool]) -> None:
    model = make(stages=1, **options)
    space, cell = SearchSpace(model), model.stages[0][0]
    x = torch.randn(3, 4, 5, 7, dtype=torch.double)
    expected = cell_by_hand(cell, x, as_gates(edges))
    with space.bind(one_hot(space, edges)):
        torch.testing.assert_close(cell(x), expected, rtol=1e-10, atol=1e-12)
    plain = Genotype(edges).apply(model).stages[0][0]
    torch.testing.assert_close(plain(x), expected, rtol=1e-10, atol=1e-12)


def test_a_cell_of_gates_equals_its_formula() -> None:
    model = make(stages=1)
    space, cell = SearchSpace(model), model.stages[0][0]
    x = torch.randn(3, 4, 5, 7, dtype=torch.double)
    architecture, gates = random_gates(space)
    with space.bind(architecture):
        torch.testing.assert_close(cell(x), cell_by_hand(cell, x, gates), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("edges", cells()[4:], ids=lambda edges: "-".join(edges.values()))
@pytest.mark.parametrize(
    ("options", "training"),
    slow_but(itertools.product([{}, TRAINED], [True, False]), [({}, True), (TRAINED, False)]),
    ids=["search-train", "search-eval", "trained-train", "trained-eval"],
)
def test_the_network_equals_its_formula(edges: dict[str, str], training: bool, options: dict[str, bool]) -> None:
    model = make(cells=2, **options).train(training)
    space = SearchSpace(model)
    expected = network_by_hand(model, pictures(), as_gates(edges))
    plain = Genotype(edges).apply(model)  # before a forward pass moves running statistics
    with space.bind(one_hot(space, edges)):
        torch.testing.assert_close(model(pictures()), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(plain(pictures()), expected, rtol=1e-9, atol=1e-10)


def test_the_network_of_gates_equals_its_formula() -> None:
    model = make(cells=2)
    space = SearchSpace(model)
    architecture, gates = random_gates(space)
    with space.bind(architecture):
        logits = model(pictures())
    torch.testing.assert_close(logits, network_by_hand(model, pictures(), gates), rtol=1e-9, atol=1e-10)


# -- the benchmark's own figures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched() -> NASBench201:
    with torch.device("meta"):  # shapes are all that counting needs
        return NASBench201(zero_op=True)


@pytest.fixture(scope="module")
def trained() -> NASBench201:
    with torch.device("meta"):
        return NASBench201(zero_op=True, **TRAINED)


@pytest.mark.parametrize(("text", "parameters"), [(text, official[0]) for text, official in OFFICIAL.items()])
def test_parameters_are_the_benchmarks(searched: NASBench201, trained: NASBench201, text: str, parameters: int) -> None:
    genotype = Genotype.from_nasbench201(text)
    network = genotype.apply(trained)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.count_parameters() == parameters
    # During a search the candidates' BatchNorm has no parameters, and the count is still of what would be trained.
    assert genotype.apply(searched).count_parameters() == parameters


@pytest.mark.parametrize(("text", "millions"), [(text, macs) for text, (_, macs) in OFFICIAL.items() if macs])
def test_multiply_accumulates_are_the_benchmarks(trained: NASBench201, text: str, millions: float) -> None:
    network = Genotype.from_nasbench201(text).apply(trained)
    counted = count_macs(network, torch.empty(1, 3, 32, 32, device="meta"))
    assert counted / 1e6 == pytest.approx(millions, rel=0.01)
    # What torch counts, by hand: every output value of a convolution or matrix product sums this many products.
    by_hand = []

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        by_hand.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.empty(1, 3, 32, 32, device="meta"))
    assert counted == sum(by_hand)


# -- operations ------------------------------------------------------------------------------------------------------


def operation(name: str, channels: int = 4, **options: bool) -> nn.Module:
    return OPERATIONS[name](channels, **{"affine": False, "running_statistics": False, **options})


def test_operations_are_the_benchmarks_in_its_order() -> None:
    assert tuple(OPERATIONS) == NAMES


def test_beside_a_cpu_images_are_pooled_channel_by_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch's gradients of padded channels-last images are wrong."""
    pooled: list[bool] = []
    pool = F.avg_pool2d
    monkeypatch.setattr(F, "avg_pool2d", lambda x, *rest: pooled.append(x.is_contiguous()) or pool(x, *rest))
    images = torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, 3, 6, 6)
    found = []
    with software_device():
        for x in (images.clone(), images.to(DEVICE)):
            x.requires_grad_()
            output = operation("avg_pool_3x3")(x)
            assert output.is_contiguous(memory_format=torch.channels_last)
            (output * weights.to(x.device)).sum().backward()
            assert x.grad is not None
            found.append((output.detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(*found)
    assert pooled == [False, True]


def test_average_pooling_does_not_count_the_padding() -> None:
    pool = operation("avg_pool_3x3")
    assert torch.equal(pool(torch.ones(2, 4, 6, 5)), torch.ones(2, 4, 6, 5))
    x = torch.arange(9.0).view(1, 1, 3, 3)
    pooled = pool(x)[0, 0]
    assert pooled[0, 0] == (0 + 1 + 3 + 4) / 4
    assert pooled[0, 1] == (0 + 1 + 2 + 3 + 4 + 5) / 6
    assert pooled[1, 1] == 4
    assert pooled[2, 2] == (4 + 5 + 7 + 8) / 4


def test_none_gives_zeros_and_declares_itself() -> None:
    none = operation("none")
    assert none.is_zero_op is True
    x = torch.tensor([1.0, -2.0, float("nan"), float("inf")], dtype=torch.bfloat16).view(1, 4, 1, 1)
    assert torch.equal(none(x), torch.zeros(1, 4, 1, 1, dtype=torch.bfloat16))
    assert not any(getattr(operation(name), "is_zero_op", False) for name in NAMES if name != "none")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 3)])
def test_an_operation_keeps_the_shape_and_its_input(name: str, height: int, width: int) -> None:
    x = torch.randn(2, 4, height, width)
    before = x.clone()
    assert operation(name)(x).shape == x.shape
    assert torch.equal(x, before)  # other edges read it too


@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 1, 7), (3, 1, 7), (3, 2, 4), (5, 1, 7), (5, 2, 4)])
def test_relu_conv_bn_pads_by_half_its_kernel(kernel: int, stride: int, size: int) -> None:
    block = ReLUConvBN(2, 6, kernel, stride=stride, affine=False, running_statistics=False)
    assert block(torch.randn(3, 2, 7, 7)).shape == (3, 6, size, size)
    assert find(block, nn.Conv2d).bias is None


def test_operations_have_parameters_where_they_should() -> None:
    counts = {name: sum(parameter.numel() for parameter in operation(name).parameters()) for name in NAMES}
    assert counts == {"none": 0, "skip_connect": 0, "nor_conv_1x1": 16, "nor_conv_3x3": 144, "avg_pool_3x3": 0}
    affine = operation("nor_conv_1x1", affine=True)
    assert sum(parameter.numel() for parameter in affine.parameters()) == 16 + 2 * 4


# -- BatchNorm -------------------------------------------------------------------------------------------------------


def norms(model: nn.Module) -> dict[bool, list[nn.BatchNorm2d]]:
    """Those inside of a candidate, and the others."""
    inside = {id(module) for op in mixed_ops(model) for module in op.modules()}
    found: dict[bool, list[nn.BatchNorm2d]] = {True: [], False: []}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            found[id(module) in inside].append(module)
    return found


def test_in_a_search_no_norm_keeps_statistics_and_candidates_have_no_affine_map() -> None:
    model = make()
    found = norms(model)
    assert len(found[True]) == 3 * 6 * 2
    assert len(found[False]) == 1 + 2 * 2 + 1  # stem, two reductions, head
    for norm in found[True] + found[False]:
        assert norm.running_mean is None
        assert norm.running_var is None
    assert all(norm.weight is None and norm.bias is None for norm in found[True])
    assert all(norm.weight.requires_grad and norm.bias.requires_grad for norm in found[False])
    assert not list(model.buffers())


def test_for_training_a_cell_all_norms_have_both() -> None:
    found = norms(make(**TRAINED))
    for norm in found[True] + found[False]:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.weight is not None
        assert norm.bias is not None


@pytest.mark.parametrize(("affine", "running_statistics"), [(True, False), (False, True)])
def test_affine_and_running_statistics_are_separate(affine: bool, running_statistics: bool) -> None:
    found = norms(make(affine=affine, running_statistics=running_statistics))
    assert {norm.affine for norm in found[True]} == {affine}
    assert {norm.affine for norm in found[False]} == {True}
    assert {norm.running_mean is not None for norm in found[True] + found[False]} == {running_statistics}


def test_in_a_search_evaluation_uses_the_batch_as_training_does() -> None:
    model = make()
    space = SearchSpace(model)
    logits = []
    with torch.no_grad(), space.bind(one_hot(space, dict.fromkeys(EDGES, "nor_conv_3x3"))):
        for training in (True, False):
            model.train(training)
            logits.append(model(pictures()))
        alone = model(pictures()[:2])
    assert torch.equal(*logits)
    assert not torch.allclose(logits[1][:2], alone)  # of another batch, the same pictures look different


def test_a_trained_cell_is_evaluated_picture_by_picture() -> None:
    plain = Genotype(dict.fromkeys(EDGES, "nor_conv_3x3")).apply(make(**TRAINED)).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(pictures())[:2], plain(pictures()[:2]))


# -- the space -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_op", [False, True])
def test_the_space_is_the_benchmarks(zero_op: bool) -> None:
    space = SearchSpace(make(zero_op=zero_op, cells=2))
    names = NAMES if zero_op else NAMES[1:]
    assert space.edges == EDGES
    assert space.candidates == (names,) * 6
    assert space.size == (5 if zero_op else 4) ** 6
    assert space.zero_ops.tolist() == [[name == "none" for name in names]] * 6
    assert space.mask.all()


def test_by_default_the_zero_operation_is_left_out() -> None:
    assert SearchSpace(NASBench201(channels=1, cells=1)).size == 4**6


def test_the_defaults_are_the_benchmarks_network(searched: NASBench201) -> None:
    assert [len(stage) for stage in searched.stages] == [5, 5, 5]
    convs = [find(stage[0].edges["0->1"].candidates["nor_conv_3x3"], nn.Conv2d) for stage in searched.stages]
    assert [(conv.in_channels, conv.out_channels) for conv in convs] == [(16, 16), (32, 32), (64, 64)]
    assert find(searched.head, nn.Linear).out_features == 10


def record_calls(model: nn.Module) -> list[tuple[int, str, str]]:
    """(cell, edge, candidate) in order of their calls from now on; the cells in the network's order."""
    calls: list[tuple[int, str, str]] = []
    for index, cell in enumerate(cell for stage in model.stages for cell in stage):
        for edge, op in cell.edges.items():
            for name, candidate in op.candidates.items():
                candidate.register_forward_hook(
                    lambda module, inputs, output, call=(index, edge, name): calls.append(call)
                )
    return calls


@pytest.mark.parametrize("with_gates", [True, False], ids=["architecture-step", "weight-step"])
@pytest.mark.parametrize("edges", cells()[5:8], ids=lambda edges: "-".join(edges.values()))
def test_only_the_chosen_candidates_run_and_in_every_cell(edges: dict[str, str], with_gates: bool) -> None:
    model = make(cells=2)
    space = SearchSpace(model)
    calls = record_calls(model)
    architecture = one_hot(space, edges)
    gates = architecture.gates.clone().requires_grad_() if with_gates else None
    with space.bind(architecture, gates):
        F.cross_entropy(model(pictures()), labels()).backward()
    assert sorted(calls) == sorted((cell, edge, op) for cell in range(6) for edge, op in edges.items())
    for op in mixed_ops(model):
        for name, candidate in op.candidates.items():
            for parameter in candidate.parameters():
                assert (parameter.grad is not None) == (name == edges[op.name])
    if with_gates:
        chosen = architecture.gates.bool()
        assert not gates.grad[~chosen].any()


def test_a_dense_draw_runs_all_candidates() -> None:
    model = make()
    space = SearchSpace(model)
    calls = record_calls(model)
    with space.bind(random_gates(space)[0]):
        model(pictures())
    assert len(calls) == len(set(calls)) == 3 * 6 * 5


# -- gates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edges", cells()[1:8], ids=lambda edges: "-".join(edges.values()))
def test_a_gates_gradient_is_that_of_a_plain_product(edges: dict[str, str]) -> None:
    model = make(cells=2, stages=2)
    space = SearchSpace(model)
    architecture = one_hot(space, edges)
    gates = architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates):
        F.cross_entropy(model(pictures()), labels()).backward()

    plain: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {edge: [] for edge in EDGES}

    def multiply(module: MixedOp, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        gate = torch.ones((), dtype=torch.double, requires_grad=True)
        product = output * gate
        product.retain_grad()
        plain[module.name].append((gate, output, product))
        return product

    for op in mixed_ops(model):
        op.register_forward_hook(multiply)
    with space.bind(architecture):
        F.cross_entropy(model(pictures()), labels()).backward()

    for index, (edge, choice) in enumerate(zip(EDGES, architecture.choice, strict=True)):
        assert len(plain[edge]) == 4  # cells
        by_autograd = sum(gate.grad for gate, _, _ in plain[edge])
        by_formula = sum((product.grad * output).sum() for _, output, product in plain[edge])
        torch.testing.assert_close(gates.grad[index, choice], by_autograd, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(gates.grad[index, choice], by_formula, rtol=1e-8, atol=1e-12)
    if "none" not in edges.values():
        assert gates.grad[architecture.gates.bool()].all()


@pytest.mark.parametrize("edges", cells()[3:7], ids=lambda edges: "-".join(edges.values()))
def test_a_gates_gradient_equals_finite_differences(edges: dict[str, str]) -> None:
    model = make(stages=2)
    space = SearchSpace(model)
    architecture = one_hot(space, edges)
    gates = architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates):
        F.cross_entropy(model(pictures()), labels()).backward()

    def loss_at(index: int, step: float) -> Tensor:
        moved = architecture.gates.clone()
        moved[index, architecture.choice[index]] += step
        with torch.no_grad(), space.bind(Architecture(moved, space.all_paths)):
            return F.cross_entropy(model(pictures()), labels())

    for index, choice in enumerate(architecture.choice):
        expected = (loss_at(index, 1e-5) - loss_at(index, -1e-5)) / 2e-5
        torch.testing.assert_close(gates.grad[index, choice], expected, rtol=1e-4, atol=1e-7)


def test_under_autocast_a_gates_gradient_is_in_full_precision() -> None:
    model = make(channels=8, stages=2, zero_op=False).float()
    space = SearchSpace(model)
    architecture = one_hot(space, dict(zip(EDGES, NAMES[1:] + NAMES[2:4], strict=True)), torch.float)
    outputs: dict[str, Tensor] = {}
    credits: dict[str, list[Tensor]] = {edge: [] for edge in EDGES}

    def watch(module: MixedOp, inputs: tuple[Tensor], output: Tensor) -> None:
        output.register_hook(lambda grad: credits[module.name].append(grad.double() * output.detach().double()))
        outputs[module.name] = output.detach()

    gradients = []
    for enabled in (False, True):
        gates = architecture.gates.clone().requires_grad_()
        with space.bind(architecture, gates), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            if enabled:
                for op in mixed_ops(model):
                    op.register_forward_hook(watch)
            logits = model(pictures(batch=16, dtype=torch.float))
            F.cross_entropy(logits.float(), labels(16)).backward()
        assert gates.grad.dtype is torch.float32
        gradients.append(gates.grad)
    exact, half = gradients
    assert torch.bfloat16 in {output.dtype for output in outputs.values()}
    # A network in halves is another network, so its gradient is only near; of its own outputs it is exact, but for the
    # rounding of each product.
    assert (exact - half).norm() < 0.25 * exact.norm()
    for index, (edge, choice) in enumerate(zip(EDGES, architecture.choice, strict=True)):
        expected = sum(credit.sum() for credit in credits[edge])
        rounding = 2**-8 * sum(credit.abs().sum() for credit in credits[edge])
        assert (half[index, choice] - expected).abs() <= rounding
    assert half.bfloat16().float().ne(half).any()  # and the sum was not rounded to a half


# -- memory ----------------------------------------------------------------------------------------------------------


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[list[int]]:
    """What autograd keeps for the backward pass besides parameters; each storage counts once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # kept, or memory that is given back would be counted twice
    total: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    total.append(sum(storage.nbytes() for storage in storages.values()))


def equal_candidates(count: int) -> NASBench201:
    conv = partial(OPERATIONS["nor_conv_3x3"], affine=False, running_statistics=False)
    return NASBench201(channels=4, cells=1, operations={f"conv{index}": conv for index in range(count)})


def step_bytes(candidates: int, kind: str) -> int:
    model = equal_candidates(candidates)
    space = SearchSpace(model)
    architecture = space.one_hot([candidates - 1] * 6)
    if kind == "dense":
        architecture = Architecture(torch.full(space.mask.shape, 1 / candidates), space.all_paths)
    gates = None if kind == "weights" else architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates), saved_bytes(model) as total:
        loss = F.cross_entropy(model(pictures(16, dtype=torch.float)), labels())
    loss.backward()
    if gates is not None:
        assert (gates.grad != 0).sum() == 6 * (candidates if kind == "dense" else 1)
    return total[0]


@pytest.mark.parametrize("kind", ["architecture", "weights"])
def test_a_single_path_keeps_as_much_of_32_candidates_as_of_4(kind: str) -> None:
    few = step_bytes(4, kind)
    # Three stages of 6 edges save at least the convolution's input and output each, in a batch of 4.
    assert few > 2 * 6 * 4 * 4 * (4 * 16 * 16 + 8 * 8 * 8 + 16 * 4 * 4)
    assert few == step_bytes(32, kind)


def test_a_dense_draw_keeps_all_candidates() -> None:
    few, many = step_bytes(4, "dense"), step_bytes(32, "dense")
    assert 5 * few < many < 8 * few
    assert few > 2 * step_bytes(4, "architecture")


# -- sizes and layout ------------------------------------------------------------------------------------------------


def layouts(network: nn.Module) -> dict[str, bool]:
    """Which modules have only channels-last inputs and outputs in the forward passes from now on."""
    seen: dict[str, bool] = {}

    def look(module: nn.Module, inputs: tuple[Tensor], output: Tensor, name: str) -> None:
        for tensor in (*inputs, output):
            if tensor.dim() == 4:
                seen[name] = seen.get(name, True) and tensor.is_contiguous(memory_format=torch.channels_last)

    for name, module in network.named_modules():
        if name:  # the network takes pictures as they come
            module.register_forward_hook(partial(look, name=name))
    return seen


@pytest.mark.parametrize("edges", cells()[:7], ids=lambda edges: "-".join(edges.values()))
def test_weights_and_activations_are_channels_last(edges: dict[str, str]) -> None:
    model = make()
    space = SearchSpace(model)
    architecture = one_hot(space, edges)
    plain = Genotype(edges).apply(model)
    seen, seen_plain = layouts(model), layouts(plain)
    images = pictures()
    assert not images.is_contiguous(memory_format=torch.channels_last)
    for gates in (None, architecture.gates.clone().requires_grad_()):
        with space.bind(architecture, gates):
            F.cross_entropy(model(images), labels()).backward()
    plain(images)
    for found in (seen, seen_plain):
        assert len(found) > 3 * 6  # more than each edge's operation
        assert [name for name, last in found.items() if not last] == []
    for network in (model, plain):
        for name, parameter in network.named_parameters():
            if parameter.dim() == 4:
                assert parameter.is_contiguous(memory_format=torch.channels_last), name
                if parameter.shape[-1] > 1:  # where the two layouts differ
                    assert not parameter.is_contiguous(), name


@pytest.mark.parametrize("paths", [(0, 1, 2, 3, 4), (1, 3)], ids=["dense", "pair"])
def test_mixed_activations_are_channels_last(paths: tuple[int, ...]) -> None:
    model = make()
    space = SearchSpace(model)
    seen = layouts(model)
    with space.bind(Architecture(torch.full(space.mask.shape, 0.3), (paths,) * 6)):
        model(pictures())
    assert len(seen) > 3 * 6
    assert [name for name, last in seen.items() if not last] == []


@pytest.mark.parametrize(
    ("options", "height", "width"),
    [
        ({"classes": 100}, 32, 32),
        ({"classes": 1, "channels": 1}, 8, 8),
        ({"classes": 120, "channels": 3}, 16, 16),
        ({"channels": 5, "cells": 3}, 12, 20),
        ({"stages": 1}, 7, 5),
        ({"stages": 2}, 6, 10),
        ({"stages": 3}, 28, 28),  # 7 × 7 at the end
        ({"stages": 3}, 15, 13),  # odd: halves are rounded up
        ({"stages": 4, "channels": 2}, 8, 8),  # 1 × 1 at the end
    ],
    ids=str,
)
def test_other_sizes_work(options: dict[str, int], height: int, width: int) -> None:
    model = make(**options).float()
    sizes = {"classes": 10, "channels": 4, "cells": 1, "stages": 3, **options}
    assert [len(stage) for stage in model.stages] == [sizes["cells"]] * sizes["stages"]
    assert len(model.reductions) == sizes["stages"] - 1
    shapes: list[torch.Size] = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    space = SearchSpace(model)
    with space.bind(one_hot(space, cells()[6], torch.float)):
        logits = model(torch.randn(2, 3, height, width))
    assert logits.shape == (2, sizes["classes"])
    assert logits.isfinite().all()
    expected = [(2, sizes["channels"] << s, -(-height >> s), -(-width >> s)) for s in range(sizes["stages"])]
    assert shapes == expected
    logits.sum().backward()


def test_own_operations_with_32_candidates() -> None:
    widths: list[int] = []

    def shifted(channels: int, by: int) -> nn.Module:
        widths.append(channels)
        layer = nn.Conv2d(channels, channels, 1)
        nn.init.constant_(layer.bias, by)
        return layer

    operations = {f"shift{by}": partial(shifted, by=by) for by in range(32)}
    model = NASBench201(channels=2, cells=1, operations=operations)
    assert sorted(set(widths)) == [2, 4, 8]
    assert len(widths) == 3 * 6 * 32
    space = SearchSpace(model)
    assert space.size == 32**6
    assert space.candidates == (tuple(operations),) * 6
    assert not space.zero_ops.any()
    layers = {id(module) for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert len(layers) == len(widths) + 1 + 2 * 3  # no two edges share one
    calls = record_calls(model)
    with space.bind(space.one_hot([31, 30, 29, 2, 1, 0])):
        assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert {name for _, _, name in calls} == {"shift31", "shift30", "shift29", "shift2", "shift1", "shift0"}


def test_own_operations_may_declare_a_zero_operation() -> None:
    operations = {name: partial(OPERATIONS[name], affine=False, running_statistics=False) for name in NAMES[:2]}
    space = SearchSpace(NASBench201(channels=1, cells=1, operations=operations))
    assert space.zero_ops.tolist() == [[True, False]] * 6
