"""What goes to the machine of a lease, in one archive, and the results that come back from it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from advnas_lightning.published import TABLE_2, TABLE_3
from advnas_lightning.report.statistics import mean_and_deviation
from advnas_lightning.runs import CHECKPOINTS, LAST, RunFolder, replacing

ROOT = Path(__file__).resolve().parents[1]
SITE, DATA, LEASE = ROOT / "site", ROOT / "data", ROOT / "outputs/lease"  # as an archive has them
NAME = "advnas-lease"  # the archive's folder
PROJECT = ("advnas_lightning", "benchmarks", "conf", "tests", "pyproject.toml", "LICENSE")
PACKAGES = ("hydra-core", "omegaconf", "antlr4-python3-runtime")
LIMIT = 48_000_000  # bytes
QUALITY = 75  # of JPEG
RESULTS = "results.jsonl"
# Table -> the part of a job that ends in it, the paper's values, and the columns: a name in summary.json, a title, and
# a name in the paper's values.
TABLES: dict[str, tuple[str, Mapping[str, Any], tuple[tuple[str, str, str], ...]]] = {
    "table3": (
        "training",
        TABLE_3,
        (
            ("val/perplexity", "validation perplexity", "validation"),
            ("test/perplexity", "test perplexity", "test"),
        ),
    ),
    "table2": (
        "search",
        TABLE_2,
        (
            ("argmax/cifar10_test", "accuracy of the arg max in %", "argmax"),
            ("process_best/cifar10_test", "of the process-best", "process_best"),
        ),
    ),
}


class Results:
    """The results of a lease, one JSON object in each line. A line is on the disk when :meth:`add` returns.

    Args:
        folder: The folder of the lease.

    Raises:
        ValueError: A line of the file is not whole.

    Example:
        >>> from tempfile import mkdtemp
        >>> results = Results(Path(mkdtemp()))
        >>> results.add(job="table3/gdas/0", part="search", state="finished")
        >>> results.has("table3/gdas/0", "search"), results.state("table3/gdas/0"), results.state("tests")
        (True, 'finished', None)
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS
        self.lines: list[dict[str, Any]] = []
        for number, line in enumerate(self.path.read_text().splitlines() if self.path.exists() else [], start=1):
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                raise ValueError(f"line {number} of {self.path} is not whole: delete it") from None

    def add(self, **line: Any) -> None:
        """Write a line."""
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def has(self, job: str, part: str) -> bool:
        """Whether a part of a job has finished."""
        return any((line.get("job"), line.get("part"), line["state"]) == (job, part, "finished") for line in self.lines)

    def state(self, job: str) -> str | None:
        """What became of a job the last time; ``None`` if nothing is known of it."""
        return next((line["state"] for line in reversed(self.lines) if line.get("job") == job), None)


# -- the way there -----------------------------------------------------------------------------------------------------


def pack(
    output: Path,
    *,
    ptb: Path | None = None,
    cifar10: Path | None = None,
    table: Path | None = None,
    lease: Path | None = None,
    only: Sequence[str] = ("*",),
    packages: Sequence[str] = PACKAGES,
    limit: int = LIMIT,
) -> int:
    """Make the archive: the project, the packages that the machine may lack, and the data that are given.

    Args:
        output: The file to write, a ``.tar.xz``.
        ptb: The folder of Penn Treebank's three files.
        cifar10: The folder of the images, as ``task.data.root`` takes it. What is not JPEG becomes JPEG.
        table: The CSV table of NAS-Bench-201 that scores the cells of Table 2.
        lease: The folder of an earlier lease, of which the results and the newest checkpoints go along.
        only: Patterns for the names of the searches whose checkpoints go along.
        packages: The packages, by the names under which they are installed here. They must be pure Python.
        limit: The largest size in bytes.

    Returns:
        The archive's size in bytes.

    Raises:
        ValueError: The archive is above the limit, or something to pack is not as it must be.
    """
    sizes: dict[str, int] = {}
    contents = {
        "the packages": (each for package in packages for each in installed(package)),
        "Penn Treebank": ((f"data/ptb/{path.name}", path.read_bytes()) for path in texts(ptb)),
        "the images": images(cifar10) if cifar10 is not None else (),
        "the table": [("data/nasbench201.csv", table.read_bytes())] if table is not None else (),
        "the earlier lease": unfinished(lease, only) if lease is not None else (),
        "the project": project(),
    }
    with replacing(output) as path:
        try:
            with tarfile.open(path, "w:xz") as archive:
                for what, files in contents.items():
                    for name, content in files:
                        entry = tarfile.TarInfo(f"{NAME}/{name}")
                        entry.size = len(content)
                        archive.addfile(entry, io.BytesIO(content))
                        sizes[what] = sizes.get(what, 0) + len(content)
            size = path.stat().st_size
            if size > limit:
                parts = ", ".join(f"{what} {megabytes(size)}" for what, size in sizes.items())
                raise ValueError(
                    f"the archive would have {megabytes(size)}, and {megabytes(limit)} may be carried: leave something"
                    f" out. Before compression: {parts}"
                )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return size


