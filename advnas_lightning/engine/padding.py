"""Whether zeros behind a narrow output stay zeros up to what reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from advnas_lightning.engine.environment import HALF
from advnas_lightning.engine.evaluation import Evaluator
from advnas_lightning.space.search_space import Architecture

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
WITH_DROPOUT = (nn.MultiheadAttention, nn.RNNBase)  # which have a number for it
TOLERANCE, OF_HALVES = 1e-3, 5e-2  # of the loss, above what TF32 and halves round
LEAST = 1e-5  # a difference of losses that is always rounding
TELLING = 10  # times what is tolerated: so much the sizes must change the loss, for a check to tell something


class PaddingCheck:
    """Refuses a network that computes something else where narrow outputs are padded with zeros.

    Strategies that compare outputs of several sizes pad the narrow ones, see
    :class:`~advnas_lightning.space.elastic.Elastic`. That is right as long as zeros stay zeros up to the layer that
    reads them. It is checked on the first batch of an architecture that pads: the narrowest architecture must have the
    same loss with padding and without it. Dropout is switched off for that. If the loss is still random, nothing is
    checked. If the widest architecture has nearly the same loss, too, the layers with sizes do nothing as yet, as where
    they are scaled by nearly zero at first. Then it is checked again after 2, 4, 8 and so on of such steps.

    Args:
        model: The network.
        evaluator: Runs it.
        orders: The candidates of each elastic edge, from the widest to the narrowest.

    Example:
        >>> from functools import partial
        >>> from advnas_lightning import DARTS, elastic
        >>> from advnas_lightning.objectives import Regression
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(
        ...     elastic(nn.Linear(4, 8), out_features=[2, 8], name="width"),
        ...     nn.Sigmoid(),
        ...     elastic(nn.Linear(8, 1), in_features=[2, 8], name="width"),
        ... )
        >>> search = DARTS(net, objective=Regression(), architecture_optimizer=torch.optim.Adam)
        >>> check = PaddingCheck(net, search.evaluator, {"width": (1, 0)})
        >>> dense = Architecture(torch.full((1, 2), 0.5), search.space.all_paths)
        >>> check.see(dense, (torch.ones(1, 4), torch.full((1, 1), 5.0)))
        Traceback (most recent call last):
            ...
        ValueError: the network computes something else where outputs of edge 'width' are padded with zeros: ...
    """

    def __init__(self, model: nn.Module, evaluator: Evaluator, orders: Mapping[str, Sequence[int]]) -> None:
        self._model, self._evaluator = model, evaluator
        self._orders = {evaluator.space.edges.index(edge): order for edge, order in orders.items()}
        self._steps = 0  # that have padded
        self._due: float = 1 if orders else math.inf  # the next one that is checked

    def see(self, architecture: Architecture, batch: Any) -> None:
        """Check if an architecture pads, and that is not known to be right.

        Args:
            architecture: What an architecture step has run.
            batch: The batch of that step.

        Raises:
            ValueError: Padding changes the loss.
        """
        pads = architecture.inactive != "none" or any(len(path) > 1 for path in architecture.paths)
        self._steps += pads
        if not pads or self._steps < self._due:
            return
        with without_dropout(self._model):
            if not self._changes(architecture, batch, self._orders):
                self._due = math.inf if self._tells(architecture, batch) else 2 * self._due
                return
            culprits = [edge for edge in self._orders if self._changes(architecture, batch, {edge})]
        names = ", ".join(repr(self._evaluator.space.edges[edge]) for edge in culprits or self._orders)
        raise ValueError(
            f"the network computes something else where outputs of edge {names} are padded with zeros: let what follows"
            " keep zeros, as nn.ReLU does and nn.Sigmoid does not, and let normalization layers be elastic with the"
            " edge's name, and what reads two joined branches have in_halves; or use a strategy that pads nothing, such"
            " as AdvantageNAS"
        )

    def _changes(self, like: Architecture, batch: Any, narrow: Any) -> bool:
        """Whether padding changes the loss of the architecture that is narrow on some edges and wide on the others."""
        alone = self._alone(like, narrow)
        widest = {edge: (self._orders[edge][0],) for edge in narrow}
        paths = tuple(path + widest.get(edge, ()) for edge, path in enumerate(alone.paths))
        expected, seed = self._loss(alone, batch), self._evaluator.seed
        with self._evaluator.changed(seed=lambda: seed() + 1):
            if not math.isfinite(expected) or self._loss(alone, batch) != expected:
                return False
        padded = self._loss(Architecture(alone.gates, paths), batch)
        return not math.isclose(padded, expected, rel_tol=self._tolerance(like), abs_tol=LEAST)

    def _tells(self, like: Architecture, batch: Any) -> bool:
        """Whether the sizes change the loss by so much that a change by the padding would have been seen."""
        narrowest, widest = (self._loss(self._alone(like, at), batch) for at in (self._orders, ()))
        return not math.isclose(narrowest, widest, rel_tol=TELLING * self._tolerance(like), abs_tol=TELLING * LEAST)

    def _alone(self, like: Architecture, narrow: Any) -> Architecture:
        """The one-hot architecture that is narrow on some edges and wide on the others."""
        space = self._evaluator.space
        chosen = {edge: order[-1 if edge in narrow else 0] for edge, order in self._orders.items()}
        return space.one_hot([chosen.get(edge, 0) for edge in range(len(space))], like=like.gates)

    def _loss(self, architecture: Architecture, batch: Any) -> float:
        return float(self._evaluator.evaluate(architecture, batch, gates=False).loss)

    def _tolerance(self, architecture: Architecture) -> float:
        kind = architecture.gates.device.type
        halves = any(parameter.dtype in HALF for parameter in self._model.parameters())
        is_mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        return OF_HALVES if halves or is_mixed else TOLERANCE


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """A context in which no layer of PyTorch drops anything.

    Args:
        model: The network.

    Example:
        >>> with without_dropout(dropout := nn.Dropout(0.5)):
        ...     dropout(torch.ones(2))
        tensor([1., 1.])
        >>> dropout.training
        True
    """
    off = {"training": (DROPOUT, False), "dropout": (WITH_DROPOUT, 0.0)}
    before = [
        (layer, name, getattr(layer, name), value)
        for layer in model.modules()
        for name, (kinds, value) in off.items()
        if isinstance(layer, kinds)
    ]
    for layer, name, _, value in before:
        setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, name, value, _ in before:
            setattr(layer, name, value)
