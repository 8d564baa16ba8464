"""``advnas refine RUN`` lets short trainings decide between what a search has found, and looks around the best one.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from typing import Any

from advnas_lightning.cli.answering import reading_options, working
from advnas_lightning.cli.options import (
    HELP,
    SHARED,
    Option,
    at_least,
    cost_budgets,
    existing_file,
    help_page,
    read_options,
)
from advnas_lightning.refine.packages import missing_package
from advnas_lightning.refine.rungs import check_rungs
from advnas_lightning.runs import RunFolder, checkpoint_in
from advnas_lightning.texts import plain
from advnas_lightning.validate import (
    check_bool,
    check_folder,
    check_one_of,
    check_positive,
    check_seed,
    check_workers,
)

__all__ = ["OPTIONS", "help_text", "main", "read_settings"]


def _rungs(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        return check_rungs(tuple(int(each) if each.strip().isdigit() else each for each in value.split(",")))
    return check_rungs(tuple(value) if isinstance(value, list) else (value,))


def _proxy(name: str, value: Any) -> list[str]:
    found = value if isinstance(value, list) else [] if value == "none" else shlex.split(str(value).replace(",", " "))
    for each in found:
        if not isinstance(each, str) or "=" not in each:
            raise ValueError(
                f"{name} has {plain(str(each))}: give a list of settings, as in {name}=[task.model.channels=8]"
            )
    return list(found)


OPTIONS = {
    "RUN": SHARED["RUN"],
    "minutes": Option(None, "X", "the largest number of minutes of training in each job; the same line with more"
                      " minutes goes on", check_positive),
    "epochs": Option(None, "N", "the largest number of epochs of all trainings together", at_least(1)),
    "top": Option(None, "N", "the number of finalists from the top of the run's ranking.json (default: 5, if advnas"
                  " rank has written one)", at_least(0)),
    "draws": Option(0, "N", "the number of finalists that are drawn from the search's probabilities", at_least(0)),
    "finalists": Option(None, "FILE", "a JSON file with a list of architectures, each as {edge: candidate}, which are"
                        " the finalists in place of the search's", existing_file),
    "neighbours": Option(True, "false", "train the finalists alone, and not what differs from the best one in one"
                         " edge or by an exchange between two edges", check_bool),
    "cost_budget": Option(None, "{KIND: B}", "train only what is within these budgets, as in"
                          ' cost_budget="{params: 0.4e6}"; their costs are those in the run\'s costs.json, where advnas'
                          " cost measure writes them", cost_budgets),
    "costs": SHARED["costs"],
    "repeats": Option(1, "N", "how often each of the three best architectures is trained again, with other seeds",
                      at_least(0)),
    "rungs": Option(None, "N,N,…", "the numbers of epochs after which a training is scored, each the same factor times"
                    " the one before (default: the task's)", _rungs),
    "anneal": Option(None, "true|false", "let the learning rates fall to 0 up to each rung, in the place of the task's"
                     " own schedule (default: the task's choice)", check_bool),
    "proxy": Option(None, "[KEY=VALUE,…]", "the settings of the run that are smaller in these trainings (default: the"
                    " task's); none for the full training", _proxy),
    "weights": Option("fresh", "fresh|inherited", "begin each training with fresh weights, or with the shared ones of"
                      " the search", partial(check_one_of, allowed=("fresh", "inherited"))),
    "metric": Option(None, "NAME", "the score, of the validation on images or tokens that the weights do not learn from"
                     " (default: the task's)"),
    "best": Option(None, "highest|lowest", "which score is the best one (default: the task's)",
                   partial(check_one_of, allowed=("highest", "lowest"))),
    "oracle": Option(None, "table", "in place of trainings: the benchmark's accuracies after 12 epochs, from the run's"
                     " task.table", partial(check_one_of, allowed=("table",))),
    "jobs": Option(1, "N", "the number of processes that share the trainings", check_workers),
    "threads": Option(None, "N", "the number of CPU threads of each process (default: the run's, or the cores divided"
                      " by jobs=)", check_workers),
    "seed": Option(0, "N", "the seed of the initial weights and of the data's order, and of the draws", check_seed),
    "output": Option(None, "DIR", "the folder of the trainings and of the files (default: the folder refine in the"
                     " run's, and the run's folder for the files)", check_folder),
    "show": Option(10, "N", "the number of rows of the printed table", at_least(1)),
    "trust": SHARED["trust"],
}  # fmt: skip
EXAMPLES = """\
  advnas refine RUN minutes=60 jobs=2
  advnas refine RUN neighbours=false top=20
  advnas refine RUN rungs=2,4,8 proxy="[task.model.channels=8]"
  advnas refine RUN cost_budget="{params: 0.4e6}"
  advnas refine RUN oracle=table
