"""Whether a found network computes what the search did, where what follows an edge changes its output in place."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from advnas_lightning.engine.evaluation import Evaluator, SkippedStep
from advnas_lightning.engine.lightning_private import copied_batch
from advnas_lightning.space.search_space import Architecture

TOLERANCE = 1e-5  # of the loss: the operations are the same, and round alike
REPEATS = 4  # how often two losses that differ are computed, since a loss may be random beyond its seed
NOISE = 10  # times what equal evaluations differ by


class InPlaceCheck:
    """Refuses a network in which a candidate that returns its input would change what the network computes.

    In a search an edge returns a tensor of its own, so that what follows may change it in place. In a found network
    ``nn.Identity`` returns its very input, and ``nn.Flatten`` a view of it. If what follows changes it in place, and
    the network uses the input once more, the found network has another loss. The outputs of edges are observed in the
    architecture steps 1, 2, 4, 8 and so on. Where one was changed in place, and one of the edge's candidates is known
    to return memory of its input, both losses are compared.

    Args:
        evaluator: Runs the network.

    Example:
        >>> import torch
        >>> from torch import nn
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
        >>> check = InPlaceCheck(search.evaluator)
        >>> batch = (torch.ones(1, 1), torch.ones(1, 1))
        >>> trial = search.evaluate(search.space.one_hot([1]), batch)
        >>> check.see(trial.architecture, batch)
        Traceback (most recent call last):
            ...
        ValueError: where edge 'edge' runs 'skip', which returns its input, what follows changes that input in place \
and the network uses it again, so that the found network computes something else: let what follows compute out of \
place, as y = y + 1 in place of y += 1, or nn.ReLU() in place of nn.ReLU(inplace=True)
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._steps, self._due = 0, 1
        evaluator.observed = evaluator.space.edges

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
        passing = self._evaluator.space.passing
        suspects = {edge: passing[edge] for edge in sorted(changed) if passing[edge]}
        if suspects:
            self._compare(architecture, batch, suspects)
        self._evaluator.observed = self._evaluator.space.edges if self._steps + 1 == self._due else ()

    def _compare(self, architecture: Architecture, batch: Any, suspects: Mapping[str, Collection[int]]) -> None:
        """Refuse that the loss changes where edges return what their candidates do, each of some candidates once."""
        space = self._evaluator.space
        for chosen in _rounds(suspects):
            rows = zip(space.edges, architecture.paths, strict=True)
            checked = space.one_hot([chosen.get(edge, path[0]) for edge, path in rows], like=architecture.gates)
            try:
                if not self._differs(checked, batch, chosen):
                    continue
                culprits = [edge for edge in chosen if self._differs(checked, batch, {edge})]
            except SkippedStep:  # the loss of such a network skips this batch
                continue
            edge = (culprits or list(chosen))[0]
            name = space.candidates[space.edges.index(edge)][chosen[edge]]
            raise ValueError(
                f"where edge {edge!r} runs {name!r}, which returns its input, what follows changes that input in"
                " place and the network uses it again, so that the found network computes something else: let what"
                " follows compute out of place, as y = y + 1 in place of y += 1, or nn.ReLU() in place of"
                " nn.ReLU(inplace=True)"
            )

    def _differs(self, architecture: Architecture, batch: Any, edges: Collection[str]) -> bool:
        """Whether the loss is another one where these edges return what their candidates do.

        A loss may be random beyond its seed, so losses that differ are computed again: those of one kind must be close
        to each other, and far from those of the other kind.
        """
        expected: list[float] = []
        found: list[float] = []
        for _ in range(REPEATS):
            expected.append(self._loss(architecture, batch, ()))
            found.append(self._loss(architecture, batch, edges))
            apart = max(min(expected) - max(found), min(found) - max(expected))
            noise = max(max(losses) - min(losses) for losses in (expected, found))
            if not apart > max(TOLERANCE * abs(expected[0]), NOISE * noise):
                return False
        return True

    def _loss(self, architecture: Architecture, batch: Any, bare: Collection[str]) -> float:
        own = copied_batch(batch, architecture.gates.device)  # the network may change it in place, too
        trace = copy.copy(self._evaluator.trace)  # a new one puts back everything
        with self._evaluator.changed(bare=bare, observed=(), trace=trace):
            return float(self._evaluator.evaluate(architecture, own, gates=False).loss)


def _rounds(suspects: Mapping[str, Collection[int]]) -> Iterator[dict[str, int]]:
    """One candidate of each edge, and then the next one of those that have more."""
    for row in zip_longest(*suspects.values()):
        yield {edge: index for edge, index in zip(suspects, row, strict=True) if index is not None}
