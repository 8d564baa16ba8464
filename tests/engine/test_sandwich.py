"""Weight steps of several architectures, with and without a teacher, against loops that are written by hand."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, Adam
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import DARTS, AdvantageNAS, Distillation, Fixed, MixedOp, RandomSearch, elastic
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.objectives import Classification
from tests.support.speed import slow_but

Fit = Callable[..., Trainer]
FEATURES, CLASSES, BATCH, STEPS = 4, 3, 6, 3
WIDTHS = [5, 8, 3]  # in no order


class Net(nn.Module):
    """A hidden layer of elastic width, and an edge whose candidates have no order."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.up = elastic(nn.Linear(FEATURES, 8), out_features=WIDTHS, name="width")
            self.edge = MixedOp("edge", {"relu": nn.ReLU(), "tanh": nn.Tanh()})
            self.down = elastic(nn.Linear(8, CLASSES), in_features=WIDTHS, name="width")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.edge(self.up(x)))


class Module(LightningModule):
    """The same network as a user trains it: with logs, a metric, and a count of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.count, self.inputs = 0, []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] + torch.randn_like(batch[0])  # an augmentation
        logits = self.net(x)
        self.count += 1
        self.inputs.append(x)
        self.accuracy(logits, batch[1])
        loss = F.cross_entropy(logits, batch[1])
        self.log("loss", loss, on_epoch=True)
        self.log("accuracy", self.accuracy, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1, momentum=0.9)


class Noted:
    """Notes what the strategy draws for its weight steps."""

    def sample_for_weights(self) -> Any:
        drawn = super().sample_for_weights()
        self.draws_so_far.append(drawn.choice)
        return drawn


class Noting(Noted, AdvantageNAS):
    """One that searches."""


class NotingRandom(Noted, RandomSearch):
    """One that takes no architecture step."""


def data(steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps * BATCH, FEATURES, generator=generator, dtype=torch.double)
    y = torch.randint(CLASSES, (steps * BATCH,), generator=generator)
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def loaders(steps: int = STEPS) -> dict[str, Any]:
    pairs = data(steps)
    whole = TensorDataset(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))
    return {role: DataLoader(whole, BATCH) for role in ("weights", "architecture")}


def search_of(model: nn.Module | None = None, kind: type[Any] = Noting, **options: Any) -> Any:
    shared: dict[str, Any] = {"architecture_optimizer": partial(Adam, lr=0.1)}
    model = Net() if model is None else model
    if not isinstance(model, LightningModule):
        shared |= {"weight_optimizer": partial(SGD, lr=0.1, momentum=0.9), "objective": Classification(CLASSES)}
    search = kind(model, **{**shared, "sampling": "sandwich", **options})
    search.draws_so_far = []
    return search


def fitted(fit: Fit, search: Any, steps: int = STEPS, **options: Any) -> Any:
    torch.manual_seed(0)
    fit(search, loaders(steps), **{"precision": "64-true", **options})
    return search


def run_by_hand(weights: list[Tensor], x: Tensor, width: int, edge: int) -> Tensor:
    """The network of a width in plain PyTorch."""
    w, b, v, c = weights
    hidden = F.linear(x, w[:width], b[:width])
    return F.linear(hidden.relu() if edge == 0 else hidden.tanh(), v[:, :width], c)


def by_hand(
    draws: list[tuple[int, int]], lesson: Callable[..., Tensor] | None = None, *, share: float = 1.0, clip: Any = None
) -> list[Tensor]:
    """The weights after a loop over the batches, with the widest, the narrowest and the draws on each of them."""
    net: Any = Net().double()
    weights = [net.up.widest.weight, net.up.widest.bias, net.down.widest.weight, net.down.widest.bias]
    sgd = SGD(weights, lr=0.1, momentum=0.9)
    each = len(draws) // STEPS
    for step, (x, y) in enumerate(data()):
        (_, first), (_, second), *others = draws[step * each : (step + 1) * each]
        runs = [(8, first), (3, second), *((WIDTHS[width], edge) for width, edge in others)]
        outputs = [run_by_hand(weights, x, *run) for run in runs]
        losses = [F.cross_entropy(output, y) for output in outputs]
        if lesson is not None:
            losses = [
                (1 - share) * own + share * taught if (taught := lesson(place, output, outputs, x)) is not None else own
                for place, (own, output) in enumerate(zip(losses, outputs, strict=True))
            ]
        sgd.zero_grad()
        (sum(losses) / len(losses)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(weights, clip)
        sgd.step()
    return [weight.detach() for weight in weights]


def close(search: Any, expected: list[Tensor]) -> None:
    net = getattr(search.model, "net", search.model)
    found = [net.up.widest.weight, net.up.widest.bias, net.down.widest.weight, net.down.widest.bias]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=0, atol=1e-10)


# -- the sandwich ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [0, 2])
def test_a_sandwich_is_the_mean_of_its_networks(draws: int, fit: Fit) -> None:
    search = fitted(fit, search_of(sandwich_draws=draws, weight_clip=0.2))
    assert len(search.draws_so_far) == STEPS * (2 + draws)
    close(search, by_hand(search.draws_so_far, clip=0.2))
    assert search.weight_steps == STEPS


def test_micro_batches_of_a_sandwich_are_one_step(fit: Fit) -> None:
    one, many = search_of(accumulate=STEPS), search_of()
    fitted(fit, one)
    torch.manual_seed(0)
    whole = loaders()["weights"].dataset
    fit(many, {role: DataLoader(whole, BATCH * STEPS) for role in ("weights", "architecture")}, precision="64-true")
    assert one.weight_steps == many.weight_steps == 1
    for key, value in many.model.state_dict().items():
        torch.testing.assert_close(one.model.state_dict()[key], value, rtol=0, atol=1e-10)


def test_an_optimizer_that_searches_a_line_sees_the_mean(fit: Fit) -> None:
    lbfgs = partial(LBFGS, max_iter=4, line_search_fn="strong_wolfe")
    search = fitted(fit, search_of(weight_optimizer=lbfgs, sandwich_draws=1), steps=1)
    net: Any = Net().double()
    weights = [net.up.widest.weight, net.up.widest.bias, net.down.widest.weight, net.down.widest.bias]
    ((_, first), (_, second), (width, edge)) = search.draws_so_far
    ((x, y),) = data(1)
    optimizer = lbfgs(weights)

    def closure() -> Tensor:
        optimizer.zero_grad()
        runs = [(8, first), (3, second), (WIDTHS[width], edge)]
        loss = sum(F.cross_entropy(run_by_hand(weights, x, *run), y) for run in runs) / 3
        loss.backward()
        return loss

    optimizer.step(closure)
    close(search, [weight.detach() for weight in weights])


def test_logs_metrics_and_attributes_are_those_of_one_step(fit: Fit) -> None:
    class Seen(Callback):
        def on_train_epoch_end(self, trainer: Trainer, search: Any) -> None:
            self.metrics = dict(trainer.callback_metrics)

    search = fitted(fit, search_of(Module(), NotingRandom, sandwich_draws=3), steps=1, callbacks=[seen := Seen()])
    assert search.model.count == 1
    (x,) = search.model.inputs
    net: Any = Net().double()
    weights = [net.up.widest.weight, net.up.widest.bias, net.down.widest.weight, net.down.widest.bias]
    ((_, y),) = data(1)
    edge = search.draws_so_far[0][1]
    logits = run_by_hand(weights, x, 8, edge).detach()
    torch.testing.assert_close(seen.metrics["loss_epoch"].double(), F.cross_entropy(logits, y), rtol=0, atol=1e-6)
    accuracy = (logits.argmax(-1) == y).double().mean()
    torch.testing.assert_close(seen.metrics["accuracy"].double(), accuracy, rtol=0, atol=1e-6)
    many = fitted(fit, search_of(Module(), sandwich_draws=3))
    assert (many.model.count, len(many.model.inputs), many.weight_steps) == (STEPS, STEPS, STEPS)


def test_all_networks_of_a_step_see_the_same_augmentation(fit: Fit) -> None:
    inputs: list[Tensor] = []

    class Told(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if not self.trainer.lightning_module.evaluator.space.idle:
                inputs.append(self.inputs[-1])
            return loss

    fitted(fit, search_of(Told(), RandomSearch, sandwich_draws=1), steps=2)
    assert len(inputs) == 6
    assert torch.equal(inputs[0], inputs[1])
    assert torch.equal(inputs[0], inputs[2])
    assert not torch.equal(inputs[0], inputs[3])


def test_running_statistics_are_those_of_the_widest(fit: Fit) -> None:
    class Normal(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = elastic(nn.BatchNorm1d(8), num_features=WIDTHS, name="width")

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.edge(self.norm(self.up(x))))

    search = fitted(fit, search_of(Normal(), calibrate=0), steps=1)
    net: Any = Normal().double()
    x = net.up.widest(data(1)[0][0])
    norm = search.model.norm.widest
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0), rtol=0, atol=1e-10)
    assert norm.num_batches_tracked == 1


def test_a_sandwich_around_a_mixture(fit: Fit) -> None:
    """The sizes are those of the ends, and the edge without an order stays the mixture that it is."""
    search = search_of(kind=DARTS)
    widest, narrowest, *draws = search._weight_step.sample()
    assert widest.paths == ((1,), (0, 1))
    assert narrowest.paths == ((2,), (0, 1))
    assert [draw.paths for draw in draws] == [((0, 1, 2), (0, 1))] * 2
    assert widest.gates.tolist() == [[0, 1, 0], [0.5, 0.5, 0]]
    fitted(fit, search)
    assert search.weight_steps == STEPS


def test_a_bad_loss_of_one_network_leaves_out_the_step(fit: Fit) -> None:
    class Broken(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.edge(self.up(x))
            return self.down(hidden) * (torch.nan if hidden.shape[-1] == 3 and self.training else 1.0)

    search = search_of(Broken(), RandomSearch, max_bad_steps=2)
    before = copy.deepcopy(search.model.state_dict())
    with pytest.raises(FloatingPointError, match="3 weight steps in a row"):
        fitted(fit, search)
    assert search.weight_steps == 0
    for key, value in before.items():
        torch.testing.assert_close(search.model.state_dict()[key], value.double(), rtol=0, atol=0)


@pytest.mark.parametrize("teacher", slow_but([None, "widest"], ["widest"]))
def test_a_resumed_search_is_the_same(teacher: Any, fit: Fit, tmp_path: Path, assert_same: Callable[..., None]) -> None:
    pairs = [(x.float(), y) for x, y in data()]
    single = {role: DataLoader(pairs, None) for role in ("weights", "architecture")}

    def run(epochs: int, **options: Any) -> Any:
        torch.manual_seed(0)
        search = search_of(Module(), warmup_epochs=2, warmup_sizes="shrinking", teacher=teacher)
        fit(search, single, max_epochs=epochs, **options)
        return search

    whole = run(3)
    run(1, callbacks=[LastCheckpoint(tmp_path)], enable_checkpointing=True)
    rest = run(3, ckpt_path=tmp_path / "last.ckpt")
    assert_same(whole.state_dict(), rest.state_dict())


def test_half_precision(fit: Fit) -> None:
    search = search_of(teacher="widest")
    before = copy.deepcopy(search.model.state_dict())
    whole = loaders()["weights"].dataset.tensors
    single = DataLoader(TensorDataset(whole[0].float(), whole[1]), BATCH)
    fit(search, {"weights": single, "architecture": single}, precision="bf16-mixed")
    assert search.weight_steps == STEPS
    assert all(value.isfinite().all() for value in search.model.parameters())
    assert not torch.equal(before["up.widest.weight"], search.model.up.widest.weight)


def test_a_search_with_a_sandwich_can_be_pickled() -> None:
    search = search_of(teacher=nn.Linear(FEATURES, CLASSES))
    again = pickle.loads(pickle.dumps(search))
    assert [each.choice for each in again._weight_step.sample()] == [
        each.choice for each in search._weight_step.sample()
    ]


# -- the teacher -----------------------------------------------------------------------------------------------------


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL as in PyTorch's own words."""
    target = (teacher.detach() / temperature).softmax(-1)
    return temperature**2 * F.kl_div((student / temperature).log_softmax(-1), target, reduction="batchmean")


