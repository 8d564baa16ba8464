"""Candidates may return more than a tensor, if they agree on what."""

from __future__ import annotations

import copy
import pickle
import re
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from advnas_lightning import Architecture, MixedOp, SearchSpace
from tests.support.labelled import Labelled
from tests.support.scaled_space import Parts, X, by_hand, dense, parts_loss, tensors

# -- the credit of candidates that did not run -----------------------------------------------------------------------


def test_several_paths_mix_every_tensor() -> None:
    edge = MixedOp("a", {"one": Parts(0.7), "unused": nn.Identity(), "two": Parts(-0.4)})
    space = SearchSpace(edge)
    gates = torch.tensor([[0.3, 9.0, 2.0]], dtype=torch.double).requires_grad_()
    with space.bind(Architecture(gates.detach(), ((0, 2),)), gates):
        output = edge(X, shift=0.5)
    one, two = (tensors(by_hand(edge, index, X)[0]) for index in (0, 2))
    weights = gates.detach()[0].clone().requires_grad_()
    expected = tuple(weights[0] * y + weights[2] * z for y, z in zip(one, two, strict=True))
    torch.testing.assert_close(tensors(output), expected)
    assert output[1][0].tolist() == [0, 1, 2]
    (gradient,) = torch.autograd.grad(parts_loss(output), gates)
    mixed = (expected[0], [None, {"sum": expected[1]}])
    torch.testing.assert_close(gradient[0], torch.autograd.grad(parts_loss(mixed), weights)[0])


@pytest.mark.parametrize("kind", ["single", "gated", "dense"])
def test_outputs_keep_their_containers_types(kind: str) -> None:
    class Wrap(nn.Module):
        def forward(self, x: Tensor) -> Any:
            maximum = x.view(2, 3).max(1)
            named = defaultdict(int, {"x": x})
            return maximum, OrderedDict(b=x, a=[x]), named, x.shape, pack_sequence([x, x[:2]])

    edge = MixedOp("a", {"one": Wrap(), "two": Wrap()})
    space = SearchSpace(edge)
    architecture = space.one_hot([1]) if kind != "dense" else Architecture(torch.full((1, 2), 0.5), space.all_paths)
    gates = None if kind == "single" else architecture.gates.double().requires_grad_()
    with space.bind(architecture, gates):
        maximum, ordered, named, shape, packed = edge(X)
    expected = Wrap()(X)
    assert [type(part) for part in (maximum, ordered, named, shape, packed)] == [type(part) for part in expected]
    torch.testing.assert_close(maximum.values, expected[0].values)
    assert torch.equal(maximum.indices, expected[0].indices)
    assert list(ordered) == ["b", "a"]
    assert named.default_factory is int
    assert shape == (6,)
    torch.testing.assert_close(packed.data, expected[4].data)
    assert torch.equal(packed.batch_sizes, expected[4].batch_sizes)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", ["skip", "tanh"])
def test_a_tensor_of_a_class_of_its_own_is_as_its_candidate_returns_it(name: str, gated: bool, listed: bool) -> None:
    class Listed(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return [x.tanh() if name == "tanh" else x]

    one = Listed() if listed else {"skip": nn.Identity(), "tanh": nn.Tanh()}[name]
    edge = MixedOp("a", {"one": one, "other": nn.Identity()})
    x = torch.ones(3).as_subclass(Labelled)
    x.label = "pressure"
    space = SearchSpace(edge)
    architecture = space.one_hot([0])
    with space.bind(architecture, architecture.gates.requires_grad_() if gated else None):
        (output,) = edge(x) if listed else [edge(x)]
        edge(torch.ones(3).as_subclass(Labelled))  # without a name
    assert type(output) is Labelled
    assert vars(output) == (vars(x) if name == "skip" else {})
    assert output.data_ptr() != x.data_ptr()


def test_a_tensor_whose_class_has_operations_of_its_own_is_copied_by_them() -> None:
    edge = MixedOp("a", {"skip": nn.Identity(), "tanh": nn.Tanh()})
    x = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)  # a class of PyTorch's
    space = SearchSpace(edge)
    with space.bind(space.one_hot([0])):
        output = edge(x)
    output.mul_(2)
    assert output.values().eq(2).all()
    assert x.values().eq(1).all()


