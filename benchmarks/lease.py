"""Spends a short lease of a GPU on a list of jobs, in order of their value, and goes on with them in the next lease.

    python -m benchmarks.lease pack FILE.tar.xz --ptb DIR --cifar10 DIR [--table CSV] [--lease FOLDER]
    python -m benchmarks.lease run --minutes MINUTES [--only PATTERN ...] [--set KEY=VALUE ...]
    python -m benchmarks.lease show [FOLDER]

``pack`` makes the one archive that the machine with the GPU needs, which has no network. ``run`` runs there, and keeps
the deadline. ``show`` prints what was found as tables, beside the paper's. The jobs are, in this order: the tests that
need a GPU (``tests``), the times of steps (``steps``), and the searches of the paper's Table 3 and Table 2
(``table3/STRATEGY/SEED``, ``table2/STRATEGY/SEED``).
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path

from advnas_lightning.folder_lock import FolderLock
from benchmarks.lease_files import DATA, LEASE, PACKAGES, ROOT, SITE, commit, megabytes, pack, show
from benchmarks.lease_planner import Job, Lease, gpu_name, say, sharing

NEEDED = (
    "torch", "torchvision", "torchmetrics", "lightning", "matplotlib", "rich", "yaml", "hydra", "omegaconf", "antlr4",
)  # fmt: skip
STRATEGIES = ("advantage", "proxylessnas", "reinforce", "gdas", "parsec", "counterfactual")
STEPS = ("cifar10-advantage", "cifar10-advantage-bf16", "cifar10-gdas", "cifar10-counterfactual", "ptb", "ptb-bf16")
# Table 3 has no warm-up. CounterfactualNAS, which is not in the paper, needs one: half of the search, as in Table 2.
WARM_UP = {("table3", "counterfactual"): ("task.optimization.warmup_epochs=15",)}


def search(experiment: str, strategy: str, seed: int, settings: Sequence[str], folder: Path, data: Path) -> Job:
    """The job of one search at the paper's settings, and for Table 3 of the training of what it finds."""
    name = f"{experiment}/{strategy}/{seed}"
    root = data / ("ptb" if experiment == "table3" else "cifar10")
    table = data / "nasbench201.csv"
    command = [
        *(sys.executable, "-m", "advnas_lightning", f"experiment={experiment}", f"strategy={strategy}", f"seed={seed}"),
        *(f"task.data.root={quoted(root)}", f"hydra.sweep.dir={quoted(folder / name)}", "hydra.sweep.subdir=search"),
        *([f"task.table={quoted(table)}"] if experiment == "table2" and table.exists() else []),
        *("trainer.enable_progress_bar=false", *WARM_UP.get((experiment, strategy), ()), *settings),
    ]
    parts = {"search": "search"} | ({"training": "search/retrained"} if experiment == "table3" else {})
    return Job(name, tuple(command), (root,), parts)


def quoted(path: Path) -> str:
    """A path as Hydra's grammar takes it.

    Example:
        >>> quoted(Path("a b"))
        "'a b'"
    """
    return "'" + str(path).replace("'", r"\'") + "'"


def all_jobs(folder: Path, data: Path, *, seeds: int, at_a_time: int, settings: Sequence[str]) -> list[Job]:
    """Everything that there is to do, the most valuable first.

    Args:
        folder: The folder for the jobs' files.
        data: The folder of the data sets.
        seeds: The number of seeds of each search.
        at_a_time: The number of processes for the tests, where pytest-xdist is there.
        settings: Hydra settings for all searches.
    """
    workers = ("-n", str(at_a_time)) if found("xdist") else ()
    pytest = (sys.executable, "-m", "pytest", "-o", "addopts=", "-v", "-rfE", "--tb=short", *workers)
    steps = (sys.executable, "-m", "benchmarks", "--output", str(folder / "steps.json"), *STEPS)
    jobs = [
        Job("tests", (*pytest, "tests/test_gpu.py"), minutes=4, passes=(0, 1)),  # 1: some test has failed
        Job("steps", steps, minutes=3, alone=True),
    ]
    searches = itertools.product(("table3", "table2"), range(seeds), STRATEGIES)
    return [*jobs, *(search(table, strategy, seed, settings, folder, data) for table, seed, strategy in searches)]


def found(package: str) -> bool:
    """Whether a package can be imported, here or from what was packed."""
    return PathFinder.find_spec(package, [*sys.path, str(SITE)]) is not None


