"""The options of the diagnosis, which are read before anything that takes long to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from advnas_lightning.cli.options import SHARED, Option, help_page, read_options
from advnas_lightning.validate import check_folder, check_int, check_positive, check_seed, check_workers

__all__ = ["LEAST", "NAMES", "OPTIONS", "check_settings", "help_text", "read_settings"]

NAMES = (
    "advantage", "advantage-exact", "counterfactual", "counterfactual-exact", "counterfactual-mix", "reinforce",
    "parsec", "proxylessnas", "gdas", "gdas-rao", "darts", "snas", "nasp",
)  # fmt: skip
LEAST = {"draws": 2, "batches": 1, "exact_draws": 2}  # the smallest number that each setting may have


def _strategies(name: str, value: Any) -> list[str]:
    names = value if isinstance(value, list) else str(value).split(",")
    return list(dict.fromkeys(str(each).strip() for each in names))


OPTIONS = {
    "RUN": SHARED["RUN"],
    "task": Option(None, "linear", "in place of a run: the example of the paper's section 4.4, in which REINFORCE's"
                   " noise grows with the number of edges"),
    "strategies": Option(None, "a,b,…", f"the strategies to compare (default: all), of {', '.join(NAMES)}",
                         _strategies),
    "draws": Option(200, "N", "the number of estimates of each strategy; more of them show a smaller bias"),
    "batches": Option(4, "N", "the number of batches that the estimates are averaged over"),
    "exact_draws": Option(500, "N", "the number of unbiased estimates whose mean stands for the exact gradient, where"
                          " there are too many architectures to try them all"),
    "progress": Option(0.5, "0…1", "the share of the search that is done, on which falling temperatures depend"),
    "seed": Option(0, "N", "the seed of the draws", check_seed),
    "output": Option(None, "DIR", "the folder for the files (default: a new folder diagnosis in the run's, and in the"
                     " current one for task=linear)", check_folder),
    "threads": Option(None, "N", "the number of CPU threads (default: PyTorch's)", check_workers),
    "trust": SHARED["trust"],
}  # fmt: skip
EXAMPLES = """\
  advnas diagnose outputs/toy/advantage/2026-01-31_12-00-00
  advnas diagnose RUN strategies=advantage,reinforce,gdas draws=1000
  advnas diagnose task=linear
"""


def help_text() -> str:
    """What ``advnas diagnose --help`` prints.

    Example:
        >>> print(help_text().splitlines()[0])
        usage: advnas diagnose RUN | task=linear [OPTION=VALUE ...]
    """
    about = (
        "Measures how good each strategy's estimate of the gradient of θ is at a checkpoint of your search: its bias,"
        " its noise and its time, against the exact gradient. Prints a table and a recommendation, and writes"
        " diagnosis.json, diagnosis.png and diagnosis.svg into a new folder. The search itself is not changed."
    )
    return help_page("advnas diagnose RUN | task=linear [OPTION=VALUE ...]", about, EXAMPLES, OPTIONS)


def read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Read and check the options of ``advnas diagnose``.

    Args:
        arguments: The arguments of the command line. ``ckpt_path=RUN`` is an older way to give the run.

    Returns:
        The value of every option of ``OPTIONS``.

    Raises:
        ValueError: If a key is unknown, if a value is invalid, or if neither a run nor a task is given.

    Example:
        >>> read_settings(["task=linear", "strategies=gdas,darts"])["strategies"]
        ['gdas', 'darts']
        >>> read_settings(["task=linear", "draw=3"])
        Traceback (most recent call last):
            ...
        ValueError: draw=3 is unknown: did you mean draws=3?
    """
    options = read_options([each.removeprefix("ckpt_path=") for each in arguments], OPTIONS)
    if (options["RUN"] is None) == (options["task"] is None):
        raise ValueError("give the folder of a run, or task=linear (advnas diagnose --help explains both)")
    if options["task"] not in (None, "linear"):
        raise ValueError(f"task={options['task']} is unknown: use linear, or the folder of a run of any task")
    options["strategies"] = options["strategies"] or list(NAMES)
    check_settings(options)
    return options


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the names of the estimators, the numbers of draws and batches and the progress, as far as they are given.

    Raises:
        ValueError: If a name is unknown, or if a number is too small or too large.

    Example:
        >>> check_settings({"strategies": ["gdas"], "draws": 1})
        Traceback (most recent call last):
            ...
        ValueError: draws=1 must be a whole number of at least 2
    """
    unknown = [str(name) for name in settings.get("strategies", ()) if name not in NAMES]
    if unknown:
        meant = [near for name in unknown for near in get_close_matches(name, NAMES, n=1, cutoff=0.8)]
        hint = f"did you mean {' and '.join(meant)}? There are" if meant else "use some of"
        raise ValueError(f"strategies has {', '.join(map(repr, unknown))}: {hint} {', '.join(NAMES)}")
    for name, least in LEAST.items():
        if name in settings:
            check_int(name, settings[name], least=least)
    if "progress" in settings:
        check_positive("progress", settings["progress"], zero=True, most=1)
