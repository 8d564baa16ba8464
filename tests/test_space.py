import copy
import itertools
import json
import pickle
import re
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

from advnas_lightning import Architecture, Genotype, MixedOp, SearchSpace
from advnas_lightning.cost import count_macs, count_parameters


class Scale(nn.Module):
    """k · x with a parameter k; counts its calls and the gradients that come back to it."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.double))
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        y = self.k * x
        if y.requires_grad:
            y.register_hook(self._count)
        return y

    def _count(self, gradient: Tensor) -> None:
        self.backwards += 1


class Cut(nn.Module):
    is_zero_op = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def scales(*ks: float) -> dict[str, nn.Module]:
    return {f"x{k:g}": Scale(k) for k in ks}


class Ragged(nn.Module):
    """Edge a (three candidates) in two cells and in three time steps each, edge b (one candidate), edge c (two)."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(MixedOp("a", scales(1, 2, 3)) for _ in range(2))
        self.b = MixedOp("b", scales(5))
        self.c = MixedOp("c", {"zero": Cut(), **scales(7)})

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            for cell in self.cells:
                x = cell(x).tanh()
        return self.b(x) + self.c(x)

    def calls(self) -> dict[str, tuple[int, int]]:
        """How often each candidate ran (forward, backward)."""
        return {
            path: (module.forwards, module.backwards)
            for path, module in self.named_modules()
            if isinstance(module, Scale) and (module.forwards or module.backwards)
        }


def loss_of(model: nn.Module) -> Tensor:
    return model(torch.linspace(-1, 2, 6, dtype=torch.double)).square().sum()


