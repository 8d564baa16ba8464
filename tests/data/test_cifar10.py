"""CIFAR-10's data module against pixels that the tests wrote themselves."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import tarfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader
from torchvision import datasets

from advnas_lightning import AdvantageNAS
from advnas_lightning.objectives import Classification
from advnas_lightning.tasks.cifar10 import CIFAR10, NASBench201
from advnas_lightning.tasks.cifar10 import data as cifar10
from advnas_lightning.tasks.cifar10.data import flip_and_crop

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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


# -- a folder of images ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_size": "4"}, "batch_size='4'"),
        ({"padding": -1}, "padding=-1"),
        ({"padding": 1.0}, "padding=1.0"),
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": "large"}, "image_size='large'"),
        ({"split": "half"}, "split='half'"),
        ({"split": None}, "split=None"),
        ({"architecture_share": 0.0}, "architecture_share=0.0"),
        ({"architecture_share": 1.0}, "architecture_share=1.0"),
        ({"architecture_share": -0.5}, "architecture_share=-0.5"),
        ({"architecture_share": float("nan")}, "architecture_share=nan"),
        ({"architecture_share": "half"}, "architecture_share='half'"),
        ({"seed": "one"}, "seed='one'"),
    ],
)
def test_bad_arguments_are_named(root: Path, options: dict[str, Any], says: str) -> None:
    write(root)
    one_line(lambda: make(root, **options), says)


# -- the official files ----------------------------------------------------------------------------------------------


class Official:
    """A small data set in CIFAR-10's own format, with a site to download it from, and what was asked of that."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[str] = []
        requests = self.requests

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, template: str, *arguments: Any) -> None:
                requests.append(self.path)

        self.server = ThreadingHTTPServer(("localhost", 0), partial(Handler, directory=str(folder / "site")))
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://localhost:{self.server.server_port}/small.tar.gz"
        rows, labels = {}, {}
        chosen = np.random.default_rng(0)
        names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
        contents = {}
        for name in names:
            rows[name] = chosen.integers(0, 256, (4, 3072), dtype=np.uint8)
            labels[name] = chosen.integers(0, 10, 4).tolist()
            contents[name] = pickle.dumps({"data": rows[name], "labels": labels[name], "batch_label": name})
        self.classes = tuple(f"kind{number}" for number in range(10))
        contents["batches.meta"] = pickle.dumps({"label_names": list(self.classes)})
        self.archive = folder / "site" / "small.tar.gz"
        self.archive.parent.mkdir()
        with tarfile.open(self.archive, "w:gz") as archive:
            for name, content in contents.items():
                entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

        def md5(content: bytes) -> str:
            return hashlib.md5(content).hexdigest()

        self.md5 = md5(self.archive.read_bytes())
        for name, value in {
            "url": self.url,
            "filename": "small.tar.gz",
            "tgz_md5": self.md5,
            "train_list": [[name, md5(contents[name])] for name in names[:5]],
            "test_list": [[name, md5(contents[name])] for name in names[5:]],
            "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5(contents["batches.meta"])},
        }.items():
            monkeypatch.setattr(datasets.CIFAR10, name, value)
        # a row is the red plane, then the green, then the blue one, each by rows of pixels
        self.pictures = {
            part: np.stack(
                [
                    np.dstack([row[1024 * plane : 1024 * (plane + 1)].reshape(32, 32) for plane in range(3)])
                    for name in some
                    for row in rows[name]
                ]
            )
            for part, some in (("train", names[:5]), ("test", names[5:]))
        }
        self.labels = {
            part: [label for name in some for label in labels[name]]
            for part, some in (("train", names[:5]), ("test", names[5:]))
        }

    def close(self) -> None:
        """Take the site from the net."""
        self.server.shutdown()
        self.server.server_close()

    def extract(self, folder: Path) -> None:
        with tarfile.open(self.archive) as archive:
            archive.extractall(folder, filter="data")

    def check(self, data: CIFAR10) -> None:
        """The data module has exactly these images, each with its own label."""
        assert data.classes == self.classes
        roles = data.train_dataloader()
        found = []
        for part, loader in (
            ("train", roles["weights"]),
            ("train", roles["architecture"]),
            ("test", data.test_dataloader()),
        ):
            known = {picture.tobytes(): place for place, picture in enumerate(self.pictures[part])}
            for images, labels in loader:
                for image, label in zip(images, labels, strict=True):
                    place = known[image.permute(1, 2, 0).contiguous().numpy().tobytes()]
                    assert label.item() == self.labels[part][place]
                    found.append((part, place))
        assert sorted(found) == [*(("test", place) for place in range(4)), *(("train", place) for place in range(20))]


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Official]:
    monkeypatch.setenv("no_proxy", "*")
    site = Official(tmp_path, monkeypatch)
    yield site
    site.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "advnas_lightning" / "cifar10"


