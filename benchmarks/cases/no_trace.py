"""The share of an architecture step that it takes to leave no trace in the network.

What is done before and after an evaluation, so that the network is as it was, is measured within AdvantageNAS's steps.
The other side of a pair is the same step without it. ``resnet18`` is a LightningModule with BatchNorm and metrics, and
a choice at each activation. The first steps do not count, in which the trace looks often at what the network changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchvision.models import resnet18

from advnas_lightning import AdvantageNAS, make_searchable
from advnas_lightning.objectives import Classification, Regression
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.toy import TeacherData, ToyNetwork
from benchmarks.cases.cifar10 import loaders
from benchmarks.measuring import Contest, device, now
from benchmarks.rows import Row

CANDIDATES = {"toy": 10, "cifar10": 4, "resnet18": 2}  # of each edge
RUNS = 20  # how often a candidate has run on average before steps count
WEIGHTS, ARCHITECTURE = partial(SGD, lr=0.01), partial(Adam, lr=1e-3)


class Classifier(LightningModule):
    """ResNet-18 with two metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18(num_classes=10)
        self.metrics = MetricCollection([MulticlassAccuracy(10), MulticlassF1Score(10)])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss, and log the metrics."""
        logits = self.net(batch[0])
        self.metrics(logits, batch[1])
        self.log_dict(self.metrics, on_step=False, on_epoch=True)
        return F.cross_entropy(logits, batch[1])

    def configure_optimizers(self) -> Any:
        """Plain gradient descent."""
        return WEIGHTS(self.parameters())


class Timed(AdvantageNAS):
    """Notes the seconds of each architecture step, and those without which a trace would be left."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[float] = []
        self.traces: list[float] = []
        self._untimed, self.evaluator.no_trace = self.evaluator.no_trace, self._no_trace  # type: ignore[method-assign]

    def architecture_step(self, batch: Any) -> None:
        """Take the step, and note its time."""
        started = now()
        super().architecture_step(batch)
        self.steps.append(now() - started)

    @contextmanager
    def _no_trace(self, *arguments: Any) -> Iterator[None]:
        context = self._untimed(*arguments)
        started = now()
        context.__enter__()
        seconds = now() - started
        yield
        started = now()
        context.__exit__(None, None, None)
        self.traces.append(seconds + now() - started)


def make(network: str, steps: int, *, small: bool) -> Contest:
    """A search of a network, with nothing beside it."""
    torch.manual_seed(0)
    batch_size, pixels = (2, 16) if small else (64, 32)
    if network == "toy":
        search = Timed(ToyNetwork(), architecture_optimizer=ARCHITECTURE, objective=Regression())
        data: Any = TeacherData(batches=steps).train_dataloader()
    elif network == "cifar10":
        cells = NASBench201(cells=1 if small else 5)
        search = Timed(
            cells, weight_optimizer=WEIGHTS, architecture_optimizer=ARCHITECTURE, objective=Classification(10)
        )
        data = loaders(steps, batch_size, 3, pixels, pixels)
    else:
        module = Classifier()
        make_searchable(module, {nn.ReLU: lambda relu: {"relu": relu, "gelu": nn.GELU()}})
        search = Timed(module, architecture_optimizer=ARCHITECTURE)
        data = loaders(steps, batch_size, 3, 2 * pixels, 2 * pixels)
    return Contest(search.to(device()), data, {})


def shares(case: str, *, small: bool) -> list[Row]:
    """Measure three networks."""
    rows = []
    for network, candidates in CANDIDATES.items():
        learning = candidates * (1 if small else RUNS)
        contest = make(network, learning + (2 if small else 40), small=small)
        contest.fit()
        steps, traces = contest.search.steps[learning:], contest.search.traces[learning:]
        without = [whole - trace for whole, trace in zip(steps, traces, strict=True)]
        rows.append(Row.of_pairs(case, f"architecture step of {network}", "without leaving no trace", steps, without))
    return rows
