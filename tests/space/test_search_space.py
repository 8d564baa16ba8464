"""The edges of a network: their order, their rows, and the draw that they are bound to."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from advnas_lightning import MixedOp, SearchSpace
from tests.support.scaled_space import Cut, Ragged, dense, finite_differences, gate_gradient, loss_of

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


def test_one_name_with_other_candidates_names_both() -> None:
    for other in ({"x": nn.Identity()}, {"y": nn.Identity(), "x": nn.Identity()}, {"x": nn.Identity(), "y": Cut()}):
        model = nn.ModuleList([MixedOp("a", {"x": nn.Identity(), "y": nn.Identity()}), MixedOp("a", other)])
        with pytest.raises(ValueError, match="'a'") as caught:
            SearchSpace(model)
        second = ", ".join(name + " (zero operation)" * isinstance(op, Cut) for name, op in other.items())
        assert "{x, y}" in str(caught.value)
        assert f"{{{second}}}" in str(caught.value)


def test_a_model_without_an_edge_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear contains no MixedOp"):
        SearchSpace(nn.Linear(1, 1))


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


# -- what would disturb the others -----------------------------------------------------------------------------------


def test_a_space_without_a_choice_is_refused() -> None:
    model = nn.Sequential(MixedOp("first", {"skip": nn.Identity()}), MixedOp("second", {"tanh": nn.Tanh()}))
    with pytest.raises(ValueError, match=r"nothing to search.*'first' or 'second'"):
        SearchSpace(model)
    model.append(MixedOp("third", {"skip": nn.Identity(), "tanh": nn.Tanh()}))
    assert SearchSpace(model).size == 2