@pytest.mark.parametrize(("share", "temperature"), [(1.0, 1.0), (0.3, 4.0)])
def test_the_widest_network_teaches_the_others(share: float, temperature: float, fit: Fit) -> None:
    def lesson(place: int, output: Tensor, outputs: list[Tensor], x: Tensor) -> Tensor | None:
        return None if place == 0 else divergence(output, outputs[0], temperature)

    teacher: Any = "widest" if share == 1 else Distillation("widest", share=share, temperature=temperature)
    search = fitted(fit, search_of(teacher=teacher))
    close(search, by_hand(search.draws_so_far, lesson, share=share))
    assert "train/distillation" in search.trainer.callback_metrics


def taught_by(module: nn.Module, temperature: float = 1.0) -> Callable[..., Tensor]:
    module = copy.deepcopy(module).double().eval()
    return lambda place, output, outputs, x: divergence(output, module(x).detach(), temperature)


def make_teacher() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Dropout(0.5), nn.BatchNorm1d(CLASSES))


class Plain(Module):
    """The module without augmentation, so that a loop can follow it."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])


class Itself(Plain):
    """Calls itself, where its children would not tell which of them gives the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize("kind", [Net, Plain, Itself])
def test_a_module_teaches_all_networks(kind: Any, fit: Fit) -> None:
    teacher = make_teacher().double()
    state = copy.deepcopy(teacher.state_dict())
    search = fitted(fit, search_of(kind(), teacher=Distillation(teacher, temperature=2.0)))
    close(search, by_hand(search.draws_so_far, taught_by(teacher, 2.0), share=0.5))
    assert not teacher.training
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, state[key])
    assert all(weight.grad is None for weight in teacher.parameters())
    mine = {id(weight) for weight in teacher.parameters()}
    assert not mine & {id(weight) for weight in search.parameters()}
    assert len(search.state_dict()) == len(search_of(kind()).state_dict())
    assert sum(each.numel() for each in search.derive().parameters()) < sum(
        each.numel() for each in search.parameters()
    )