def test_attention_and_its_weights_pass_through_one_edge() -> None:
    torch.manual_seed(0)
    edge = MixedOp("a", {f"heads{n}": nn.MultiheadAttention(8, n, batch_first=True) for n in (2, 4)})
    space = SearchSpace(edge)
    x = torch.randn(2, 5, 8)
    for needed in (True, False, True):
        for choice in (0, 1):
            with space.bind(space.one_hot([choice])):
                y, weights = edge(x, x, value=x, need_weights=needed)
            expected, expected_weights = edge.candidates[edge.names[choice]](x, x, x, need_weights=needed)
            assert torch.equal(y, expected)
            assert weights is None if not needed else torch.equal(weights, expected_weights)


def test_a_complex_output_gets_its_credit() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x)

    edge = MixedOp("a", {"one": Spectrum(), "two": Spectrum()})
    space = SearchSpace(edge)
    one_hot = space.one_hot([0])
    for paths in (((0,),), space.all_paths):
        gates = one_hot.gates.double().requires_grad_()
        with space.bind(Architecture(one_hot.gates, paths, one_hot.choice if len(paths[0]) == 1 else None), gates):
            (gradient,) = torch.autograd.grad(torch.fft.irfft(edge(X)).pow(3).sum(), gates)
        torch.testing.assert_close(gradient[0, 0], 3 * X.pow(3).sum())  # L(a) = Σ (a x)³


