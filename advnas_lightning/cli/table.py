"""The command ``advnas table``: NAS-Bench-201 as a table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

ENVIRONMENT = "NASBENCH201_TABLE"
EPILOG = """\
examples:
  advnas table convert NATS-tss-v1_0-3ffb9-simple TABLE.csv
  advnas table show --table TABLE.csv '|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|none~1|nor_conv_3x3~2|'
  advnas table show --table nasbench201 RUN"""


def main(arguments: Sequence[str]) -> None:
    """Run ``advnas table`` with the arguments of its command line.

    Args:
        arguments: What follows ``table`` on the command line.

    Raises:
        SystemExit: The input is bad. The exit status is 1, and one line explains it.

    Example:
        >>> main(["show", "nowhere.json"])
        Traceback (most recent call last):
            ...
        SystemExit: 1
    """
    parser = argparse.ArgumentParser(
        prog="advnas table",
        description="The authors of NAS-Bench-201 trained all 15 625 cells. Convert their file, or look a cell up.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    converting = commands.add_parser(
        "convert", help="write NATS-Bench's files, or the extra's table, as a small CSV table"
    )
    converting.add_argument("source", metavar="SOURCE", help="the official file or folder, or nasbench201")
    converting.add_argument("target", metavar="TABLE.csv", help="the table to write, of a few megabytes")
    showing = commands.add_parser("show", help="print a cell's accuracies, ranks, parameters and multiply-accumulates")
    showing.add_argument("cell", metavar="CELL", help="|op~0|+|op~0|op~1|+|op~0|op~1|op~2|, a genotype.json, or a RUN")
    default = os.environ.get(ENVIRONMENT) or None
    showing.add_argument(
        "--table", default=default, metavar="TABLE", help=f"its path, or nasbench201; default: ${ENVIRONMENT}"
    )
    options: Any = parser.parse_args(arguments)
    try:
        _run(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _run(options: Any) -> None:
    from rich.console import Console

    from advnas_lightning.space.genotype import Genotype
    from advnas_lightning.tasks.cifar10.nasbench201 import convert, open_table, show

    if options.command == "convert":
        print(f"{options.target}: {convert(options.source, options.target)} cells")
    else:
        table = None if options.table is None else open_table(options.table)
        show(Genotype.read(options.cell), table, Console())