def run(options: argparse.Namespace) -> int:
    """Run the jobs of a lease; returns the exit status."""
    ends = time.monotonic() + 60 * options.minutes
    folder, data = options.folder.resolve(), options.data.resolve()
    gpu = gpu_name()
    settings = [f"trainer={'gpu' if gpu else 'cpu'}", *options.set]
    jobs = all_jobs(folder, data, seeds=options.seeds, at_a_time=options.at_a_time, settings=settings)
    jobs = chosen(jobs, options.only)
    check(jobs, options)
    cores = os.cpu_count() or 1
    path = os.pathsep.join([str(ROOT), str(SITE), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(max(1, cores // options.at_a_time))}
    with (
        FolderLock(folder),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as pipes,
        sharing(Path(pipes), gpu=gpu is not None) as mps,
    ):
        lease = Lease(
            folder,
            seconds=ends - time.monotonic(),
            grace=options.grace,
            least=options.least,
            at_a_time=options.at_a_time,
            environment={**os.environ, **own, **mps},
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lease.interrupt)
        lease.results.add(
            state="begun",
            time=time.strftime("%Y-%m-%d %H:%M"),
            minutes=options.minutes,
            device=gpu or f"{cores} CPU cores",
            mps=bool(mps),
            at_a_time=options.at_a_time,
            torch=version("torch"),
            lightning=version("lightning"),
            commit=commit(),
            settings=options.set,
        )
        went_well = lease.run(jobs)
    done = sum(map(lease.is_done, jobs))
    say(f"{done} of {len(jobs)} jobs have finished; the same line goes on")
    return 128 + lease.signal if lease.signal is not None else int(not went_well)


def chosen(jobs: Sequence[Job], patterns: Sequence[str]) -> list[Job]:
    """The jobs whose names fit one of the patterns.

    Raises:
        ValueError: A pattern fits no job.
    """
    for pattern in patterns:
        if not fnmatch.filter([job.name for job in jobs], pattern):
            raise ValueError(f"--only {pattern} is no job: give tests, steps, 'table3/*', 'table2/gdas/0' or the like")
    return [job for job in jobs if any(fnmatch.fnmatch(job.name, each) for each in patterns)]


def check(jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """Check that the lease can begin.

    Raises:
        ValueError: An option is out of range, or packages or data are missing.
    """
    if not options.grace >= 3 or options.at_a_time < 1 or options.seeds < 1:
        raise ValueError("--grace must be at least 3, and --at-a-time and --seeds at least 1")
    needed = (options.grace + options.least) / 60
    if not options.minutes > needed:
        raise ValueError(
            f"--minutes {options.minutes:g} is too short: above {needed:g} are needed, see --grace and --least"
        )
    packages = [*NEEDED, *(["pytest"] if any(job.name == "tests" for job in jobs) else [])]
    missing = [package for package in packages if not found(package)]
    if missing:
        raise ValueError(
            f"no package {', '.join(missing)} here: install it, or, if it is pure Python, pack it with --package"
        )
    for path in (path for job in jobs for path in job.needs if not path.exists()):
        raise ValueError(f"{path} is missing: pack it, or say with --data where {path.name} is")


def main() -> None:
    """Parse the command line and obey."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    there = commands.add_parser("pack", help="make the archive for the machine with the GPU")
    there.add_argument("output", type=Path, help="the file to write, such as lease.tar.xz")
    there.add_argument(
        "--ptb", type=Path, metavar="DIR", help="the folder of ptb.train.txt, ptb.valid.txt, ptb.test.txt"
    )
    there.add_argument("--cifar10", type=Path, metavar="DIR", help="the folder of the images")
    there.add_argument("--table", type=Path, metavar="CSV", help="NAS-Bench-201's table, which scores Table 2's cells")
    there.add_argument("--lease", type=Path, metavar="FOLDER", help="the folder of an earlier lease, to go on with it")
    there.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="checkpoints of these searches of it"
    )
    there.add_argument("--package", nargs="+", default=[], help="further packages beside Hydra, OmegaConf and ANTLR")
    here = commands.add_parser("run", help="run the jobs until the time is over")
    here.add_argument("--minutes", type=float, required=True, help="the length of the lease from now on")
    here.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="the jobs of these names")
    here.add_argument("--seeds", type=int, default=3, help="seeds of each search; default: 3, as in the paper")
    here.add_argument("--at-a-time", type=int, default=cores, help="jobs at a time; default: one for each core")
    here.add_argument("--grace", type=float, default=30, help="seconds for the last checkpoints; default: 30")
    here.add_argument(
        "--least", type=float, default=60, help="seconds for which a search is worth its start; default: 60"
    )
    here.add_argument("--folder", type=Path, default=LEASE, help="the folder for results; default: outputs/lease")
    here.add_argument("--data", type=Path, default=DATA, help="the folder that has ptb, cifar10 and nasbench201.csv")
    here.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings, for trials at a small size")
    back = commands.add_parser("show", help="print the results as tables")
    back.add_argument("folder", nargs="?", type=Path, default=LEASE, help="the folder of the lease")
    options = parser.parse_args()
    try:
        if options.command == "run":
            sys.exit(run(options))
        if options.command == "show":
            print(show(options.folder))
        else:
            given = {name: getattr(options, name) for name in ("ptb", "cifar10", "table", "lease", "only")}
            size = pack(options.output, **given, packages=[*PACKAGES, *options.package])
            print(f"{options.output} has {megabytes(size)}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
