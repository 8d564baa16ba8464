"""A genotype: made, applied to a network, written and read."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advnas_lightning import Genotype, MixedOp, SearchSpace
from tests.support.scaled_space import Ragged, write

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


def test_a_network_that_rules_have_not_made_searchable_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Linear has no MixedOp: give .* after make_searchable if rules make them$"):
        Genotype({"a": "x1"}).apply(nn.Linear(2, 2))


@pytest.mark.parametrize("edges", [{"a": 1}, {"a": None}, {1: "x"}])
def test_a_genotype_is_of_strings(edges: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="maps edge names to candidate names"):
        Genotype(edges)


@pytest.mark.parametrize("text", ["", "[1]", '"a"', '{"a": 1}', "{'a': 'b'}", "null"])
def test_bad_json_is_no_genotype(text: str) -> None:
    with pytest.raises(ValueError, match="genotype"):
        Genotype.from_json(text)


# -- files -----------------------------------------------------------------------------------------------------------


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
    [
        *("", "{", "[]", "not json", '{"a": 3}', '{"a": "x", "a": "y"}', 9999 * "[", 9999 * '{"a":'),
        *('{"selected": "argmax", "argmax": [1]}', '{"selected": "argmax"}'),
    ],
)
def test_load_refuses_a_broken_file(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "genotype.json", content)
    with pytest.raises(ValueError, match="genotype"):
        Genotype.load(path)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', '{"a": "x", "a": "y"}', 9999 * "[", 9999 * '{"a":'])
def test_a_text_that_is_no_genotype_is_refused_in_one_line(content: str) -> None:
    with pytest.raises(ValueError, match=r"\A.*genotype.*\Z") as caught:
        Genotype.from_json(content)
    assert len(str(caught.value)) < 200


def test_an_edge_may_be_called_as_the_entry_of_a_runs_file(tmp_path: Path) -> None:
    path = write(tmp_path / "genotype.json", {"selected": "skip", "argmax": "linear"})
    assert dict(Genotype.load(path)) == {"selected": "skip", "argmax": "linear"}


def test_load_refuses_bytes_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a genotype file"):
        Genotype.load(tmp_path / "genotype.json")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "missing.json", tmp_path / "empty"):
        with pytest.raises(ValueError, match="no genotype file"):
            Genotype.load(path)
