"""The list of runs: what the page says of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from advnas_lightning.reading import Unreadable, read_text
from advnas_lightning.report.figures import KINDS
from advnas_lightning.report.findings import score_of
from advnas_lightning.report.networks import Networks, listed_edges
from advnas_lightning.report.palette import rank
from advnas_lightning.report.paper import departures
from advnas_lightning.report.plans import BENCHMARK, OWN
from advnas_lightning.report.runs import Run
from advnas_lightning.runs import CHECKPOINTS, CONFIG, ERROR, HYDRA, OVERRIDES
from advnas_lightning.texts import plain

__all__ = ["entry", "shown_path"]

# What these options say stands in columns of the list.
IN_COLUMNS = ("strategy=", "task=", "seed=", "ckpt_path=")


def entry(run: Run, page: Path, networks: Networks, title: str) -> dict[str, Any]:
    """The texts and numbers of one run in the list of runs.

    Args:
        run: The run.
        page: The folder of the page, from which its links lead to the run.
        networks: The drawings, to which that of the run's network is added.
        title: The title of its strategy.
    """
    value, result = _result(run)
    planned = run.setting("trainer.max_epochs")
    is_going = isinstance(planned, int) and run.state != "finished"
    seconds = run.number("seconds")
    genotype = run.genotypes.get("argmax", {})
    unlike = departures(run)
    return {
        "folder": shown_path(run.folder),
        "strategy": title,
        "order": rank(run.strategy)[0],
        "task": run.task + (" + zero op" if run.zero_op else ""),
        "seed": run.seed,
        "state": run.state,
        "epochs": run.epochs,
        "epochs_text": f"{run.epochs} of {planned}" if is_going else str(run.epochs),
        "seconds": seconds,
        "time": "" if seconds is None else _duration(seconds),
        "result": value,
        "result_text": result,
        "network": networks.add(run.task, genotype) if genotype else None,
        "departures": unlike,
        "options": [each for each in run.overrides if not each.startswith(IN_COLUMNS)],
        "facts": _facts(run),
        "links": [
            (_label(name), quote(os.fsencode(os.path.relpath(run.folder / name, page)))) for name in _ordered(run.files)
        ],
        "problems": run.problems,
        "error": _error(run),
    }


def shown_path(folder: Path) -> str:
    """The folder's path, relative to the current folder if it lies in it.

    Example:
        >>> shown_path(Path.cwd() / "outputs" / "toy")
        'outputs/toy'
    """
    relative = os.path.relpath(folder)
    return plain(relative if not relative.startswith("..") else str(folder))


def _result(run: Run) -> tuple[float | None, str]:
    """The result of the selected architecture, also in words, which name that of the arg max if it is another."""
    score = score_of(run.task, [run])
    if score is None:
        return None, ""
    kind, argmax = run.summary.get("selected"), run.number(score.key)
    name = score.key.removeprefix("argmax/")
    own = {"edges_right": name, "cifar10_test": f"{kind}/{name}", "cifar10_valid": f"{kind}/{name}"}.get(name, "")
    selected = run.number(own)
    value = argmax if selected is None or kind not in KINDS else selected
    if value is None:
        return None, ""
    of = run.number("edges") if score.key == "argmax/edges_right" else None
    text = score.text(value, of)
    if score.unit.startswith("%"):
        text = text.removesuffix(" accuracy")  # the column is narrow
    return value, text if argmax in (None, value) else f"{text} (arg max: {argmax:.4g})"


def _error(run: Run) -> str:
    """The first line of a failed run's error file; empty for another run, or if the file cannot be read."""
    names = [name for name in run.files if name.startswith(Path(ERROR).stem)]
    if run.state != "failed" or not names:
        return ""
    try:
        lines = read_text(run.folder / names[0]).strip().splitlines()
    except (OSError, Unreadable):
        return ""
    return plain(lines[0]) if lines else ""


def _facts(run: Run) -> list[tuple[str, str]]:
    """The numbers and networks of a run that have no column, each with its name."""
    facts = []
    for kind, name in KINDS.items():
        if kind in run.genotypes:
            facts.append((f"Network, {name}", listed_edges(run.genotypes[kind])))
    for key, name in (
        ("params_millions", OWN),
        ("argmax/params_millions", f"{BENCHMARK}, arg max"),
        ("process_best/params_millions", f"{BENCHMARK}, process best"),
    ):
        value = run.number(key)
        if value is not None:
            facts.append((name[:1].upper() + name[1:], f"{value:.4g}"))
    return facts


def _duration(seconds: float) -> str:
    """A time as one reads it.

    Example:
        >>> _duration(4.63), _duration(754), _duration(90_000), _duration(float("inf"))
        ('4.6 s', '12.6 min', '25.0 h', '∞')
    """
    if not abs(seconds) < 1e9:
        return "∞"
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def _ordered(files: Sequence[str]) -> list[str]:
    """The names of files, those of the configuration first."""
    return sorted(files, key=lambda name: (name != CONFIG, name != OVERRIDES, "/" in name, name))


def _label(name: str) -> str:
    short = name.removeprefix(f"{HYDRA}/").removeprefix(f"{CHECKPOINTS}/")
    return {CONFIG: "config", OVERRIDES: "overrides"}.get(name, plain(short))
