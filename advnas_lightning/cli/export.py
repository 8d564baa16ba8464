"""``advnas export RUN`` writes the network that a run has found into files for use elsewhere.

PyTorch is imported after the options are read, so that ``--help`` and a wrong option are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from advnas_lightning.cli.answering import reading_options, working
from advnas_lightning.cli.export_options import help_text, read_settings
from advnas_lightning.cli.options import HELP


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The arguments; by default those of the process.

    Raises:
        SystemExit: With status 1, after one line of explanation, if the input is bad or a file cannot be written.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if HELP & set(arguments):
        print(help_text())
        return
    with reading_options():
        options = read_settings(arguments)
    with working():
        from advnas_lightning.cli.exporting import export_run

        export_run(options)
