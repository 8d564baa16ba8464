"""What the tests of refinements need."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from advnas_lightning.refine.packages import missing_package
from tests.support.small_search import CLASSES, FEATURES

__all__ = ["CLASSES", "FEATURES", "needs_storage", "points"]

needs_storage = pytest.mark.skipif(missing_package() is not None, reason=str(missing_package()))


def points(size: int, seed: int) -> TensorDataset:
    """Points that are easy to classify, other ones by each seed."""
    inputs = torch.randn(size, FEATURES, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))