@pytest.mark.parametrize("dense_gates", [False, True])
def test_integers_pass_through_a_plain_output(dense_gates: bool) -> None:
    class Sign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x > 0

    edge = MixedOp("a", {"one": Sign(), "two": Sign()})
    space = SearchSpace(edge)
    architecture = Architecture(torch.full((1, 2), 0.5), space.all_paths) if dense_gates else space.one_hot([1])
    with space.bind(architecture, architecture.gates.clone().requires_grad_()):
        assert torch.equal(edge(X), X > 0)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"places": torch.tensor([0, 1, 3])}, "return different integers"),
        ({"rest": {"word": "other"}}, "return 'same' and 'other'"),
        ({"rest": {"word": 3}}, r"differ in their outputs.*'word': 'str'.*'word': 'int'"),
        ({"rest": {"empty": X}}, r"differ in their outputs.*'empty': 'NoneType'.*'empty': torch.Size\(\[6\]\)"),
        ({"rest": {"more": X}}, r"differ in their outputs.*'more': torch.Size\(\[6\]\)"),
        ({"places": torch.zeros(3)}, r"differ in their outputs.*torch.int64, torch.Size\(\[3\]\)"),
        ({"places": torch.arange(4)}, r"differ in their outputs.*torch.Size\(\[4\]\)"),
    ],
)
def test_what_candidates_do_not_agree_on_is_named(other: dict[str, Any], named: str) -> None:
    edge = MixedOp("a", {"one": Parts(1.0), "two": Parts(2.0, **other)})
    space = SearchSpace(edge)
    with space.bind(dense(space)), pytest.raises(ValueError, match=named) as caught:
        edge(X)
    for name in ("'a'", "'one'", "'two'"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_output_without_a_tensor_is_refused() -> None:
    @dataclass
    class Output:
        hidden: Tensor

    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Output:
            return Output(x)

    edge = MixedOp("a", {"skip": nn.Identity(), "wrapped": Wrapped()})
    space = SearchSpace(edge)
    with space.bind(space.one_hot([1])), pytest.raises(ValueError, match="'wrapped' of edge 'a' returns a Output"):
        edge(X)


# -- candidates whose outputs differ ---------------------------------------------------------------------------------


def misfit() -> MixedOp:
    return MixedOp("a", {"same": nn.Linear(4, 4), "skip": nn.Identity(), "wide": nn.Linear(4, 5)})


SHAPES = (r"edge 'a'", r"torch\.Size\(\[2, 4\]\)", r"torch\.Size\(\[2, 5\]\)", "'wide'")


def run(edge: MixedOp, choice: int, x: Tensor, *, gated: bool = False) -> Any:
    space = SearchSpace(edge)
    architecture = space.one_hot([choice])
    with space.bind(architecture, architecture.gates.clone().requires_grad_() if gated else None):
        return edge(x)


def test_a_dense_draw_shows_other_shapes_at_once() -> None:
    edge = misfit()
    space = SearchSpace(edge)
    with space.bind(Architecture(torch.full((1, 3), 0.3), space.all_paths)), pytest.raises(ValueError) as caught:  # noqa: PT011
        edge(torch.zeros(2, 4))
    assert all(re.search(shape, str(caught.value)) for shape in SHAPES)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("order", [(0, 2), (1, 0, 1, 2), (2, 2, 1)])
def test_single_paths_show_other_shapes_at_the_first_draw_that_can(order: tuple[int, ...], gated: bool) -> None:
    edge = misfit()
    for choice in order[:-1]:
        run(edge, choice, torch.zeros(2, 4), gated=gated)
    with pytest.raises(ValueError, match="differ in their outputs") as caught:
        run(edge, order[-1], torch.zeros(2, 4), gated=gated)
    assert all(re.search(shape, str(caught.value)) for shape in SHAPES)
    assert "\n" not in str(caught.value)


def test_other_inputs_may_have_other_outputs() -> None:
    class Until(nn.Module):
        def forward(self, x: Tensor, many: Any) -> Tensor:
            return x[: many if isinstance(many, int) else len(many)]

    edge = MixedOp("a", {"one": Until(), "two": Until()})
    space = SearchSpace(edge)

    class Box:
        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return self.size

    box = Box(2)
    for index, many in enumerate((1, 2, 3, [1], [1, 2], Box(1), Box(2), box, box)):
        box.size = index % 3  # what an object holds may change, too
        with space.bind(space.one_hot([index % 2])):
            assert len(edge(X, many)) == (many if isinstance(many, int) else len(many))
    for choice, batch in ((0, 3), (1, 2), (0, 1)):  # a last batch that is smaller
        assert run(misfit(), choice, torch.zeros(batch, 4)).shape == (batch, 4)


def test_training_and_evaluation_may_have_other_outputs() -> None:
    class Auxiliary(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return (x, x) if self.training else x

    edge = MixedOp("a", {"one": Auxiliary(), "two": Auxiliary()})
    for choice, training in ((0, True), (1, False), (0, True)):
        assert isinstance(run(edge.train(training), choice, X, gated=True), tuple) is training


def test_comparing_outputs_never_asks_the_device() -> None:
    edge = MixedOp("a", {"one": Parts(1.0), "two": Parts(2.0)}).to("meta")  # which has no values to ask for
    x = torch.zeros(6, device="meta", dtype=torch.double)
    for choice in (0, 1):
        assert run(edge, choice, x)[0].shape == (6,)


def test_what_an_edge_remembers_is_small_and_travels() -> None:
    edge = misfit()
    keys = set(edge.state_dict())
    run(edge, 0, torch.zeros(1000, 4))
    size = len(pickle.dumps(edge))
    for batch in range(1, 50):
        run(edge, batch % 2, torch.zeros(batch, 4))
    assert len(pickle.dumps(edge)) <= size + 100
    assert set(edge.state_dict()) == keys
    run(edge, 0, torch.zeros(2, 4))
    for twin in (copy.deepcopy(edge), pickle.loads(pickle.dumps(edge))):
        with pytest.raises(ValueError, match="differ in their outputs"):
            run(twin, 2, torch.zeros(2, 4))