def dense(space: SearchSpace, seed: int = 0) -> Architecture:
    weights = torch.rand(space.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return Architecture(weights * space.mask, space.all_paths)


def gate_gradient(model: nn.Module, space: SearchSpace, architecture: Architecture) -> Tensor:
    gates = architecture.gates.double().requires_grad_()
    with space.bind(architecture, gates):
        return torch.autograd.grad(loss_of(model), gates)[0]


def finite_differences(model: nn.Module, space: SearchSpace, weights: Tensor) -> Tensor:
    """∂L/∂a of the dense network, one gate at a time."""
    gradient = torch.zeros_like(weights)
    for edge, j in space.mask.nonzero().tolist():
        values = []
        for step in (1e-6, -1e-6):
            moved = weights.clone()
            moved[edge, j] += step
            with torch.no_grad(), space.bind(Architecture(moved, space.all_paths)):
                values.append(loss_of(model))
        gradient[edge, j] = (values[0] - values[1]) / 2e-6
    return gradient


# -- edges -----------------------------------------------------------------------------------------------------------


def test_a_ragged_space_in_first_seen_order() -> None:
    space = SearchSpace(Ragged())
    assert space.edges == ("a", "b", "c")
    assert space.candidates == (("x1", "x2", "x3"), ("x5",), ("zero", "x7"))
    assert space.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert space.zero_ops.tolist() == [[False] * 3, [False] * 3, [True, False, False]]
    assert (len(space), space.size) == (3, 6)
    assert space.all_paths == ((0, 1, 2), (0,), (0, 1))


def test_a_zero_operation_is_declared_and_never_guessed_from_a_name() -> None:
    space = SearchSpace(MixedOp("a", {"zero": nn.Identity(), "none": nn.Identity(), "skip": Cut()}))
    assert space.zero_ops.tolist() == [[False, False, True]]


def test_cells_and_time_steps_of_one_name_share_a_row() -> None:
    model = Ragged()
    space = SearchSpace(model)
    architecture = dense(space)
    gradient = gate_gradient(model, space, architecture)
    torch.testing.assert_close(gradient, finite_differences(model, space, architecture.gates), rtol=1e-6, atol=1e-7)
    assert gradient.shape == (3, 3)
    assert gradient[0].ne(0).all()


@pytest.mark.parametrize("choice", [(0, 0, 1), (2, 0, 1), (1, 0, 0)])
def test_a_one_hot_gate_has_the_dense_networks_gradient(choice: tuple[int, ...]) -> None:
    model = Ragged()
    space = SearchSpace(model)
    one_hot = space.one_hot(choice)
    gradient = gate_gradient(model, space, one_hot)
    expected = finite_differences(model, space, one_hot.gates.double()) * one_hot.gates
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_inactive_candidates_count_as_ones_where_asked() -> None:
    model = nn.Sequential(MixedOp("a", scales(2, 3)))
    space = SearchSpace(model)
    hot = space.one_hot([1])
    gradient = gate_gradient(model, space, Architecture(hot.gates, hot.paths, hot.choice, inactive="ones"))
    x = torch.linspace(-1, 2, 6, dtype=torch.double)
    expected = torch.stack([(2 * 3 * x).sum(), (2 * 3 * x * 3 * x).sum()])  # L = Σ y², y = 3x
    torch.testing.assert_close(gradient[0], expected)


def test_only_bound_candidates_run_forward_and_backward() -> None:
    for with_gates in (True, False):
        model = Ragged()
        space = SearchSpace(model)
        architecture = space.one_hot([1, 0, 0])
        gates = architecture.gates.double().requires_grad_() if with_gates else None
        with space.bind(architecture, gates):
            loss_of(model).backward()
        assert model.calls() == {
            "cells.0.candidates.x2": (3, 3),
            "cells.1.candidates.x2": (3, 3),
            "b.candidates.x5": (1, 1),
        }
        ran = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert ran == {f"{path}.k" for path in model.calls()}


def test_a_pair_runs_two_candidates_with_their_own_gates() -> None:
    model = MixedOp("a", scales(1, 2, 4))
    space = SearchSpace(model)
    architecture = Architecture(torch.tensor([[0.5, 0.0, 3.0]]).double(), ((0, 2),))
    with space.bind(architecture):
        y = model(torch.ones(2, dtype=torch.double))
    assert y.tolist() == [0.5 * 1 + 3 * 4] * 2
    assert [module.forwards for module in model.candidates.values()] == [1, 0, 1]


def test_candidates_may_take_several_inputs() -> None:
    class Add(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    edge = MixedOp("a", {"add": Add(), "also": Add()})
    space = SearchSpace(edge)
    with space.bind(space.one_hot([1])):
        assert edge(torch.ones(1), torch.ones(1)).item() == 2


@pytest.mark.parametrize("dense_gates", [False, True])
def test_what_follows_an_edge_may_work_in_place(dense_gates: bool) -> None:
    torch.manual_seed(0)
    edge = MixedOp("a", {"linear": nn.Linear(3, 3), "other": nn.Linear(3, 3)}).double()
    space = SearchSpace(edge)
    architecture = dense(space) if dense_gates else space.one_hot([0])
    x = torch.randn(5, 3, dtype=torch.double)
    gradients = []
    for relu in (nn.ReLU(inplace=False), nn.ReLU(inplace=True)):
        gates = architecture.gates.double().requires_grad_()
        with space.bind(architecture, gates):
            gradients.append(torch.autograd.grad(relu(edge(x)).square().sum(), gates)[0])
    assert torch.equal(*gradients)
    assert gradients[0].any()


def test_one_name_with_other_candidates_names_both() -> None:
    for other in ({"x": nn.Identity()}, {"y": nn.Identity(), "x": nn.Identity()}, {"x": nn.Identity(), "y": Cut()}):
        model = nn.ModuleList([MixedOp("a", {"x": nn.Identity(), "y": nn.Identity()}), MixedOp("a", other)])
        with pytest.raises(ValueError, match="'a'") as caught:
            SearchSpace(model)
        second = ", ".join(name + " (zero operation)" * isinstance(op, Cut) for name, op in other.items())
        assert "{x, y}" in str(caught.value)
        assert f"{{{second}}}" in str(caught.value)


def test_nested_choices_are_refused() -> None:
    inner = MixedOp("inner", {"skip": nn.Identity()})
    with pytest.raises(ValueError, match=r"'inner'.*'deep'.*'outer'"):
        MixedOp("outer", {"skip": nn.Identity(), "deep": nn.Sequential(nn.Identity(), inner)})


def test_no_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' has no candidates"):
        MixedOp("a", {})


def test_a_model_without_an_edge_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear contains no MixedOp"):
        SearchSpace(nn.Linear(1, 1))


def test_an_unbound_call_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"'a' has no architecture.*genotype\.apply"):
        MixedOp("a", {"skip": nn.Identity()})(torch.ones(1))


def test_binding_ends_with_its_context_and_with_an_exception() -> None:
    model = Ragged()
    space = SearchSpace(model)
    with pytest.raises(ZeroDivisionError), space.bind(space.one_hot([0, 0, 0])):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="no architecture"):
        loss_of(model)
    with space.bind(space.one_hot([0, 0, 0])):
        loss_of(model)
    with pytest.raises(RuntimeError, match="no architecture"):
        loss_of(model)


