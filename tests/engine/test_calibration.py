"""Running statistics are those of the architecture that is evaluated, and training knows nothing of it."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import AdvantageNAS, Fixed, MixedOp, SearchStrategy
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.engine.calibration import applied
from advnas_lightning.objectives import Classification
from tests.support.refusals import one_line
from tests.support.speed import slow_but

CLASSES, SIZE = 3, 8


class Noisy(Dataset[Any]):
    """Images of three kinds, with a transform that draws random numbers from all generators."""

    def __init__(self, count: int, seed: int = 0, distance: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(CLASSES, (count,), generator=generator)
        self.images = torch.randn(count, 2, 4, 4, generator=generator) + distance * self.labels.view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(()) + float(np.random.rand())
        return self.images[index] * (1 + 0.1 * noise), self.labels[index]


class Fixed2D(Noisy):
    """The same without noise."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


def block(size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, size, padding=size // 2), nn.BatchNorm2d(4), nn.ReLU())


class Net(nn.Module):
    """Normalizes beside the edges, in them, and with one module in two places. It drops nothing unless asked to."""

    def __init__(self, dropout: float = 0.0, instance: bool = False, shares: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.shared = nn.BatchNorm2d(4)
        self.last = self.shared if shares else nn.BatchNorm2d(4)
        self.instance = nn.InstanceNorm2d(4, track_running_stats=True) if instance else nn.Identity()
        self.first = MixedOp("first", {"3x3": block(3), "1x1": block(1), "skip": nn.Identity()})
        self.second = MixedOp("second", {"1x1": block(1), "3x3": block(3)})
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.shared(self.stem(x)))
        x = self.instance(self.last(self.second(x)))
        return self.head(self.dropout(x.mean((2, 3))))


class Without(nn.Module):
    """A network that keeps no statistics, and counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(2, track_running_stats=False)
        self.edge = MixedOp("edge", {"norm": norm, "group": nn.GroupNorm(1, 2)})
        self.head = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.edge(x).mean((2, 3)))


class Classifier(LightningModule):
    """As a user writes it: with logs, a metric, a count of steps, and a batch that is changed in place."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.net = Net(**options)
        self.accuracy = MulticlassAccuracy(CLASSES)
        self.steps: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer.training:  # as data augmentation is written
            batch = [batch[0] + torch.randn_like(batch[0]), batch[1]]
        return batch

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        y = batch.pop()
        x = batch.pop().mul_(2)
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.accuracy(logits, y)
        self.log("train_loss", loss, on_epoch=True)
        self.log("train_accuracy", self.accuracy)
        self.steps.append(loss.item())
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0] * 2), batch[1]))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1, momentum=0.9)


def loaders(batches: int = 5, kind: type[Noisy] = Fixed2D) -> dict[str, DataLoader[Any]]:
    weights, architecture = kind(SIZE * batches, 1), kind(SIZE * 3, 2)
    return {
        role: DataLoader(data, SIZE, shuffle=True)
        for role, data in zip(("weights", "architecture"), (weights, architecture), strict=True)
    }


def val() -> DataLoader[Any]:
    return DataLoader(Fixed2D(3 * SIZE, 3), SIZE)


def search_of(model: nn.Module, kind: type[SearchStrategy] = AdvantageNAS, **options: Any) -> SearchStrategy:
    if not isinstance(model, LightningModule):
        options = {"weight_optimizer": partial(SGD, lr=0.1), "objective": Classification(CLASSES), **options}
    return kind(model, **{"architecture_optimizer": partial(Adam, lr=0.05), **options})


def seeded(make: type[nn.Module] = Net, **options: Any) -> nn.Module:
    seed_everything(4, verbose=False)
    return make(**options)


def trainer_of(*callbacks: Callback, epochs: int = 2, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    if not any(isinstance(each, Checkpoint) for each in callbacks):
        quiet["enable_checkpointing"] = False
    return Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **{**quiet, **options})


def fit(search: SearchStrategy, *callbacks: Callback, data: Any = None, ckpt: Any = None, **options: Any) -> Trainer:
    trainer = trainer_of(*callbacks, **options)
    seed_everything(5, verbose=False)
    trainer.fit(search, loaders() if data is None else data, val(), ckpt_path=ckpt)
    return trainer


def statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.named_buffers() if "running" in name or "tracked" in name}


def recomputed(network: nn.Module, batches: Any) -> nn.Module:
    """A copy with the statistics that plain PyTorch finds: cumulative means in training mode."""
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        for x, _ in batches:
            network(x)
    return network.eval()


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    assert ours
    for name, value in theirs.items():
        if isinstance(value, Tensor):
            assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("dropout", slow_but([0.0, 0.5], [0.5]))
def test_they_are_those_of_the_plain_network_on_the_same_batches(dropout: float) -> None:
    search = search_of(seeded(dropout=dropout), calibrate=4)
    fit(search)
    plain = search.genotype().apply(search.model)
    batches = list(search.calibration.batches)
    assert len(batches) == 4
    expected = statistics(recomputed(plain, batches))
    assert_equal(statistics(search.derive()), expected)
    assert_equal(statistics(search.derive(batches)), expected)
    assert statistics(plain)["shared.running_var"].ne(expected["shared.running_var"]).all()
    if not dropout:
        update_bn(batches, plain)
        assert_equal(statistics(search.derive()), statistics(plain))


def test_the_counts_are_those_of_the_passes() -> None:
    search = search_of(seeded(), calibrate=3)
    fit(search)
    with search.calibrated(search.one_hot([1, 0])):
        counts = {name: int(value) for name, value in statistics(search.model).items() if "tracked" in name}
    own = {"shared": 6, "first.candidates.1x1.1": 3, "second.candidates.1x1.1": 3}  # one is in two places
    shared = {name: int(value) for name, value in statistics(search.model).items() if "tracked" in name}
    assert counts == {**shared, **{f"{name}.num_batches_tracked": count for name, count in own.items()}}
    assert shared["shared.num_batches_tracked"] == 20  # of two epochs of five batches


def test_instance_norms_too() -> None:
    search = search_of(seeded(instance=True), calibrate=3)
    fit(search)
    (x, _), *_ = batches = list(search.calibration.batches)
    plain, means = search.genotype().apply(search.model).train(), []
    plain.instance.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0].mean((0, 2, 3))))
    with torch.no_grad():
        for x, _ in batches:
            plain(x)
    found = statistics(search.derive())["instance.running_mean"]
    torch.testing.assert_close(found, torch.stack(means).mean(0))


def test_validation_within_a_fit_is_that_of_the_plain_network() -> None:
    class Beside(Callback):
        def __init__(self) -> None:
            self.pairs: list[tuple[float, float]] = []

        def on_train_epoch_end(self, trainer: Trainer, search: LightningModule) -> None:
            assert isinstance(search, SearchStrategy)
            plain = recomputed(search.genotype().apply(search.model), list(search.calibration.batches))
            with torch.no_grad():
                losses = [F.cross_entropy(plain(x), y) for x, y in val()]
            self.pairs.append((float(trainer.callback_metrics["val/loss"]), float(torch.stack(losses).mean())))

    beside = Beside()
    fit(search_of(seeded(), calibrate=4), beside, epochs=3)
    assert len(beside.pairs) == 3
    for ours, theirs in beside.pairs:
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_the_process_best_and_prediction_have_their_own() -> None:
    search = search_of(seeded(), calibrate=4, select="process_best")
    trainer = fit(search)
    plain = recomputed(search.genotype("process_best").apply(search.model), list(search.calibration.batches))
    with torch.no_grad():
        outputs = [plain(x) for x, _ in val()]
        expected = torch.stack([F.cross_entropy(each, y) for each, (_, y) in zip(outputs, val(), strict=True)]).mean()
    (found,) = trainer.test(search, val(), verbose=False)
    assert found["test/loss"] == pytest.approx(float(expected), abs=1e-6)
    predicted = trainer.predict(search, DataLoader(Fixed2D(3 * SIZE, 3).images, batch_size=SIZE))
    for ours, theirs in zip(predicted or [], outputs, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("make", "data"),
    slow_but(itertools.product([Net, Classifier], [{}, {"accumulate": 2}]), [(Classifier, {"accumulate": 2})]),
)
def test_training_is_the_same_bit_for_bit(make: type[nn.Module], data: dict[str, Any]) -> None:
    states = []
    for calibrate in (0, 3):
        search = search_of(seeded(make, dropout=0.3), calibrate=calibrate, **data)
        trainer = fit(search, data=loaders(kind=Noisy), val_check_interval=2)
        metrics = {name: value for name, value in trainer.callback_metrics.items() if "val" not in name}
        steps = torch.tensor(getattr(search.model, "steps", []))
        state = {**search.state_dict(), **metrics, "rng": torch.get_rng_state(), "steps": steps}
        states.append(state)
    assert_equal(*states)
    if make is Classifier:
        assert len(states[0]["steps"]) == 10