def megabytes(size: int) -> str:
    """A number of bytes in words.

    Example:
        >>> megabytes(48_000_000)
        '48.0 MB'
    """
    return f"{size / 1e6:.1f} MB"


def project() -> Iterator[tuple[str, bytes]]:
    """The names and contents of the project's files that a lease needs, and of one that says which commit it is."""
    for part in PROJECT:
        paths = [ROOT / part] if (ROOT / part).is_file() else sorted((ROOT / part).rglob("*"))
        for path in paths:
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(ROOT)), path.read_bytes()
    yield "COMMIT", commit().encode()


def commit() -> str:
    """The commit of this checkout, or of the one that was packed."""
    packed = ROOT / "COMMIT"
    if packed.exists():
        return packed.read_text()
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def installed(package: str) -> Iterator[tuple[str, bytes]]:
    """The files of an installed package.

    Raises:
        ValueError: It is not installed, or not of pure Python.
    """
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise ValueError(f"{package} is not installed: pip install {package}") from None
    if "Root-Is-Purelib: true" not in (found.read_text("WHEEL") or ""):
        raise ValueError(f"{package} is not of pure Python: install it on the machine of the lease")
    for path in found.files or []:
        if ".." not in path.parts and "__pycache__" not in path.parts:  # programs, and what another Python compiled
            yield f"site/{path}", Path(path.locate()).read_bytes()


def texts(folder: Path | None) -> list[Path]:
    """Penn Treebank's files in a folder.

    Raises:
        ValueError: One is missing.
    """
    paths = [folder / f"ptb.{part}.txt" for part in ("train", "valid", "test")] if folder is not None else []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} is missing")
    return paths


