"""What goes to the machine of a lease in one archive, and how the results that come back are shown."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.lease_files import Results, images, pack, show, unfinished
from tests.support.command_line import SMALL_CIFAR10, write_images, write_ptb

SETTINGS = [each for each in SMALL_CIFAR10 if not each.startswith(("task=", "task.data.root="))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_ptb(tmp_path / "data" / "ptb")
    write_images(tmp_path / "data" / "cifar10")
    return tmp_path / "data"


# -- the archive -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_archive_is_all_that_a_lease_needs(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "nasbench201.csv"
    table.write_text("arch,cifar10_test\n")
    size = pack(tmp_path / "lease.tar.xz", ptb=data / "ptb", cifar10=data / "cifar10", table=table)
    assert size == (tmp_path / "lease.tar.xz").stat().st_size
    with tarfile.open(tmp_path / "lease.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    there = tmp_path / "advnas-lease"
    for path in (there / "data/cifar10").rglob("*.*"):
        assert Image.open(path).format == "JPEG"
    path = os.pathsep.join([str(there), str(there / "site")])
    where = "import advnas_lightning, antlr4, benchmarks.lease, hydra, omegaconf\n" + "\n".join(
        f"print({name}.__file__)" for name in ("advnas_lightning", "antlr4", "benchmarks.lease", "hydra", "omegaconf")
    )
    environment = {**os.environ, "PYTHONPATH": path}
    printed = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert all(line.startswith(str(there)) for line in printed.splitlines())
    collect = [sys.executable, "-m", "pytest", "-o", "addopts=", "--collect-only", "-q", "tests/test_gpu.py"]
    subprocess.run(collect, cwd=there, env=environment, check=True)
    run = [sys.executable, "-m", "benchmarks.lease", "run", "--minutes", "60", "--only", "table2/parsec/0"]
    subprocess.run([*run, "--set", *SETTINGS, "task.table=null"], cwd=there, check=True)
    (line,) = (line for line in Results(there / "outputs/lease").lines if line.get("job"))
    assert (line["job"], line["state"]) == ("table2/parsec/0", "finished")
    assert set(line["found"]["argmax"]) == {"0->1", "0->2", "1->2", "0->3", "1->3", "2->3"}


def test_the_official_images_become_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Official:
        base_folder, classes = "official", ("plane", "car")

        def __init__(self, root: str, *, train: bool) -> None:
            self.colours = ("red", "blue") if train else ("green",)

        def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
            return ((Image.new("RGB", (32, 32), colour), label) for label, colour in enumerate(self.colours))

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Official)
    (tmp_path / "official").mkdir()
    found = dict(images(tmp_path))
    assert [name.removeprefix("data/cifar10/") for name in found] == [
        "train/plane/00000.jpg", "train/car/00001.jpg", "test/plane/00000.jpg",
    ]  # fmt: skip
    blue = Image.open(io.BytesIO(found["data/cifar10/train/car/00001.jpg"]))
    assert (blue.format, blue.size) == ("JPEG", (32, 32))
    assert min(blue.getpixel((5, 5))[2], 254) == 254


def test_an_archive_above_the_limit_is_refused(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "lease.tar.xz"
    with pytest.raises(
        ValueError, match=r"the archive would have \d\.\d MB, and 0\.1 MB may be carried.*the project \d"
    ):
        pack(output, ptb=data / "ptb", limit=100_000)
    assert list(tmp_path.glob("lease*")) == []


def test_what_cannot_be_packed_is_named(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "lease.tar.xz"
    with pytest.raises(ValueError, match="numpy is not of pure Python"):
        pack(output, packages=["numpy"])
    with pytest.raises(ValueError, match="no-such-package is not installed"):
        pack(output, packages=["no-such-package"])
    with pytest.raises(ValueError, match=r"ptb\.train\.txt is missing"):
        pack(output, ptb=tmp_path)
    with pytest.raises(ValueError, match="neither cifar-10-batches-py nor train/<class>"):
        pack(output, cifar10=tmp_path)
    with pytest.raises(ValueError, match=r"has no results\.jsonl"):
        pack(output, lease=tmp_path)


def test_an_earlier_lease_goes_along_without_what_nothing_needs(tmp_path: Path) -> None:
    folder, results = tmp_path / "earlier", "outputs/lease/results.jsonl"
    for run in (
        "table3/gdas/0/search",
        "table3/gdas/0/search/retrained",
        "table2/gdas/0/search",
        "table2/gdas/1/search",
    ):
        for file in ("checkpoints/last.ckpt", "checkpoints/previous.ckpt", "architecture.png"):
            (folder / run / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / run / file).write_text("{}")
    (folder / "table3/gdas/0/search/summary.json").write_text("{}")  # its training has not finished
    Results(folder).add(job="table2/gdas/0", part="search", state="finished")
    training = "outputs/lease/table3/gdas/0/search/retrained/checkpoints/last.ckpt"
    summary = "outputs/lease/table3/gdas/0/search/summary.json"
    search = "outputs/lease/table2/gdas/1/search/checkpoints/last.ckpt"
    assert [name for name, _ in unfinished(folder)] == [results, search, training, summary]
    assert [name for name, _ in unfinished(folder, ["table2/*"])] == [results, search]


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_results_stand_beside_the_papers(tmp_path: Path) -> None:
    results = Results(tmp_path)
    begun = {"device": "a GPU", "at_a_time": 4, "torch": "2", "lightning": "3", "commit": "abc", "mps": True}
    results.add(state="begun", **begun, settings=[])
    results.add(job="tests", part="output", state="finished", lines=["5 passed"])
    for seed, value in enumerate((95.0, 97.0)):
        summary = {"val/perplexity": value, "test/perplexity": value - 4}
        results.add(job=f"table3/gdas/{seed}", part="search", state="finished", summary={"val/perplexity": 300.0})
        results.add(job=f"table3/gdas/{seed}", part="training", state="finished", summary=summary)
    results.add(job="table2/parsec/0", part="search", state="finished", summary={"argmax/cifar10_test": 93.5})
    results.add(job="table2/gdas/1", part="search", state="stopped", reached={"epoch": 4.0, "other": 1.0})
    results.add(job="table2/gdas/2", part="search", state="failed", reached={}, error="out of memory")
    assert show(tmp_path).splitlines() == [
        "a GPU, 4 jobs at a time with MPS, PyTorch 2, Lightning 3, commit abc, at the paper's settings",
        "",
        "Table 3",
        "",
        "| strategy | n | validation perplexity | the paper's | test perplexity | the paper's |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `gdas` | 2 | 96.00 ± 1.41 | 99.28 ± 2.00 | 92.00 ± 1.41 | 95.40 ± 2.01 |",
        "",
        "Table 2",
        "",
        "| strategy | n | accuracy of the arg max in % | the paper's | of the process-best | the paper's |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `parsec` | 1 | 93.50 | 93.68 ± 0.12 |  | 92.51 ± 0.65 |",
        "",
        "tests: output finished",
        "",
        "```text",
        "5 passed",
        "```",
        "",
        "table2/gdas/1: search stopped, epoch 4",
        "",
        "table2/gdas/2: search failed: out of memory",
    ]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"state": "begun"}\n{"state": "fin')
    with pytest.raises(ValueError, match=r"line 2 of .*results\.jsonl is not whole: delete it"):
        Results(tmp_path)
