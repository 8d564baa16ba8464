"""A user's LightningModule in a search does all that it does in its own training."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR
from torchmetrics.classification import MulticlassAccuracy

from advnas_lightning import AdvantageNAS, Fixed, Genotype, MixedOp, SearchStrategy
from tests.support.classifier import loader, search_of
from tests.support.refusals import one_line
from tests.support.speed import slow_but

GENOTYPE = {"edge": "linear", "shared": "tanh"}


class Classifier(LightningModule):
    """As a user writes it: every hook notes that it was called."""

    def __init__(self, scheduler: str = "step", *, dropout: float = 0.3) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.called: list[Any] = []
        self.net = nn.Sequential(
            nn.Linear(4, 8),
            MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()}),
            nn.BatchNorm1d(8),
            MixedOp("shared", {"tanh": nn.Tanh(), "relu": nn.ReLU()}),
            nn.Dropout(dropout),
            nn.Linear(8, 3),
        )
        self.train_accuracy = MulticlassAccuracy(3)
        self.val_accuracy = MulticlassAccuracy(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.train_accuracy(logits, y)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_loss_epoch_mean", loss, on_step=False, on_epoch=True)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        self.called.append(("training_step", batch_idx))
        return {"loss": loss, "logits": logits.detach()}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.val_accuracy(logits, y)
        self.log_dict({"val_loss": F.cross_entropy(logits, y), "val_accuracy": self.val_accuracy})

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:  # a step need not take the batch's number
        x, y = batch
        self.log("test_loss", F.cross_entropy(self(x), y))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).argmax(-1)

    def configure_optimizers(self) -> Any:
        optimizer = Adam(self.parameters(), lr=0.01)
        cosine = CosineAnnealingLR(optimizer, T_max=6)
        return {
            "none": optimizer,
            "list": [optimizer],
            "lists": ([optimizer], [cosine]),
            "two": ([optimizer], [cosine, {"scheduler": StepLR(optimizer, 2), "interval": "step"}]),
            "dict": {"optimizer": optimizer, "lr_scheduler": cosine},
            "step": {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": cosine, "interval": "step", "frequency": 2, "name": "own"},
            },
            "plateau": {
                "optimizer": optimizer,
                "lr_scheduler": {
                    "scheduler": ReduceLROnPlateau(optimizer, patience=0, threshold=1.0),
                    "monitor": "val_loss",
                },
            },
            "trained": {
                "optimizer": optimizer,
                "lr_scheduler": ReduceLROnPlateau(optimizer, patience=0, threshold=1.0),
                "monitor": "train_loss_epoch_mean",
            },
        }[self.scheduler]

    def configure_callbacks(self) -> list[Callback]:
        return [Counting()]

    def on_train_epoch_end(self) -> None:
        self.called.append("on_train_epoch_end")
        self.log("mean_weight", self.net[0].weight.mean())

    def on_validation_epoch_end(self) -> None:
        self.called.append("on_validation_epoch_end")
        self.log("val_mean", self(torch.zeros(2, 4, device=self.device)).mean())  # a hook may run the network

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["own"] = 17

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.called.append(("loaded", checkpoint["own"]))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.called.append(("on_train_batch_start", [part.shape for part in batch], batch_idx))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.called.append(("on_train_batch_end", sorted(outputs), [part.shape for part in batch], batch_idx))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return 2 * x, y

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.called.append(("on_before_zero_grad", type(optimizer).__name__))

    def on_before_backward(self, loss: Tensor) -> None:
        self.called.append("on_before_backward")

    def on_after_backward(self) -> None:
        self.called.append("on_after_backward")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.called.append(("on_before_optimizer_step", type(optimizer).__name__))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self.called.append(("optimizer_step", epoch, batch_idx))
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        self.called.append(("lr_scheduler_step", type(scheduler).__name__, metric is None))
        super().lr_scheduler_step(scheduler, metric)

    def on_fit_start(self) -> None:
        self.called.append("on_fit_start")

    def setup(self, stage: str) -> None:
        self.called.append(("setup", stage))


class Counting(Callback):
    """The module's own callback."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1


