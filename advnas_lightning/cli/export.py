"""``advnas export RUN`` writes the network that a run has found into files for use elsewhere.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advnas_lightning.cli.answering import reading_options, working
from advnas_lightning.cli.options import HELP, SHARED, Option, help_page, read_options
from advnas_lightning.export.formats import FORMATS, check_formats, missing_extra
from advnas_lightning.runs import checkpoint_in
from advnas_lightning.texts import plain
from advnas_lightning.validate import check_bool, check_int, check_one_of, check_positive, check_workers

__all__ = ["OPTIONS", "help_text", "main", "read_settings"]

KINDS = ("argmax", "process_best", "ranked", "refined")  # of genotype.SELECTIONS and LATER, which need PyTorch
TOLERANCE = 1e-4  # as in export.network
OPTIONS = {
    "RUN": SHARED["RUN"],
    "formats": Option("onnx", "a,b,…", f"the formats: {', '.join(FORMATS)}; their names alone will do, as in"
                      " advnas export RUN onnx pt2"),
    "select": Option(None, "KIND", f"which architecture of the run's genotype.json: {', '.join(KINDS)} (default: the"
                     " one that the run selected)"),
    "genotype": Option(None, "FILE", "another architecture of the same space: a file of advnas rank or refine, or a"
                       " cell of NAS-Bench-201 in quotes"),
    "output": Option(None, "PATH", "where to write, without an ending (default: network in the run's folder)"),
    "part": Option(None, "NAME", "the name of a module in the network, such as net, in place of the whole"),
    "dynamic": Option(True, "false", "whether a file takes batches of any size; false: of the run's size alone"),
    "batch_dims": Option(None, "{INPUT: N, …}", "the inputs, each with the dimension that is the batch, or null, as in"
                         ' batch_dims="{tokens: 1, hidden: 0}"; others are left out (default: what the network says, or'
                         " all that it is called with, with the batch in dimension 0)"),
    "tolerance": Option(TOLERANCE, "X", "the largest difference from the network's outputs, in units of the largest"
                        " output, or of 1 if that is smaller"),
    "opset": Option(None, "N", "the version of ONNX's operators (default: the exporter's)"),
    "calibrate": Option(None, "N", "the number of training batches for the running statistics of the architecture"
                        " (default: the run's); 0 leaves them as they are"),
    "threads": Option(1, "N", "the number of CPU threads"),
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
    options["formats"] = check_formats("formats", named or options["formats"])
    _check(options)
    missing = missing_extra(options["formats"])
    if missing is not None:
        raise ValueError(missing)
    if not Path(options["RUN"]).exists():
        formats = ", ".join(FORMATS)
        raise FileNotFoundError(f"{plain(options['RUN'])}: there is no such folder, and the formats are {formats}")
    checkpoint_in(options["RUN"])
    return options


def _check(options: Mapping[str, Any]) -> None:
    if options["select"] is not None:
        check_one_of("select", options["select"], KINDS)
        if options["genotype"] is not None:
            raise ValueError("select and genotype both name an architecture: give one of them")
    for name, least in {"opset": 1, "calibrate": 0}.items():
        if options[name] is not None:
            check_int(name, options[name], least=least)
    check_workers("threads", options["threads"])
    check_positive("tolerance", options["tolerance"])
    check_bool("dynamic", options["dynamic"])
    check_bool("trust", options["trust"])
    dims = options["batch_dims"]
    if dims is not None and not isinstance(dims, dict):
        raise ValueError(f'batch_dims={plain(str(dims))}: give the inputs too, as in batch_dims="{{tokens: 1}}"')
    for name, dim in (dims or {}).items():
        if dim is not None:
            check_int(f"batch_dims: {name}", dim, least=0)
    output = options["output"]
    if output is not None and (Path(str(output)).is_dir() or not Path(str(output)).parent.is_dir()):
        raise ValueError(f"output={output}: give the path of a file without its ending, in a folder that is there")
