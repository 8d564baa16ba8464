"""``advnas export RUN`` writes the network that a run has found into files for use elsewhere.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from advnas_lightning.cli.answering import reading_options, working
from advnas_lightning.cli.options import HELP, SHARED, Option, at_least, file_to_write, help_page, read_options
from advnas_lightning.export.formats import FORMATS, check_formats, missing_extra
from advnas_lightning.runs import checkpoint_in
from advnas_lightning.texts import plain
from advnas_lightning.validate import check_bool, check_int, check_one_of, check_positive, check_workers

__all__ = ["OPTIONS", "help_text", "main", "read_settings"]

KINDS = ("argmax", "process_best", "ranked", "refined")  # of genotype.SELECTIONS and LATER, which need PyTorch
TOLERANCE = 1e-4  # as in export.network


def _batch_dims(name: str, value: Any) -> dict[str, int | None]:
    if not isinstance(value, dict):
        raise ValueError(f'{name}={plain(str(value))}: give the inputs too, as in {name}="{{tokens: 1}}"')
    return {key: None if dim is None else check_int(f"{name}: {key}", dim, least=0) for key, dim in value.items()}


OPTIONS = {
    "RUN": SHARED["RUN"],
    "formats": Option("onnx", "a,b,…", f"the formats: {', '.join(FORMATS)}; their names alone will do, as in"
                      " advnas export RUN onnx pt2", check_formats),
    "select": Option(None, "KIND", f"which architecture of the run's genotype.json: {', '.join(KINDS)} (default: the"
                     " one that the run selected)", partial(check_one_of, allowed=KINDS)),
    "genotype": Option(None, "FILE", "another architecture of the same space: a file of advnas rank or refine, or a"
                       " cell of NAS-Bench-201 in quotes"),
    "output": Option(None, "PATH", "where to write, without an ending (default: network in the run's folder)",
                     file_to_write),
    "part": Option(None, "NAME", "the name of a module in the network, such as net, in place of the whole"),
    "dynamic": Option(True, "false", "whether a file takes batches of any size; false: of the run's size alone",
                      check_bool),
    "batch_dims": Option(None, "{INPUT: N, …}", "the inputs, each with the dimension that is the batch, or null, as in"
                         ' batch_dims="{tokens: 1, hidden: 0}"; others are left out (default: what the network says, or'
                         " all that it is called with, with the batch in dimension 0)", _batch_dims),
    "tolerance": Option(TOLERANCE, "X", "the largest difference from the network's outputs, in units of the largest"
                        " output, or of 1 if that is smaller", check_positive),
    "opset": Option(None, "N", "the version of ONNX's operators (default: the exporter's)", at_least(1)),
    "calibrate": Option(None, "N", "the number of training batches for the running statistics of the architecture"
                        " (default: the run's); 0 leaves them as they are", at_least(0)),
    "threads": Option(1, "N", "the number of CPU threads", check_workers),
    "trust": SHARED["trust"],
}  # fmt: skip
EXAMPLES = """\
  advnas export RUN
  advnas export RUN onnx source
  advnas export RUN onnx select=refined output=deploy/net
  advnas export RUN/retrained onnx
"""


def main(arguments: Sequence[str]) -> None:
    """Run ``advnas export`` with the arguments of its command line.

    Args:
        arguments: What follows ``export`` on the command line.

    Raises:
        SystemExit: With status 1, after one line of explanation, if the input is bad or a file cannot be written.
    """
    if HELP & set(arguments):
        print(help_text())
        return
    with reading_options():
        options = read_settings(arguments)
    with working():
        from advnas_lightning.cli.exporting import export_run

        export_run(options)


def help_text() -> str:
    """What ``advnas export --help`` prints.

    Example:
        >>> print(help_text().splitlines()[0])
        usage: advnas export RUN [FORMAT ...] [OPTION=VALUE ...]
    """
    meanings = "; ".join(f"{name}: {each.meaning} ({each.suffix})" for name, each in FORMATS.items())
    about = (
        "Writes the network that a run has found into files for use elsewhere, and keeps a file only if it computes"
        f" what the network does. {meanings}. A search's network has the weights that all architectures share; a"
        " training from scratch (strategy=fixed, or the folder retrained of a run) has its own."
    )
    return help_page("advnas export RUN [FORMAT ...] [OPTION=VALUE ...]", about, EXAMPLES, OPTIONS)


def read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Read and check the options of ``advnas export``.

    Args:
        arguments: The arguments of the command line.

    Returns:
        The value of every option of ``OPTIONS``; ``formats`` is a list.

    Raises:
        OSError: There is no such run.
        ValueError: If an option is unknown or invalid, or if a format needs packages that are missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> run = Path(mkdtemp())
        >>> (run / "checkpoints").mkdir()
        >>> read_settings([str(run), "pt2", "torchscript"])["formats"]
        ['pt2', 'torchscript']
        >>> read_settings([str(run), "formats=onyx"])
        Traceback (most recent call last):
            ...
        ValueError: formats=onyx is unknown: did you mean onnx?
    """
    named = [each for each in arguments if each in FORMATS and not Path(each).is_dir()]
    options = read_options([each for each in arguments if each not in named], OPTIONS, command="advnas export")
    if named and any(each.startswith("formats=") for each in arguments):
        raise ValueError(f"{' '.join(named)} and formats= are two ways to say the same: give one of them")
    if named:
        options["formats"] = check_formats("formats", named)
    if options["select"] is not None and options["genotype"] is not None:
        raise ValueError("select and genotype both name an architecture: give one of them")
    missing = missing_extra(options["formats"])
    if missing is not None:
        raise ValueError(missing)
    if not Path(options["RUN"]).exists():
        formats = ", ".join(FORMATS)
        raise FileNotFoundError(f"{plain(options['RUN'])}: there is no such folder, and the formats are {formats}")
    checkpoint_in(options["RUN"])
    return options