def test_a_teacher_without_a_sandwich(fit: Fit) -> None:
    teacher = make_teacher().double()
    one = fitted(fit, search_of(sampling="one", teacher=teacher))
    other = fitted(fit, search_of(sampling="one"))
    assert not torch.equal(one.model.up.widest.weight, other.model.up.widest.weight)
    found = fitted(fit, search_of(kind=Fixed, genotype={"width": "5", "edge": "relu"}, sampling="one", teacher=teacher))
    assert found.weight_steps == STEPS


def test_a_function_in_the_place_of_the_divergence(fit: Fit) -> None:
    def lesson(place: int, output: Tensor, outputs: list[Tensor], x: Tensor) -> Tensor | None:
        return None if place == 0 else F.mse_loss(output, outputs[0].detach())

    search = fitted(fit, search_of(teacher=Distillation("widest", loss=F.mse_loss)))
    close(search, by_hand(search.draws_so_far, lesson))


def test_outputs_with_logits_and_other_dimensions(fit: Fit) -> None:
    class Named(Net):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x)[..., None]}

    class Objective(Classification):
        def forward(self, model: nn.Module, batch: Any) -> Any:
            return super().forward(lambda x: model(x)["logits"][..., 0], batch)

    def lesson(place: int, output: Tensor, outputs: list[Tensor], x: Tensor) -> Tensor | None:
        return None if place == 0 else divergence(output, outputs[0], 1.0)

    def make(**options: Any) -> Any:
        return search_of(Named(), objective=Objective(CLASSES), teacher=Distillation("widest", **options))

    search = fitted(fit, make(dim=1))
    close(search, by_hand(search.draws_so_far, lesson))
    with pytest.raises(ValueError, match=r"shape \[6, 3, 1\]: say which dimension has the classes"):
        fitted(fit, make())