def test_the_official_files_are_downloaded_once(official: Official, cache: Path) -> None:
    data = make(None)
    official.check(data)
    assert (cache / "cifar-10-batches-py" / "data_batch_3").is_file()
    assert set(official.requests) == {"/small.tar.gz"}
    official.requests.clear()
    data.prepare_data()
    official.check(make(None))
    assert official.requests == []
    official.close()
    official.check(make(None))


def test_the_official_images_can_be_resized(official: Official, cache: Path) -> None:
    data = make(None, image_size=16)
    small = [Image.fromarray(each).resize((16, 16), Image.Resampling.BILINEAR) for each in official.pictures["test"]]
    assert sorted(places(data.test_dataloader(), np.stack([np.asarray(each) for each in small]))) == [0, 1, 2, 3]


def test_what_was_lost_is_unpacked_again(official: Official, cache: Path) -> None:
    CIFAR10().prepare_data()
    (cache / "cifar-10-batches-py" / "data_batch_2").unlink()
    official.close()  # the cached copy is enough
    official.check(make(None))


def test_a_download_that_was_cut_short_is_repeated(official: Official, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "small.tar.gz").write_bytes(official.archive.read_bytes()[:500])
    official.check(make(None))


def test_a_wrong_checksum_is_refused(official: Official, cache: Path) -> None:
    content = official.archive.read_bytes()
    official.archive.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    one_line(CIFAR10().prepare_data, "cannot download", official.url, str(cache), "task.data.root=DIR")
    one_line(CIFAR10().setup, "missing or damaged", str(cache), "task.data.root=DIR")
    official.archive.write_bytes(content)
    official.check(make(None))


@pytest.mark.parametrize("gone", ["site", "file"])
def test_an_unreachable_address_says_what_to_put_where(official: Official, cache: Path, gone: str) -> None:
    official.close() if gone == "site" else official.archive.unlink()
    says = ("cannot download", official.url, "cifar-10-batches-py", str(cache), "task.data.root=DIR")
    one_line(CIFAR10().prepare_data, *says)


def test_an_answer_that_is_none_says_so_too(official: Official, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("localhost", 0)) as server:

        def babble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"good morning\r\n\r\n")

        threading.Thread(target=babble, daemon=True).start()
        url = f"http://localhost:{server.getsockname()[1]}/small.tar.gz"
        monkeypatch.setattr(datasets.CIFAR10, "url", url)
        one_line(CIFAR10().prepare_data, "cannot download", url, str(cache))


def test_a_cache_that_cannot_be_written_says_so(official: Official, cache: Path) -> None:
    cache.parent.parent.write_text("a file where the folder should be")
    one_line(CIFAR10().prepare_data, "cannot download", str(cache))


def test_official_files_in_a_folder_need_no_download(official: Official, root: Path) -> None:
    official.extract(root)
    official.check(make(root))
    assert official.requests == []
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]


@pytest.mark.parametrize("name", ["data_batch_5", "test_batch", "batches.meta"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_official_files_that_are_not_whole_are_refused(official: Official, root: Path, name: str, how: str) -> None:
    official.extract(root)
    path = root / "cifar-10-batches-py" / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    one_line(lambda: make(root), str(root), "missing or damaged")


# -- the split and the order -----------------------------------------------------------------------------------------


def parts(data: CIFAR10, pictures: Pictures) -> tuple[list[int], list[int]]:
    """Which training images the weight and the architecture steps get."""
    weights, architecture = (
        sorted(places(data.train_dataloader()[role], pictures["train"])) for role in ("weights", "architecture")
    )
    return weights, architecture


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


def test_the_first_half_of_the_official_files(official: Official, cache: Path) -> None:
    data = make(None, split="first_half")
    assert parts(data, official.pictures) == (list(range(10)), list(range(10, 20)))


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


# -- augmentation ----------------------------------------------------------------------------------------------------


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


def moments(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, [1, 1, 1, 3]."""
    values = pictures.astype(np.float64)
    return values.mean((0, 1, 2), keepdims=True), values.std((0, 1, 2), keepdims=True)


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
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "rng", "epoch", "global_step"):
        assert_same(resumed[key], whole[key])
