"""Random search."""

from __future__ import annotations

from typing import ClassVar

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture


class RandomSearch(SearchStrategy):
    """A baseline: the weights are trained on uniform draws and θ never moves; the result is one draw by ``seed``."""

    searches: ClassVar[bool] = False

    def sample(self) -> Architecture:
        """One-hot, uniform."""
        return self.one_hot(self.draw())
