"""Which architectures a weight step runs on its batch: one draw, or the widest, the narrowest and some draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch

from advnas_lightning.space.elastic.ordering import with_candidates
from advnas_lightning.space.search_space import Architecture, SearchSpace
from advnas_lightning.validate import check_int, check_one_of

Sampling = Literal["one", "sandwich"]
WarmupSizes = Literal["all", "shrinking"]


class Draws(Protocol):
    """What draws of a weight step are made by."""

    space: SearchSpace
    warmup_epochs: int
    generator: torch.Generator

    @property
    def current_epoch(self) -> int:
        """The epoch, from 0 on."""

    def sample_for_weights(self) -> Architecture:
        """Draw the architecture of a weight step."""


class WeightSampling:
    """Draws the architectures of a weight step.

    The sandwich rule of universally slimmable networks (Yu and Huang 2019, Algorithm 1) runs the widest architecture,
    the narrowest one, and n that are drawn.

    Progressive shrinking (Cai et al. 2020) begins with the widest size of each edge and adds the next smaller
    ones in the course of the warm-up. In epoch e = 0, 1, … of W, an edge with K sizes has the ⌊e K / W⌋ + 1 widest.
    Once-for-all adds kernels, depths and widths one after another; here all edges that have an order shrink together.

    Args:
        policy: Draws as the strategy does, and knows the epoch and the length of the warm-up.
        orders: The candidates of each edge that has an order, from the widest on, by the edge's name.
        sampling: ``"one"`` draw, or a ``"sandwich"``.
        draws: How many draws a sandwich has between the widest and the narrowest.
        sizes: ``"all"``, or ``"shrinking"`` ones in the warm-up.

    Raises:
        ValueError: A bad argument, or what needs an order or a warm-up, and there is none.

    Example:
        >>> from types import SimpleNamespace
        >>> from advnas_lightning import elastic
        >>> width = elastic(torch.nn.Linear(4, 8), out_features=[2, 4, 8], name="width")
        >>> space = SearchSpace(width)
        >>> policy = SimpleNamespace(space=space, sample_for_weights=lambda: space.one_hot([1]))
        >>> sampling = WeightSampling(policy, {"width": (2, 1, 0)}, sampling="sandwich", draws=1)
        >>> [architecture.choice for architecture in sampling()]  # the widest, the narrowest, a draw
        [(2,), (0,), (1,)]
    """

    def __init__(
        self,
        policy: Draws,
        orders: Mapping[str, Sequence[int]],
        *,
        sampling: Sampling = "one",
        draws: int = 2,
        sizes: WarmupSizes = "all",
    ) -> None:
        check_one_of("sampling", sampling, ("one", "sandwich"))
        check_one_of("warmup_sizes", sizes, ("all", "shrinking"))
        self.draws = check_int("sandwich_draws", draws, least=0)
        if not orders:
            for name, value, plain in (("sampling", sampling, "one"), ("warmup_sizes", sizes, "all")):
                if value != plain:
                    raise ValueError(
                        f"{name}={value!r} needs edges whose candidates have an order, and the network has none: make"
                        f" sizes elastic, such as elastic(nn.Linear(8, 8), out_features=[4, 8], name='width'), or use"
                        f" {name}={plain!r}"
                    )
        if sizes == "shrinking" and policy.warmup_epochs == 0:
            raise ValueError("warmup_sizes='shrinking' needs a warm-up: set warmup_epochs, or use warmup_sizes='all'")
        self._policy, self._is_sandwich = policy, sampling == "sandwich"
        self._orders = {policy.space.edges.index(edge): order for edge, order in orders.items()}
        self._shrinks = sizes == "shrinking"

    @torch.no_grad()
    def __call__(self) -> list[Architecture]:
        """The architectures of one step. The first one is the widest in a sandwich."""
        sizes = self._sizes()
        if not self._is_sandwich:
            return [self._drawn(sizes)]
        ends = [{edge: own[place] for edge, own in sizes.items()} for place in (0, -1)]
        # What has no order is drawn anew for each of them.
        return [
            *(with_candidates(self._policy.sample_for_weights(), end) for end in ends),
            *(self._drawn(sizes) for _ in range(self.draws)),
        ]

    def _sizes(self) -> dict[int, Sequence[int]]:
        """The candidates of each edge with an order that are drawn now, from the widest on."""
        if not self._shrinks or self._policy.current_epoch >= self._policy.warmup_epochs:
            return dict(self._orders)
        epoch, epochs = self._policy.current_epoch, self._policy.warmup_epochs
        return {edge: own[: epoch * len(own) // epochs + 1] for edge, own in self._orders.items()}

    def _drawn(self, sizes: Mapping[int, Sequence[int]]) -> Architecture:
        """A draw. On an edge whose draw is not among its sizes it is one of these, each with the same probability."""
        drawn = self._policy.sample_for_weights()
        if all(len(own) == len(self._orders[edge]) for edge, own in sizes.items()):
            return drawn
        if drawn.choice is None:
            raise ValueError(
                "warmup_sizes='shrinking' needs weight steps that run one candidate per edge, and this strategy's run a"
                " mixture of them: use warmup_sizes='all', or a strategy such as AdvantageNAS"
            )
        outside = {edge: own for edge, own in sizes.items() if drawn.choice[edge] not in own}
        return with_candidates(drawn, {edge: own[self._index(len(own))] for edge, own in outside.items()})

    def _index(self, count: int) -> int:
        """Draw a number from 0 to ``count`` − 1."""
        return int(torch.randint(count, (1,), generator=self._policy.generator))
