"""CIFAR-10's official files: downloaded once, checked, unpacked."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from advnas_lightning.tasks.cifar10 import CIFAR10
from tests.support.pictures import make, one_line, parts, places

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
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # since Python 3.11.4
            archive.extractall(folder, **safely)

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


def test_the_first_half_of_the_official_files(official: Official, cache: Path) -> None:
    data = make(None, split="first_half")
    assert parts(data, official.pictures) == (list(range(10)), list(range(10, 20)))
