"""A batch's description, and the batches that are made from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from advnas_lightning.batch_description import (
    SEEN,
    VALUES,
    describe,
    make_batch,
    read_description,
    resized,
    tensors,
    write_description,
)
from advnas_lightning.objectives import Window


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


IDS = torch.randint(-1, 30, (7, 4), generator=torch.Generator().manual_seed(0))
BATCHES = {
    "pair": (torch.randn(6, 3, 5, 5).contiguous(memory_format=torch.channels_last), torch.arange(6)),
    "list": [torch.ones(6, 3, 5, 5), torch.zeros(6, dtype=torch.bool)],
    "dict": {"x": torch.randn(6, 4).bfloat16(), "mask": torch.ones(6, 4, dtype=torch.uint8), "name": "a", "none": None},
    "window": Window(IDS, IDS, position=3, text="train", tokens=28),
    "nested": [({"x": torch.tensor(3.5)},), torch.empty(0, 4), 0.25, True],
    "own": Pair(torch.randn(2, 3), torch.randn(2)),
    "not finite": torch.tensor([torch.inf, torch.nan, -torch.inf, 2.0]),
}


def flat(batch: Any) -> list[Any]:
    inner = list(batch.values()) if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else None
    return [batch] if inner is None else [type(batch), *(leaf for each in inner for leaf in flat(each))]


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_that_is_made_has_the_shapes_and_types_and_only_values_that_there_were(name: str) -> None:
    batch = BATCHES[name]
    made = make_batch(json.loads(json.dumps(describe(batch))), trust=name == "own")
    for ours, theirs in zip(flat(made), flat(batch), strict=True):
        if not isinstance(theirs, Tensor):
            assert ours == theirs
            continue
        assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())
        assert set(ours.flatten().tolist()) <= set(theirs.flatten().tolist())
        if ours.numel() and ours.is_floating_point():
            assert ours.isfinite().all()


def test_few_values_are_kept_and_they_span_the_tensor() -> None:
    values = torch.arange(3 * SEEN)
    (kept,) = tensors(describe(values))
    assert len(kept["values"]) == VALUES
    assert (kept["values"][0], kept["values"][-1]) == (0, 3 * SEEN - 3)  # of every third one
    labels = torch.randint(10, (64,), generator=torch.Generator().manual_seed(0))
    made = make_batch(describe(labels))
    assert F.cross_entropy(torch.zeros(64, 10), made).isfinite()


def test_draws_are_repeated() -> None:
    description = describe(torch.randn(9, 3))
    assert torch.equal(make_batch(description), make_batch(description))
    assert not torch.equal(make_batch(description), make_batch(description, seed=1))


def test_another_size_changes_the_first_dimension() -> None:
    images, labels = make_batch(resized(describe(BATCHES["pair"]), 2))
    assert (images.shape, labels.shape) == ((2, 3, 5, 5), (2,))
    assert images.is_contiguous(memory_format=torch.channels_last)
    with_number = make_batch(resized(describe([torch.tensor(3.5), torch.zeros(6, 6)]), 1))
    assert [list(each.shape) for each in with_number] == [[], [1, 6]]
    with pytest.raises(ValueError, match="batch_size=2: the batch has the number 3 beside its tensors"):
        resized(describe(BATCHES["window"]), 2)
    with pytest.raises(ValueError, match="batch_size=2: the batch has tensors of several lengths"):
        resized(describe((torch.zeros(3), torch.zeros(4))), 2)


def test_only_this_packages_classes_are_imported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"is made by '{__name__}:Pair', which may run any code: trust")):
        make_batch(describe(BATCHES["own"]))
    for name in ("os:system", "advnas_lightning.runs:Path", "advnas_lightning.runs:os.system"):
        with pytest.raises(ValueError, match=r"which may run any code|no named tuple"):
            make_batch({"named": name, "entries": [{"value": f"touch {tmp_path}/ran"}]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "batch", [{3: torch.ones(1)}, [object()], torch.ones(2, dtype=torch.complex64), torch.ones(2, 2).to_sparse()]
)
def test_what_has_no_description_leaves_no_file(batch: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no description is kept"):
        describe(batch)
    assert not write_description(tmp_path / "batch.json", batch, {})
    assert not write_description(tmp_path / "batch.json", torch.ones(1), {"model_arguments": {"size": torch.ones(1)}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"batch": 3}', '{"batch": {"list": [3]}}', '{"batch": {"dict": {"x": []}}}']
)
def test_a_file_without_a_description_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "batch.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{path} describes no batch: ") as error:
        read_description(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"tensor": "float33", "shape": [2], "values": [1]},
        {"tensor": "float32", "shape": [-2], "values": [1]},
        {"tensor": "float32", "shape": "two", "values": [1]},
        {"tensor": "float32", "shape": [2]},
        {"named": "advnas_lightning.objectives:Window", "entries": [{"value": 1}]},
        {"named": "advnas_lightning.objectives:Windows", "entries": []},
        {"tuple": [3]},
    ],
)
def test_a_broken_description_is_one_line(description: Any) -> None:
    with pytest.raises(ValueError, match="the description of a batch is broken") as error:
        make_batch(description)
    assert "\n" not in str(error.value)