def test_a_checkpoint_of_a_validation_has_the_shared_statistics(tmp_path: Path) -> None:
    saved = []
    for calibrate in (0, 3):
        search = search_of(seeded(Classifier), calibrate=calibrate)
        saving = ModelCheckpoint(
            tmp_path / str(calibrate), monitor="val_loss", save_top_k=-1, save_on_train_epoch_end=False
        )
        fit(search, saving)
        paths = sorted((tmp_path / str(calibrate)).glob("*.ckpt"))
        assert len(paths) == 2
        saved.append([torch.load(path, weights_only=True)["state_dict"] for path in paths])
    for ours, theirs in zip(*saved, strict=True):
        assert_equal(ours, theirs)


class CrashAt(Callback):
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            raise RuntimeError("crash")


@pytest.mark.parametrize("crash", slow_but([6, 8, 9], [8]))
def test_a_search_that_goes_on_within_an_epoch_validates_alike(crash: int, tmp_path: Path) -> None:
    def validated(search: SearchStrategy, *callbacks: Callback, **options: Any) -> dict[str, Tensor]:
        metrics = fit(search, *callbacks, data=loaders(kind=Noisy), **options).callback_metrics
        return {name: value for name, value in metrics.items() if "val" in name}

    whole = search_of(seeded(dropout=0.3), calibrate=4)
    expected = validated(whole)
    with pytest.raises(RuntimeError, match="crash"):
        validated(search_of(seeded(dropout=0.3), calibrate=4), LastCheckpoint(tmp_path), CrashAt(crash))
    again = search_of(seeded(dropout=0.3), calibrate=4)
    assert_equal(validated(again, ckpt=tmp_path / "last.ckpt"), expected)
    assert_equal(again.derive().state_dict(), whole.derive().state_dict())


def test_a_search_that_goes_on_after_its_end_has_the_batches_again(tmp_path: Path) -> None:
    search = search_of(seeded(dropout=0.3), calibrate=4)
    fit(search, LastCheckpoint(tmp_path), data=loaders(kind=Noisy))
    again, data = search_of(seeded(dropout=0.3), calibrate=4), loaders(kind=Noisy)
    fit(again, data=data, ckpt=tmp_path / "last.ckpt")
    assert not again.calibration.batches
    other = search.one_hot([1, 1])
    numbers = torch.get_rng_state()
    ours, theirs = (list(each.calibrated_statistics(other).values()) for each in (again, search))
    for one, another in zip(ours, theirs, strict=True):
        assert_equal(dict(one), dict(another))
    assert torch.equal(torch.get_rng_state(), numbers)
    assert len(again.calibration.batches) == 4


def test_a_search_that_goes_on_after_its_end_is_ranked_with_the_batches(tmp_path: Path) -> None:
    search = search_of(seeded(), calibrate=2)
    fit(search, LastCheckpoint(tmp_path), epochs=1)
    again = search_of(seeded(), calibrate=2)
    fit(again, epochs=1, ckpt=tmp_path / "last.ckpt")
    ours, theirs = (each.rank(val(), top=2, sample=0) for each in (again, search))
    assert [row.loss for row in ours] == [row.loss for row in theirs]


