"""The strategy RandomSearch, a baseline."""

from __future__ import annotations

from typing import ClassVar

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.space.search_space import Architecture


class RandomSearch(SearchStrategy):
    """Random search, a baseline: the weights are trained on uniform draws, and the result is one draw by ``seed``.

    θ never moves.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp
        >>> search = RandomSearch(MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}), seed=1)
        >>> print(search.probabilities(), search.genotype()["edge"])
        edge  linear 0.500  skip 0.500 linear
    """

    searches: ClassVar[bool] = False

    def sample(self) -> Architecture:
        """Draw one candidate per edge uniformly."""
        return self.one_hot(self.draw())
