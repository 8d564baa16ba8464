"""``advnas report RUNS...`` makes tables, figures and an HTML page from the files of runs.

Only the standard library is imported before the arguments are read, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMED = 10  # the terminal names at most this many broken files and folders, and the page names all
EXAMPLES = """\
examples:
  advnas report multirun                          all runs below multirun, into the folder report
  advnas report outputs/toy RUN -o toy --open     two places, into the folder toy, and show the page
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The arguments; by default those of the process.

    Raises:
        SystemExit: With status 1, after one line of explanation, if there is nothing to report.
    """
    parser = argparse.ArgumentParser(
        prog="advnas report",
        description="Compares runs: writes a page (report.html), its figures (PNG, SVG) and its tables\n"
        "(Markdown, CSV, LaTeX) from the files that finished and unfinished runs have left.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUNS", type=_place, help="a run's folder, or a folder with runs below it"
    )
    parser.add_argument(
        "-o", "--output", default="report", metavar="DIR", help="the folder that is written (default: report)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    options: Any = parser.parse_args(arguments)

    from advnas_lightning.report.writing import report
    from advnas_lightning.texts import counted, encodable

    try:
        collection = report(options.runs, options.output)
    except (OSError, ValueError) as error:
        print(f"error: {encodable(str(error), sys.stderr)}", file=sys.stderr)
        sys.exit(1)
    states = [run.state for run in collection.runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    print(f"{counted(len(states), 'run')}: {counts}")
    if collection.refused:
        number = len(collection.refused)
        hold = "which holds" if number == 1 else "which hold"
        print(f"{counted(number, 'folder')} left out, {hold} nothing but a configuration: refused, or just begun")
    broken = collection.broken
    if broken:
        skipped = len(collection.skipped)
        print(f"{counted(len(broken), 'broken file or folder', 'broken files or folders')}, {skipped} of them skipped:")
        for place, reason in broken[:NAMED]:
            print(f"  {encodable(f'{place}: {reason}')}")
        if len(broken) > NAMED:
            print(f"  and {len(broken) - NAMED} more, which the page names")
    page = Path(options.output) / "report.html"
    print(encodable(str(page)))
    if options.open and not webbrowser.open(page.resolve().as_uri()):
        print("no browser could be opened: open the page by its path", file=sys.stderr)


def _place(argument: str) -> str:
    """A folder, and not an option as other commands have them."""
    if "=" in argument and not os.path.exists(argument):
        raise argparse.ArgumentTypeError(f"there is no folder {argument!r}, and an option is given as in --output DIR")
    return argument


if __name__ == "__main__":
    main()
