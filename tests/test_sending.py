"""Small tensors reach a device without waiting, where that is safe."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from advnas_lightning.sending import sent


@pytest.mark.parametrize(("device", "expected"), [("cuda", True), ("cuda:1", True), ("mps", False), ("xpu", False)])
def test_only_cuda_takes_values_at_once(device: str, expected: bool) -> None:
    asked: list[Any] = []

    class Recording(torch.Tensor):
        def to(self, *places: Any, **options: Any) -> torch.Tensor:  # type: ignore[override]
            asked.append((*places, options))
            return self

    sent(torch.ones(2).as_subclass(Recording), torch.device(device))
    assert asked == [(torch.device(device), {"non_blocking": expected})]
