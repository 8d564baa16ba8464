"""CIFAR-10, or a folder of other images, held in memory and augmented a batch at a time (§5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import functional as transforms

from advnas_lightning.tasks.cache import cache_folder
from advnas_lightning.validate import check_int, check_one_of, check_seed, check_share

__all__ = ["CIFAR10", "Images", "flip_and_crop"]

PARTS = ("train", "test")
CHUNK = 4096  # the number of images whose moments are summed at once

Batch = tuple[Tensor, Tensor]


class Images(Dataset[Batch]):
    """Some of the images in memory, fetched a whole batch at a time.

    Args:
        images: All images, ``[N, 3, H, W]`` uint8.
        labels: The labels of all images, ``[N]``.
        members: The indices of the images that belong here, ``[n]``.

    Example:
        >>> images = Images(torch.zeros(9, 3, 4, 4, dtype=torch.uint8), torch.arange(9), torch.tensor([8, 3, 5]))
        >>> [labels.tolist() for _, labels in DataLoader(images, batch_size=2, collate_fn=collate_nothing)]
        [[8, 3], [5]]
    """

    def __init__(self, images: Tensor, labels: Tensor, members: Tensor) -> None:
        self.images, self.labels, self.members = images, labels, members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Batch:
        member = self.members[index]
        return self.images[member], self.labels[member]

    def __getitems__(self, indices: list[int]) -> Batch:
        """The images ``[B, 3, H, W]`` and labels ``[B]`` at ``indices``, which a DataLoader asks for at once."""
        members = self.members[torch.tensor(indices)]
        return self.images[members], self.labels[members]


def collate_nothing(batch: Any) -> Any:
    """Return the batch as it is, since :class:`Images` gives whole batches.

    Example:
        >>> collate_nothing("batch")
        'batch'
    """
    return batch


def flip_and_crop(images: Tensor, padding: int) -> Tensor:
    """Mirror each image with probability 1/2, pad it with black, and cut a random part of its old size out of it.

    Args:
        images: The images ``[B, C, H, W]`` on any device. The draws are made there, for the whole batch at once.
        padding: The number of black pixels on each side.

    Returns:
        The new images ``[B, C, H, W]``, in the channels-last memory format.

    Example:
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> flip_and_crop(image, padding=0).tolist() in ([[[[1, 2], [3, 4]]]], [[[[2, 1], [4, 3]]]])
        True
    """
    count, _, height, width = images.shape
    device = images.device
    top, left = torch.randint(2 * padding + 1, (2, count, 1), device=device)
    flip = torch.rand(count, 1, device=device) < 0.5
    rows = torch.arange(height, device=device) + top  # [B, H]
    columns = torch.arange(width, device=device)
    columns = torch.where(flip, columns.flip(0), columns) + left  # [B, W]
    which = torch.arange(count, device=device).view(-1, 1, 1)
    padded = F.pad(images, [padding] * 4)
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class CIFAR10(LightningDataModule):
    """CIFAR-10, or another set of images, for weight and architecture steps.

    The training images are split in two parts. One is for the weight steps. The other one is for the architecture steps
    and, without augmentation, for validation. All images lie in memory as one uint8 tensor. Batches are moved in this
    form, and are flipped, cropped and normalised on the device. The means and deviations of the channels are those of
    the training images.

    The images of every part are in a random order by ``seed``, since BatchNorm without running statistics uses those of
    the batch in an evaluation, too. In the order of a folder, batches would have images of one class only.

    Args:
        root: A folder with the official files (``cifar-10-batches-py``), or one with images as ``train/<class>/*`` and
            ``test/<class>/*``, of any number of classes, in any format that torchvision's ``ImageFolder`` takes.
            Without it the official files are downloaded once to ``$XDG_CACHE_HOME/advnas_lightning/cifar10``
            (``~/.cache/…``).
        batch_size: The number of images per batch, in every loader.
        split: The way in which the training images are divided. ``"random"`` divides them by ``seed``. ``"first_half"``
            divides them by their place in the files: the first ones are for the weights, as many as in a random split.
        architecture_share: The share of the training images for architecture steps and validation.
        retraining: Whether all training images are for the weight steps, and none for validation.
        padding: The number of black pixels around an image before it is cropped.
        image_size: The size in pixels to which images are resized (the shorter side, of which the middle is kept).
            Without it all images of a folder must have the same size.
        seed: The seed of the split and of the order.

    Raises:
        ValueError: An argument is invalid, there is no data or too few images, an image is unreadable, or images differ
            in size.

    Example:
        >>> CIFAR10(root="images", architecture_share=1.0)
        Traceback (most recent call last):
            ...
        ValueError: architecture_share=1.0 must be a number above 0 and below 1
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        batch_size: int = 64,
        split: Literal["random", "first_half"] = "random",
        architecture_share: float = 0.5,
        retraining: bool = False,
        padding: int = 4,
        image_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.download = root is None
        self.folder = cache_folder("cifar10") if root is None else Path(root).expanduser()
        self.batch_size = check_int("batch_size", batch_size, least=1)
        self.split = check_one_of("split", split, ("random", "first_half"))
        self.architecture_share = check_share("architecture_share", architecture_share)
        self.retraining = retraining
        self.padding = check_int("padding", padding, least=0)
        self.image_size = image_size if image_size is None else check_int("image_size", image_size, least=1)
        self.seed = check_seed("seed", seed)
        self.classes: tuple[str, ...] = ()
        self._parts: dict[str, Images] = {}

    @property
    def model_arguments(self) -> dict[str, int]:
        """The arguments that a network for these images needs.

        Raises:
            RuntimeError: The images have not been read.
        """
        if not self.classes:
            raise RuntimeError("no images have been read yet: call prepare_data() and setup() first")
        return {"classes": len(self.classes)}

    @property
    def objective_arguments(self) -> dict[str, int]:
        """The arguments that the objective needs."""
        return self.model_arguments

    @property
    def is_official(self) -> bool:
        """Whether the folder has the official files, or will have them after the download."""
        return self.download or (self.folder / datasets.CIFAR10.base_folder).is_dir()

    def prepare_data(self) -> None:
        """Download the official files, unless they exist with the right checksums.

        Raises:
            ValueError: The files cannot be downloaded, or the ``root`` that was given has no images.
        """
        if self._parts:
            return
        if self.download:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                datasets.CIFAR10(str(self.folder), download=True)
            except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError is raised for a wrong checksum
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"cannot download CIFAR-10 from {datasets.CIFAR10.url} ({reason}): put its cifar-10-batches-py into"
                    f" {self.folder}, or set task.data.root=DIR to a folder that has it, or that has images as"
                    " train/<class>/* and test/<class>/*"
                ) from None
        else:
            self._check_folder()

    def setup(self, stage: str | None = None) -> None:
        """Read all images and split them, unless this has been done.

        Raises:
            ValueError: An image is unreadable or of another size, the classes of the parts differ, or a part is empty.
        """
        if self._parts:
            return
        self._check_folder()
        read = self._read_official if self.is_official else self._read_folder
        images, labels, count = read()
        if count < 2:
            raise ValueError(f"{self.folder} has {count} training image(s): a split needs at least 2")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        ours = min(max(round(count * (1 - self.architecture_share)), 1), count - 1)
        if self.split == "first_half":
            order = torch.cat([order[order < ours], order[order >= ours]])
        test = count + torch.randperm(len(images) - count, generator=torch.Generator().manual_seed(self.seed))
        members = {"weights": order if self.retraining else order[:ours], "architecture": order[ours:], "test": test}
        self._mean, self._deviation = _moments(images[:count])
        self._parts = {part: Images(images, labels, indices) for part, indices in members.items()}

    def train_dataloader(self) -> dict[str, DataLoader[Batch]]:
        """The shuffled batches of the two kinds of step."""
        roles = ["weights"] if self.retraining else ["weights", "architecture"]
        return {role: self._loader(role, shuffle=True) for role in roles}

    def val_dataloader(self) -> Any:
        """The images of the architecture steps; when retraining there are none, since the weights learn from all."""
        return [] if self.retraining else self._loader("architecture")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test images in batches."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise all images on the device, and augment training images before that."""
        if isinstance(batch, dict):
            return {role: self.on_after_batch_transfer(part, dataloader_idx) for role, part in batch.items()}
        images, labels = batch
        if self.trainer is None:
            return self.normalise(images), labels
        if self.trainer.training:
            images = flip_and_crop(images, self.padding)
        return self.normalise(images).to(self.trainer.lightning_module.dtype), labels  # such as for precision=bf16-true

    def normalise(self, images: Tensor) -> Tensor:
        """Convert images ``[B, 3, H, W]`` to floats with channels of mean 0 and deviation 1 on the training images."""
        if self._mean.device != images.device:
            self._mean, self._deviation = self._mean.to(images.device), self._deviation.to(images.device)
        return images.float().sub_(self._mean).div_(self._deviation)

    def _loader(self, part: str, *, shuffle: bool = False) -> DataLoader[Batch]:
        return DataLoader(self._parts[part], batch_size=self.batch_size, shuffle=shuffle, collate_fn=collate_nothing)

    def _check_folder(self) -> None:
        """Refuse a folder that has neither the official files nor folders of images."""
        for part in PARTS:
            if not self.is_official and not (self.folder / part).is_dir():
                raise ValueError(
                    f"{self.folder} has neither {datasets.CIFAR10.base_folder} nor {part}/<class>/* images: set"
                    " task.data.root to a folder that does, or leave it out to download CIFAR-10"
                )

    def _read_official(self) -> tuple[Tensor, Tensor, int]:
        """Read images ``[N, 3, H, W]``, labels ``[N]`` and the number of training images, which come first."""
        try:
            train, test = (datasets.CIFAR10(str(self.folder), train=part == "train") for part in PARTS)
        except RuntimeError:
            raise ValueError(
                f"CIFAR-10's official files in {self.folder} are missing or damaged: leave task.data.root out, and"
                " prepare_data() downloads them, or set task.data.root=DIR to a folder that has them"
            ) from None
        self.classes = tuple(train.classes)
        arrays = np.concatenate([train.data, test.data])
        if self.image_size is not None:
            arrays = np.stack([np.asarray(self._resize(Image.fromarray(array))) for array in arrays])
        images = torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor([*train.targets, *test.targets]), len(train.data)

    def _read_folder(self) -> tuple[Tensor, Tensor, int]:
        """Read the same from a folder of images."""
        try:
            train, test = (datasets.ImageFolder(str(self.folder / part)) for part in PARTS)
        except FileNotFoundError as error:  # there is no class, or one without images
            raise ValueError(f"{self.folder} is no folder of images: {error}") from None
        if train.classes != test.classes:
            differing = ", ".join(sorted(set(train.classes) ^ set(test.classes)))
            raise ValueError(f"{self.folder}/train and {self.folder}/test differ in the classes {differing}")
        self.classes = tuple(train.classes)
        samples: Sequence[tuple[str, int]] = [*train.samples, *test.samples]
        console = Console(stderr=True)
        shown = track(samples, "reading images", console=console, transient=True, disable=not console.is_terminal)
        arrays = [self._read_image(path) for path, _ in shown]
        for (path, _), array in zip(samples, arrays, strict=True):
            if array.shape != arrays[0].shape:
                (height, width, _), (first_height, first_width, _) = array.shape, arrays[0].shape
                raise ValueError(
                    f"{path} is {width}×{height}, other images are {first_width}×{first_height}: resize all of them"
                    " with task.data.image_size=PIXELS"
                )
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor([label for _, label in samples]), len(train.samples)

    def _read_image(self, path: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Read and resize one image, ``[H, W, 3]``."""
        try:
            with Image.open(path) as file:
                deep = file.mode.startswith("I;16")  # it has 16 bits, and convert would clip them at 255
                image = (Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)) if deep else file).convert("RGB")
        # Decoders raise any of these.
        except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the image {path}: {' '.join(str(error).split())}") from None
        return np.asarray(self._resize(image))

    def _resize(self, image: Image.Image) -> Image.Image:
        if self.image_size is None:
            return image
        resized: Image.Image = transforms.center_crop(transforms.resize(image, self.image_size), [self.image_size] * 2)
        return resized


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the deviation of each channel, each ``[3, 1, 1]``."""
    total = torch.zeros(3, dtype=torch.float64)
    squares = torch.zeros(3, dtype=torch.float64)
    for chunk in images.split(CHUNK):
        values = chunk.to(torch.float64)
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = images.numel() / 3
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation[deviation == 0] = 1  # so that a constant channel becomes 0
    return mean.float().view(3, 1, 1), deviation.float().view(3, 1, 1)