def test_frozen_layers_stay_as_they_are(tmp_path: Path) -> None:
    class Frozen(Classifier):
        def on_train_epoch_start(self) -> None:
            self.net.shared.eval()

    search = search_of(seeded(Frozen), calibrate=3)
    search.model.net.shared.running_mean.fill_(0.25)
    trainer = fit(search)
    found = search.derive().net
    trainer.save_checkpoint(tmp_path / "search.ckpt")
    loaded = AdvantageNAS.load_from_checkpoint(
        tmp_path / "search.ckpt", model=seeded(Frozen), architecture_optimizer=Adam, calibrate=3
    )
    loaded.trainer = trainer  # which the module's hook asks
    again = loaded.eval().calibrated_statistics(loaded.one_hot([0, 0]), list(search.calibration.batches))
    assert again.keys() == {loaded.model.net.first.candidates["3x3"][1], loaded.model.net.second.candidates["1x1"][1]}
    assert torch.equal(found.shared.running_mean, torch.full((4,), 0.25))
    assert int(found.second[1].num_batches_tracked) == 3


def test_an_error_in_an_evaluation_leaves_the_shared_statistics() -> None:
    class Fails(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.sanity_checking:
                return
            self.seen = statistics(self.net)
            raise ValueError("mine")

    search, other = search_of(seeded(Fails), calibrate=3), search_of(seeded(Classifier), calibrate=0)
    with pytest.raises(ValueError, match="mine"):
        fit(search)
    fit(other, epochs=1)
    assert_equal(statistics(search.model.net), statistics(other.model.net))
    assert not torch.equal(search.model.seen["shared.running_mean"], search.model.net.shared.running_mean)


def test_a_network_without_running_statistics_takes_no_pass_more() -> None:
    counts = []
    for calibrate in (0, 3):
        search, passes = search_of(seeded(Without), calibrate=calibrate), []
        search.model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        fit(search)
        search.derive()
        counts.append(len(passes))
        assert not search.calibration.batches
    assert counts[0] == counts[1]


def test_passes_are_taken_once_for_each_state_of_the_weights() -> None:
    search, passes = search_of(seeded(), calibrate=3), []
    search.model.register_forward_hook(lambda *_: passes.append(1))
    trainer = fit(search, num_sanity_val_steps=1)
    training = 10 + 10  # steps of both kinds
    assert len(passes) == training + 1 + 2 * (3 + 3)  # one of the sanity check; three batches of validation, twice
    passes.clear()
    trainer.validate(search, val(), verbose=False)
    search.derive()
    assert len(passes) == 3  # those of validation
    with torch.no_grad():
        next(search.model.parameters()).add_(1)
    expected = recomputed(search.genotype().apply(search.model), list(search.calibration.batches))
    passes.clear()
    assert_equal(statistics(search.derive()), statistics(expected))
    assert len(passes) == 3


def test_it_judges_a_search_rightly() -> None:
    data = {role: DataLoader(Fixed2D(640, seed, 0.5), 32) for seed, role in enumerate(("weights", "architecture"))}
    fresh, losses = DataLoader(Fixed2D(640, 3, 0.5), 64), {}
    for calibrate in (0, 10):
        options = {"weight_optimizer": partial(SGD, lr=0.1, momentum=0.9), "calibrate": calibrate}
        search = search_of(seeded(shares=False), **options)
        losses[calibrate] = fit(search, data=data).validate(search, fresh, verbose=False)[0]["val/loss"]
    network = search.genotype().apply(search.model).train()
    with torch.no_grad():
        by_batch = float(torch.stack([F.cross_entropy(network(x), y) for x, y in fresh]).mean())
    assert abs(losses[10] - by_batch) < 0.05 < 0.3 < losses[0] - by_batch


# -- after loading -----------------------------------------------------------------------------------------------------


def again(path: Path, **options: Any) -> SearchStrategy:
    model = seeded()
    given = {"architecture_optimizer": Adam, "objective": Classification(CLASSES), "calibrate": 4, **options}
    return AdvantageNAS.load_from_checkpoint(path, model=model, **given)


def test_a_checkpoint_has_those_of_what_was_validated(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    search = search_of(seeded(), calibrate=4)
    fit(search, ModelCheckpoint(tmp_path))
    (path,) = tmp_path.glob("*.ckpt")
    loaded = again(path)
    recwarn.clear()
    assert_equal(loaded.derive().state_dict(), search.derive().state_dict())
    copied = pickle.loads(pickle.dumps(search))
    assert_equal(copied.derive().state_dict(), search.derive().state_dict())
    assert not copied.calibration.batches
    assert not [each for each in recwarn if "running statistics" in str(each.message)]


def test_where_there_are_none_a_warning_says_what_to_do(tmp_path: Path) -> None:
    search = search_of(seeded(), calibrate=4)
    trainer = fit(search)
    with torch.no_grad():
        search.theta[0, (search.argmax_choice()[0] + 1) % 3] = 9.0  # the arg max is another one than was validated
        trainer.save_checkpoint(tmp_path / "search.ckpt")
    loaded, plain = again(tmp_path / "search.ckpt"), search.genotype().apply(search.model)
    with pytest.warns(UserWarning, match=r"no training batches .* search\.calibration\.use\(loader\)"):
        assert_equal(statistics(loaded.derive()), statistics(plain))
    data = loaders()
    expected = recomputed(plain, list(DataLoader(data["weights"].dataset, SIZE))[:4])
    ordered = {"weights": DataLoader(data["weights"].dataset, SIZE)}
    assert_equal(statistics(loaded.derive(ordered)), statistics(expected))
    loaded.calibration.use(ordered["weights"])
    assert_equal(statistics(loaded.derive()), statistics(expected))
    with torch.no_grad():
        by_hand = torch.stack([F.cross_entropy(expected(x), y) for x, y in val()]).mean()
    (found,) = trainer_of().validate(loaded, val(), verbose=False)
    assert found["val/loss"] == pytest.approx(float(by_hand), abs=1e-6)


def test_a_training_after_it_draws_what_it_would_have_drawn() -> None:
    search = search_of(seeded(), calibrate=2)
    loader = DataLoader(Noisy(4 * SIZE), SIZE, shuffle=True, generator=torch.Generator().manual_seed(7))
    before = loader.generator.get_state(), torch.get_rng_state(), np.random.get_state()[1]
    given = statistics(search.derive(loader))
    assert torch.equal(loader.generator.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])
    assert_equal(statistics(search.derive(itertools.islice(loader, 2))), given)  # the batches that come next


def test_an_architecture_in_the_place_of_batches_is_said() -> None:
    search = search_of(seeded())
    with one_line("from a loader, a list or the loaders of a search", "give an architecture as genotype="):
        search.derive(search.genotype())
    with one_line("training_batches=3 must be a loader, a list or the loaders of a search"):
        search.rank(val(), training_batches=3)


def test_an_evaluation_of_a_loaded_search_warns_too(tmp_path: Path) -> None:
    search = search_of(seeded(), calibrate=0)
    fit(search).save_checkpoint(tmp_path / "search.ckpt")
    with pytest.warns(UserWarning, match="no training batches"):
        trainer_of().validate(again(tmp_path / "search.ckpt"), val(), verbose=False)


# -- networks of all kinds ---------------------------------------------------------------------------------------------


def test_hooks_change_the_batches_as_in_training() -> None:
    class Pairs(Classifier):
        """Has a step that needs what a hook makes of a batch in training alone."""

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {"x": batch[0], "y": batch[1]} if self.trainer.training else batch

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch.pop("x").mul_(2)), batch.pop("y"))

    search = search_of(seeded(Pairs), calibrate=3)
    fit(search)
    batches = [(2 * x, y) for x, y in search.calibration.batches]
    expected = recomputed(search.genotype().apply(search.model.net), batches)
    assert_equal(statistics(search.derive().net), statistics(expected))