def test_a_copied_model_is_bound_on_its_own() -> None:
    model = Ragged()
    space = SearchSpace(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert SearchSpace(twin).candidates == space.candidates
        with space.bind(space.one_hot([0, 0, 0])), pytest.raises(RuntimeError, match="no architecture"):
            loss_of(twin)


def test_an_edge_holds_only_its_candidates_state() -> None:
    model = Ragged()
    expected = {f"cells.{i}.candidates.x{k}.k" for i in range(2) for k in (1, 2, 3)}
    assert set(model.state_dict()) == expected | {"b.candidates.x5.k", "c.candidates.x7.k"}


# -- genotypes -------------------------------------------------------------------------------------------------------


def test_genotype_round_trips_and_hashes() -> None:
    space = SearchSpace(Ragged())
    for choice in ((0, 0, 0), (2, 0, 1)):
        genotype = space.genotype(choice)
        assert space.choice(genotype) == choice
        assert Genotype.from_json(genotype.to_json()) == genotype
        assert json.loads(genotype.to_json()) == dict(genotype)
        assert pickle.loads(pickle.dumps(genotype)) == genotype
    assert dict(space.genotype((2, 0, 1))) == {"a": "x3", "b": "x5", "c": "x7"}
    turned = Genotype({"c": "x7", "b": "x5", "a": "x3"})
    assert turned == space.genotype((2, 0, 1))
    assert len({turned, space.genotype((2, 0, 1)), space.genotype((0, 0, 1))}) == 2


def test_genotype_keeps_no_hold_on_the_given_dict() -> None:
    edges = {"a": "x1"}
    genotype = Genotype(edges)
    edges["a"] = "x2"
    assert genotype["a"] == "x1"


def test_apply_gives_the_network_built_by_hand(small_net: Callable[..., nn.Module]) -> None:
    model = small_net(norm=True)
    genotype = Genotype({"first": "block", "second": "skip"})
    plain = genotype.apply(model)

    by_hand = small_net(seed=7)
    for i, cell in enumerate(by_hand.cells):
        by_hand.cells[i] = nn.ModuleList([cell[0].candidates["block"], cell[1].candidates["skip"]])
    by_hand.load_state_dict(plain.state_dict(), strict=True)
    assert not any(isinstance(module, MixedOp) for module in plain.modules())
    assert type(plain) is type(model)
    x = torch.randn(8, 4)
    space = SearchSpace(model)
    for module in (plain, by_hand, model):
        module.eval()
    with space.bind(space.one_hot(space.choice(genotype))):
        assert torch.equal(plain(x), model(x))
    assert torch.equal(plain(x), by_hand(x))


def test_apply_copies_the_weights_and_leaves_the_model_alone() -> None:
    model = Ragged()
    before = copy.deepcopy(model.state_dict())
    plain = Genotype({"a": "x2", "b": "x5", "c": "x7"}).apply(model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.item() for p in plain.parameters()] == [3, 3, 6, 8]
    assert SearchSpace(model).edges == ("a", "b", "c")


def test_an_applied_network_pickles_without_this_package(tmp_path: Path) -> None:
    model = nn.Sequential(MixedOp("a", {"linear": nn.Linear(2, 2), "skip": nn.Identity()}), nn.Tanh())
    plain = Genotype({"a": "linear"}).apply(model)
    assert b"advnas_lightning" not in pickle.dumps(plain)
    x = torch.randn(3, 2)
    assert torch.equal(pickle.loads(pickle.dumps(plain))(x), plain(x))


def test_apply_never_copies_candidates_that_were_not_chosen() -> None:
    class Uncopyable(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> None:
            raise AssertionError("copied")

    model = nn.Sequential(*(MixedOp("a", {"big": Uncopyable(), "skip": nn.Identity()}) for _ in range(2)))
    plain = Genotype({"a": "skip"}).apply(model)
    assert [type(module) for module in plain] == [nn.Identity, nn.Identity]
    with pytest.raises(AssertionError, match="copied"):  # and the trap works
        Genotype({"a": "big"}).apply(model)


def test_apply_keeps_shared_modules_shared() -> None:
    shared = nn.Linear(2, 2)
    edge = MixedOp("b", {"linear": nn.Linear(2, 2), "skip": nn.Identity()})
    model = nn.ModuleList([MixedOp("a", {"tied": shared, "skip": nn.Identity()}), shared, edge, edge])
    plain = Genotype({"a": "tied", "b": "linear"}).apply(model)
    assert plain[0] is plain[1]
    assert plain[2] is plain[3]
    assert plain[2] is not edge.candidates["linear"]


def test_apply_to_an_edge_gives_the_candidate() -> None:
    assert isinstance(Genotype({"a": "tanh"}).apply(MixedOp("a", {"tanh": nn.Tanh()})), nn.Tanh)


@pytest.mark.parametrize(
    ("edges", "named"),
    [
        ({"a": "x1", "b": "x5"}, r"no edge 'c'.*a, b, c"),
        ({"a": "x1", "b": "x5", "c": "x7", "d": "x9"}, r"no edge 'd'.*a, b, c"),
        ({"a": "x4", "b": "x5", "c": "x7"}, r"edge 'a' has no candidate 'x4'.*x1, x2, x3"),
    ],
)
def test_a_genotype_of_another_space_is_refused(edges: dict[str, str], named: str) -> None:
    model = Ragged()
    with pytest.raises(ValueError, match=named):
        Genotype(edges).apply(model)
    with pytest.raises(ValueError, match=named):
        SearchSpace(model).choice(Genotype(edges))


@pytest.mark.parametrize("edges", [{"a": 1}, {"a": None}, {1: "x"}])
def test_a_genotype_is_of_strings(edges: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="maps edge names to candidate names"):
        Genotype(edges)


@pytest.mark.parametrize("text", ["", "[1]", '"a"', '{"a": 1}', "{'a': 'b'}", "null"])
def test_bad_json_is_no_genotype(text: str) -> None:
    with pytest.raises(ValueError, match="genotype"):
        Genotype.from_json(text)


# -- files -----------------------------------------------------------------------------------------------------------


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_load_reads_a_runs_file(tmp_path: Path) -> None:
    content = {"selected": "process_best", "argmax": {"a": "x"}, "process_best": {"a": "y"}}
    path = write(tmp_path / "genotype.json", content)
    assert Genotype.load(path) == Genotype({"a": "y"})
    assert Genotype.load(str(path), "argmax") == Genotype({"a": "x"})
    assert Genotype.load(path, select="process_best") == Genotype({"a": "y"})
    with pytest.raises(ValueError, match="select='worst'"):
        Genotype.load(path, select="worst")


def test_load_says_when_there_is_no_process_best(tmp_path: Path) -> None:
    path = write(tmp_path / "genotype.json", {"selected": "argmax", "argmax": {"a": "x"}, "process_best": None})
    assert Genotype.load(path) == Genotype({"a": "x"})
    with pytest.raises(ValueError, match=f"{path}.*no process_best"):
        Genotype.load(path, select="process_best")


def test_load_reads_a_lone_genotype(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", {"a": "x"})
    assert Genotype.load(path) == Genotype({"a": "x"})
    with pytest.raises(ValueError, match="select='argmax'"):
        Genotype.load(path, select="argmax")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "not json", '{"a": 3}', '{"selected": "argmax", "argmax": [1]}', '{"selected": "argmax"}'],
)
def test_load_refuses_a_broken_file(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "genotype.json", content)
    with pytest.raises(ValueError, match="genotype"):
        Genotype.load(path)


def test_load_refuses_bytes_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a genotype file"):
        Genotype.load(tmp_path / "genotype.json")
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(ValueError, match="no genotype file"):
            Genotype.load(path)


# -- NAS-Bench-201's notation ----------------------------------------------------------------------------------------

OPERATIONS = ("avg_pool_3x3", "none", "nor_conv_1x1", "nor_conv_3x3", "skip_connect")
CELL_EDGES = ("0->1", "0->2", "1->2", "0->3", "1->3", "2->3")


def test_all_nasbench201_cells_round_trip() -> None:
    texts = set()
    for ops in itertools.product(OPERATIONS, repeat=6):
        text = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*ops)
        cell = Genotype.from_nasbench201(text)
        assert list(cell.items()) == list(zip(CELL_EDGES, ops, strict=True))
        assert cell.to_nasbench201() == text
        texts.add(text)
    assert len(texts) == 15_625