def make(scheduler: str = "step", **options: Any) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Classifier(scheduler, **options)


def fit(module: LightningModule, train: Any, folder: Path, **options: Any) -> Trainer:
    torch.manual_seed(0)
    settings = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "log_every_n_steps": 1,
        "logger": CSVLogger(folder, name="", version=""),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(**{**settings, **options})
    trainer.fit(module, train, loader(9))
    return trainer


def written(folder: Path) -> list[dict[str, str]]:
    """The log's rows: the names and values that are not empty, without what the search adds."""
    header, *lines = (folder / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    added = ("entropy", "architecture/loss")
    rows = [{name: value for name, value in row.items() if value and name not in added} for row in rows]
    return [row for row in rows if row.keys() - {"epoch", "step"}]


@pytest.mark.parametrize(
    "scheduler",
    slow_but(
        ["none", "list", "lists", "two", "dict", "step", "plateau", "trained"], ["two", "step", "plateau", "trained"]
    ),
)
def test_training_is_the_users_own_bit_for_bit(scheduler: str, tmp_path: Path) -> None:
    # A search with nothing left to choose does what Lightning does with the same network.
    alone = Genotype(GENOTYPE).apply(make(scheduler))
    expected = fit(alone, loader(), tmp_path / "alone")
    search = Fixed(make(scheduler), genotype=GENOTYPE)
    trainer = fit(search, loader(), tmp_path / "search")
    for name, value in alone.state_dict().items():
        assert torch.equal(value, search.model.state_dict()[name]), name
    assert search.model.called == alone.called
    assert written(tmp_path / "search") == written(tmp_path / "alone")
    assert trainer.global_step == expected.global_step == 9
    assert trainer.optimizers[0].param_groups[0]["lr"] == expected.optimizers[0].param_groups[0]["lr"]
    assert [type(each) for each in trainer.callbacks if isinstance(each, Counting)] == [Counting]


def test_a_search_adds_nothing_to_logs_metrics_and_hooks(tmp_path: Path) -> None:
    module = make("step")
    search = search_of(module)
    trainer = fit(search, {"weights": loader(), "architecture": loader(5, size=4)}, tmp_path)
    assert (search.weight_steps, search.architecture_steps, trainer.global_step) == (9, 9, 9)
    # The architecture steps call training_step too; nothing of what it logs or counts then is left.
    rows = [row for row in written(tmp_path) if "train_loss" in row]
    assert len(rows) == 9
    assert [row["step"] for row in rows] == [str(step) for step in range(9)]
    plain = Genotype(GENOTYPE).apply(make("step"))
    fit(plain, loader(), tmp_path / "alone")
    added = [each for each in module.called if each not in plain.called]
    assert added == []
    once = [each for each in module.called if each[0] != "training_step"]
    assert once == [each for each in plain.called if each[0] != "training_step"]
    assert {name for row in written(tmp_path) for name in row} == {
        name for row in written(tmp_path / "alone") for name in row
    }


def test_the_logged_accuracy_is_of_the_weight_steps_alone(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watched(Classifier):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append((outputs["logits"].argmax(-1), batch[1]))

    torch.manual_seed(1)
    search = search_of(Watched("none"))
    fit(search, {"weights": loader(), "architecture": loader(5, size=4)}, tmp_path, max_epochs=1)
    # macro average, by hand: the mean over the classes of the share that was recognised
    predicted, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    recall = [(predicted[labels == label] == label).float().mean() for label in range(3) if (labels == label).any()]
    (value,) = [float(row["train_accuracy"]) for row in written(tmp_path) if "train_accuracy" in row]
    assert value == pytest.approx(float(torch.stack(recall).mean()), abs=1e-6)


def test_the_result_is_the_users_module(tmp_path: Path) -> None:
    module = make("step")
    search = search_of(module)
    trainer = fit(search, {"weights": loader(), "architecture": loader(5)}, tmp_path)
    derived = search.derive()
    assert type(derived) is Classifier
    assert not any(isinstance(part, MixedOp) for part in derived.modules())
    pickle.loads(pickle.dumps(derived))
    predictions = torch.cat(trainer.predict(search, loader(7)))
    fresh = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    assert torch.equal(torch.cat(fresh.predict(derived, loader(7))), predictions)
    assert trainer.test(search, loader(8), verbose=False) == fresh.test(derived, loader(8), verbose=False)
    before = copy.deepcopy(derived.state_dict())
    fit(derived, loader(), tmp_path / "retrained")
    assert any(not torch.equal(value, before[name]) for name, value in derived.state_dict().items())


def test_a_checkpoint_has_what_the_module_puts_into_it(tmp_path: Path) -> None:
    trainer = fit(search_of(make()), {"weights": loader(), "architecture": loader(5)}, tmp_path)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    assert torch.load(tmp_path / "own.ckpt", weights_only=True)["own"] == 17
    again = search_of(make())
    Trainer(accelerator="cpu", logger=False, max_epochs=3, enable_progress_bar=False).fit(
        again, {"weights": loader(), "architecture": loader(5)}, ckpt_path=tmp_path / "own.ckpt"
    )
    assert ("loaded", 17) in again.model.called


def test_a_step_that_leaves_a_batch_out(tmp_path: Path) -> None:
    class Picky(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.called.append(("on_train_batch_end", sorted(outputs), self.trainer.global_step))

    torch.manual_seed(1)
    search = search_of(Picky("none"))
    fit(search, {"weights": loader(), "architecture": loader(5)}, tmp_path)
    assert (search.weight_steps, search.architecture_steps) == (6, 6)
    assert search.model.called == trained_as_alone(Picky, tmp_path).called


def trained_as_alone(kind: type[Classifier], folder: Path, **options: Any) -> Classifier:
    """A module in a search with nothing to choose, which is trained as it is alone."""
    modules, steps = [], []
    for wrap in (Genotype(GENOTYPE).apply, partial(Fixed, genotype=GENOTYPE)):
        torch.manual_seed(1)
        module: Any = wrap(kind("none"))
        steps.append(fit(module, loader(), folder, **options).global_step)
        modules.append(module.model if isinstance(module, Fixed) else module)
    alone, ours = modules
    assert ours.called == alone.called
    assert steps[1] == steps[0]
    for name, value in alone.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
    return ours


@pytest.mark.parametrize(
    ("times", "max_steps"), slow_but(itertools.product([0, 1, 2], [-1, 5]), [(0, 5), (1, -1), (2, 5)])
)
def test_each_batch_counts_as_one_step(times: int, max_steps: int, tmp_path: Path) -> None:
    class Stepping(Classifier):
        """Leaves its optimizer's step out now and then, or takes two."""

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if batch_idx % 2 == 0 and times == 0:
                optimizer_closure()
            for _ in range(times if batch_idx % 2 == 0 else 1):
                optimizer.step(closure=optimizer_closure)
            self.called.append(("stepped", self.trainer.global_step))

    trained_as_alone(Stepping, tmp_path, max_steps=max_steps)


def test_no_process_may_leave_a_batch_out_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Picky(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    search = search_of(Picky("none"))
    search.trainer = Trainer(accelerator="cpu", logger=False)
    monkeypatch.setattr(Trainer, "world_size", 2)
    with pytest.raises(MisconfigurationException, match=r"Picky\.training_step returned None.*processes"):
        search.trainee.loss([torch.zeros(1, 4), torch.zeros(1)])


@pytest.mark.parametrize("kind", slow_but([Fixed, AdvantageNAS], [Fixed]))
def test_what_the_module_does_not_evaluate_is_not_evaluated(kind: type[SearchStrategy], tmp_path: Path) -> None:
    class Trains(Classifier):
        validation_step = LightningModule.validation_step
        test_step = LightningModule.test_step

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            assert self.training
            return super().training_step(batch, batch_idx)

    torch.manual_seed(1)
    module = Trains()
    search = kind(module, **({"genotype": GENOTYPE} if kind is Fixed else {"architecture_optimizer": Adam}))
    trainer = fit(search, {"weights": loader(), "architecture": loader(5)}, tmp_path)
    assert not {name for name in trainer.callback_metrics if name.startswith("val")}
    for evaluate in (trainer.validate, trainer.test):
        with pytest.raises(MisconfigurationException, match="_step"):  # as without a search
            evaluate(search, loader())

    class Evaluates(kind):  # type: ignore[misc,valid-type]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_own", 1.0)

    torch.manual_seed(1)
    search = Evaluates(Trains(), **({"genotype": GENOTYPE} if kind is Fixed else {"architecture_optimizer": Adam}))
    trainer = fit(search, {"weights": loader(), "architecture": loader(5)}, tmp_path)
    assert "val_own" in trainer.callback_metrics


def test_a_strategy_pickles_and_copies(tmp_path: Path) -> None:
    search = search_of(make())
    for again in (pickle.loads(pickle.dumps(search)), copy.deepcopy(search)):
        assert type(again) is type(search)
        assert again.space.edges == search.space.edges
        fit(again, {"weights": loader(), "architecture": loader(5)}, tmp_path, max_epochs=1)


def test_an_own_loss_or_a_task_comes_first(tmp_path: Path) -> None:
    class Search(AdvantageNAS):
        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.model(x), y)

    module = make()
    search = Search(module, weight_optimizer=partial(SGD, lr=0.1), architecture_optimizer=partial(Adam, lr=0.1))
    assert type(search) is Search
    fit(search, {"weights": loader(), "architecture": loader(5)}, tmp_path)
    assert module.called == []


class ByHand(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Several(Classifier):
    def configure_optimizers(self) -> Any:
        return [Adam(self.net[0].parameters()), Adam(self.net[-1].parameters())]


class NoOptimizer(Classifier):
    configure_optimizers = LightningModule.configure_optimizers


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (ByHand, r"ByHand optimizes by hand .*override loss\(batch\), and weight_step\(batch\) .*weight_optimizer="),
        (Several, r"gives 2 optimizers.*override weight_step\(batch\)"),
        (NoOptimizer, "NoOptimizer.configure_optimizers gives no optimizer"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(kind: Callable[..., Classifier], says: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=says) as caught:
        fit(search_of(kind()), {"weights": loader(), "architecture": loader(5)}, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hook", ["setup", "on_fit_start"])
def test_a_module_that_turns_to_manual_optimization_is_refused(hook: str, tmp_path: Path) -> None:
    module = Classifier()
    setattr(module, hook, lambda *_: setattr(module, "automatic_optimization", False))
    with one_line("Classifier optimizes by hand", "weight_optimizer="):
        fit(search_of(module), {"weights": loader(), "architecture": loader(5)}, tmp_path)


def test_what_a_message_says_of_a_module_that_optimizes_by_hand(tmp_path: Path) -> None:
    class Search(AdvantageNAS):
        def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def weight_step(self, batch: tuple[Tensor, Tensor]) -> None:
            super().weight_step(batch)
            super().weight_step(batch)

    search = search_of(ByHand(), Search, weight_optimizer=partial(Adam, lr=0.01))
    fit(search, {"weights": loader(), "architecture": loader(5)}, tmp_path)
    assert (search.weight_steps, search.architecture_steps) == (18, 9)


class Clipping(Classifier):
    """Clips by a method of its own, which Lightning calls with names."""

    def configure_gradient_clipping(self, optimizer: Any, **options: Any) -> None:
        self.called.append(dict(options))
        options |= {"gradient_clip_val": 1e-2, "gradient_clip_algorithm": "norm"}
        self.clip_gradients(optimizer, **options)


def test_a_module_clips_by_its_own_method(tmp_path: Path) -> None:
    torch.manual_seed(1)
    search = Fixed(Clipping(), genotype=GENOTYPE)
    torch.manual_seed(1)
    alone = Genotype(GENOTYPE).apply(Clipping())
    for module, folder in ((search, "search"), (alone, "alone")):
        fit(module, loader(), tmp_path / folder)
    assert search.model.called == alone.called
    ours, theirs = search.derive().state_dict(), alone.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
