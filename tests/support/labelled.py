"""A class of tensors, as other libraries have them."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor


class Labelled(Tensor):
    """A tensor with a label. Results of torch's functions have none, and can be neither cloned nor copied."""

    label: str

    def clone(self, *arguments: Any, **keywords: Any) -> Labelled:
        cloned = super().clone(*arguments, **keywords).as_subclass(Labelled)
        cloned.label = self.label
        return cloned

    def __deepcopy__(self, memo: dict[int, Any]) -> Labelled:
        copied = copy.deepcopy(self.detach().as_subclass(Tensor), memo).as_subclass(Labelled)
        copied.label = self.label
        return copied
