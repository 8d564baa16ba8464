"""Measures which share of an architecture step's time it takes to leave no trace in the network.

    python -m benchmarks.no_trace [toy|cifar10|resnet18 ...] [--steps N] [--threads N]

It prints the median times of an AdvantageNAS architecture step, and of what is done before and after its evaluation so
that the network is as it was. ``resnet18`` is a LightningModule with BatchNorm and metrics, and a choice at each
activation. The first steps, in which the trace learns what the network changes, are in the mean share alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import mean, median
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchvision.models import resnet18

from advnas_lightning import AdvantageNAS, make_searchable
from advnas_lightning.objectives import Classification, Regression
from advnas_lightning.tasks.cifar10 import NASBench201
from advnas_lightning.tasks.toy import TeacherData, ToyNetwork
from benchmarks.overhead import QUIET

LEARNING = 8  # the steps at the start that the medians leave out
ADAM = partial(torch.optim.Adam, lr=1e-3)
SGD = partial(torch.optim.SGD, lr=0.01)


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
        return SGD(self.parameters())


class Timed(AdvantageNAS):
    """Notes the seconds of each architecture step, and those without which a trace would be left."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[float] = []
        self.traces: list[float] = []
        self._untimed, self.evaluator.no_trace = self.evaluator.no_trace, self._no_trace  # type: ignore[method-assign]

    def architecture_step(self, batch: Any) -> None:
        """Take the step, and note its time."""
        started = time.perf_counter()
        super().architecture_step(batch)
        self.steps.append(time.perf_counter() - started)

    @contextmanager
    def _no_trace(self, *arguments: Any) -> Iterator[None]:
        context = self._untimed(*arguments)
        started = time.perf_counter()
        context.__enter__()
        seconds = time.perf_counter() - started
        yield
        started = time.perf_counter()
        context.__exit__(None, None, None)
        self.traces.append(seconds + time.perf_counter() - started)


def search_of(case: str, steps: int) -> tuple[Timed, Any]:
    """The search of a case, and its data."""
    if case == "toy":
        return Timed(ToyNetwork(), architecture_optimizer=ADAM, objective=Regression()), TeacherData(batches=steps)
    if case == "cifar10":
        search = Timed(NASBench201(), weight_optimizer=SGD, architecture_optimizer=ADAM, objective=Classification(10))
        return search, loaders(steps, batch_size=64, pixels=32)
    module = Classifier()
    make_searchable(module, {nn.ReLU: lambda relu: {"relu": relu, "gelu": nn.GELU()}})
    return Timed(module, architecture_optimizer=ADAM), loaders(steps, batch_size=32, pixels=64)


def loaders(steps: int, *, batch_size: int, pixels: int) -> dict[str, DataLoader[Any]]:
    """Random images for both kinds of step."""
    images = torch.randn(steps * batch_size, 3, pixels, pixels)
    loader = DataLoader(TensorDataset(images, torch.randint(10, (len(images),))), batch_size=batch_size)
    return {"weights": loader, "architecture": loader}


def main() -> None:
    """Measure the cases that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["toy", "cifar10", "resnet18"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    for case in options.cases:
        torch.manual_seed(0)
        search, data = search_of(case, options.steps)
        data = {"datamodule": data} if isinstance(data, TeacherData) else {"train_dataloaders": data}
        Trainer(accelerator="cpu", max_epochs=1, limit_val_batches=0, **QUIET).fit(search, **data)
        steps, traces = search.steps[LEARNING:], search.traces[LEARNING:]
        print(
            f"{case}: architecture step {1000 * median(steps):.2f} ms, of which no trace {1000 * median(traces):.2f} ms"
            f" ({median(traces) / median(steps):.1%}); mean share with the first steps"
            f" {mean(search.traces) / mean(search.steps):.1%}; n = {len(steps)}"
        )


if __name__ == "__main__":
    main()
