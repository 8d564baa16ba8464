"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advnas_lightning.report.figures import Plot
from advnas_lightning.report.palette import rank, styles
from advnas_lightning.report.runs import Collection, Run
from advnas_lightning.report.tables import Table
from advnas_lightning.runs import CHECKPOINTS, CONFIG, HYDRA, OVERRIDES
from advnas_lightning.texts import plain

__all__ = ["write_page"]

# The result that the list of runs shows, by task: its key in the summary, and its unit.
RESULTS = {
    "toy": ("argmax/edges_right", "edges right"),
    "cifar10": ("argmax/cifar10_test", "% accuracy"),
    "ptb": ("selected/test/perplexity", "test perplexity"),
}


def write_page(path: Path, collection: Collection, plots: Sequence[tuple[Plot, str]], tables: Sequence[Table]) -> None:
    """Write the page ``report.html``.

    Args:
        path: The file. The figures and tables lie beside it, as files of their own.
        collection: The runs that the page lists.
        plots: The figures and their SVG. Their legends are cut off, because the page has a chooser.
        tables: The tables that the page shows.
    """
    environment = Environment(
        loader=PackageLoader("advnas_lightning.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    chosen = sorted({name for plot, _ in plots if plot.is_curves for name in plot.strategies}, key=rank)
    states = [run.state for run in collection.runs]
    page = environment.get_template("page.html.jinja").render(
        css=_part("page.css"),
        script=_part("page.js"),
        counts={state: states.count(state) for state in ("finished", "unfinished", "failed")},
        styles=styles(chosen),
        plots=[(plot, _inline(plot, svg)) for plot, svg in plots],
        tables=tables,
        runs=[_listed(run, path.parent) for run in collection.runs],
        broken=[(_shown(folder), reason) for folder, reason in collection.broken],
    )
    path.write_text(page, encoding="utf-8")


def _part(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _inline(plot: Plot, svg: str) -> Markup:
    """The figure's SVG for a page with other figures: its ids are unique, and each artist names its strategy."""
    size = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert size is not None
    width, height = map(float, size.groups())
    for legend in plot.figure.legends:  # a legend lies below everything else
        height -= legend.get_window_extent().transformed(plot.figure.dpi_scale_trans.inverted()).y1 * 72
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = re.sub(r'<g id="strategy--(.+?)--\d+-\w+">', r'<g data-strategy="\1">', svg)
    svg = re.sub(r"<[^>]*>", lambda tag: _renamed(tag[0], plot.name), svg)
    head = f'<svg viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{plot.name}">'
    return Markup(head + svg)


def _renamed(tag: str, name: str) -> str:
    """A tag whose ids, and references to ids, begin with a name."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    return tag.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')


def _listed(run: Run, page: Path) -> dict[str, Any]:
    """The texts and numbers of one run in the list of runs."""
    key, unit = RESULTS.get(run.task, ("loss", "loss"))
    value = run.number(key)
    if value is None and run.task == "cifar10":  # a run without the benchmark's table
        key, unit = "selected/test/accuracy", "test accuracy"
        value = run.number(key)
    planned = run.setting("trainer.max_epochs")
    of = f" of {planned}" if isinstance(planned, int) and run.state != "finished" else ""
    return {
        "folder": _shown(run.folder),
        "strategy": run.strategy,
        "order": rank(run.strategy)[0],
        "task": run.task + (" + zero op" if run.zero_op else ""),
        "seed": run.seed,
        "state": run.state,
        "epochs": run.epochs,
        "epochs_text": f"{run.epochs}{of}",
        "minutes": None if run.number("seconds") is None else (run.number("seconds") or 0.0) / 60,
        "result": value,
        "result_text": "" if value is None else f"{value:.4g} {unit}",
        "settings": " ".join(run.overrides),
        "links": [
            (_label(name), quote(os.fsencode(os.path.relpath(run.folder / name, page)))) for name in _ordered(run.files)
        ],
        "problems": run.problems,
    }


def _ordered(files: Sequence[str]) -> list[str]:
    """The names of files, those of the configuration first."""
    return sorted(files, key=lambda name: (name != CONFIG, name != OVERRIDES, "/" in name, name))


def _label(name: str) -> str:
    short = name.removeprefix(f"{HYDRA}/").removeprefix(f"{CHECKPOINTS}/")
    return {CONFIG: "config", OVERRIDES: "overrides"}.get(name, plain(short))


def _shown(folder: Path) -> str:
    """The folder's path, relative to the current folder if it lies in it."""
    relative = os.path.relpath(folder)
    return plain(relative if not relative.startswith("..") else str(folder))
