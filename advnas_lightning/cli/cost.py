"""The command ``advnas cost``: measures what the candidates of a run cost on this machine, and shows it.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from advnas_lightning.cli.answering import reading_options, working
from advnas_lightning.cli.checks import suggestion
from advnas_lightning.cli.options import (
    COST_KINDS,
    HELP,
    MORE_KINDS,
    SHARED,
    Option,
    at_least,
    cost_budgets,
    file_to_write,
    help_page,
    read_options,
)
from advnas_lightning.export.formats import missing_extra
from advnas_lightning.runs import COSTS, RunFolder, checkpoint_in, in_run
from advnas_lightning.texts import plain
from advnas_lightning.validate import check_int, check_workers

DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


def _kinds(name: str, value: Any) -> list[str]:
    kinds = [str(each).strip() for each in (value if isinstance(value, list) else str(value or "").split(","))]
    for kind in kinds:
        if kind not in (*COST_KINDS, *MORE_KINDS) and "." not in kind:
            hint = suggestion(kind, (*COST_KINDS, *MORE_KINDS))
            raise ValueError(f"{name} has {plain(kind)!r}, which is no cost: {hint}")
        if kinds.count(kind) > 1:
            raise ValueError(f"{name} has {kind} twice: give each one once")
    missing = missing_extra(["onnx"]) if "onnx_latency" in kinds else None
    if missing is not None:
        raise ValueError(f"{name}=onnx_latency: {missing}")
    return kinds


def _device(name: str, value: Any) -> str:
    if not isinstance(value, str) or not DEVICE.fullmatch(value):
        raise ValueError(f"{name}={value} is unknown: use cpu, cuda or mps")
    return value


def _check(name: str, value: Any) -> int:
    if value == 1:
        raise ValueError(f"{name}=1: one architecture tells nothing of how costs add up: give at least 2")
    return check_int(name, value, least=0)


MEASURE = {
    "RUN": Option(None, "RUN", "the folder of the run, or a checkpoint in it; the data of the run need not be here"),
    "kinds": Option(",".join(COST_KINDS), "a,b,…", "what to measure, also onnx_latency (in onnxruntime, with the extra"
                    " onnx), or my_module.my_function of a candidate and its inputs", _kinds),
    "device": Option("cpu", "cpu|cuda|mps", "where the network runs; cuda:1 is the second GPU", _device),
    "output": Option(None, "FILE", "the file to write, or to add to (default: costs.json in the run's folder)",
                     file_to_write),
    "batch_size": Option(None, "N", "the number of samples of a batch (default: that of the run)", at_least(1)),
    "threads": Option(None, "N", "the number of CPU threads (default: PyTorch's)", check_workers),
    "check": Option(0, "K", "compare K random architectures as whole networks with the sums of their candidates",
                    _check),
    "trust": SHARED["trust"],
}  # fmt: skip
SHOW = {
    "RUN": Option(None, "RUN|FILE", "the folder of a run, or a file of costs"),
    "cost_budget": Option(None, "{KIND: B, …}", "budgets by the kind of cost, each in its own unit, such as"
                          ' "{macs: 20e6, latency: 8}"', cost_budgets),
}  # fmt: skip
ABOUT = {
    "measure": "Measures what each candidate of a run's network costs, here and now: copy the folder of the run to the"
    " machine on which the network will be used. Prints a table, and writes costs.json, which cost=latency"
    " cost_file=FILE gives to another search.",
    "show": "Shows the costs in a file: the cheapest and the dearest architecture, those that the run has found, and"
    " whether some architecture is within your budgets.",
}
USAGE = {
    "measure": "advnas cost measure RUN [OPTION=VALUE ...]",
    "show": "advnas cost show RUN|FILE [OPTION=VALUE ...]",
}
EXAMPLES = {
    "measure": "  advnas cost measure RUN\n"
    "  advnas cost measure RUN kinds=latency device=cuda batch_size=1 output=gpu.json check=20\n",
    "show": '  advnas cost show RUN\n  advnas cost show gpu.json cost_budget="{latency: 8}"\n',
}
OPTIONS = {"measure": MEASURE, "show": SHOW}


def main(arguments: Sequence[str]) -> None:
    """Run ``advnas cost`` with the arguments of its command line.

    Args:
        arguments: What follows ``cost`` on the command line.

    Raises:
        SystemExit: With status 1, after one line of explanation, if the input is bad.

    Example:
        >>> main(["show", "nowhere.json"])
        Traceback (most recent call last):
            ...
        SystemExit: 1
    """
    what, given = (arguments[0], arguments[1:]) if arguments else ("", [])
    if HELP & set(arguments):
        print("\n\n".join(help_text(each) for each in OPTIONS if what not in OPTIONS or each == what))
        return
    with reading_options():
        if what not in OPTIONS:
            raise ValueError(
                f"say what to do, in advnas cost measure RUN or advnas cost show RUN, not {plain(what) or 'nothing'}"
            )
        options = read_settings(what, given)
    with working():
        if what == "measure":
            from advnas_lightning.cli.cost_measuring import measure_run

            measure_run(options)
        else:
            from advnas_lightning.cli.cost_showing import show_file

            show_file(options["RUN"], options["cost_budget"])


def help_text(what: str) -> str:
    """What ``--help`` prints about one of the two.

    Example:
        >>> help_text("show").splitlines()[0]
        'usage: advnas cost show RUN|FILE [OPTION=VALUE ...]'
    """
    return help_page(USAGE[what], ABOUT[what], EXAMPLES[what], OPTIONS[what])


def read_settings(what: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Read and check the options of ``advnas cost``.

    Args:
        what: A key of ``OPTIONS``.
        arguments: What follows it on the command line.

    Raises:
        OSError: If there is no such run or file.
        ValueError: If an option is unknown or invalid.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> run = Path(mkdtemp())
        >>> (run / "checkpoints").mkdir()
        >>> read_settings("measure", [str(run), "kinds=latency,macs"])["kinds"]
        ['latency', 'macs']
        >>> read_settings("measure", [str(run), "device=gpu"])
        Traceback (most recent call last):
            ...
        ValueError: device=gpu is unknown: use cpu, cuda or mps
    """
    options = read_options(arguments, OPTIONS[what], command=f"advnas cost {what}")
    if what == "show":
        path = in_run(options["RUN"], COSTS)
        if not path.is_file():
            raise FileNotFoundError(f"there are no costs at {path}: advnas cost measure RUN measures them")
        return options
    folder = RunFolder.of(checkpoint_in(options["RUN"])).path
    if options["output"] is None and folder.is_dir() and not os.access(folder, os.W_OK):
        raise ValueError(f"{plain(str(folder))} cannot be written to: name another file, output=FILE")
    return options
