"""A plain network as the thing searched: its weights are trained as PyTorch's users do it by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from advnas_lightning.engine.closures import ComputedClosure, needs_closure
from advnas_lightning.engine.optimization import Optimization
from advnas_lightning.objectives import Objective, Outcome


class PlainModel:
    """How the weights of a plain network are trained: :class:`~advnas_lightning.engine.adapter.Adapter` is its sibling.

    Args:
        model: The network.
        objective: Gives its loss, and has its metrics.
        note_loss: Counts a loss in the epoch's mean: a name, the loss, and how many terms it is the mean of.
        loss_name: What computes the loss, in the words of its author.

    Attributes:
        output: What the search's ``training_step`` returns.

    Example:
        >>> import torch
        >>> from advnas_lightning.objectives import Regression
        >>> plain = PlainModel(nn.Identity(), Regression(), lambda *_: None, "Search.loss")
        >>> plain.loss((torch.ones(2), torch.zeros(2))).loss
        tensor(1.)
    """

    output: Any = None

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        note_loss: Callable[[str, Tensor, int], None],
        loss_name: str,
    ) -> None:
        self.model, self.objective, self.loss_name = model, objective, loss_name
        self._note_loss = note_loss

    def loss(self, batch: Any) -> Outcome:
        """The objective's loss of a batch."""
        outcome: Outcome = self.objective(self.model, batch)
        return outcome

    def begin(self, batch_idx: int) -> None:
        """Begin with a training batch."""

    def note(self, outcome: Outcome) -> None:
        """Count a weight step's outcome in the epoch's metrics and mean loss."""
        self.objective.update_training(outcome)
        self._note_loss("train/loss", outcome.loss.detach(), outcome.size)

    def zero_gradients(self, optimizer: Any) -> None:
        """Clear the gradients between a weight step's forward and backward pass."""
        optimizer.zero_grad()

    def step(self, optimizer: Any, passes: Callable[[], Tensor | None]) -> None:
        """Take both passes of a weight step, and then the optimizer's step, which may take them again."""
        if optimizer is not None and needs_closure(optimizer):
            optimizer.step(passes)
        else:
            loss = passes()  # which skips the step where there is no optimizer
            optimizer.step(ComputedClosure(loss, optimizer, passes))

    def before_optimizer_step(self, optimizer: Optimizer, optimization: Optimization) -> None:
        """Clip the gradients, if there is a bound."""
        optimization.clip_gradients(optimizer)

    def trains(self, optimization: Optimization) -> bool:
        """Whether the weights have an optimizer."""
        return optimization.factory is not None

    def make_optimizer(self, optimization: Optimization) -> None:
        """Make the weights' optimizer."""
        optimization.make(list(self.model.parameters()))

    def configure_callbacks(self) -> list[Callback]:
        """A plain network has none."""
        return []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A plain network adds nothing to a checkpoint."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A plain network takes nothing out of a checkpoint."""
