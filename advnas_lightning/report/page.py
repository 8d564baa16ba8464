"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advnas_lightning.report.collection import Collection
from advnas_lightning.report.figures import TASKS
from advnas_lightning.report.findings import Finding, find
from advnas_lightning.report.listing import entry, shown_path
from advnas_lightning.report.networks import Networks
from advnas_lightning.report.palette import Style, rank, styles
from advnas_lightning.report.plots import INK, PAPER, RULE, SOFT, Dash, Plot
from advnas_lightning.report.tables import Table
from advnas_lightning.runs import write_text
from advnas_lightning.texts import counted

__all__ = ["write_page"]

STATES = ("finished", "unfinished", "failed")


def write_page(path: Path, collection: Collection, plots: Sequence[tuple[Plot, str]], tables: Sequence[Table]) -> None:
    """Write the page ``report.html``.

    Args:
        path: The file. The figures and tables lie beside it, as files of their own.
        collection: The runs that the page lists.
        plots: The figures and their SVG. Their titles and legends are cut off, because the page has its own.
        tables: The tables that the page shows.
    """
    environment = Environment(
        loader=PackageLoader("advnas_lightning.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"counted": counted}
    looks = styles(run.strategy for run in collection.runs)
    for line in (line for table in tables for line in table.lines):
        looks |= styles([line.strategy]) if line.strategy not in looks else {}
    places = {name: f"s{place}" for place, name in enumerate(looks)}
    networks = Networks.of(collection.runs)
    entries = [entry(run, path.parent, networks, looks[run.strategy].title) for run in collection.runs]
    chosen = sorted({name for plot, _ in plots for name in plot.strategies if plot.series}, key=rank)
    found = find(collection.runs, looks)
    states: list[str] = [run.state for run in collection.runs]
    page = environment.get_template("page.html.jinja").render(
        css=_part("page.css"),
        colours=_colours(looks, places),
        script=_part("page.js"),
        counts={state: states.count(state) for state in STATES},
        findings=[_shown(finding) for finding in found if len(finding.standings) > 1],
        alone=[finding for finding in found if len(finding.standings) == 1],
        chooser=[(name, places[name], looks[name]) for name in chosen],
        plots=[_figure(plot, svg, looks, places) for plot, svg in plots],
        places=places,
        tables=tables,
        notes=list(dict.fromkeys(note for table in tables for note in table.notes)),
        runs=entries,
        symbols=networks.symbols,
        legends={TASKS.get((task, False), task): networks.legend(task) for task in networks.colours},
        refused=[shown_path(folder) for folder in collection.refused],
        broken=[(shown_path(folder), reason) for folder, reason in collection.broken],
    )
    write_text(path, page)


def _part(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _colours(looks: Mapping[str, Style], places: Mapping[str, str]) -> Markup:
    """The strategies' colours as CSS variables, for a light and for a dark page."""
    light, dark = (
        "".join(f"--{place}:{getattr(looks[name], kind)};" for name, place in places.items())
        for kind in ("colour", "dark")
    )
    return Markup(
        f":root{{{light}}}\n"
        f"@media screen{{:root[data-theme=dark]{{{dark}}}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
    )


def _shown(finding: Finding) -> dict[str, Any]:
    """A finding with the places of its results on a line from 0 to 100."""
    values = [value for each in finding.standings for value in each.values.values() if abs(value) < float("inf")]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    room = 0.06 * (high - low) or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float | None:
        return round(100 * (value - low) / (high - low), 2) if abs(value) < float("inf") else None

    rows = [
        {
            "strategy": each.strategy,
            "label": each.label,
            "mean": finding.score.text(each.mean, finding.of),
            "at": place(each.mean),
            "dots": [
                (place(value), f"seed {seed}: {finding.score.text(value, finding.of)}")
                for seed, value in each.values.items()
                if place(value) is not None
            ],
        }
        for each in finding.standings
    ]
    return {"finding": finding, "rows": rows}


# -- figures -------------------------------------------------------------------------------------------------------


def _figure(plot: Plot, svg: str, looks: Mapping[str, Style], places: Mapping[str, str]) -> dict[str, Any]:
    """What the page needs of a figure.

    The page shows the panels alone, each by a view of the figure's SVG, so that a narrow page has them one below the
    other. The ids in the SVG are unique, and its colours are those of the page.
    """
    size = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert size is not None
    width, height = map(float, size.groups())
    panels = plot.views()
    widest = max(panel["view"][2] for panel in panels)
    views = [
        (
            f"{x * width - 2:.1f} {y * height - 2:.1f} {w * width + 4:.1f} {h * height + 4:.1f}",
            f"{100 * w / widest:.4g}%",  # so that all panels have one scale
        )
        for x, y, w, h in (panel["view"] for panel in panels)
    ]
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = re.sub(r'<g id="strategy--(.+?)--\d+-\w+">', r'<g data-strategy="\1">', svg)
    colours = {INK: "--ink", SOFT: "--soft", RULE: "--rule", PAPER: "--paper", "#000000": "--ink"}
    colours |= {looks[name].colour.lower(): f"--{places[name]}" for name in plot.strategies}
    if not plot.series:  # another drawing, which the page turns dark as a whole
        colours = {}
    svg = re.sub(r"<[^>]*>", lambda tag: _renamed(tag[0], plot.name, colours), svg)
    return {
        "plot": plot,
        "svg": Markup(f'<svg class="symbols" width="0" height="0" data-size="{width:.1f} {height:.1f}">{svg}'),
        "views": views,
        "panels": [{key: panel[key] for key in ("box", "x", "curves")} for panel in panels],
        "dashes": [(name, _dash_array(dash)) for name, dash in plot.dashes.items()],
    }


def _renamed(tag: str, name: str, colours: Mapping[str, str]) -> str:
    """A tag whose ids, and references to ids, begin with a name, and whose colours are variables of the page."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = tag.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    if not colours or "style=" not in tag:
        return tag
    return re.sub(
        r"#[0-9a-f]{6}\b",
        lambda found: f"var({colours[found[0]]})" if found[0] in colours else found[0],
        tag,
    )


def _dash_array(dash: Dash) -> str:
    """A kind of line as the attribute of an SVG, for a line of 1.4 points."""
    return "none" if isinstance(dash, str) else " ".join(f"{1.4 * length:.3g}" for length in dash[1])
