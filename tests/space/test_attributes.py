"""A network reads and sets attributes of a choice as of the module that stood there, and never past the choice."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning import Architecture, Genotype, MixedOp, SearchSpace, make_searchable
from tests.support.refusals import one_line


class Heads(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Sequential(nn.Linear(8, 8))
        self.last: Any = None
        self.parts = [self.project]
        self.holder = SimpleNamespace(project=self.project)
        self.config = SimpleNamespace(sizes=[heads, 8], inner=SimpleNamespace(names={"act": "relu"}))

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.project(x)
        return self.last

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class Reads(nn.Module):
    """Uses an attribute of its child in its own forward."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.inner, self.read = Heads(2), read

    def forward(self, x: Tensor) -> Any:
        return self.inner(x), self.read(self.inner)


def searchable(read: Callable[[Any], Any], **candidates: nn.Module) -> Reads:
    torch.manual_seed(0)
    model = Reads(read)
    make_searchable(model, {"inner": lambda own: {"own": own, **candidates}})
    return model


def run(model: nn.Module, choice: int, x: Tensor | None = None) -> Any:
    space = SearchSpace(model)
    with space.bind(space.one_hot([choice])):
        return model(torch.ones(1, 8) if x is None else x)


PLAIN: dict[str, Callable[[Any], Any]] = {
    "number": lambda inner: inner.heads,
    "of a part": lambda inner: inner.project[0].in_features,
    "counted from the end": lambda inner: inner.project[-1].out_features,
    "shape": lambda inner: inner.project[0].weight.shape,
    "type": lambda inner: inner.project[0].weight.dtype,
    "device": lambda inner: inner.project[0].bias.device,
    "gradient": lambda inner: inner.project[0].weight.requires_grad,
    "flag": lambda inner: inner.training,
    "nothing": lambda inner: inner.project[0].weight.grad,
    "config": lambda inner: (inner.config.sizes[0], inner.config.inner.names["act"]),
    "asked": lambda inner: (hasattr(inner, "heads"), hasattr(inner, "split"), hasattr(inner, "tails")),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_are_those_of_the_candidate_that_runs(name: str) -> None:
    model = searchable(PLAIN[name], four=Heads(4), eight=Heads(8).double())
    for index, candidate in enumerate(("own", "four", "eight")):
        x = torch.ones(1, 8, dtype=torch.double if candidate == "eight" else torch.float)
        assert run(model, index, x)[1] == Genotype({"inner": candidate}).apply(model)(x)[1]


def test_outside_of_a_pass_they_are_those_of_what_stood_there() -> None:
    model = searchable(lambda inner: None, four=Heads(4))
    assert model.inner.original == "own"
    assert model.inner.heads == 2
    by_hand = MixedOp("edge", {"two": Heads(2), "also": Heads(2)})
    assert by_hand.heads == 2
    replaced = Reads(lambda inner: None)
    make_searchable(replaced, {"inner": lambda own: {"four": Heads(4), "eight": Heads(8)}})
    with pytest.raises(AttributeError, match=r"edge 'inner'.*'heads'.*differ.*four: 4, eight: 8"):
        _ = replaced.inner.heads


def test_candidates_that_run_together_must_agree() -> None:
    model = searchable(PLAIN["number"], two=Heads(2), four=Heads(4))
    space = SearchSpace(model)
    gates = torch.tensor([[0.5, 0.5, 0.0]])
    with space.bind(Architecture(gates, ((0, 1),))):
        assert model(torch.ones(1, 8))[1] == 2
    with (
        space.bind(Architecture(gates, ((0, 2),))),
        pytest.raises(AttributeError, match=r"'heads'.*differ.*own: 2, four: 4"),
    ):
        model(torch.ones(1, 8))


COMPUTES: dict[str, Callable[[Any], Any]] = {
    "product": lambda inner: torch.ones(1, 8) @ inner.project[0].weight,
    "product from the left": lambda inner: inner.project[0].weight @ torch.ones(8, 1),
    "function": lambda inner: F.linear(torch.ones(1, 8), inner.project[0].weight, inner.project[0].bias),
    "keyword": lambda inner: F.layer_norm(torch.ones(1, 8), (8,), weight=inner.project[0].bias),
    "list": lambda inner: torch.cat([torch.ones(1, 8), inner.project[0].weight]),
    "in place": lambda inner: torch.ones(8).add_(inner.project[0].bias),
    "index": lambda inner: torch.ones(8)[inner.last],
    "kept tensor": lambda inner: F.relu(inner.last),
    "part": lambda inner: inner.project(torch.ones(1, 8)),
    "method": lambda inner: inner.split(torch.ones(1, 8)),
    "method of a tensor": lambda inner: inner.project[0].weight.sum(),
    "method of a part": lambda inner: inner.project[0].forward(torch.ones(1, 8)),
    "initialisation": lambda inner: nn.init.zeros_(inner.project[0].weight),
    "number of a tensor": lambda inner: inner.last + 1,
    "truth of a tensor": lambda inner: 1 if inner.last else 0,
    "comparison": lambda inner: inner.last == 3,
    "search": lambda inner: 3 in inner.last,
    "write": lambda inner: setattr(inner.project[0], "in_features", 3),
    "list of modules": lambda inner: inner.parts,
    "object of modules": lambda inner: inner.holder,
}


@pytest.mark.parametrize("name", COMPUTES)
def test_nothing_is_computed_past_the_choice(name: str) -> None:
    model = searchable(COMPUTES[name], other=Heads(2))
    with pytest.raises((AttributeError, ValueError, TypeError)) as caught:
        run(model, 0)
    message = str(caught.value)
    assert "\n" not in message
    assert "choice" in message.lower()
    if name != "number of a tensor":  # Python names the type alone
        assert "edge 'inner'" in message


def test_what_a_candidate_lacks_is_named_with_the_candidate() -> None:
    model = searchable(PLAIN["number"], skip=nn.Identity())
    assert run(model, 0)[1] == 2
    with pytest.raises(AttributeError, match="edge 'inner' has no 'heads', as its candidate 'skip' has none"):
        run(model, 1)


def test_loops_over_all_modules_work_as_before() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.1))
    make_searchable(model, {"*": lambda own: {"own": own, "other": copy.deepcopy(own), "skip": nn.Identity()}})
    for module in model.modules():
        if hasattr(module, "weight") and module.weight is not None:
            nn.init.constant_(module.weight, 3.0)
        if hasattr(module, "momentum"):
            module.momentum = 0.5
    weights = [weight for name, weight in model.named_parameters() if name.endswith("weight")]
    assert len(weights) == 4
    assert all(weight.eq(3).all() for weight in weights)
    model.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    assert not weights[0].eq(3).any()
    assert [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm1d)] == [0.5, 0.5]


