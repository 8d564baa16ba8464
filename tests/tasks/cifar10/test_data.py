"""CIFAR-10's split and order, and its data module in a Trainer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from advnas_lightning import AdvantageNAS
from advnas_lightning.objectives import Classification
from advnas_lightning.tasks.cifar10 import CIFAR10, NASBench201
from tests.support.ends_of_runs import state
from tests.support.pictures import Pictures, cut, make, moments, parts, places, stack, write

# -- the split and the order -----------------------------------------------------------------------------------------


def test_a_random_split_is_two_halves_by_the_seed(root: Path) -> None:
    pictures = write(root)
    splits = [parts(make(root, seed=seed), pictures) for seed in (0, 1, 2, 0)]
    for weights, architecture in splits:
        assert len(weights) == len(architecture) == 12
        assert sorted(weights + architecture) == list(range(24))
    assert splits[3] == splits[0]
    assert len({tuple(weights) for weights, _ in splits}) == 3


def test_a_random_split_does_not_follow_the_classes(root: Path) -> None:
    pictures = write(root, train=60)
    weights, _ = parts(make(root), pictures)
    counts = Counter(place // 60 for place in weights)
    # of 60 images in a class a half is expected, with a deviation of √(60/4) = 3.9: four of them, and the seed is fixed
    assert all(abs(counts[label] - 30) < 16 for label in range(3))


def test_the_first_half_is_that_of_the_files(root: Path) -> None:
    pictures = write(root)
    for seed in (0, 1):
        assert parts(make(root, split="first_half", seed=seed), pictures) == (list(range(12)), list(range(12, 24)))


@pytest.mark.parametrize("split", ["random", "first_half"])
@pytest.mark.parametrize(("share", "count"), [(0.25, 6), (0.5, 12), (0.75, 18), (0.01, 1), (0.99, 23)])
def test_the_architectures_share(root: Path, split: str, share: float, count: int) -> None:
    pictures = write(root)
    weights, architecture = parts(make(root, split=split, architecture_share=share), pictures)
    assert len(architecture) == count
    assert sorted(weights + architecture) == list(range(24))


@pytest.mark.parametrize("split", ["random", "first_half"])
def test_retraining_learns_from_all_images(root: Path, split: str) -> None:
    pictures = write(root)
    data = make(root, retraining=True, split=split)
    assert list(data.train_dataloader()) == ["weights"]
    assert sorted(places(data.train_dataloader()["weights"], pictures["train"])) == list(range(24))
    assert data.val_dataloader() == []
    assert sorted(places(data.test_dataloader(), pictures["test"])) == list(range(9))


@pytest.mark.parametrize("split", ["random", "first_half"])
def test_validation_is_on_the_images_of_the_architecture_steps(root: Path, split: str) -> None:
    pictures = write(root)
    data = make(root, split=split)
    order = places(data.val_dataloader(), pictures["train"])  # finds exactly these pixels
    assert sorted(order) == parts(data, pictures)[1]
    _, labels = stack(data.val_dataloader())
    assert labels == [place // 8 for place in order]


@pytest.mark.parametrize("split", ["random", "first_half"])
@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluations_are_in_an_order_of_the_seed(root: Path, split: str, part: str) -> None:
    pictures = write(root, train=20, test=10)

    def order(seed: int) -> list[int]:
        data = make(root, split=split, seed=seed)
        known = pictures["train" if part == "val" else "test"]
        once, again = (places(getattr(data, f"{part}_dataloader")(), known) for _ in range(2))
        loader = getattr(data, f"{part}_dataloader")()
        assert places(loader, known) == places(loader, known) == once == again
        return once

    first, other = order(0), order(1)
    assert first == order(0)
    assert first != other
    assert first != sorted(first)
    # 30 images of at least 2 classes: file by file there would be at most 2 changes of class, by chance there are ten
    each = 20 if part == "val" else 10
    assert sum(a // each != b // each for a, b in pairwise(first)) > 5


def test_an_epoch_covers_every_image_once_in_a_new_order(root: Path) -> None:
    pictures = write(root)
    data = make(root, batch_size=5)
    torch.manual_seed(0)
    for loader in data.train_dataloader().values():
        epochs = [places(loader, pictures["train"]) for _ in range(3)]
        assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
        assert len(set(epochs[0])) == len(epochs[0]) == 12
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert [len(labels) for _, labels in loader] == [5, 5, 2]
        assert len(loader) == 3


def test_images_lie_in_memory_once_as_bytes(root: Path) -> None:
    write(root)
    data = make(root)
    loaders = [*data.train_dataloader().values(), data.val_dataloader(), data.test_dataloader()]
    assert len({loader.dataset.images.data_ptr() for loader in loaders}) == 1
    for loader in loaders:
        assert loader.dataset.images.dtype == torch.uint8
        for images, labels in loader:
            assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)


def test_a_single_image_can_be_had(root: Path) -> None:
    pictures = write(root)
    dataset = make(root, split="first_half").train_dataloader()["weights"].dataset
    for index in range(len(dataset)):
        image, label = dataset[index]
        picture = image.permute(1, 2, 0).numpy()
        (place,) = (place for place in range(24) if np.array_equal(pictures["train"][place], picture))
        assert label.item() == place // 8


# -- in a Trainer ----------------------------------------------------------------------------------------------------


class Plain(LightningModule):
    """Somebody's own network, that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 3)
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.head(batch[0].flatten(1)), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        for role, part in (batch if isinstance(batch, dict) else {"weights": batch}).items():
            self.seen[role].append(part)
        return self.loss(batch["weights"] if isinstance(batch, dict) else batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["sanity" if self.trainer.sanity_checking else "val"].append(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen["test"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return SGD(self.parameters(), lr=0.01)


class Recognise:
    """Finds out of which picture a normalised image was made, and how."""

    def __init__(self, pictures: Pictures, padding: int) -> None:
        self.mean, self.deviation = moments(pictures["train"])
        self.known: dict[bytes, tuple[str, int, bool]] = {}
        for part in pictures:
            for index, picture in enumerate(pictures[part].transpose(0, 3, 1, 2)):
                for top in range(2 * padding + 1):
                    for left in range(2 * padding + 1):
                        for flip in (False, True):
                            plain = (top, left, flip) == (padding, padding, False)
                            self.known[cut(picture, padding, top, left, flip).tobytes()] = (part, index, plain)

    def __call__(self, batches: list[tuple[Tensor, Tensor]]) -> list[tuple[str, int, bool]]:
        found = []
        for images, labels in batches:
            assert images.dtype == torch.float32
            values = images.permute(0, 2, 3, 1).numpy() * self.deviation + self.mean
            for image, label in zip(values.round().astype(np.uint8), labels.tolist(), strict=True):
                part, index, plain = self.known[np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()]
                assert label == index // (8 if part == "train" else 3)
                found.append((part, index, plain))
        return found


def test_training_images_alone_are_augmented(root: Path, fit: Callable[..., Trainer]) -> None:
    pictures = write(root)
    data, module = CIFAR10(root=str(root), batch_size=4, padding=1), Plain()
    torch.manual_seed(0)
    trainer = fit(module, data, max_epochs=2)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.validate(module, datamodule=data, verbose=False)
    recognise = Recognise(pictures, padding=1)
    seen = {name: recognise(batches) for name, batches in module.seen.items()}
    assert set(seen) == {"weights", "architecture", "sanity", "val", "test"}
    weights, architecture = parts(data, pictures)
    for role, members in (("weights", weights), ("architecture", architecture)):
        assert sorted(index for _, index, _ in seen[role][:12]) == members
        assert len(seen[role]) == 24
        assert {part for part, _, _ in seen[role]} == {"train"}
        assert sum(plain for _, _, plain in seen[role]) < 12  # one in 18 is expected
    assert len(seen["sanity"]) == 8  # Lightning's two batches
    assert len(seen["val"]) == 3 * 12  # after each of two epochs, and once more
    assert [index for _, index, _ in seen["val"][:12]] == [index for _, index, _ in seen["val"][12:24]]
    for name, part, members in (
        ("sanity", "train", set(architecture)), ("val", "train", set(architecture)), ("test", "test", set(range(9)))
    ):  # fmt: skip
        assert {where for where, _, _ in seen[name]} == {part}
        assert {index for _, index, _ in seen[name]} <= members
        assert all(plain for _, _, plain in seen[name])
    images = module.seen["weights"][0][0]
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_plain_module_trains_on_a_single_loader(root: Path, fit: Callable[..., Trainer]) -> None:
    class Weights(CIFAR10):
        def train_dataloader(self) -> Any:
            return super().train_dataloader()["weights"]

    pictures = write(root)
    module, data = Plain(), Weights(root=str(root), batch_size=4, padding=1, retraining=True)
    fit(module, data)
    found = Recognise(pictures, padding=1)(module.seen["weights"])
    assert sorted(index for _, index, _ in found) == list(range(24))
    assert not all(plain for _, _, plain in found)
    assert set(module.seen) == {"weights"}  # no validation when retraining


def test_batches_are_moved_as_bytes(root: Path, fit: Callable[..., Trainer]) -> None:
    moved = []

    class Watched(CIFAR10):
        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            both = batch.values() if isinstance(batch, dict) else [batch]
            moved.extend(images.dtype for images, _ in both)
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    write(root)
    fit(Plain(), Watched(root=str(root), batch_size=4))
    assert len(moved) == 2 + 2 * 3 + 3  # the sanity check, three pairs to train with, and the validation
    assert set(moved) == {torch.uint8}


def test_a_search_resumes_bit_for_bit(
    root: Path, tmp_path: Path, fit: Callable[..., Trainer], assert_same: Callable[..., None]
) -> None:
    write(root)

    def run(folder: str, resume: str | None = None) -> dict[str, Any]:
        torch.manual_seed(5)
        search = AdvantageNAS(
            NASBench201(classes=3, cells=1, channels=2),
            objective=Classification(3),
            weight_optimizer=partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
            architecture_optimizer=partial(Adam, lr=0.1, betas=(0.5, 0.999)),
            weight_scheduler=partial(CosineAnnealingLR, T_max=2),
        )
        saving = ModelCheckpoint(
            tmp_path / folder, filename="{epoch}", save_last=True, save_top_k=-1, save_on_train_epoch_end=True
        )
        torch.manual_seed(0 if resume is None else 99)  # another process has other global random numbers
        fit(
            search,
            CIFAR10(root=str(root), batch_size=4),
            max_epochs=2,
            callbacks=[saving],
            enable_checkpointing=True,
            ckpt_path=None if resume is None else tmp_path / resume,
        )
        return torch.load(tmp_path / folder / "last.ckpt", weights_only=True)

    whole = run("whole")
    resumed = run("resumed", "whole/epoch=0.ckpt")
    start = torch.load(tmp_path / "whole" / "epoch=0.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(whole["state_dict"]["theta"], start["theta"])
    assert_same(state(resumed), state(whole))