def test_a_step_that_cannot_run_in_eval_mode_runs_in_training_mode() -> None:
    class Auxiliary(Classifier):
        def forward(self, x: Tensor) -> Any:
            return (self.net(x), self.net.head.bias) if self.training else self.net(x)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            logits, other = self(batch[0])
            (slope,) = torch.autograd.grad(logits.sum(), self.net.head.weight, create_graph=True)
            return F.cross_entropy(logits, batch[1]) + 0 * other.sum() + 0 * slope.sum()

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

    search = search_of(seeded(Auxiliary), calibrate=3)
    fit(search)
    expected = recomputed(search.genotype().apply(search.model.net), list(search.calibration.batches))
    assert_equal(statistics(search.derive().net), statistics(expected))
    assert all(module.training for module in search.model.modules())


def test_an_error_of_such_a_pass_says_what_it_was() -> None:
    search = search_of(seeded(), calibrate=3)
    with pytest.raises(ValueError, match="channel") as caught:
        search.derive([(torch.zeros(1, 2, 1, 1), torch.zeros(1, dtype=torch.long))])
    assert "calibrate=0" in caught.value.__notes__[-1]


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        parts = {
            name: nn.Sequential(nn.LazyConv2d(4, size, padding=size // 2), nn.LazyBatchNorm2d())
            for name, size in (("1x1", 1), ("3x3", 3))
        }
        self.edge = MixedOp("edge", parts)
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.edge(x).mean((2, 3)))


def as_it_is(network: nn.Module) -> nn.Module:
    for choice in ([0], [1]) if isinstance(network, Lazy) else ():
        space = search_of(network).space
        with space.bind(space.one_hot(choice)):
            network(torch.zeros(2, 2, 4, 4))
    return network


@pytest.mark.parametrize(
    ("make", "options", "trainer"),
    [
        (Net, {"offload": True}, {}),
        (Lazy, {}, {}),
        pytest.param(Net, {}, {"precision": "bf16-mixed"}, marks=pytest.mark.slow),
        (Net, {}, {"precision": "64-true"}),
        pytest.param(Net, {}, {"inference_mode": False}, marks=pytest.mark.slow),
    ],
)
def test_other_networks(make: type[nn.Module], options: dict[str, Any], trainer: dict[str, Any]) -> None:
    search = search_of(as_it_is(seeded(make)), calibrate=3, **options)
    fit(search, **trainer)
    dtype = next(search.parameters()).dtype
    batches = [(x.to(dtype), y) for x, y in search.calibration.batches]
    with torch.autocast("cpu", torch.bfloat16, enabled="mixed" in str(trainer)):
        expected = recomputed(search.genotype().apply(search.model), batches)
    assert_equal(statistics(search.derive()), statistics(expected))


def test_compiled_networks() -> None:
    network = seeded()
    network.first.candidates["3x3"] = torch.compile(network.first.candidates["3x3"], backend="eager", fullgraph=True)
    search, plain = search_of(network, calibrate=3), search_of(seeded(), calibrate=3)
    with torch.no_grad():
        for each in (search, plain):
            each.theta[0, 0] = 9.0
    found, expected = (fit(each).callback_metrics["val/loss"] for each in (search, plain))
    assert search.genotype()["first"] == "3x3"
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_alternating_steps_and_loaders_without_a_length(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            data = Fixed2D(SIZE * 5, 1)
            yield from (data[index] for index in range(len(data)))

    search = search_of(seeded(), calibrate=3)
    fit(search, data={"weights": DataLoader(Stream(), SIZE), "architecture": loaders()["architecture"]})
    first = [images for images, _ in DataLoader(Fixed2D(SIZE * 5, 1), SIZE)]
    assert [torch.equal(x, y) for (x, _), y in zip(search.calibration.batches, first[2:], strict=True)] == [True] * 3


def test_a_fixed_network_keeps_its_own() -> None:
    search = search_of(seeded(), Fixed, genotype={"first": "1x1", "second": "1x1"}, architecture_optimizer=None)
    fit(search)
    assert not search.calibration.batches
    assert_equal(search.derive().state_dict(), search.model.state_dict())


def test_a_strategy_ranks_with_batches_of_its_own() -> None:
    search = search_of(seeded(), calibrate=2)
    fit(search)
    before, batches = copy.deepcopy(search.state_dict()), list(DataLoader(Fixed2D(SIZE * 6, 7), SIZE))
    (x, _) = next(iter(val()))
    search.eval()
    for choice in ([0, 0], [2, 1]):
        plain = recomputed(search.space.genotype(choice).apply(search.model), batches)
        with torch.no_grad(), search.calibrated(search.one_hot(choice), batches):
            assert torch.equal(search.model(x), plain(x))
        found = search.calibrated_statistics(search.one_hot(choice), batches)
        with torch.no_grad(), applied(found), search.space.bind(search.one_hot(choice)):
            assert torch.equal(search.model(x), plain(x))
    assert_equal(search.state_dict(), before)
    assert not any(module.training for module in search.modules())
