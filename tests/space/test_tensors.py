"""What counts the changes of a tensor, and keeps none of its memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advnas_lightning.space.tensors import change_counter, counted, is_ordinary
from benchmarks.software_device import OnDevice
from tests.support.labelled import Labelled


@pytest.mark.parametrize("tensor", [torch.ones(4), torch.ones(4).as_subclass(Labelled), nn.Parameter(torch.ones(4))])
def test_changes_by_all_who_share_the_memory_count(tensor: Tensor) -> None:
    counter, before = change_counter(tensor), tensor._version
    assert counter.untyped_storage().nbytes() == 0
    with torch.no_grad():
        view = tensor.view(2, 2)
        tensor.add_(1)
        view.mul_(2)
        tensor.detach()[:1] = 0
    assert counter._version == tensor._version == before + 3


def test_a_change_before_a_backward_pass_is_still_an_error() -> None:
    output = torch.ones(2, requires_grad=True).exp()
    change_counter(output)
    output.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_tensor_that_lets_go_of_no_memory_counts_itself() -> None:
    sparse = torch.eye(2).to_sparse()
    assert change_counter(sparse) is sparse


def test_tensors_of_inference_mode_are_not_counted() -> None:
    with torch.inference_mode():
        assert counted([torch.ones(1)]) == []


def test_a_class_with_operations_of_its_own_is_not_ordinary() -> None:
    assert is_ordinary(torch.ones(1).as_subclass(Labelled))
    assert not is_ordinary(OnDevice(torch.ones(1)))
