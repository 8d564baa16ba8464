"""An image classifier in PyTorch Lightning.

Without arguments it takes random images, so it runs at once but has nothing to learn. ``--data DIR`` takes the images
in ``DIR/train/<class>/`` and ``DIR/test/<class>/``.

``diff examples/classifier.py examples/searchable_classifier.py`` shows the lines that make it searchable. Each of the
network's three stages then chooses an activation and a kernel size, and the found network is trained from scratch.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Subset
from torchmetrics import Accuracy
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder

from advnas_lightning import AdvantageNAS, MixedOp, search_loaders

CLASSES, SIZE = 10, 32


class Images(LightningDataModule):
    """Images of 32 x 32 pixels with their classes. A tenth of the training images is kept for validation."""

    def __init__(self, root: Path | None = None, batch_size: int = 64) -> None:
        super().__init__()
        self.root, self.batch_size = root, batch_size
        self.plain = [transforms.Resize((SIZE, SIZE)), transforms.ToTensor()]
        self.augmented = [*self.plain, transforms.RandomHorizontalFlip(), transforms.RandomCrop(SIZE, padding=4)]

    def setup(self, stage: str | None = None) -> None:
        """Find the images and split them."""
        train, val = self.dataset("train", self.augmented), self.dataset("train", self.plain)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
        held_out = len(order) // 10
        self.train, self.val = Subset(train, order[held_out:]), Subset(val, order[:held_out])
        self.test = self.dataset("test", self.plain)
        self.classes = CLASSES if self.root is None else len(self.test.classes)

    def dataset(self, part: str, steps: Sequence[Any]) -> Any:
        """The training or test images, or random ones if there is no folder."""
        transform = transforms.Compose(steps)
        if self.root is not None:
            return ImageFolder(self.root / part, transform)
        size, offset = (1000, 0) if part == "train" else (200, 1000)
        return FakeData(size, (3, SIZE, SIZE), CLASSES, transform, random_offset=offset)

    def train_dataloader(self) -> DataLoader[Any]:
        """The training images in random order."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images in order."""
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images in order."""
        return DataLoader(self.test, self.batch_size)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A padded convolution, in which only the stride makes an image smaller."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Block(nn.Module):
    """Two convolutions, each after a normalization and an activation, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, stride=stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.act = MixedOp(f"act {width}", {"relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU()})
        self.conv2 = MixedOp(f"conv {width}", {f"{k}x{k}": conv(width, width, k) for k in (1, 3, 5)})
        self.shortcut = nn.Identity() if (inputs, stride) == (width, 1) else conv(inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[B, width, H / stride, W / stride]`` of features ``[B, inputs, H, W]``."""
        y = self.conv1(self.act(self.norm1(x)))
        y = self.conv2(self.act(self.norm2(y)))
        output: Tensor = y + self.shortcut(x)
        return output


class Classifier(LightningModule):
    """A small ResNet and its training."""

    def __init__(self, classes: int, width: int = 16, lr: float = 0.05) -> None:
        super().__init__()
        self.lr = lr
        layers: list[nn.Module] = [conv(3, width)]
        for inputs, outputs, stride in ((1, 1, 1), (1, 2, 2), (2, 4, 2)):
            layers += [Block(inputs * width, outputs * width, stride), Block(outputs * width, outputs * width, 1)]
        layers += [nn.BatchNorm2d(4 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.net = nn.Sequential(*layers, nn.Linear(4 * width, classes))
        self.train_accuracy = Accuracy("multiclass", num_classes=classes)
        self.val_accuracy = Accuracy("multiclass", num_classes=classes)
        self.test_accuracy = Accuracy("multiclass", num_classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, 3, H, W]``."""
        logits: Tensor = self.net(images)
        return logits

    def measure(self, batch: Sequence[Tensor], stage: str, accuracy: Any) -> Tensor:
        """The loss of a batch. The loss and the accuracy are logged."""
        images, labels = batch
        logits = self(images)
        loss = cross_entropy(logits, labels)
        accuracy(logits, labels)
        self.log(f"{stage}_loss", loss)
        self.log(f"{stage}_accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The training loss of a batch."""
        return self.measure(batch, "train", self.train_accuracy)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Log the loss and accuracy of a batch."""
        self.measure(batch, "val", self.val_accuracy)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Log the loss and accuracy of a batch."""
        self.measure(batch, "test", self.test_accuracy)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD with a learning rate that falls in every epoch."""
        optimizer = SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=5e-4)
        return [optimizer], [CosineAnnealingLR(optimizer, self.trainer.max_epochs or 1)]


def main() -> None:
    """Train a classifier and test it."""
    parser = argparse.ArgumentParser(description="An image classifier")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of the images; without it they are random")
    parser.add_argument("--limit", type=int, metavar="N", help="the largest number of batches in an epoch or a test")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # these messages would hide the results
    warnings.filterwarnings("ignore", module="lightning")
    settings: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    settings |= {f"limit_{part}_batches": options.limit for part in ("train", "val", "test")}
    settings |= {"max_epochs": options.epochs}
    seed_everything(0)
    data = Images(options.data)
    data.setup()
    model = Classifier(data.classes)
    search = AdvantageNAS(model, architecture_optimizer=lambda theta: torch.optim.Adam(theta, lr=0.01))
    Trainer(**settings).fit(search, datamodule=search_loaders(data, architecture=0.5))
    print("Found, and now trained from scratch:", search.probabilities(), sep="\n")
    model = search.genotype().apply(Classifier(data.classes))  # with fresh weights
    trainer = Trainer(**settings)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data)


if __name__ == "__main__":
    main()
