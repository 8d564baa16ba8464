"""A pass of the network over a training batch that changes nothing: no weight, no metric, no log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning import LightningModule

from advnas_lightning.engine.evaluation import Evaluator
from advnas_lightning.engine.lightning_private import attached_trainer, training_batch
from advnas_lightning.engine.trace import Trace
from advnas_lightning.objectives import Objective, Outcome
from advnas_lightning.space.search_space import Architecture


class TrainingPass:
    """Runs a search's network on batches of its training loader, as a weight step does, without leaving a trace.

    Args:
        search: Has the hooks that change and move a batch, and the Trainer.
        outcome: Gives the loss of the bound network on a batch as a training step gets it.
        evaluator: Leaves no trace in the network.
        trace: Learns what these passes change in the network, which evaluations in training mode need not change.
        objective: No trace is left in it either, such as another hidden state that it carries to the next batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from advnas_lightning import Fixed, MixedOp
        >>> from advnas_lightning.objectives import Regression
        >>> edge = MixedOp("edge", {"relu": nn.ReLU(), "tanh": nn.Tanh()})
        >>> search = Fixed(edge, genotype={"edge": "relu"}, objective=Regression())
        >>> run = TrainingPass(search, search.outcome, search.evaluator, Trace(search.model), search.objective)
        >>> run((torch.ones(2), torch.ones(2))).loss
        tensor(0.)
    """

    def __init__(
        self,
        search: LightningModule,
        outcome: Callable[[Any], Outcome],
        evaluator: Evaluator,
        trace: Trace,
        objective: Objective,
    ) -> None:
        self._search, self._outcome, self._evaluator = search, outcome, evaluator
        self._trace, self._objectives_trace = trace, Trace(objective)

    def __call__(self, batch: Any) -> Outcome:
        """The loss of a batch as the loader gave it."""
        batch, trainer = training_batch(self._search, batch), attached_trainer(self._search)
        if trainer is None:
            return self._outcome(batch)
        with trainer.precision_plugin.train_step_context():
            return self._outcome(batch)

    @contextmanager
    def no_trace(self, architecture: Architecture) -> Iterator[None]:
        """A context for passes, after which the network and the objective are as before.

        In it the Trainer says that it trains, since a module's hooks and steps may ask it.

        Args:
            architecture: What runs.
        """
        trainer = attached_trainer(self._search)
        with self._evaluator.no_trace(architecture, self._trace), self._objectives_trace.removed():
            if trainer is None:
                yield
                return
            stage, trainer.training = trainer.state.stage, True
            try:
                yield
            finally:
                trainer.state.stage = stage
