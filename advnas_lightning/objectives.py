"""What a batch costs, and which metrics it feeds."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning.validate import check_one_of

__all__ = ["Classification", "LanguageModelling", "MeanLoss", "Objective", "Outcome", "Regression", "Window"]


class Outcome(NamedTuple):
    """What one network did on one batch.

    Attributes:
        loss: scalar, the mean over ``size`` terms.
        size: how many terms the loss is the mean of, so that ``size * loss`` is a negative log-likelihood.
        preds: the first argument of the metrics, such as logits, or ``None``.
        target: what ``preds`` are compared with, or ``None``.
    """

    loss: Tensor
    size: int
    preds: Tensor | None = None
    target: Tensor | None = None


class MeanLoss(Metric):
    """The mean of losses that are means themselves, weighted by their number of terms. A loss of nan makes it nan.

    torchmetrics' MeanMetric would drop a nan, after asking the device for it in every step; told not to look for any
    (``nan_strategy="disable"``), it ignores the weights (torchmetrics 1.9).

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
        self.total += loss * size
        self.terms += size

    def compute(self) -> Tensor:
        """The mean over all terms."""
        return self.total / self.terms


class Objective(nn.Module):
    """The loss of a network on a batch, and the metrics of an evaluation. Subclasses define :meth:`forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.mean_loss = MeanLoss()
        self.metrics = MetricCollection(dict(self.make_metrics()))
        self.training_metrics = MetricCollection(dict(self.make_metrics()))  # of the weight steps

    def make_metrics(self) -> dict[str, Metric]:
        """Metrics over ``(preds, target)``, by name."""
        return {}

    def forward(self, model: nn.Module, batch: Any) -> Outcome:
        """Run ``model`` on ``batch``."""
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
        """The metrics of the weight steps since the last call; they begin anew."""
        if not any(metric.update_called for metric in self.training_metrics.values()):
            return {}
        metrics: dict[str, Tensor] = self.training_metrics.compute()
        self.training_metrics.reset()
        return metrics

    @property
    def was_updated(self) -> bool:
        """Whether the evaluation has had a batch."""
        return self.mean_loss.update_called

    def compute(self) -> dict[str, Tensor]:
        """The evaluation's metrics so far; ``loss`` is the mean over all terms of all batches."""
        return {"loss": self.mean_loss.compute(), **self.metrics.compute()}

    def reset_carried(self) -> None:
        """Drop what is carried from batch to batch, such as a hidden state, because it may not be finite."""

    def reset(self) -> None:
        """Begin a new evaluation."""
        self.mean_loss.reset()
        self.metrics.reset()


class Regression(Objective):
    """Mean squared error of ``(inputs, targets)`` batches."""

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
        """``model(inputs)`` against ``targets``, of equal shape ``[B, ...]``."""
        inputs, targets = batch
        return Outcome(F.mse_loss(model(inputs), targets), len(targets))


class Classification(Objective):
    """Cross-entropy and accuracy of ``(inputs, labels)`` batches.

    Args:
        classes: how many classes there are.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        super().__init__()

    def make_metrics(self) -> dict[str, Metric]:
        """Top-1 accuracy."""
        # Checking its arguments asks the device in every step; cross_entropy has checked the labels.
        return {"accuracy": MulticlassAccuracy(self.classes, average="micro", validate_args=False)}

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Outcome:
        """``model(inputs)`` gives logits ``[B, classes]`` for labels ``[B]``."""
        inputs, labels = batch
        logits = model(inputs)
        return Outcome(F.cross_entropy(logits, labels), len(labels), logits, labels)


class Window(NamedTuple):
    """A window of text: T steps of B parallel streams.

    Attributes:
        inputs: ``[T, B]`` token ids.
        targets: ``[T, B]`` ids of the tokens that follow; ``-100`` where a stream has ended.
        position: the window's place in its text, from 0; the hidden state starts at zero in window 0.
        text: which text the streams run through: each has its own hidden state.
        tokens: how many targets there are, those that are not ``-100``.
    """

    inputs: Tensor
    targets: Tensor
    position: int
    text: str
    tokens: int


class LanguageModelling(Objective):
    """Cross-entropy of the next token, with the hidden state carried from window to window.

    The state that a window starts from is detached, belongs to the window's text, and moves on once for each window,
    however many architectures are tried on it: the first one tried hands its state to the next window.

    Args:
        loss_reduction: ``"mean"`` over tokens (the paper), or ``"sum_time"``: sum over the time steps of the mean over
            the streams (the authors' code), for the steps of a search; evaluations always report the mean over tokens.

    Raises:
        ValueError: another ``loss_reduction``.
    """

    def __init__(self, loss_reduction: Literal["mean", "sum_time"] = "mean") -> None:
        super().__init__()
        self.loss_reduction = check_one_of("loss_reduction", loss_reduction, ("mean", "sum_time"))
        # Per text: the last two windows with the states they start from, and the state after the last one.
        self._carried: dict[str, tuple[list[tuple[Window, Tensor | None]], Tensor | None]] = {}

    def forward(self, model: nn.Module, batch: Window) -> Outcome:
        """``model(inputs, state)`` gives logits ``[T, B, words]`` and the state after the window."""
        recent, after = self._carried.get(batch.text, ([], None))
        starts = [start for window, start in recent if window is batch]
        if starts:  # this window was met before: another architecture is tried on it
            logits, _ = model(batch.inputs, starts[0])
        else:
            start = after.to(batch.inputs.device) if after is not None and batch.position > 0 else None
            logits, after = model(batch.inputs, start)
            self._carried[batch.text] = ([*recent[-1:], (batch, start)], after.detach())
        mean = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten())
        if self.loss_reduction == "sum_time" and self.training:
            streams = batch.targets.shape[1]
            return Outcome(mean * (batch.tokens / streams), streams)
        return Outcome(mean, batch.tokens)

    def get_extra_state(self) -> dict[str, Tensor]:
        """The states that the next windows start from, by text."""
        return {text: after for text, (_, after) in self._carried.items() if after is not None}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`get_extra_state`."""
        self._carried = {text: ([], after) for text, after in state.items()}

    def reset_carried(self) -> None:
        """Let every text's next window start from a hidden state of zero."""
        self._carried.clear()

    def compute(self) -> dict[str, Tensor]:
        """Mean token loss and its exponential, the perplexity: infinite where a network overflowed."""
        loss = super().compute()["loss"].nan_to_num(nan=torch.inf, posinf=torch.inf)
        return {"loss": loss, "perplexity": loss.exp()}
