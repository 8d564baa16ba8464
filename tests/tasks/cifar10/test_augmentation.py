"""Images are flipped, cropped and normalised as the papers say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advnas_lightning.tasks.cifar10 import data as cifar10
from advnas_lightning.tasks.cifar10.data import flip_and_crop
from tests.support.pictures import CLASSES, cut, make, moments, places, write

# -- augmentation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("shape", [(8, 3, 6, 6), (5, 3, 4, 7), (3, 1, 5, 3)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_flip_and_crop_image_by_image(shape: tuple[int, ...], padding: int, dtype: torch.dtype) -> None:
    # no pixel is black, so that padding cannot be mistaken for one
    images = torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = images.clone()
    torch.manual_seed(3)
    found = flip_and_crop(images, padding)
    torch.manual_seed(3)
    top, left = torch.randint(2 * padding + 1, (2, shape[0], 1)).flatten(1).tolist()
    flip = (torch.rand(shape[0], 1) < 0.5).flatten().tolist()
    expected = [cut(image.numpy(), padding, *draw) for image, *draw in zip(images, top, left, flip, strict=True)]
    assert (found.dtype, tuple(found.shape)) == (dtype, shape)
    np.testing.assert_array_equal(found.numpy(), np.stack(expected))
    assert torch.equal(images, before)


def test_without_padding_images_are_at_most_mirrored() -> None:
    images = torch.randint(256, (64, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    found = flip_and_crop(images, 0)
    kept = [torch.equal(image, original) for image, original in zip(found, images, strict=True)]
    mirrored = [torch.equal(image, original.flip(-1)) for image, original in zip(found, images, strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert any(kept)
    assert any(mirrored)


def test_every_flip_and_offset_is_equally_likely_for_every_image() -> None:
    picture = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5)
    kinds = {
        cut(picture, 2, top, left, flip).tobytes(): (top, left, flip)
        for top in range(5)
        for left in range(5)
        for flip in (False, True)
    }
    assert len(kinds) == 50
    count = 20_000
    torch.manual_seed(0)
    found = flip_and_crop(torch.from_numpy(picture).expand(count, 1, 5, 5), 2)
    seen = Counter(kinds[image.numpy().tobytes()] for image in found.contiguous())
    expected = count / 50
    statistic = sum((seen[kind] - expected) ** 2 / expected for kind in kinds.values())
    # χ² with 49 degrees of freedom passes this once in a thousand. One draw for a whole batch would give 980 000.
    assert statistic < 85.4
    # half of them, ± 4 standard deviations √(n/4)
    assert abs(sum(number for (_, _, flip), number in seen.items() if flip) - count / 2) < 4 * (count / 4) ** 0.5


def test_each_image_has_its_own_draw() -> None:
    images = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8).expand(64, 3, 8, 8)
    torch.manual_seed(0)
    distinct = {image.numpy().tobytes() for image in flip_and_crop(images, 4).contiguous()}
    assert len(distinct) > 32  # of 162 possible ones about 53 are expected to differ
    assert distinct != {image.numpy().tobytes() for image in flip_and_crop(images, 4).contiguous()}


def test_augmented_images_are_channels_last() -> None:
    images = torch.zeros(4, 3, 8, 6, dtype=torch.uint8)
    assert flip_and_crop(images, 2).is_contiguous(memory_format=torch.channels_last)


# -- normalisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"retraining": True}, {"split": "first_half"}])
def test_training_images_have_mean_0_and_deviation_1(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(cifar10, "CHUNK", 5)  # 24 images in several sums
    pictures = write(root, height=6, width=5)
    data = make(root, **options)
    images = torch.from_numpy(pictures["train"]).permute(0, 3, 1, 2)
    before = images.clone()
    found = data.normalise(images)
    assert torch.equal(images, before)
    assert (found.dtype, tuple(found.shape)) == (torch.float32, (24, 3, 6, 5))
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_test_images_are_measured_by_the_training_images(root: Path) -> None:
    pictures = write(root)
    pictures["test"] //= 4  # darker ones, so that their own moments differ
    for index, picture in enumerate(pictures["test"]):
        Image.fromarray(picture).save(root / "test" / CLASSES[index // 3] / f"{index % 3:03}.png")
    data = make(root)
    mean, deviation = moments(pictures["train"])
    loader = data.test_dataloader()
    found = torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in loader]).permute(0, 2, 3, 1)
    expected = ((pictures["test"] - mean) / deviation)[places(loader, pictures["test"])]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_constant_channel_is_0(root: Path) -> None:
    pictures = write(root)
    for part in ("train", "test"):
        pictures[part][..., 1] = 77
        each = len(pictures[part]) // 3
        for index, picture in enumerate(pictures[part]):
            Image.fromarray(picture).save(root / part / CLASSES[index // each] / f"{index % each:03}.png")
    data = make(root)
    found = data.normalise(torch.from_numpy(pictures["train"]).permute(0, 3, 1, 2))
    assert found.isfinite().all()
    assert (found[:, 1] == 0).all()
    torch.testing.assert_close(found.std((0, 2, 3), correction=0), torch.tensor([1.0, 0, 1]), atol=1e-5, rtol=0)
