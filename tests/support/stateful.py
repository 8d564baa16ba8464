"""LightningModules that keep something from one step to the next, each in another way, with one choice in each."""

from __future__ import annotations

import copy
import random
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, MetricCollection, MetricTracker
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.wrappers import Running

from advnas_lightning import MixedOp

WIDTH, CLASSES, BATCHES, SIZE = 6, 3, 4, 5


def data(seed: int, batches: int = BATCHES) -> DataLoader[Any]:
    """Batches in a new order in every epoch."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batches * SIZE, WIDTH, generator=generator)
    y = torch.randint(CLASSES, (batches * SIZE,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=SIZE, shuffle=True)


class Keeping(LightningModule):
    """What all of them have in common: one edge, and an encoder and a head around it.

    Args:
        equal: Whether the candidates compute the same, so that the search can be compared with plain training.
    """

    def __init__(self, *, equal: bool) -> None:
        super().__init__()
        candidates = {
            "one": nn.Identity() if equal else nn.Linear(WIDTH, WIDTH),
            "two": nn.Identity() if equal else self.candidate(),
        }
        self.encoder = nn.Sequential(nn.Linear(WIDTH, WIDTH), MixedOp("edge", candidates), nn.Tanh())
        self.head = nn.Linear(WIDTH, CLASSES)
        self.begin()

    def candidate(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.2))

    def begin(self) -> None: ...

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> Tensor | float:
        """Change what is kept; what is returned is added to the loss."""
        return 0.0

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.head(self.features(x))
        loss = F.cross_entropy(logits, y) + self.keep(x, y, logits)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.head(self.encoder(batch[0])), batch[1]))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.05, momentum=0.9)


class Containers(Keeping):
    def begin(self) -> None:
        self.steps = 0
        self.outputs: list[Tensor] = []
        self.by_name: dict[str, list[float]] = defaultdict(list)
        self.recent: deque[float] = deque(maxlen=3)
        self.seen: set[int] = set()
        self.counts: Counter[int] = Counter()
        self.numbers = array("d", [0.0, 0.0])
        self.ordered: OrderedDict[int, float] = OrderedDict()
        self.nested = {"a": ({"b": [0]}, bytearray(2))}
        self.of_epochs: list[Any] = []

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> float:
        self.steps += 1
        self.outputs.append(logits.detach())
        self.by_name["mean"].append(float(x.mean()))
        self.recent.append(float(x.std()))
        self.numbers[self.steps % 2] += 1
        self.seen.add(round(1000 * float(x[0, 0])))
        self.counts.update(y.tolist())
        self.ordered[self.steps % 3] = float(x.sum())
        self.ordered.move_to_end(self.steps % 3)
        self.nested["a"][0]["b"].append(self.steps)
        self.nested["a"][1][0] = self.steps % 256
        return 0.0

    def on_train_epoch_end(self) -> None:
        self.of_epochs.append((len(self.outputs), sum(map(float, (each.sum() for each in self.outputs)))))
        self.outputs.clear()


class Recurrent(Keeping):
    """Goes on from the hidden state of the batch before: one that is replaced, and one that is changed in place."""

    def begin(self) -> None:
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.hidden: Tensor | None = None
        self.slow = torch.zeros(SIZE, WIDTH)
        self.layers = (torch.zeros(WIDTH), [torch.zeros(WIDTH)])

    def features(self, x: Tensor) -> Tensor:
        before = self.slow + self.layers[0] + self.layers[1][0] if self.hidden is None else self.hidden + self.slow
        after = self.cell(self.encoder(x), before)
        self.hidden = after.detach()
        self.slow.mul_(0.5).add_(after.detach(), alpha=0.1)
        self.layers[0].data.add_(after.detach().mean(0))
        self.layers[1][0] += after.detach().mean(0)
        return after

    def on_train_epoch_start(self) -> None:
        self.hidden = None


class Momentum(Keeping):
    """Moves target networks in its step, in each of the ways that are seen: all of their parameters and buffers."""

    def begin(self) -> None:
        self.target, self.late, self.assigned = (copy.deepcopy(self.encoder).requires_grad_(False) for _ in range(3))

    @torch.no_grad()
    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> float:
        for ours, theirs in zip(self.encoder.parameters(), self.target.parameters(), strict=True):
            theirs.lerp_(ours, 0.3)
        for ours, theirs in zip(self.encoder.state_dict().values(), self.late.state_dict().values(), strict=True):
            theirs.data.copy_(0.3 * ours + 0.7 * theirs)
        for ours, theirs in zip(self.encoder.parameters(), self.assigned.parameters(), strict=True):
            theirs.data = 0.3 * ours.data + 0.7 * theirs.data
        return 0.0


class Queue(Keeping):
    """A queue of keys beside its pointer, above and below the size up to which contents are always copied."""

    def begin(self) -> None:
        self.register_buffer("queue", torch.zeros(8 * SIZE, WIDTH))
        self.register_buffer("large", torch.zeros(WIDTH, 50_000))
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))
        self.register_buffer("replaced", torch.zeros(WIDTH))
        self.bank = torch.zeros(300_000)  # no buffer
        self.history = np.zeros((4, WIDTH))
        self.long_history = np.zeros(300_000)

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        place = int(self.place)
        drawn = self.queue[place : place + SIZE].sum() + self.large[:, place].sum() + self.bank[place]
        self.queue[place : place + SIZE] = x
        self.large[:, place : place + SIZE] = x.T
        self.bank[place] = x.mean()
        self.place[0] = (place + SIZE) % (8 * SIZE)
        self.replaced = 0.9 * self.replaced + x.mean(0)
        self.history[place % 4] += x.mean(0).numpy()
        self.long_history[place] = float(x.sum())
        return 0.01 * drawn * logits.mean()


class Norms(Keeping):
    def begin(self) -> None:
        self.norms = nn.ModuleList([nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH, momentum=None)])
        self.instance = nn.InstanceNorm1d(1, track_running_stats=True)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))
        self.old_spectral = nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH))
        self.old_weight = nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))

    def features(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        for norm in self.norms:
            x = norm(x)
        return self.old_weight(self.old_spectral(self.spectral(self.instance(x[:, None])[:, 0])))


class MaxNorm(Keeping):
    """Projects its weights in the forward pass: those beside the edge, and those of a candidate."""

    class Projected(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.2)
            self.bias.data.clamp_(-0.01, 0.01)
            return super().forward(x)

    def candidate(self) -> nn.Module:
        return self.Projected(WIDTH, WIDTH)

    def begin(self) -> None:
        self.projected = self.Projected(WIDTH, WIDTH)

    def features(self, x: Tensor) -> Tensor:
        return self.projected(self.encoder(x))


class Metrics(Keeping):
    """Metrics: registered or not, in collections and wrappers, logged as objects or as values."""

    def begin(self) -> None:
        self.accuracy = MulticlassAccuracy(CLASSES)
        self.collection = MetricCollection([MulticlassAccuracy(CLASSES), MulticlassF1Score(CLASSES)], prefix="all_")
        self.running = Running(MeanMetric(), window=3)
        self.tracker = MetricTracker(MulticlassAccuracy(CLASSES))
        self.tracker.increment()
        self.unregistered = {"list": [MulticlassAccuracy(CLASSES), MeanMetric()]}

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> float:
        self.accuracy(logits, y)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log_dict(self.collection(logits, y), on_epoch=True, on_step=False)
        self.running(logits.mean().detach())
        self.tracker.update(logits, y)
        self.unregistered["list"][0].update(logits, y)
        self.unregistered["list"][1].update(logits.mean().detach())
        self.log("running", self.running.compute())
        return 0.0

    def on_train_epoch_end(self) -> None:
        self.log("tracked", self.tracker.compute())
        self.log("not_registered", self.unregistered["list"][0].compute())
        self.tracker.increment()
        self.unregistered["list"][0].reset()


class Meter:
    """Its sum and its count, as in many projects."""

    def __init__(self) -> None:
        self.sum, self.count, self.values = torch.zeros(()), 0, []

    def update(self, value: Tensor) -> None:
        self.sum += value
        self.count += 1
        self.values.append(float(value))


@dataclass(slots=True)
class Slotted:
    count: int = 0
    total: float = 0.0


class Objects(Keeping):
    def begin(self) -> None:
        self.meter, self.meters = Meter(), {"a": Meter(), "b": [Meter()]}
        self.slotted, self.space = Slotted(), SimpleNamespace(meter=Meter(), temperature=1.0)
        self.environment = Meter()  # around which there are others, as around one of reinforcement learning
        for _ in range(6):
            self.environment = SimpleNamespace(inner=self.environment)

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        inner = self.environment
        while isinstance(inner, SimpleNamespace):
            inner = inner.inner
        for meter in (self.meter, self.meters["a"], self.meters["b"][0], self.space.meter, inner):
            meter.update(logits.detach().mean())
        self.slotted.count += 1
        self.slotted.total += float(x.sum())
        self.space.temperature *= 0.9
        return self.space.temperature * logits.square().mean()


class Drawing(Keeping):
    """Draws from every generator that there is."""

    def begin(self) -> None:
        self.dropout = nn.Dropout(0.3)
        self.own, self.numpy, self.python = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.old = np.random.RandomState(0)

    def features(self, x: Tensor) -> Tensor:
        scale = random.random() + np.random.rand() + self.python.random() + self.numpy.random() + self.old.rand()
        return self.dropout(self.encoder(x * scale + torch.rand(WIDTH, generator=self.own) + torch.randn(WIDTH)))


class Switching(Keeping):
    """Changes modes, flags, parameters and hooks."""

    def begin(self) -> None:
        self.dropout, self.norm = nn.Dropout(0.1), nn.BatchNorm1d(WIDTH)
        self.calls: list[int] = []
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> float:
        self.dropout.p += 0.05
        self.norm.train(not self.norm.training)
        self.scale = nn.Parameter(self.scale * 1.1, requires_grad=False)
        self.scale.requires_grad_(False)
        self.head.bias.requires_grad_(not self.head.bias.requires_grad)
        self.norm.register_forward_hook(lambda *_: self.calls.append(1))
        self.added = nn.Linear(1, 1) if not hasattr(self, "added") else self.added
        return 0.0

    def features(self, x: Tensor) -> Tensor:
        return self.scale * self.norm(self.dropout(self.encoder(x)))


class Centred(Keeping):
    """A loss with a centre and a temperature of its own, as self-distillation has it; and a module in a plain list."""

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centre", torch.zeros(CLASSES))
            self.temperature, self.losses = 1.0, []

        def forward(self, logits: Tensor) -> Tensor:
            loss = F.softmax((logits - self.centre) / self.temperature, -1).square().mean()
            self.centre.mul_(0.9).add_(logits.detach().mean(0), alpha=0.1)
            self.temperature *= 0.95
            self.losses.append(float(loss.detach()))
            return loss

    def begin(self) -> None:
        self.centred = self.Loss()
        self.hidden = [self.Loss()]  # no submodule

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        return self.centred(logits) + self.hidden[0](logits)


class Backward(Keeping):
    """Takes a backward pass of its own within its step."""

    def begin(self) -> None:
        self.aside = nn.Linear(WIDTH, CLASSES)

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> float:
        F.cross_entropy(self.aside(x), y).backward()
        return 0.0

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        F.cross_entropy(self.aside(torch.ones(SIZE, WIDTH)), torch.zeros(SIZE, dtype=torch.long)).backward()

    def optimizer_zero_grad(self, *_: Any) -> None:  # its gradients add up from step to step
        for parameter in (*self.encoder.parameters(), *self.head.parameters()):
            parameter.grad = None


class Undetached(Keeping):
    """Adds up in place what has a graph, as ``self.total += loss`` does: in a tensor, a view, and two buffers."""

    def begin(self) -> None:
        self.total, self.view = torch.zeros(()), torch.zeros(2)
        self.register_buffer("precision", torch.eye(WIDTH))
        self.register_buffer("large", torch.zeros(600, 600))
        self.wide = nn.Linear(WIDTH, 600)

    def keep(self, x: Tensor, y: Tensor, logits: Tensor) -> float:
        self.total += F.cross_entropy(logits, y)
        if self.view.is_leaf:
            self.view = (self.view + logits.mean())[:]
        self.view += logits.std()
        features = self.encoder(x)
        self.precision += features.T @ features
        wide = self.wide(features)
        self.large += wide.T @ wide
        self.log("total", self.total.detach())
        self.log("trace", self.large.detach().diagonal().sum())
        return 0.0

    def on_train_epoch_end(self) -> None:
        self.precision = torch.eye(WIDTH)


class Augmenting(Keeping):
    """Changes its batches on the device, and counts them."""

    def begin(self) -> None:
        self.batches, self.mean = 0, torch.zeros(WIDTH)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        if not self.trainer.training:
            return batch
        self.batches += 1
        self.mean.lerp_(batch[0].mean(0), 0.1)
        return batch[0] - self.mean + 0.1 * torch.randn_like(batch[0]), batch[1]


KINDS: tuple[type[Keeping], ...] = (
    Containers,
    Recurrent,
    Momentum,
    Queue,
    Norms,
    MaxNorm,
    Metrics,
    Objects,
    Drawing,
    Switching,
    Centred,
    Backward,
    Undetached,
    Augmenting,
)


def make(kind: type[Keeping], *, equal: bool) -> Keeping:
    """A module of a kind, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind(equal=equal)


