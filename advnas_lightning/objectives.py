"""Objectives: the loss of a network on a batch, and the metrics that the batch updates."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning.functional import widened
from advnas_lightning.texts import listed
from advnas_lightning.validate import check_one_of

__all__ = ["Classification", "LanguageModelling", "MeanLoss", "Objective", "Outcome", "Regression", "Window"]


class Outcome(NamedTuple):
    """The loss of one network on one batch, and what the metrics need.

    Attributes:
        loss: The mean over ``size`` terms, scalar.
        size: The number of terms that the loss is the mean of, so that ``size * loss`` is a negative log-likelihood.
        preds: The first argument of the metrics, such as logits, or ``None``.
        target: The values that ``preds`` are compared with, or ``None``.

    Example:
        >>> Outcome(torch.tensor(0.5), size=64).preds is None
        True
    """

    loss: Tensor
    size: int
    preds: Tensor | None = None
    target: Tensor | None = None


class MeanLoss(Metric):
    """The mean of losses that are means themselves, weighted by their number of terms. A loss of nan makes it nan.

    torchmetrics' MeanMetric would drop a nan, and would ask the device for one in every step. With
    ``nan_strategy="disable"`` it does neither, but then it ignores the weights (torchmetrics 1.9).

    Example:
        >>> mean = MeanLoss()
        >>> mean.update(torch.tensor(1.0), 3)
        >>> mean.update(torch.tensor(5.0), 1)
        >>> mean.compute()
        tensor(2.)
    """

    total: Tensor
    terms: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("terms", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, size: int) -> None:
        """Add a loss that is the mean of ``size`` terms."""
        self.total = self.total + widened(loss) * size  # in double precision, if the loss is
        self.terms += size

    def compute(self) -> Tensor:
        """The mean over all terms."""
        return self.total / self.terms


class Objective(nn.Module):
    """The loss of a network on a batch, and the metrics of an evaluation. A subclass defines :meth:`forward`.

    Example:
        >>> class AbsoluteError(Objective):
        ...     def forward(self, model, batch):
        ...         inputs, targets = batch
        ...         return Outcome(F.l1_loss(model(inputs), targets), len(targets))
        >>> AbsoluteError()(nn.Identity(), (torch.zeros(4), torch.ones(4))).loss
        tensor(1.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean_loss = MeanLoss()
        self.metrics = MetricCollection(dict(self.make_metrics()))
        self.training_metrics = MetricCollection(dict(self.make_metrics()))  # over the weight steps

    def make_metrics(self) -> dict[str, Metric]:
        """Create the metrics of ``(preds, target)`` by name; by default there are none."""
        return {}

    def forward(self, model: nn.Module, batch: Any) -> Outcome:
        """Run ``model`` on ``batch`` and return its loss."""
        raise NotImplementedError("pass objective=…, or override loss(batch) in your strategy")

    def update(self, outcome: Outcome) -> None:
        """Add a batch to the evaluation."""
        self.mean_loss.update(outcome.loss.detach(), outcome.size)
        if len(self.metrics):
            self.metrics.update(outcome.preds, outcome.target)

    def update_training(self, outcome: Outcome) -> None:
        """Add a weight step's batch to the training metrics."""
        if len(self.training_metrics):
            self.training_metrics.update(outcome.preds, outcome.target)

    def pop_training_metrics(self) -> dict[str, Tensor]:
        """Return the metrics of the weight steps since the last call, and start them anew."""
        if not any(metric.update_called for metric in self.training_metrics.values()):
            return {}
        metrics: dict[str, Tensor] = self.training_metrics.compute()
        self.training_metrics.reset()
        return metrics

    def compute(self) -> dict[str, Tensor]:
        """The evaluation's metrics so far; ``loss`` is the mean over all terms of all its batches."""
        return {"loss": self.mean_loss.compute(), **self.metrics.compute()}

    def reset_carried(self) -> None:
        """Drop what is carried from batch to batch, such as a hidden state, because it may not be finite."""

    def reset(self) -> None:
        """Start a new evaluation."""
        self.mean_loss.reset()
        self.metrics.reset()


def _pair(objective: Objective, batch: Any) -> Any:
    """The inputs and targets of a batch. A dict, as of Hugging Face, is refused, and so are lists of other lengths."""
    if not isinstance(batch, Mapping) and not (isinstance(batch, list | tuple) and len(batch) != 2):
        return batch
    told = f"of {listed(map(repr, batch))}" if isinstance(batch, Mapping) else f"of {len(batch)}"
    raise ValueError(
        f"{type(objective).__name__} reads batches (inputs, targets), and here is a {type(batch).__name__} {told}:"
        " search a LightningModule, whose training_step reads its own batches, or write an Objective for them"
    )


class Regression(Objective):
    """The mean squared error on batches ``(inputs, targets)``.

    Example:
        >>> Regression()(nn.Identity(), (torch.zeros(4), torch.full((4,), 2.0))).loss
        tensor(4.)
    """

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Compare ``model(inputs)`` with ``targets`` of equal shape ``[B, ...]``."""
        inputs, targets = _pair(self, batch)
        return Outcome(F.mse_loss(model(inputs), targets), len(targets))


class Classification(Objective):
    """The cross-entropy and the accuracy on batches ``(inputs, labels)``.

    Args:
        classes: The number of classes.

    Example:
        >>> objective = Classification(2)
        >>> logits, labels = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1])
        >>> objective.update(objective(nn.Identity(), (logits, labels)))
        >>> objective.compute()["accuracy"]
        tensor(0.5000)
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        super().__init__()

    def make_metrics(self) -> dict[str, Metric]:
        """Create the top-1 accuracy."""
        # Its check of the arguments would ask the device in every step, and cross_entropy has checked the labels.
        return {"accuracy": MulticlassAccuracy(self.classes, average="micro", validate_args=False)}

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Compare the logits ``model(inputs)`` ``[B, classes]`` with the labels ``[B]``."""
        inputs, labels = _pair(self, batch)
        logits = model(inputs)
        return Outcome(F.cross_entropy(logits, labels), len(labels), logits, labels)


class Window(NamedTuple):
    """A window of text: T steps of B parallel streams.

    Attributes:
        inputs: The token ids ``[T, B]``.
        targets: The ids of the tokens that follow, ``[T, B]``; ``-100`` where a stream has ended.
        position: The window's place in its text, from 0. The hidden state starts at zero in window 0.
        text: The name of the text that the streams run through. Each text has its own hidden state.
        tokens: The number of targets that are not ``-100``.

    Example:
        >>> ids = torch.zeros(3, 2, dtype=torch.long)
        >>> Window(ids, ids, position=0, text="train", tokens=6).text
        'train'
    """

    inputs: Tensor
    targets: Tensor
    position: int
    text: str
    tokens: int


class LanguageModelling(Objective):
    """The cross-entropy of the next token, with the hidden state carried from window to window.

    The state that a window starts from is detached and belongs to the window's text. It moves on once for each window,
    even if several architectures are tried on the window: the first one passes its state to the next window.

    Args:
        loss_reduction: The reduction of the loss in the steps of a search. ``"mean"`` is the mean over tokens (the
            paper). ``"sum_time"`` is the sum over the time steps of the mean over the streams (the authors' code).
            Evaluations always report the mean over tokens.

    Raises:
        ValueError: ``loss_reduction`` is unknown.

    Example:
        >>> objective, ids = LanguageModelling(), torch.zeros(3, 2, dtype=torch.long)
        >>> uniform = lambda inputs, state: (torch.zeros(3, 2, 10), torch.zeros(2, 4))  # for ten words
        >>> objective.update(objective(uniform, Window(ids, ids, position=0, text="valid", tokens=6)))
        >>> round(objective.compute()["perplexity"].item(), 3)
        10.0
    """

    def __init__(self, loss_reduction: Literal["mean", "sum_time"] = "mean") -> None:
        super().__init__()
        self.loss_reduction = check_one_of("loss_reduction", loss_reduction, ("mean", "sum_time"))
        # For each text: the last two windows with the states that they start from, and the state after the last one.
        self._carried: dict[str, tuple[list[tuple[Window, Tensor | None]], Tensor | None]] = {}

    def forward(self, model: nn.Module, batch: Window) -> Outcome:
        """Run ``model(inputs, state)``, which returns logits ``[T, B, words]`` and the state after the window.

        A model with a true attribute ``takes_targets``, whose ``forward`` has a parameter ``targets``, is run as
        ``model(inputs, state, targets=targets)``. It returns the mean cross-entropy in the place of logits, so that it
        need not keep all of them.
        """
        recent, after = self._carried.get(batch.text, ([], None))
        starts = [start for window, start in recent if window is batch]
        if starts:  # another architecture has been tried on this window
            output, _ = self._run(model, batch, starts[0])
        else:
            start = after.to(batch.inputs.device) if after is not None and batch.position > 0 else None
            output, after = self._run(model, batch, start)
            self._carried[batch.text] = ([*recent[-1:], (batch, start)], after.detach())
        mean = output if output.dim() == 0 else F.cross_entropy(widened(output.flatten(0, 1)), batch.targets.flatten())
        if self.loss_reduction == "sum_time" and self.training:
            streams = batch.targets.shape[1]
            return Outcome(mean * (batch.tokens / streams), streams)
        return Outcome(mean, batch.tokens)

    def _run(self, model: nn.Module, batch: Window, state: Tensor | None) -> Any:
        """The logits or their mean cross-entropy, and the state after the window."""
        # A subclass inherits the attribute, and may have a forward of its own that knows no targets.
        if getattr(model, "takes_targets", False) is True and "targets" in signature(model.forward).parameters:
            return model(batch.inputs, state, targets=batch.targets)
        return model(batch.inputs, state)

    def get_extra_state(self) -> dict[str, Tensor]:
        """The state that the next window of each text starts from."""
        return {text: after for text, (_, after) in self._carried.items() if after is not None}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore the states that :meth:`get_extra_state` returned."""
        self._carried = {text: ([], after) for text, after in state.items()}

    def reset_carried(self) -> None:
        """Let every text's next window start from a hidden state of zero."""
        self._carried.clear()

    def compute(self) -> dict[str, Tensor]:
        """The mean loss of a token and its exponential, the perplexity; both are infinite if a network overflowed."""
        loss = super().compute()["loss"].nan_to_num(nan=torch.inf, posinf=torch.inf)
        return {"loss": loss, "perplexity": loss.exp()}
