"""``advnas rank RUN`` ranks the architectures of a finished search, and picks the best one within budgets.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from advnas_lightning.cli.answering import reading_options, working
from advnas_lightning.cli.options import (
    COST_KINDS,
    HELP,
    SHARED,
    Option,
    at_least,
    cost_budgets,
    help_page,
    read_options,
)
from advnas_lightning.runs import RunFolder, checkpoint_in
from advnas_lightning.texts import plain
from advnas_lightning.validate import as_number, check_int, check_one_of, check_positive, check_seed, check_workers

__all__ = ["OPTIONS", "help_text", "main", "read_settings"]


def _top(name: str, value: Any) -> int | None:
    """A number of architectures, or ``None`` for all."""
    if value == "all":
        return None
    if isinstance(value, str):
        raise ValueError(f"{name}={plain(value)} must be a whole number of at least 1, or all")
    return check_int(name, value, least=1)


def _kinds(name: str, value: Any) -> list[str]:
    kinds = [str(each).strip() for each in (value if isinstance(value, list) else str(value).split(","))]
    for kind in kinds:
        if kind not in COST_KINDS:
            raise ValueError(f"{name}={plain(kind)} is unknown: use {', '.join(COST_KINDS)}, or costs=FILE")
    return list(dict.fromkeys(kinds))


OPTIONS = {
    "RUN": SHARED["RUN"],
    "top": Option(100, "N", "the number of the most probable architectures to score, within each budget; or all",
                  _top),
    "sample": Option(50, "N", "the number of architectures drawn with equal chances, which tell how far to trust the"
                     " losses", at_least(0)),
    "batches": Option(16, "N", "the number of validation batches, at least 2", at_least(2)),
    "budget": Option(None, "B,B,…", "the largest cost that is allowed, of the one kind in cost=; of several budgets"
                     " each gets its best architecture"),
    "cost": Option(None, "KIND,…", f"what to measure: {', '.join(COST_KINDS)}; without it, the costs in the run's"
                   " costs.json are shown", _kinds),
    "cost_budget": Option(None, "{KIND: B}", "budgets of several costs that hold together, as in"
                          ' cost_budget="{macs: 20e6, latency: 8}"', cost_budgets),
    "costs": SHARED["costs"],
    "generations": Option(0, "N", "the number of generations of an evolution that starts from the scored"
                          " architectures", at_least(0)),
    "population": Option(50, "N", "the architectures in a generation", at_least(2)),
    "tournament": Option(5, "N", "the architectures of which the best one is a parent", at_least(1)),
    "mutation": Option(0.1, "P", "the probability with which a mutation changes an edge",
                       partial(check_positive, most=1)),
    "supernet_epochs": Option(0, "N", "train the shared weights further for so many epochs by uniform draws; the run's"
                              " own checkpoint stays as it is", at_least(0)),
    "calibrate": Option(None, "N", "the number of training batches for the running statistics of each architecture"
                        " (default: the run's); 0 leaves them as they are", at_least(0)),
    "jobs": Option(1, "N", "the number of processes", check_workers),
    "threads": Option(1, "N", "the number of CPU threads of each process", check_workers),
    "device": Option("cpu", "cpu|cuda", "where the network runs", partial(check_one_of, allowed=("cpu", "cuda"))),
    "show": Option(10, "N", "the number of rows of the printed table", at_least(1)),
    "seed": Option(0, "N", "the seed of the draws", check_seed),
    "trust": SHARED["trust"],
}  # fmt: skip
EXAMPLES = """\
  advnas rank RUN
  advnas rank RUN top=500 jobs=4
  advnas rank RUN cost=params budget=2e5,3e5,4e5
  advnas rank RUN cost=macs,params cost_budget="{macs: 20e6, params: 0.4e6}"
"""


def main(arguments: Sequence[str]) -> None:
    """Run ``advnas rank`` with the arguments of its command line.

    Args:
        arguments: What follows ``rank`` on the command line.

    Raises:
        SystemExit: With status 1, after one line of explanation, if the input is bad; with 130 after Ctrl-C.
    """
    if HELP & set(arguments):
        print(help_text())
        return
    with reading_options():
        options = read_settings(arguments)
    with working(goes_on=True):
        from advnas_lightning.cli.ranking import rank_run

        rank_run(options)


def help_text() -> str:
    """What ``advnas rank --help`` prints.

    Example:
        >>> print(help_text().splitlines()[0])
        usage: advnas rank RUN [OPTION=VALUE ...]
    """
    about = (
        "Scores architectures of a finished search by their losses with the shared weights on validation batches, and"
        " by their probabilities: the most probable ones, random ones, and of elastic sizes the uniformly scaled ones."
        " Prints a table of the best ones and how far to trust it. Writes ranking.json, ranking.png and ranking.svg"
        " into the run's folder, and adds the best architecture to genotype.json as ranked."
        " A command that was interrupted goes on where it was. The search itself is not changed."
    )
    return help_page("advnas rank RUN [OPTION=VALUE ...]", about, EXAMPLES, OPTIONS)


def read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Read and check the options of ``advnas rank``.

    Args:
        arguments: The arguments of the command line.

    Returns:
        The value of every option of ``OPTIONS``. ``top`` is ``None`` for all. With them come ``budgets``, a list of
        budgets by kind, in which the kind is ``None`` if it is that of the run's costs.

    Raises:
        OSError: There is no such run.
        ValueError: If an option is unknown or invalid.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> run = Path(mkdtemp())
        >>> (run / "checkpoints").mkdir()
        >>> read_settings([str(run), "cost=params", "budget=2e5,3e5"])["budgets"]
        [{'params': 200000.0}, {'params': 300000.0}]
        >>> read_settings([str(run), "budgets=2e5"])
        Traceback (most recent call last):
            ...
        ValueError: budgets=2e5 is unknown: did you mean budget=2e5?
    """
    options = read_options(arguments, OPTIONS, command="advnas rank")
    if options["device"] == "cuda" and options["jobs"] > 1:
        raise ValueError(f"jobs={options['jobs']}: processes that share a GPU would be no faster: use jobs=1")
    options["cost"] = options["cost"] or []
    options["budgets"] = _budgets(options)
    run = RunFolder.of(checkpoint_in(options["RUN"]))
    if options["costs"] is None and not run.costs.is_file() and any(None in each for each in options["budgets"]):
        raise ValueError(
            f"budget={plain(str(options['budget']))} of which cost? Say cost=params, macs, latency or memory"
        )
    return options


def _budgets(options: Mapping[str, Any]) -> list[dict[str | None, float]]:
    alone, together = options["budget"], options["cost_budget"]
    if alone is not None and together is not None:
        raise ValueError("budget and cost_budget are two ways to say the same: give one of them")
    if together is not None:
        return [{kind: each for kind, each in together.items()}]
    if alone is None:
        return []
    if len(options["cost"]) > 1:
        raise ValueError(f'budget={plain(str(alone))} of which cost? Say cost_budget="{{{options["cost"][0]}: …}}"')
    kind = options["cost"][0] if options["cost"] else None
    values = alone if isinstance(alone, list) else str(alone).split(",")
    return [{kind: check_positive("budget", _as_number(value))} for value in values]


def _as_number(value: Any) -> Any:
    if as_number(value) is not None:
        return value
    try:
        return float(str(value))
    except ValueError:
        return value