def test_a_cells_edges_may_come_in_any_order() -> None:
    text = "|none~0|+|skip_connect~0|nor_conv_1x1~1|"
    cell = Genotype.from_nasbench201(text)
    assert Genotype(dict(reversed(list(cell.items())))).to_nasbench201() == text


@pytest.mark.parametrize("text", ["|a~0|", "|a~0|+|b~0|c~1|", "|a~0|+|b~0|c~1|+|d~0|e~1|f~2|+|g~0|h~1|i~2|j~3|"])
def test_cells_of_other_sizes_round_trip(text: str) -> None:
    assert Genotype.from_nasbench201(text).to_nasbench201() == text
    assert Genotype.from_nasbench201(f" {text}\n").to_nasbench201() == text


@pytest.mark.parametrize(
    ("text", "part", "place"),
    [
        ("", "", "node 1"),
        ("none~0", "none~0", "node 1"),
        ("|none~0", "|none~0", "node 1"),
        ("none~0|", "none~0|", "node 1"),
        ("||none~0|", "||none~0|", "node 1"),
        ("|none~0|none~1|", "|none~0|none~1|", "node 1"),
        ("|none~0|+|none~0|", "|none~0|", "node 2"),
        ("|none~0|+|none~0|none~1|none~2|", "|none~0|none~1|none~2|", "node 2"),
        ("|none~0|+", "", "node 2"),
        ("|none~0|++|none~0|none~1|", "", "node 2"),
        ("|none~0| + |none~0|none~1|", "|none~0| ", "node 1"),
        ("|none~0|none~0|none~1|", "|none~0|none~0|none~1|", "node 1"),
        ("||", "", "edge 0->1"),
        ("|none|", "none", "edge 0->1"),
        ("|~0|", "~0", "edge 0->1"),
        ("|none~|", "none~", "edge 0->1"),
        ("|none~x|", "none~x", "edge 0->1"),
        ("|none~00|", "none~00", "edge 0->1"),
        ("|none~-0|", "none~-0", "edge 0->1"),
        ("|none~0~0|", "none~0~0", "edge 0->1"),
        ("|no ne~0|", "no ne~0", "edge 0->1"),
        ("| none~0|", " none~0", "edge 0->1"),
        ("|3x3~0|", "3x3~0", "edge 0->1"),
        ("|none~1|", "none~1", "edge 0->1"),
        ("|none~0|+|none~1|none~0|", "none~1", "edge 0->2"),
        ("|none~0|+|none~0|none~0|", "none~0", "edge 1->2"),
        ("|none~0|+|none~0|none~1|+|none~0|skip-connect~1|none~2|", "skip-connect~1", "edge 1->3"),
    ],
)
def test_what_is_wrong_with_a_cell_is_named(text: str, part: str, place: str) -> None:
    with pytest.raises(ValueError, match="no NAS-Bench-201 cell") as caught:
        Genotype.from_nasbench201(text)
    message = str(caught.value)
    assert f"because of {part!r}" in message
    assert place in message
    assert repr(text) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "edges",
    [
        {"a": "x"},
        {"0->1": "x", "a": "y"},
        {"0->2": "x", "1->2": "y"},
        {"0->1": "x", "0->2": "y"},
        {"0->1": "x", "1->2": "y"},
        {"0->1": "x", "0->3": "y", "1->3": "z"},
        {"0->1": "x", "0->2": "y", "1->2": "z", "2->2": "w"},
        {"0->1": "x", "0->2": "y", "1->2": "z", "2->1": "w"},
        {"0 -> 1": "x"},
        {"00->1": "x"},
    ],
    ids=lambda edges: ",".join(edges),
)
def test_a_genotype_that_is_no_cell_is_not_written_as_one(edges: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not those of a cell") as caught:
        Genotype(edges).to_nasbench201()
    for edge in edges:
        assert edge in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a|b", "a~0", "a+b", "3x3"])
def test_an_operation_that_could_not_be_read_back_is_not_written(name: str) -> None:
    with pytest.raises(ValueError, match="0->1"):
        Genotype({"0->1": name}).to_nasbench201()


def test_read_takes_what_a_user_would_write(tmp_path: Path) -> None:
    cell = Genotype({"0->1": "none", "0->2": "skip_connect", "1->2": "none"})
    content = {"selected": "argmax", "argmax": dict(cell), "process_best": {"a": "b"}}
    run = write(tmp_path / "genotype.json", content)
    lone = write(tmp_path / "cell.json", dict(cell))
    text = "|none~0|+|skip_connect~0|none~1|"
    for source in (text, f" {text}\n", cell.to_json(), f"\n{cell.to_json()}", run, str(run), lone, str(lone)):
        assert Genotype.read(source) == cell
    assert Genotype.read(run, "process_best") == Genotype({"a": "b"})
    assert Genotype.read(str(run), select="argmax") == cell


@pytest.mark.parametrize("source", ["|none~0|", '{"0->1": "none"}'])
def test_read_has_nothing_to_choose_in_one_genotype(source: str) -> None:
    with pytest.raises(ValueError, match="select='argmax'") as caught:
        Genotype.read(source, "argmax")
    assert source in str(caught.value)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("|none~1|", "'none~1'"),
        ('{"0->1": 3}', "'0->1' to 3"),
        ("{0->1: none}", "not a genotype"),
        ("none~0", "no genotype file at none~0"),
        ("", "no genotype file"),
    ],
)
def test_read_says_what_is_wrong(source: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"genotype|cell") as caught:
        Genotype.read(source)
    assert named in str(caught.value)


