"""A run that goes on has what its state_dict leaves out: buffers, as of contrastive losses, and loose weights."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from advnas_lightning import AdvantageNAS, MixedOp
from advnas_lightning.callbacks import LastCheckpoint
from advnas_lightning.engine.buffers import collect_buffers, restore_buffers
from tests.support.speed import slow_but


class Negatives(nn.Module):
    """Gives the newest keys, as a memory bank does."""

    keys: Tensor
    scale: Tensor
    mean: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("keys", torch.zeros(0, 4), persistent=False)
        self.register_buffer("scale", torch.tensor(0.5).expand(4), persistent=False)  # a view, which no copy fits into

    def forward(self, new: Tensor) -> Tensor:
        if not hasattr(self, "mean"):
            self.register_buffer("mean", torch.zeros(4), persistent=False)
        negatives = torch.cat([self.keys, self.mean[None]]) * self.scale
        self.keys = torch.cat([new.detach(), self.keys])[: self.size]
        self.mean.mul_(0.9).add_(new.detach().mean(0), alpha=0.1)
        return negatives


class Contrastive(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = MixedOp(
            "encoder", {"linear": nn.Linear(4, 4), "tanh": nn.Sequential(nn.Linear(4, 4), nn.Tanh())}
        )
        self.negatives = Negatives(6)
        self.constants = {"scale": torch.ones(1, requires_grad=True)}  # is trained, and is no parameter of a module

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        new = self.encoder(batch[0]) * self.constants["scale"]
        loss: Tensor = (new @ self.negatives(new).T).sin().mean() + new.square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return SGD([*self.parameters(), *self.constants.values()], lr=0.3)


class CrashAfter(Callback):
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.batches:
            raise KeyError


def loader(seed: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))), 4)


def resumed_and_straight(
    build: Callable[[], LightningModule], batches: int, fit: Callable[..., Trainer], folder: Path
) -> tuple[AdvantageNAS, AdvantageNAS]:
    def run(*callbacks: Callback, **options: Any) -> AdvantageNAS:
        torch.manual_seed(0)
        search = AdvantageNAS(build(), architecture_optimizer=partial(Adam, lr=0.1))
        saving = LastCheckpoint(folder, every_n_steps=1)
        loaders = {"weights": loader(1), "architecture": loader(2)}
        fit(search, loaders, max_epochs=3, enable_checkpointing=True, callbacks=[saving, *callbacks], **options)
        return search

    with pytest.raises(KeyError):
        run(CrashAfter(batches))
    resumed = run(ckpt_path=folder / "last.ckpt")
    for path in folder.iterdir():
        path.unlink()
    return resumed, run()


@pytest.mark.parametrize("batches", slow_but([1, 4, 6, 11], [4]))
def test_a_queue_goes_on(batches: int, fit: Callable[..., Trainer], assert_same: Any, tmp_path: Path) -> None:
    resumed, straight = resumed_and_straight(Contrastive, batches, fit, tmp_path)
    assert_same(resumed.state_dict(), straight.state_dict())
    assert_same(dict(resumed.named_buffers()), dict(straight.named_buffers()))
    assert torch.equal(resumed.model.constants["scale"], straight.model.constants["scale"])  # type: ignore[attr-defined]
    assert resumed.get_buffer("model.negatives.keys").shape == (6, 4)


class Freezing(Contrastive):
    """Keeps the running statistics of a layer, as one does in fine-tuning, and freezes a weight after an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.negatives = nn.BatchNorm1d(4)  # type: ignore[assignment]

    def on_train_epoch_start(self) -> None:
        self.negatives.eval()
        if self.current_epoch >= 1:
            self.encoder.candidates["linear"].weight.requires_grad_(False)


@pytest.mark.parametrize("batches", slow_but([2, 4, 6, 8, 10], [6]))
def test_what_is_frozen_stays_frozen(
    batches: int, fit: Callable[..., Trainer], assert_same: Any, tmp_path: Path
) -> None:
    resumed, straight = resumed_and_straight(Freezing, batches, fit, tmp_path)
    assert_same(resumed.state_dict(), straight.state_dict())
    assert straight.get_buffer("model.negatives.num_batches_tracked") == 0


class Validated(Freezing):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.encoder(batch[0])

    def val_dataloader(self) -> Any:
        return loader(3)


def test_what_is_frozen_stays_frozen_after_a_validation_within_an_epoch(
    fit: Callable[..., Trainer], assert_same: Any, tmp_path: Path
) -> None:
    def run(folder: str, **options: Any) -> AdvantageNAS:
        torch.manual_seed(0)
        search = AdvantageNAS(Validated(), architecture_optimizer=partial(Adam, lr=0.1))
        saving = ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1)
        loaders = {"weights": loader(1), "architecture": loader(2)}
        options |= dict(max_epochs=3, enable_checkpointing=True, limit_val_batches=2, val_check_interval=0.5)
        fit(search, loaders, callbacks=[saving], **options)
        return search

    straight = run("straight")
    resumed = run("resumed", ckpt_path=tmp_path / "straight" / "step=6.ckpt")
    assert_same(resumed.state_dict(), straight.state_dict())
    assert [name for name, each in resumed.named_modules() if not each.training] == ["model.negatives"]


class Queue(nn.Module):
    queue: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(2), persistent=False)
        self.newest = self.queue[:1]


def test_other_references_to_a_buffer_see_what_is_put_back() -> None:
    net = Queue()
    restore_buffers(net, {"queue": torch.tensor([3.0, 4.0])})
    assert net.newest.item() == 3


def test_a_buffer_that_a_validation_made_can_be_replaced() -> None:
    with torch.inference_mode():
        net = Queue()
    restore_buffers(net, {"queue": torch.ones(2)})
    assert net.queue.tolist() == [1, 1]


def test_what_is_in_the_state_dict_is_not_kept_twice() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), Negatives(3))
    assert set(collect_buffers(net, net.state_dict())) == {"1.keys", "1.scale"}


@pytest.mark.parametrize("name", ["other.queue", "weight"])
def test_a_buffer_without_a_place_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"buffer '{name}'"):
        restore_buffers(nn.Linear(2, 2), {name: torch.zeros(2)})