def test_what_is_set_is_set_in_each_candidate_that_has_it() -> None:
    model = nn.Sequential(nn.Dropout(0.1))
    make_searchable(model, {"0": lambda own: {"own": own, "more": nn.Dropout(0.3), "skip": nn.Identity()}})
    model[0].p = 0.7
    assert [getattr(each, "p", None) for each in model[0].candidates.values()] == [0.7, 0.7, None]
    model[0].mark = "mine"  # which no candidate has
    assert model[0].mark == "mine"
    assert not hasattr(model[0].candidates["own"], "mark")


@pytest.mark.parametrize("value", [nn.Parameter(torch.ones(3, 3)), torch.ones(3, 3), nn.Identity()])
def test_weights_are_not_set_through_a_choice(value: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    make_searchable(model, {"0": lambda own: {"own": own, "other": nn.Linear(3, 3)}})
    before = list(model.state_dict())
    with pytest.raises(AttributeError, match=r"edge '0' cannot be given a 'weight'.*own, other"):
        model[0].weight = value
    assert list(model.state_dict()) == before
    model[0].candidates["own"].weight = nn.Parameter(torch.ones(3, 3))


def test_weights_are_not_tied_to_a_choice_in_silence() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    make_searchable(model, {"0": lambda own: {"own": own, "other": nn.Embedding(5, 4)}})
    with pytest.raises(AttributeError, match="edge '0' has no 'weight'"):
        model[1].weight = model[0].weight


def test_a_sequence_that_became_a_choice_is_not_walked() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    make_searchable(model, {"0": lambda own: {"own": own, "skip": nn.Identity()}})
    with one_line("edge '0'", "is used past the choice"):
        for part in model[0]:
            part(torch.ones(3))


def test_copies_of_all_kinds_work() -> None:
    model = searchable(PLAIN["number"], four=Heads(4))
    run(model, 0)
    model.inner.candidates["own"].last = None
    model.inner.candidates["four"].around = [model.inner]
    saved = io.BytesIO()
    torch.save(model.inner, saved)
    saved.seek(0)
    twins = [copy.copy(model.inner), copy.deepcopy(model.inner), pickle.loads(pickle.dumps(model.inner))]
    for twin in (*twins, torch.load(saved, weights_only=False)):
        assert twin.original == "own"
        assert twin.candidates["four"].around == [model.inner if twin is twins[0] else twin]
        assert twin.heads == 2
        space = SearchSpace(twin)
        with space.bind(space.one_hot([1])):
            assert twin.heads == 4
            assert twin(torch.ones(1, 8)).shape == (1, 8)
    with pytest.raises(AttributeError, match="heads"):
        _ = MixedOp.__new__(MixedOp).heads  # as pickle has it before it knows anything


def test_a_copy_that_is_made_in_a_pass_has_no_architecture() -> None:
    model = nn.Sequential(MixedOp("a", {"linear": nn.Linear(2, 2), "skip": nn.Identity()}))
    space = SearchSpace(model)
    with space.bind(space.one_hot([0]), torch.tensor([[1.0, 0.0]], requires_grad=True)):
        twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for twin in twins:
        with pytest.raises(RuntimeError, match=r"no architecture.*a copy"):
            twin(torch.ones(1, 2))
        assert len(SearchSpace(twin)) == 1