# -- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"), [(3, 1, 1, 1), (1, 1, 0, 1), (3, 2, 1, 2), (5, 3, 0, 1)]
)
def test_macs_of_a_convolution(kernel: int, stride: int, padding: int, groups: int, batch: int) -> None:
    conv = nn.Conv2d(4, 6, kernel, stride, padding, groups=groups)
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in (9, 7))
    expected = batch * 6 * height * width * (4 // groups) * kernel * kernel
    assert count_macs(conv, torch.zeros(batch, 4, 9, 7)) == expected


def test_macs_of_a_network_are_the_sum() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 6 * 4, 7))
    assert count_macs(network, torch.zeros(2, 3, 8, 6)) == 2 * (5 * 6 * 4 * 3 * 9 + 5 * 6 * 4 * 7)
    assert count_macs(nn.ReLU(), torch.zeros(3)) == 0


def test_macs_of_a_network_with_two_inputs() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x @ y

    assert count_macs(Product(), torch.zeros(2, 3), torch.zeros(3, 5)) == 2 * 3 * 5


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_network_as_it_was(training: bool) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()).train(training)
    state, rng = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    modes: list[bool] = []
    network[2].register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    count_macs(network, torch.randn(4, 3, generator=torch.Generator()))
    assert modes == [False]
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


def test_counting_leaves_a_frozen_part_frozen() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    network[1].eval()
    count_macs(network, torch.zeros(4, 3))
    assert [module.training for module in network] == [True, False]


def test_a_failed_count_leaves_the_network_training() -> None:
    network = nn.Sequential(nn.Linear(3, 3)).train()
    with pytest.raises(RuntimeError):
        count_macs(network, torch.zeros(4, 2))
    assert network.training


