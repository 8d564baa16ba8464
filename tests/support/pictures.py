"""Small pictures of noise, written to a folder and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from advnas_lightning.tasks.cifar10 import CIFAR10

CLASSES = ("ant", "bee", "cow")
Pictures = dict[str, np.ndarray]  # by part: [N, H, W, 3], in the order of the files


def noise(count: int, height: int, width: int, *, seed: int) -> np.ndarray:
    """Pictures of which no two are alike: [N, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def write(
    root: Path,
    *,
    train: int = 8,
    test: int = 3,
    height: int = 8,
    width: int = 8,
    classes: tuple[str, ...] = CLASSES,
    ending: str = "png",
) -> Pictures:
    """A folder with so many pictures of each class."""
    pictures = {}
    for seed, (part, each) in enumerate({"train": train, "test": test}.items()):
        pictures[part] = noise(each * len(classes), height, width, seed=seed)
        for index, picture in enumerate(pictures[part]):
            place = root / part / classes[index // each]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{index % each:03}.{ending}")
    return pictures


def make(root: Path | None, **options: Any) -> CIFAR10:
    data = CIFAR10(root=None if root is None else str(root), **{"batch_size": 4, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def stack(loader: DataLoader[Any]) -> tuple[np.ndarray, list[int]]:
    """A loader's images [N, H, W, 3], and their labels."""
    batches = list(loader)
    return (
        torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).numpy(),
        torch.cat([labels for _, labels in batches]).tolist(),
    )


def places(loader: DataLoader[Any], pictures: np.ndarray) -> list[int]:
    """Which of ``pictures`` a loader gives, in its order: exactly these pixels."""
    index = {picture.tobytes(): place for place, picture in enumerate(pictures)}
    assert len(index) == len(pictures)
    return [index[np.ascontiguousarray(image).tobytes()] for image in stack(loader)[0]]


def one_line(call: Callable[[], Any], *says: str) -> str:
    """The message of the ValueError that ``call`` raises."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the text is checked below
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message
    return message


def parts(data: CIFAR10, pictures: Pictures) -> tuple[list[int], list[int]]:
    """Which training images the weight and the architecture steps get."""
    weights, architecture = (
        sorted(places(data.train_dataloader()[role], pictures["train"])) for role in ("weights", "architecture")
    )
    return weights, architecture


def cut(picture: np.ndarray, padding: int, top: int, left: int, flip: bool) -> np.ndarray:
    """One augmented image [C, H, W], pixel by pixel."""
    channels, height, width = picture.shape
    result = np.zeros_like(picture)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                y, x = row + top - padding, column + left - padding
                if 0 <= y < height and 0 <= x < width:  # black beyond
                    result[channel, row, width - 1 - column if flip else column] = picture[channel, y, x]
    return result


def moments(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, [1, 1, 1, 3]."""
    values = pictures.astype(np.float64)
    return values.mean((0, 1, 2), keepdims=True), values.std((0, 1, 2), keepdims=True)
