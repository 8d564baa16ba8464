"""A folder of images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advnas_lightning.tasks.cifar10 import CIFAR10
from tests.support.pictures import CLASSES, make, noise, one_line, places, stack, write


@pytest.mark.parametrize("ending", ["png", "bmp", "ppm", "tiff"])
def test_pixels_and_labels_of_a_folder(root: Path, ending: str) -> None:
    pictures = write(root, height=6, width=5, ending=ending)
    data = make(root, retraining=True)
    assert data.classes == CLASSES
    assert data.model_arguments == data.objective_arguments == {"classes": 3}
    for part, loader in (("train", data.train_dataloader()["weights"]), ("test", data.test_dataloader())):
        place = {picture.tobytes(): index for index, picture in enumerate(pictures[part])}
        each = len(place) // 3
        found = []
        for images, labels in loader:
            assert images.shape[1:] == (3, 6, 5)
            found += [place[image.permute(1, 2, 0).contiguous().numpy().tobytes()] for image in images]
            assert labels.tolist() == [index // each for index in found[-len(labels) :]]
        assert sorted(found) == list(range(3 * each))


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "webp"])
def test_lossy_formats_are_read_as_pil_reads_them(root: Path, ending: str) -> None:
    write(root, ending=ending)
    data = make(root)
    expected = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((root / "test").glob(f"*/*.{ending}"))]
    assert sorted(places(data.test_dataloader(), np.stack(expected))) == list(range(9))


def test_formats_may_be_mixed_and_lie_deeper(root: Path) -> None:
    pictures = write(root)
    (root / "test" / "ant" / "more").mkdir()
    for place, ending in ((1, "bmp"), (2, "ppm")):
        (root / "test" / "ant" / f"00{place}.png").unlink()
        Image.fromarray(pictures["test"][place]).save(root / "test" / "ant" / "more" / f"{place}.{ending}")
    (root / "test" / "ant" / "notes.txt").write_text("not a picture")
    assert sorted(places(make(root).test_dataloader(), pictures["test"])) == list(range(9))


def test_every_mode_is_read_as_rgb(root: Path) -> None:
    write(root, test=1)
    grey, rgba = noise(1, 8, 8, seed=5)[0, :, :, 0], np.dstack([noise(1, 8, 8, seed=6)[0], noise(1, 8, 8, seed=7)[0]])
    rgba = np.ascontiguousarray(rgba[:, :, :4])
    palette = Image.fromarray(noise(1, 8, 8, seed=8)[0]).quantize(16)
    for name, image in zip(CLASSES, (Image.fromarray(grey), Image.fromarray(rgba), palette), strict=True):
        image.save(root / "test" / name / "000.png")
    colours = np.array(palette.getpalette()[: 3 * 16], dtype=np.uint8).reshape(16, 3)
    expected = np.stack([np.dstack([grey] * 3), rgba[:, :, :3], colours[np.asarray(palette)]])
    assert sorted(places(make(root).test_dataloader(), expected)) == [0, 1, 2]


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_of_several_sizes_are_named_with_what_to_do(root: Path, part: str) -> None:
    write(root)
    path = root / part / "bee" / "001.png"
    Image.fromarray(noise(1, 7, 9, seed=3)[0]).save(path)
    one_line(lambda: make(root), str(path), "9×7", "8×8", "task.data.image_size=")


@pytest.mark.parametrize("size", [4, 6, 12])
def test_image_size_resizes_the_shorter_side_and_keeps_the_middle(root: Path, size: int) -> None:
    write(root, test=1)
    shapes = {"ant": (8, 8), "bee": (16, 8), "cow": (8, 24)}  # height, width
    expected = []
    for seed, (name, (height, width)) in enumerate(shapes.items()):
        image = Image.fromarray(noise(1, height, width, seed=seed)[0])
        image.save(root / "test" / name / "000.png")
        short = min(height, width)
        resized = image.resize((width * size // short, height * size // short), Image.Resampling.BILINEAR)
        left, top = (resized.width - size) // 2, (resized.height - size) // 2
        expected.append(np.asarray(resized.crop((left, top, left + size, top + size))))
    data = make(root, image_size=size)
    assert sorted(places(data.test_dataloader(), np.stack(expected))) == [0, 1, 2]
    assert stack(data.train_dataloader()["weights"])[0].shape == (12, size, size, 3)


def encoded(kind: str, picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


PICTURE = noise(1, 8, 8, seed=9)[0]
PNG = encoded("png", PICTURE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.png", b"no picture at all"),
        ("empty.jpg", b""),
        ("half.png", PNG[: len(PNG) // 2]),
        ("half.jpg", encoded("jpeg", PICTURE)[:300]),
        ("half.webp", encoded("webp", PICTURE)[:60]),
        ("half.bmp", encoded("bmp", PICTURE)[:100]),
        ("half.ppm", encoded("ppm", PICTURE)[:60]),
        ("header.ppm", b"P6\n8 "),  # what PIL raises for this does not say which file it is
        ("chunk.png", PNG[:33] + bytes(4) + PNG[37:]),  # PIL calls a wrong length of a chunk a SyntaxError
        # PIL takes a picture of 285 million by 8 pixels for an attack
        ("huge.bmp", encoded("bmp", PICTURE)[:18] + b"\x08\x00\x00\x11" + encoded("bmp", PICTURE)[22:]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_image_is_named(root: Path, name: str, content: bytes) -> None:
    write(root)
    path = root / "train" / "cow" / name
    path.write_bytes(content)
    one_line(lambda: make(root), str(path))


def test_classes_that_differ_between_the_parts_are_named(root: Path) -> None:
    write(root)
    (root / "test" / "cow").rename(root / "test" / "dog")
    one_line(lambda: make(root), f"{root}/train", f"{root}/test", "cow, dog")


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_is_named(root: Path, part: str) -> None:
    write(root)
    (root / part / "dog").mkdir()
    (root / part / "dog" / "readme.txt").write_text("nothing here")
    one_line(lambda: make(root), str(root), "dog")


def test_a_part_without_classes_is_named(root: Path) -> None:
    write(root)
    for part in ("train", "test"):
        for path in sorted((root / part).rglob("*.png")):
            path.rename(root / part / f"{path.parent.name}{path.name}")
            if not list(path.parent.iterdir()):
                path.parent.rmdir()
    one_line(lambda: make(root), str(root / "train"))


@pytest.mark.parametrize("call", ["prepare_data", "setup"])
@pytest.mark.parametrize("missing", ["train", "test", ""])
def test_a_missing_folder_is_named(root: Path, missing: str, call: str) -> None:
    if missing:
        write(root)
        (root / missing).rename(root / "elsewhere")
    data = CIFAR10(root=str(root))
    one_line(getattr(data, call), str(root), f"{missing or 'train'}/<class>/*", "task.data.root")


def test_a_single_image_cannot_be_split(root: Path) -> None:
    write(root, train=1, classes=("ant",))
    one_line(lambda: make(root), str(root), "1 training image")


def test_two_images_can(root: Path) -> None:
    pictures = write(root, train=2, classes=("ant",))
    data = make(root, architecture_share=0.01)
    both = [places(loader, pictures["train"]) for loader in data.train_dataloader().values()]
    assert sorted(both) == [[0], [1]]


def test_images_are_read_once(root: Path) -> None:
    pictures = write(root)
    data = make(root)
    before = places(data.test_dataloader(), pictures["test"])
    (root / "test" / "ant" / "000.png").unlink()
    data.setup("test")
    assert places(data.test_dataloader(), pictures["test"]) == before


def test_the_home_folder_may_be_abbreviated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write(root)
    monkeypatch.setenv("HOME", str(root.parent))
    data = CIFAR10(root="~/images")
    data.setup()
    assert sorted(places(data.test_dataloader(), pictures["test"])) == list(range(9))


def test_nothing_is_known_before_setup(root: Path) -> None:
    with pytest.raises(RuntimeError, match="setup"):
        _ = CIFAR10(root=str(root)).model_arguments