def test_parameters_are_counted_by_the_network_where_it_knows_better() -> None:
    class Own(nn.Linear):
        def count_parameters(self) -> int:
            return 42

    class Attribute(nn.Linear):
        count_parameters = 3

    assert count_parameters(nn.Linear(3, 4)) == 16
    assert count_parameters(Own(3, 4)) == 42
    assert count_parameters(Attribute(3, 4)) == 16
    tied = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(tied, tied)) == 12


# -- the gate of a single path ---------------------------------------------------------------------------------------


def test_in_place_after_a_skip_leaves_the_edges_input_alone() -> None:
    edge = MixedOp("a", {"skip": nn.Identity(), "other": nn.Tanh()})
    space = SearchSpace(edge)
    architecture = space.one_hot([0])
    x = torch.tensor([-2.0, 1.0, 3.0], requires_grad=True)
    node = x * 1
    gates = architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates):
        y = edge(node).mul_(2).relu_()
    assert node.tolist() == [-2, 1, 3]
    assert y.tolist() == [0, 2, 6]
    (y * torch.tensor([5.0, 7.0, 11.0]) + node.square()).sum().backward()
    assert gates.grad.tolist() == [[2 * 7 * 1 + 2 * 11 * 3, 0]]
    assert x.grad.tolist() == [-4, 2 * 7 + 2, 2 * 11 + 6]


