"""The loss and the metrics of one architecture on validation batches, with the shared weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advnas_lightning.cost.plan import Choice
from advnas_lightning.engine.evaluation import SkippedStep
from advnas_lightning.objectives import Objective, Outcome

__all__ = ["Score", "Scorer"]


class Score(NamedTuple):
    """What one architecture reached on the validation batches.

    Attributes:
        loss: The mean loss over all terms of all batches.
        halves: The mean losses over every second batch, from the first and from the second one on; not a number for a
            half without a term.
        metrics: The metrics of the objective by name, the loss excluded.

    Example:
        >>> Score(0.5, (0.25, 0.75), {"accuracy": 0.9}).loss
        0.5
    """

    loss: float
    halves: tuple[float, float]
    metrics: Mapping[str, float]


class Scorer:
    """Evaluates architectures on the same batches, one after the other.

    Args:
        batches: The batches, as the loss takes them.
        outcome: Gives the loss of the network on a batch.
        objective: Has the metrics, and what is carried from batch to batch.
        ready: A context in which the network has an architecture and is ready to be evaluated, and after which it and
            the objective are as before.

    Raises:
        ValueError: There are no batches.

    Example:
        >>> from contextlib import nullcontext
        >>> def half(batch):
        ...     return Outcome(batch.mean(), len(batch))
        >>> batches = [torch.tensor([1.0]), torch.tensor([2.0, 4.0])]
        >>> Scorer(batches, half, Objective(), lambda choice: nullcontext())((0,)).halves
        (1.0, 3.0)
    """

    def __init__(
        self,
        batches: Sequence[Any],
        outcome: Callable[[Any], Outcome],
        objective: Objective,
        ready: Callable[[Choice], AbstractContextManager[None]],
    ) -> None:
        if not batches:
            raise ValueError("there are no validation batches to rank architectures by: give at least one")
        self._batches, self._outcome, self._objective, self._ready = list(batches), outcome, objective, ready
        self._has_graph = False  # whether the loss takes a gradient itself

    def __call__(self, choice: Choice) -> Score:
        """The score of an architecture.

        Args:
            choice: The candidate of each edge.

        Raises:
            ValueError: No batch has a loss.
        """
        try:
            return self._score(choice)
        except RuntimeError as error:
            if self._has_graph or not re.search("requires?[ _]grad", str(error)):
                raise
            self._has_graph = True  # the first try has left no trace
            return self._score(choice)

    def _score(self, choice: Choice) -> Score:
        totals: list[list[Tensor]] = [[], []]
        terms = [0, 0]
        with self._ready(choice), torch.set_grad_enabled(self._has_graph):
            self._objective.reset()
            self._objective.reset_carried()
            for index, batch in enumerate(self._batches):
                try:
                    outcome = self._outcome(batch)
                except SkippedStep:
                    continue
                self._objective.update(outcome)
                totals[index % 2].append(outcome.loss.detach().double() * outcome.size)
                terms[index % 2] += outcome.size
            if not any(terms):
                raise ValueError("no validation batch has a loss, so that architectures cannot be ranked by it")
            computed = self._objective.compute()
        sums = [float(torch.stack(own).sum()) if own else 0.0 for own in totals]
        first, second = (total / count if count else math.nan for total, count in zip(sums, terms, strict=True))
        metrics = {
            name: float(value)
            for name, value in computed.items()
            if name != "loss" and isinstance(value, Tensor) and value.numel() == 1
        }
        return Score(sum(sums) / sum(terms), (first, second), metrics)
