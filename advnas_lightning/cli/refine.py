"""``advnas refine RUN`` lets short trainings decide between what a search has found, and looks around the best one.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from advnas_lightning.cli.options import HELP
from advnas_lightning.cli.refine_options import help_text, read_settings
from advnas_lightning.texts import encodable


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The arguments; by default those of the process.

    Raises:
        SystemExit: With status 1, after one line of explanation, if the input is bad; with 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if HELP & set(arguments):
        print(help_text())
        return
    try:
        options = read_settings(arguments)
    except (OSError, ValueError) as error:
        _stop(str(error))
    try:
        from advnas_lightning.cli.refining import refine_run

        refine_run(options, arguments)
    except KeyboardInterrupt:
        print("error: interrupted; the same line goes on where it was", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from advnas_lightning.cli.errors import explain

        line = explain(error)
        if line is None:
            raise
        _stop(line)


def _stop(line: str) -> NoReturn:
    print(f"error: {encodable(line, sys.stderr)}", file=sys.stderr)
    sys.exit(1)