def test_an_output_without_a_gradient_gives_no_credit() -> None:
    """Such as behind an arg max, a function that passes none on."""

    class Blocked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> None:  # type: ignore[override]
            return None

    net = nn.ModuleList(MixedOp(name, {"twice": Scale(2.0), "skip": nn.Identity()}) for name in "ab")
    space = SearchSpace(net)
    for inactive in ("none", "ones", "outputs"):
        architecture = replace(space.one_hot([0, 1]), inactive=inactive)
        gates = architecture.gates.double().requires_grad_()
        with space.bind(architecture, gates):
            loss = (net[1](X) + Blocked.apply(net[0](X))).sum()
        (gradient,) = torch.autograd.grad(loss, gates)
        assert not gradient[0].any()
        torch.testing.assert_close(gradient[1, 1], X.sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gates_credit_is_summed_in_full_precision(dtype: torch.dtype) -> None:
    edge = MixedOp("a", {"skip": nn.Identity(), "other": nn.Identity()})
    space = SearchSpace(edge)
    architecture = space.one_hot([1])
    gates = architecture.gates.clone().requires_grad_()
    x = torch.full((1001,), 16.0, dtype=dtype)
    with space.bind(architecture, gates):
        y = edge(x)
        assert y.dtype is dtype
        (y.float() * 8).sum().backward()
    assert gates.grad.dtype is torch.float32
    assert gates.grad.tolist() == [[0, 8 * 16 * 1001]]  # beyond a float16, and between two bfloat16


def test_a_single_path_equals_a_dense_draw_of_the_same_gates() -> None:
    model = Ragged()
    space = SearchSpace(model)
    one_hot = space.one_hot([2, 0, 1])
    gradients = []
    for architecture in (one_hot, Architecture(one_hot.gates, space.all_paths)):
        model.zero_grad()
        gates = one_hot.gates.double().requires_grad_()
        with space.bind(architecture, gates):
            loss_of(model).backward()
        weights = [p.grad for p in model.parameters() if p.grad is not None and p.grad.any()]
        gradients.append([*weights, gates.grad * one_hot.gates])
    assert len(gradients[0]) == 5  # two cells, b, c, and the gates
    torch.testing.assert_close(*gradients)


# -- candidates that take and return more than a tensor --------------------------------------------------------------


class Parts(nn.Module):
    """Returns tensors of several shapes in nested containers, beside things that are no floating-point tensors."""

    def __init__(self, k: float, **other: Any) -> None:
        super().__init__()
        self.k, self.other = nn.Parameter(torch.tensor(k, dtype=torch.double)), other

    def forward(self, x: Tensor, *, shift: float = 0.0) -> Any:
        places = torch.arange(3) if "places" not in self.other else self.other["places"]
        rest = {"word": "same", "empty": None, **self.other.get("rest", {})}
        return self.k * x + shift, [places, {"sum": (self.k * x).exp().sum(), **rest}]


def tensors(output: Any) -> tuple[Tensor, Tensor]:
    return output[0], output[1][1]["sum"]


def parts_loss(output: Any) -> Tensor:
    first, total = tensors(output)
    return first.square().sum() + 3 * total.sin()


def by_hand(edge: MixedOp, index: int, x: Tensor) -> tuple[Any, Tensor]:
    """A candidate's output, and Σ_k ⟨∂L/∂y_k, y_k⟩ over the tensors in it, without gates."""
    output = edge.candidates[edge.names[index]](x, shift=0.5)
    gradients = torch.autograd.grad(parts_loss(output), tensors(output))
    return output, sum((g * y).sum() for g, y in zip(gradients, tensors(output), strict=True))


X = torch.linspace(-1, 2, 6, dtype=torch.double)


def test_one_gate_serves_all_tensors_that_a_candidate_returns() -> None:
    edge = MixedOp("a", {"one": Parts(0.7), "two": Parts(-0.4)})
    space = SearchSpace(edge)
    for choice in (0, 1):
        expected, credit = by_hand(edge, choice, X)
        for gated in (True, False):
            architecture = space.one_hot([choice])
            gates = architecture.gates.double().requires_grad_() if gated else None
            with space.bind(architecture, gates):
                output = edge(X, shift=0.5)
            torch.testing.assert_close(tensors(output), tensors(expected), rtol=0, atol=0)
            assert output[1][0].tolist() == [0, 1, 2]
            assert list(output[1][1]) == ["sum", "word", "empty"]
            assert (type(output), output[1][1]["word"], output[1][1]["empty"]) == (tuple, "same", None)
            if gated:
                (gradient,) = torch.autograd.grad(parts_loss(output), gates)
                torch.testing.assert_close(gradient[0, choice], credit)
                assert gradient[0, 1 - choice] == 0


def test_inactive_ones_are_added_to_every_tensor_that_a_candidate_returns() -> None:
    edge = MixedOp("a", {"one": Parts(0.7), "two": Parts(-0.4)})
    space = SearchSpace(edge)
    hot = space.one_hot([1])
    gates = hot.gates.double().requires_grad_()
    with space.bind(Architecture(hot.gates, hot.paths, hot.choice, inactive="ones"), gates):
        (gradient,) = torch.autograd.grad(parts_loss(edge(X, shift=0.5)), gates)
    output, credit = by_hand(edge, 1, X)
    ones = sum(g.sum() for g in torch.autograd.grad(parts_loss(output), tensors(output)))
    torch.testing.assert_close(gradient[0], torch.stack([ones, credit]).detach())


# -- the credit of candidates that did not run -------------------------------------------------------------------------


def outputs_credited(space: SearchSpace, choice: Sequence[int]) -> Architecture:
    return replace(space.one_hot(choice), inactive="outputs")


@pytest.mark.parametrize("choice", [(0, 0, 1), (2, 0, 1), (1, 0, 0)])
def test_inactive_outputs_give_all_gates_the_dense_networks_gradient(choice: tuple[int, ...]) -> None:
    """Edges that several cells and time steps share, a ragged space, and a zero operation."""
    model = Ragged()
    space = SearchSpace(model)
    gradient = gate_gradient(model, space, outputs_credited(space, choice))
    expected = finite_differences(model, space, space.one_hot(choice).gates.double())
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
    assert (gradient != 0).tolist() == [[True, True, True], [True, False, False], [False, True, False]]


def test_inactive_outputs_of_every_tensor_that_a_candidate_returns() -> None:
    edge = MixedOp("a", {"one": Parts(0.7), "two": Parts(-0.4)})
    space = SearchSpace(edge)
    gates = space.one_hot([1]).gates.double().requires_grad_()
    with space.bind(outputs_credited(space, [1]), gates):
        (gradient,) = torch.autograd.grad(parts_loss(edge(X, shift=0.5)), gates)
    output, credit = by_hand(edge, 1, X)
    arriving = torch.autograd.grad(parts_loss(output), tensors(output))
    other = tensors(edge.candidates["one"](X, shift=0.5))
    expected = sum((g * y).sum() for g, y in zip(arriving, other, strict=True))
    torch.testing.assert_close(gradient[0], torch.stack([expected, credit]).detach())


class Alive(nn.Module):
    """Counts the outputs that there are at a time, of all that were made without a graph."""

    now = most = 0

    def forward(self, x: Tensor) -> Tensor:
        output = 2 * x
        if not torch.is_grad_enabled():
            Alive.now += 1
            Alive.most = max(Alive.most, Alive.now)
            weakref.finalize(output, self.gone)
        return output

    @staticmethod
    def gone() -> None:
        Alive.now -= 1


def test_one_counterfactual_output_is_alive_at_a_time() -> None:
    model = nn.Sequential(*(MixedOp(name, {f"op{j}": Alive() for j in range(5)}) for name in "abc"))
    space = SearchSpace(model)
    gate_gradient(model, space, outputs_credited(space, [0, 1, 2]))
    assert (Alive.now, Alive.most) == (0, 1)


def test_counterfactual_passes_run_under_the_forward_passs_autocast() -> None:
    types = []

    class Note(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            types.append((output.dtype, torch.is_grad_enabled()))
            return output

    model = nn.Sequential(MixedOp("a", {"one": Note(6, 6), "two": Note(6, 6)}))
    space = SearchSpace(model)
    gates = space.one_hot([0]).gates.requires_grad_()
    with space.bind(outputs_credited(space, [0]), gates):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.ones(2, 6)).float().square().sum()
        loss.backward()
    assert types == [(torch.bfloat16, True), (torch.bfloat16, False)]
    assert gates.grad.ne(0).all()
    with torch.autocast("cpu", torch.bfloat16):
        with space.bind(outputs_credited(space, [0]), gates):
            model(torch.ones(2, 6)).float().square().sum().backward()
        model.zero_grad()
        with space.bind(space.one_hot([1])):  # whose weights were cast without a graph just now
            model(torch.ones(2, 6)).float().square().sum().backward()
    assert model[0].candidates["two"].weight.grad.ne(0).any()


def test_counterfactual_passes_under_activation_checkpointing() -> None:
    model = Ragged()
    space = SearchSpace(model)
    architecture = outputs_credited(space, (1, 0, 1))
    expected = gate_gradient(model, space, architecture)
    gates = architecture.gates.double().requires_grad_()
    with space.bind(architecture, gates):
        output = checkpoint(model, torch.linspace(-1, 2, 6, dtype=torch.double), use_reentrant=False)
        (gradient,) = torch.autograd.grad(output.square().sum(), gates)
    torch.testing.assert_close(gradient, expected)


def test_an_input_that_is_overwritten_before_it_is_needed_is_noticed() -> None:
    edge = MixedOp("a", {"one": nn.Identity(), "two": nn.Tanh()})
    space = SearchSpace(edge)
    gates = space.one_hot([0]).gates.requires_grad_()
    with space.bind(outputs_credited(space, [0]), gates):
        x = torch.ones(3)
        loss = edge(x).sum()
        x.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_counterfactual_output_of_another_shape_is_refused() -> None:
    edge = MixedOp("a", {"one": nn.Identity(), "two": nn.Linear(3, 1)})
    space = SearchSpace(edge)
    gates = space.one_hot([0]).gates.requires_grad_()
    with (
        space.bind(outputs_credited(space, [0]), gates),
        pytest.raises(ValueError, match=r"'a' differ in their outputs"),
    ):
        edge(torch.ones(2, 3)).sum().backward()


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


# -- what would disturb the others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "single"])
def test_an_activation_in_place_leaves_the_edges_input_alone(kind: str) -> None:
    def network(inplace: bool) -> MixedOp:
        block = nn.Sequential(nn.ReLU(inplace=inplace), nn.Hardtanh(inplace=inplace))
        return MixedOp("a", {"relu": nn.ReLU(inplace=inplace), "skip": nn.Identity(), "block": block})

    results = []
    for edge in (network(inplace=False), network(inplace=True)):
        space = SearchSpace(edge)
        for choice in (0, 1, 2) if kind == "single" else (None,):
            architecture = dense(space) if choice is None else space.one_hot([choice])
            gates = architecture.gates.double().requires_grad_()
            x = X.clone().requires_grad_()
            node = x * 1
            with space.bind(architecture, gates):
                loss = (edge(node) * torch.arange(6.0)).sum() + node.square().sum()  # another edge leaves the node
            results.append((loss.detach(), *torch.autograd.grad(loss, (x, gates))))
            assert torch.equal(node, x)
    half = len(results) // 2
    torch.testing.assert_close(results[half:], results[:half], rtol=0, atol=0)
    assert results[0][2].any()


def test_only_a_flag_that_is_set_is_switched_off() -> None:
    class Odd(nn.Module):
        inplace = "yes"

    odd, dropout, outside = Odd(), nn.Dropout(inplace=True), nn.ReLU(inplace=True)
    MixedOp("a", {"odd": odd, "deep": nn.Sequential(nn.Sequential(dropout))})
    assert (odd.inplace, dropout.inplace, outside.inplace) == ("yes", False, True)


def test_a_space_without_a_choice_is_refused() -> None:
    model = nn.Sequential(MixedOp("first", {"skip": nn.Identity()}), MixedOp("second", {"tanh": nn.Tanh()}))
    with pytest.raises(ValueError, match=r"nothing to search.*'first' or 'second'"):
        SearchSpace(model)
    model.append(MixedOp("third", {"skip": nn.Identity(), "tanh": nn.Tanh()}))
    assert SearchSpace(model).size == 2


@pytest.mark.parametrize(
    ("candidates", "named"),
    [
        ({"a.b": nn.Identity()}, "'a.b'"),
        ({"": nn.Identity()}, "''"),
        ({"keys": nn.Identity()}, "'keys'"),
        ({"training": nn.Identity()}, "'training'"),
        ({3: nn.Identity()}, "3"),
        ({"x": None}, "'x'.*None"),
        ({"x": nn.Identity}, "'x'.*Identity"),
        ([nn.Identity()], "no candidates"),
        (None, "no candidates"),
    ],
    ids=repr,
)
def test_bad_candidates_are_named(candidates: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        MixedOp("edge", candidates)
    assert "MixedOp 'edge'" in str(caught.value)
    assert "\n" not in str(caught.value)