def kept(value: Any) -> Any:
    """What an object keeps, as nested plain values and tensors; without what Lightning, torch and a search add."""
    if isinstance(value, nn.Module):
        own = {name: each for name, each in vars(value).items() if not name.startswith("_") and name != "prepare_data"}
        state = {name: tensor.detach() for name, tensor in value.state_dict().items() if ".candidates." not in name}
        hooks = len(vars(value)["_forward_hooks"])
        grads = [parameter.requires_grad for parameter in value.parameters()]
        inside = {name: kept(child) for name, child in value.named_children() if not isinstance(child, MixedOp)}
        return {"own": kept(own), "state": state, "hooks": hooks, "requires_grad": grads, "inside": inside}
    if isinstance(value, Mapping):
        return {str(name): kept(each) for name, each in value.items()}
    if isinstance(value, Tensor | int | float | str | bytes | None):
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return str(value.get_state())
    if isinstance(value, random.Random):
        return str(value.getstate())
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, list | tuple | deque | bytearray | array):
        return [kept(each) for each in value]
    if isinstance(value, Meter | SimpleNamespace):
        return kept(vars(value))
    if isinstance(value, Slotted):
        return [value.count, value.total]
    return type(value).__name__


def tensors(nested: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested containers, with their places."""
    if isinstance(nested, Mapping):
        for name, each in nested.items():
            yield from tensors(each, f"{place}.{name}")
    elif isinstance(nested, list):
        yield place, len(nested)
        for index, each in enumerate(nested):
            yield from tensors(each, f"{place}[{index}]")
    else:
        yield place, nested