"""


def main(arguments: Sequence[str]) -> None:
    """Run ``advnas refine`` with the arguments of its command line.

    Args:
        arguments: What follows ``refine`` on the command line.

    Raises:
        SystemExit: With status 1, after one line of explanation, if the input is bad; with 130 after Ctrl-C.
    """
    if HELP & set(arguments):
        print(help_text())
        return
    with reading_options():
        options = read_settings(arguments)
    with working(goes_on=True):
        from advnas_lightning.cli.refining import refine_run

        refine_run(options, arguments)


def help_text() -> str:
    """What ``advnas refine --help`` prints.

    Example:
        >>> print(help_text().splitlines()[0])
        usage: advnas refine RUN [OPTION=VALUE ...]
    """
    about = (
        "Trains the most promising architectures of a search from scratch, each for a short time, and ends those early "
        "that fall behind. Then it trains neighbours of the best ones, which differ from them in one edge or by an "
        "exchange between two edges, until none is better or the budget is spent. At last the best ones are trained "
        "again, and of those that are tied the most probable one wins. Prints a table, writes refine.json, refine.png "
        "and refine.svg, and adds the winner to genotype.json as refined. The same line goes on where it was. "
        "Test data are not used."
    )
    return help_page("advnas refine RUN [OPTION=VALUE ...]", about, EXAMPLES, OPTIONS)


def read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Read and check the options of ``advnas refine``.

    Args:
        arguments: The arguments of the command line.

    Returns:
        The value of every option of ``OPTIONS``.

    Raises:
        FileNotFoundError: If there is no such file of costs or finalists.
        ValueError: If a key is unknown, if a value is invalid, if there is no run, or if Optuna is missing.

    Example:
        >>> read_settings(["minuts=3"])
        Traceback (most recent call last):
            ...
        ValueError: minuts=3 is unknown: did you mean minutes=3?
        >>> read_settings([])
        Traceback (most recent call last):
            ...
        ValueError: give the folder of a run: advnas refine RUN (advnas refine --help explains the options)
    """
    options = read_options(arguments, OPTIONS, command="advnas refine")
    if options["finalists"] is not None:
        given = [name for name in ("top", "draws") if options[name]]
        if given:
            raise ValueError(f"{given[0]}= has no effect with finalists=, which names all of them")
    if options["costs"] is not None and options["cost_budget"] is None:
        raise ValueError("costs= has no effect without cost_budget=")
    if options["output"] is not None and RunFolder(options["output"]).checkpoints.exists():
        raise ValueError(
            f"output={plain(str(options['output']))} has a run, whose files would be lost: name another folder"
        )
    if options["oracle"] is not None:
        given = [name for name in ("rungs", "anneal", "proxy", "metric", "best") if options[name] is not None]
        if given:
            raise ValueError(f"{given[0]}= has no effect with oracle=table, which trains nothing: leave it out")
    missing = missing_package()
    if missing is not None:
        raise ValueError(missing)
    checkpoint_in(options["RUN"])
    return options
