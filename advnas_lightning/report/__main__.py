"""``python -m advnas_lightning.report RUNS...`` makes tables, figures and an HTML page from the files of runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advnas_lightning.report.figures import make_plots, save_plot
from advnas_lightning.report.page import write_page
from advnas_lightning.report.plans import TABLES
from advnas_lightning.report.runs import Collection, collect
from advnas_lightning.report.tables import build_table
from advnas_lightning.texts import encodable

NAMED = 10  # the terminal names at most this many broken files and folders, and the page names all


def report(places: Sequence[str | Path], folder: str | Path = "report") -> Collection:
    """Read runs, finished or not, and write a report on them.

    Args:
        places: The runs' folders, or folders that contain some at any depth.
        folder: The folder of the report. Files of an older report in it are replaced.

    Returns:
        The runs, and the folders that could not be read.

    Raises:
        ValueError: If there is no run to report on.
    """
    collection = collect(places)
    if not collection.runs:
        _, reason = collection.skipped[0] if collection.skipped else (None, "no folder has the files of a run")
        more = f" ({len(collection.skipped)} folders skipped)" if len(collection.skipped) > 1 else ""
        raise ValueError(f"there is nothing to report in {', '.join(map(str, places))}: {reason}{more}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plots = [(plot, save_plot(plot, folder)) for plot in make_plots(collection.runs)]
    tables = [table for plan in TABLES if (table := build_table(plan, collection.runs)) is not None]
    for table in tables:
        for ending, text in (("md", table.to_markdown()), ("csv", table.to_csv()), ("tex", table.to_latex())):
            (folder / f"{table.plan.name}.{ending}").write_text(text, encoding="utf-8")
    write_page(folder / "report.html", collection, plots, tables)
    return collection


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The arguments; by default those of the process.

    Raises:
        SystemExit: With status 1, after one line of explanation, if there is nothing to report.
    """
    parser = argparse.ArgumentParser(
        prog="python -m advnas_lightning.report", description="Tables, figures and a page from what runs left."
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="a run's folder, or one with runs somewhere inside")
    parser.add_argument("-o", "--output", default="report", metavar="DIR", help="where to (default: report)")
    options: Any = parser.parse_args(arguments)
    try:
        collection = report(options.runs, options.output)
    except (OSError, ValueError) as error:
        print(f"error: {encodable(str(error), sys.stderr)}", file=sys.stderr)
        sys.exit(1)
    states = [run.state for run in collection.runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    print(f"{len(states)} runs: {counts}")
    broken = collection.broken
    if broken:
        print(f"{len(broken)} broken files or folders, {len(collection.skipped)} of them folders that were skipped:")
        for place, reason in broken[:NAMED]:
            print(f"  {encodable(f'{place}: {reason}')}")
        if len(broken) > NAMED:
            print(f"  and {len(broken) - NAMED} more, which the page names")
    print(encodable(str(Path(options.output) / "report.html")))


if __name__ == "__main__":
    main()
