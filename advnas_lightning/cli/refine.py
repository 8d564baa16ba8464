"""``advnas refine RUN`` lets short trainings decide between what a search has found, and looks around the best one.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from advnas_lightning.cli.answering import reading_options, working
from advnas_lightning.cli.options import HELP
from advnas_lightning.cli.refine_options import help_text, read_settings


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
    with reading_options():
        options = read_settings(arguments)
    with working(goes_on=True):
        from advnas_lightning.cli.refining import refine_run

        refine_run(options, arguments)
