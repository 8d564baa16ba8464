"""Whether a found network computes what the search did, where what follows an edge changes its output in place."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from torch import nn

from advnas_lightning.engine.evaluation import Evaluator, SkippedStep
from advnas_lightning.engine.lightning_private import copied_batch
from advnas_lightning.space.mixed_op import mixed_ops
from advnas_lightning.space.search_space import Architecture

TOLERANCE = 1e-5  # of the loss: the operations are the same, and round alike
NOISE = 10  # times what two equal evaluations differ by


class InPlaceCheck:
    """Refuses a network in which a candidate that returns its input would change what the network computes.

    In a search an edge returns a tensor of its own, so that what follows may change it in place. In a found network
    ``nn.Identity`` returns its very input. If what follows changes it in place, and the network uses the input once
    more, the found network has another loss. The outputs of edges with an identity are observed in the architecture
    steps 1, 2, 4, 8 and so on. Where one was changed in place, both losses are compared.

    Args:
        model: The network.
        evaluator: Runs it.

    Example:
        >>> import torch
        >>> from advnas_lightning import AdvantageNAS, MixedOp
        >>> from advnas_lightning.objectives import Regression
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.edge = MixedOp("edge", {"tanh": nn.Tanh(), "skip": nn.Identity()})
        ...
        ...     def forward(self, x):
        ...         return self.edge(x).mul_(2) + x
        >>> search = AdvantageNAS(Block(), objective=Regression(), architecture_optimizer=torch.optim.Adam)
        >>> check = InPlaceCheck(search.model, search.evaluator)
        >>> batch = (torch.ones(1, 1), torch.ones(1, 1))
        >>> trial = search.evaluate(search.sample(), batch)
        >>> check.see(trial.architecture, batch)
        Traceback (most recent call last):
            ...
        ValueError: where edge 'edge' runs 'skip', which returns its input, what follows changes that input in place \
and the network uses it again, so that the found network computes something else: let what follows compute out of \
place, as y = y + 1 in place of y += 1, or nn.ReLU() in place of nn.ReLU(inplace=True)
    """

    def __init__(self, model: nn.Module, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._identities = {
            op.name: index
            for op in mixed_ops(model)
            for index in range(len(op.names))
            if isinstance(op.candidate_at(index), nn.Identity)
        }
        self._steps, self._due = 0, 1
        evaluator.observed = self._identities

    def see(self, architecture: Architecture, batch: Any) -> None:
        """Check a batch, if an edge's output was changed in place.

        Args:
            architecture: What an architecture step has run.
            batch: The batch of that step.

        Raises:
            ValueError: The found network would have another loss.
        """
        self._steps += 1
        self._due *= 2 if self._steps == self._due else 1
        changed, self._evaluator.changed_in_place = self._evaluator.changed_in_place, set()
        if changed:
            self._compare(architecture, batch, changed)
        self._evaluator.observed = self._identities if self._steps + 1 == self._due else ()

    def _compare(self, architecture: Architecture, batch: Any, changed: set[str]) -> None:
        """Refuse that the loss changes where these edges return their very input."""
        space = self._evaluator.space
        rows = zip(space.edges, architecture.paths, strict=True)
        chosen = [self._identities[edge] if edge in changed else path[0] for edge, path in rows]
        checked = space.one_hot(chosen, like=architecture.gates)
        try:
            if not self._differs(checked, batch, changed):
                return
            culprits = [edge for edge in sorted(changed) if self._differs(checked, batch, {edge})]
        except SkippedStep:  # the loss of such a network skips this batch
            return
        edge = (culprits or sorted(changed))[0]
        name = space.candidates[space.edges.index(edge)][self._identities[edge]]
        raise ValueError(
            f"where edge {edge!r} runs {name!r}, which returns its input, what follows changes that input in"
            " place and the network uses it again, so that the found network computes something else: let what follows"
            " compute out of place, as y = y + 1 in place of y += 1, or nn.ReLU() in place of nn.ReLU(inplace=True)"
        )

    def _differs(self, architecture: Architecture, batch: Any, edges: Collection[str]) -> bool:
        """Whether the loss is another one where these edges return what their candidates do."""
        expected, found = (self._loss(architecture, batch, bare) for bare in ((), edges))
        if not abs(found - expected) > TOLERANCE * abs(expected):
            return False
        return abs(found - expected) > NOISE * abs(self._loss(architecture, batch, ()) - expected)

    def _loss(self, architecture: Architecture, batch: Any, bare: Collection[str]) -> float:
        own = copied_batch(batch, architecture.gates.device)  # the network may change it in place, too
        trace = copy.copy(self._evaluator.trace)  # a new one puts back everything
        with self._evaluator.changed(bare=bare, observed=(), trace=trace):
            return float(self._evaluator.evaluate(architecture, own, gates=False).loss)