def images(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The images of a folder, as JPEG in folders of their classes.

    Raises:
        ValueError: The folder has no images.
    """
    from PIL import Image
    from torchvision import datasets

    def encoded(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG", quality=QUALITY)
        return file.getvalue()

    for part in ("train", "test"):
        if (folder / datasets.CIFAR10.base_folder).is_dir():
            official = datasets.CIFAR10(str(folder), train=part == "train")
            for number, (image, label) in enumerate(official):
                yield f"data/cifar10/{part}/{official.classes[label]}/{number:05d}.jpg", encoded(image)
            continue
        paths = sorted(path for path in (folder / part).glob("*/*") if path.is_file())
        if not paths:
            raise ValueError(f"{folder} has neither {datasets.CIFAR10.base_folder} nor {part}/<class>/* images")
        for path in paths:
            name = f"data/cifar10/{path.relative_to(folder)}"
            if path.suffix.lower() in (".jpg", ".jpeg"):
                yield name, path.read_bytes()
            else:
                yield f"{name}.jpg", encoded(Image.open(path))


def unfinished(lease: Path, only: Sequence[str] = ("*",)) -> Iterator[tuple[str, bytes]]:
    """What the searches of an earlier lease need to go on, and the results of all jobs.

    Args:
        lease: The folder of the lease.
        only: Patterns, of which a search's name must fit one. The others begin anew.

    Raises:
        ValueError: There is no such lease.
    """
    results, place = Results(lease), LEASE.relative_to(ROOT)
    if not results.lines:
        raise ValueError(f"{lease} has no {RESULTS}: give the folder of a lease, or leave --lease out")
    yield f"{place}/{RESULTS}", results.path.read_bytes()
    for search in sorted(lease.glob("table*/*/*/search")):
        job = search.parent.relative_to(lease)
        if results.has(str(job), TABLES[job.parts[0]][0]) or not any(fnmatch(str(job), each) for each in only):
            continue
        for path in sorted(search.rglob("*")):
            is_checkpoint, run = path.parent.name == CHECKPOINTS, RunFolder(path.parents[1])
            is_needed = path.name == LAST and not run.has_summary if is_checkpoint else path.suffix != ".png"
            if path.is_file() and is_needed:
                yield f"{place}/{path.relative_to(lease)}", path.read_bytes()


# -- the way back ------------------------------------------------------------------------------------------------------


def show(folder: Path) -> str:
    """The results of a lease: the paper's tables in Markdown, what has not finished, and what other jobs have printed.

    Args:
        folder: The folder of the lease, of which only ``results.jsonl`` is read.

    Raises:
        ValueError: There are no results.
    """
    lines = Results(folder).lines
    if not lines:
        raise ValueError(f"{folder} has no {RESULTS}: give the folder of a lease")
    last = {(line["job"], line["part"]): line for line in lines if "job" in line}
    parts = [*where(lines), *(text for name in TABLES for text in table_of(name, last))]
    for (job, part), line in last.items():
        if line["state"] != "finished" or part == "output":
            parts.append(f"{job}: {part} {line['state']}{reached(line)}")
        parts += ["\n".join(["```text", *line["lines"], "```"])] if part == "output" else []
    return "\n\n".join(parts)


def where(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where and how the results were made, once for each way."""
    ways = []
    for line in lines:
        if line["state"] == "begun":
            shared = "with" if line["mps"] else "without"
            settings = f", with {' '.join(line['settings'])}" if line["settings"] else ", at the paper's settings"
            ways.append(
                f"{line['device']}, {line['at_a_time']} jobs at a time {shared} MPS, PyTorch {line['torch']},"
                f" Lightning {line['lightning']}, commit {line['commit']}{settings}"
            )
    return list(dict.fromkeys(ways))


def reached(line: Mapping[str, Any]) -> str:
    """How far a part has got that has not finished, and why it has failed."""
    values = {name: value for name, value in line.get("reached", {}).items() if name in ("epoch", "val/perplexity")}
    text = "".join(f", {name} {value:g}" for name, value in values.items())
    return text + (f": {line['error']}" if "error" in line else "")


def table_of(name: str, last: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    """One of the paper's tables, if there is something for it."""
    ends, paper, columns = TABLES[name]
    values: dict[str, list[Mapping[str, Any]]] = {}
    for (job, part), line in last.items():
        if job.startswith(f"{name}/") and part == ends and line["state"] == "finished":
            values.setdefault(job.split("/")[1], []).append(line["summary"])
    if not values:
        return
    titles = [title for _, title, _ in columns for title in (title, "the paper's")]
    rows = [["strategy", "n", *titles], ["---"] * (2 + len(titles))]
    for strategy, summaries in values.items():
        row = [f"`{strategy}`", str(len(summaries))]
        for key, _, theirs in columns:
            ours = [summary[key] for summary in summaries if summary.get(key) is not None]
            mean, deviation = mean_and_deviation(ours) if ours else (None, None)
            row.append("" if mean is None else f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}"))
            row.append(str(paper.get(strategy, {}).get(theirs, "")))
        rows.append(row)
    yield f"{name.capitalize()[:-1]} {name[-1]}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)
