"""Writes a report: its figures, its tables and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advnas_lightning.report.collection import Collection, collect
from advnas_lightning.report.figures import make_plots
from advnas_lightning.report.page import write_page
from advnas_lightning.report.paper_tables import build_table
from advnas_lightning.report.plans import TABLES
from advnas_lightning.report.plots import save_plot
from advnas_lightning.report.toy_table import build_toy_table
from advnas_lightning.runs import write_text
from advnas_lightning.validate import check_folder

__all__ = ["report"]


def report(places: Sequence[str | Path], folder: str | Path = "report") -> Collection:
    """Read runs, finished or not, and write a report on them.

    Args:
        places: The runs' folders, or folders that contain some at any depth.
        folder: The folder of the report. Files of an older report in it are replaced, each as a whole.

    Returns:
        The runs, and the folders that could not be read.

    Raises:
        ValueError: If there is no run to report on, or if the folder of the report is a file.

    Example:
        >>> report(["no_such_folder"])
        Traceback (most recent call last):
            ...
        ValueError: there is nothing to report in no_such_folder: there is no such folder
    """
    folder = check_folder("output", folder)
    collection = collect(places)
    if not collection.runs:
        raise ValueError(f"there is nothing to report in {', '.join(map(str, places))}: {_why_nothing(collection)}")
    folder.mkdir(parents=True, exist_ok=True)
    plots = [(plot, save_plot(plot, folder)) for plot in make_plots(collection.runs)]
    filled = [build_toy_table(collection.runs), *(build_table(plan, collection.runs) for plan in TABLES)]
    tables = [table for table in filled if table is not None]
    for table in tables:
        for ending, text in (("md", table.to_markdown()), ("csv", table.to_csv()), ("tex", table.to_latex())):
            write_text(folder / f"{table.name}.{ending}", text)
    write_page(folder / "report.html", collection, plots, tables)
    return collection


def _why_nothing(collection: Collection) -> str:
    if collection.skipped:
        more = f" ({len(collection.skipped)} folders skipped)" if len(collection.skipped) > 1 else ""
        return f"{collection.skipped[0][1]}{more}"
    if collection.refused:
        return f"{collection.refused[0]} holds nothing but a configuration"
    return "no folder has the files of a run"