def test_another_teacher_goes_on_with_no_search(fit: Fit, tmp_path: Path) -> None:
    teacher = make_teacher().double()
    saving = {"callbacks": [LastCheckpoint(tmp_path)], "enable_checkpointing": True}
    fitted(fit, search_of(teacher=copy.deepcopy(teacher)), **saving)
    path = tmp_path / "last.ckpt"
    fitted(fit, search_of(teacher=copy.deepcopy(teacher)), max_epochs=2, ckpt_path=path)
    with torch.no_grad():
        teacher[0].weight[0, 0] += 1
    for other in (teacher, None):
        with pytest.raises(ValueError, match=r"other settings.*teacher is"):
            fitted(fit, search_of(teacher=other), max_epochs=2, ckpt_path=path)


# -- progressive shrinking -------------------------------------------------------------------------------------------


def test_sizes_shrink_in_the_warm_up(fit: Fit) -> None:
    seen: dict[int, set[int]] = {}

    class Widths(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                widths.add(self.up(x).shape[-1])
            return super().forward(x)

    widths: set[int] = set()

    class Each(Callback):
        def on_train_epoch_end(self, trainer: Trainer, search: Any) -> None:
            seen[trainer.current_epoch] = set(widths)
            widths.clear()

    options = {"sampling": "one", "warmup_epochs": 4, "warmup_sizes": "shrinking", "calibrate": 0}
    fitted(fit, search_of(Widths(), RandomSearch, **options), steps=12, max_epochs=5, callbacks=[Each()])
    every = {3, 5, 8}
    assert seen == {0: {8}, 1: {8}, 2: {5, 8}, 3: every, 4: every}  # ⌊e 3 / 4⌋ + 1 sizes


def test_the_narrowest_of_a_sandwich_shrinks(fit: Fit) -> None:
    search = search_of(warmup_epochs=3, warmup_sizes="shrinking")
    chosen = [each.choice[0] for each in search._weight_step.sample()]
    assert chosen == [1, 1, 1, 1]


# -- frozen weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"teacher": "widest"}, {"sampling": "one"}])
def test_frozen_weights_stay_bit_for_bit(options: Any, fit: Fit) -> None:
    net = Net()
    net.up.requires_grad_(False)
    before = copy.deepcopy(net.up.widest.double().state_dict())
    head = net.down.widest.weight.detach().clone()
    search = fitted(fit, search_of(net, weight_optimizer=partial(SGD, lr=0.1, weight_decay=0.1), **options))
    assert search.weight_steps == STEPS
    for key, value in before.items():
        assert torch.equal(search.model.up.widest.state_dict()[key], value)
    assert not torch.equal(search.model.down.widest.weight, head.double())


# -- what is refused -------------------------------------------------------------------------------------------------


def plain_edge() -> nn.Module:
    return nn.Sequential(MixedOp("edge", {"a": nn.Linear(FEATURES, CLASSES), "b": nn.Linear(FEATURES, CLASSES)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "sandwhich"}, "sampling='sandwhich'"),
        ({"sandwich_draws": -1}, "sandwich_draws=-1"),
        ({"model": plain_edge()}, "sampling='sandwich' needs edges whose candidates have an order"),
        ({"warmup_sizes": "shrinking"}, "needs a warm-up: set warmup_epochs"),
        (
            {"model": plain_edge(), "sampling": "one", "warmup_sizes": "shrinking", "warmup_epochs": 2},
            "warmup_sizes='shrinking' needs edges whose candidates have an order",
        ),
        ({"sampling": "one", "teacher": "widest"}, "teacher='widest' needs sampling='sandwich'"),
        ({"teacher": "wide"}, "teacher='wide' must be 'widest', a module"),
        ({"teacher": Distillation("widest", network="nte")}, "network='nte': Net has no such submodule"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_of(options.pop("model", None), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "share=0"),
        ({"share": 2}, "share=2"),
        ({"temperature": 0}, "temperature=0"),
        ({"loss": 3}, "loss=3 must be a function"),
        ({"loss": F.mse_loss, "temperature": 2.0}, "belong to the divergence"),
        ({"dim": 0.5}, "dim=0.5 must be a whole number"),
        ({"teacher": "large"}, "teacher='large' must be 'widest' or a module"),
    ],
)
def test_bad_distillations_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(**options)


def test_a_teacher_that_shares_weights_is_refused() -> None:
    net = Net()
    with pytest.raises(ValueError, match="shares modules or weights with the network"):
        search_of(net, teacher=nn.Sequential(net.down))


def test_outputs_that_cannot_be_compared_are_refused(fit: Fit) -> None:
    class Loose(Plain):
        """No child of it is the network."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(FEATURES, FEATURES)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(self.first(batch[0])), batch[1])

    class Twice(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]) + self.net(-batch[0]), batch[1])

    with pytest.raises(ValueError, match=r"'Loose' was called never .* name the submodule"):
        fitted(fit, search_of(Loose(), teacher="widest"))
    named = fitted(fit, search_of(Loose(), teacher=Distillation("widest", network="net")))
    assert named.weight_steps == STEPS
    with pytest.raises(ValueError, match="'net' was called 2 times"):
        fitted(fit, search_of(Twice(), teacher="widest"))
    with pytest.raises(ValueError, match=r"shape \[6, 3\], and the teacher of \[6, 4\]"):
        fitted(fit, search_of(teacher=nn.Linear(FEATURES, FEATURES).double()))


def test_shrinking_mixtures_are_refused(fit: Fit) -> None:
    search = search_of(kind=DARTS, sampling="one", warmup_epochs=2, warmup_sizes="shrinking")
    with pytest.raises(ValueError, match="this strategy's run a mixture"):
        fitted(fit, search)
