"""Figures: legends that leave room and stay in the picture, single points, plain numbers on the axes."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from advnas_lightning.report.collection import collect
from advnas_lightning.report.figures import make_plots
from advnas_lightning.report.panels import DASHES, HIGHEST, PAPERS
from advnas_lightning.report.plots import Plot, save_plot
from tests.support.made_up_runs import write_run

SETTINGS = {
    "task.data.a_rather_long_name_of_a_setting_of_ones_own": "and a value that is just as long",
    "task.data.image_size": 16,
}


def plots_of(folder: Path) -> dict[str, Plot]:
    return {plot.name: plot for plot in make_plots(collect([folder]).runs)}


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


def tick_texts(axes: Axes) -> list[str]:
    offsets = [axis.get_offset_text().get_text() for axis in (axes.xaxis, axes.yaxis)]
    return [*offsets, *(label.get_text() for label in axes.get_yticklabels())]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Runs of many strategies with many settings, whose names are long."""
    for number in range(16):
        strategy = ("advantage", "gdas", f"{number} of my own strategies, with a long name")[number % 3]
        settings = {} if number % 2 else {**SETTINGS, "task.data.batch_size": number}
        write_run(tmp_path / f"c{number}", strategy=strategy, epochs=4, settings={"task.data": {}, **settings})
        write_run(tmp_path / f"t{number}", strategy=strategy, task="toy", epochs=1 + number % 4)
    return tmp_path


@pytest.mark.slow
def test_legends_take_a_quarter_at_most_and_stay_in_the_picture(many: Path) -> None:
    plots = plots_of(many)
    assert len(plots) >= 4
    for plot in plots.values():
        figure = drawn(plot.figure)
        legends = [legend.get_window_extent() for legend in figure.legends]
        assert sum(box.height for box in legends) <= HIGHEST * figure.bbox.height
        for box in [*legends, *(text.get_window_extent() for text in figure.texts)]:
            assert box.x0 >= -1
            assert box.x1 <= figure.bbox.width + 1
            assert box.y0 >= -1
            assert box.y1 <= figure.bbox.height + 1
        tops = [box.y1 for box in legends]
        for axes in figure.axes:
            inside = axes.get_tightbbox()
            assert inside is not None
            assert inside.x0 >= -1
            assert inside.x1 <= figure.bbox.width + 1
            assert inside.y0 >= max(tops, default=0) - 1


def test_each_setting_has_a_kind_of_line_that_the_legend_names(many: Path) -> None:
    plot = plots_of(many)["fig1"]
    assert sorted(plot.dashes) == ["1 epoch", "2 epochs", "3 epochs", "4 epochs"]
    assert set(plot.dashes.values()) <= set(DASHES)
    lines = {line.get_linestyle() for line in plot.figure.axes[0].lines}
    assert len(lines) > 1
    texts = [text.get_text() for legend in plot.figure.legends for text in legend.get_texts()]
    assert set(plot.dashes) <= set(texts)
    assert "${task.epochs}" not in " ".join(texts)
    assert "None" not in " ".join(texts)


def test_settings_of_which_there_are_too_many_are_counted(tmp_path: Path) -> None:
    for epochs in range(1, len(DASHES) + 3):
        write_run(tmp_path / str(epochs), task="toy", epochs=epochs)
    plot = plots_of(tmp_path)["fig1"]
    assert len(plot.dashes) == len(DASHES)
    assert "2 more settings are left out of the figure." in plot.caption


def test_the_papers_settings_are_a_solid_line(tmp_path: Path) -> None:
    write_run(tmp_path / "0", task="toy", epochs=20)
    for seed in (0, 1):
        write_run(tmp_path / f"gdas{seed}", task="toy", epochs=8, strategy="gdas", seed=seed)
    plot = plots_of(tmp_path)["fig1"]
    assert plot.dashes == {PAPERS: "solid", "8 epochs": DASHES[1]}


def test_a_single_point_is_drawn_as_a_point_in_the_middle(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / str(seed), task="ptb", epochs=1, seed=seed)
    (axes,) = drawn(plots_of(tmp_path)["fig4"].figure).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [1.0]  # type: ignore[union-attr]
    assert line.get_marker() == "o"
    assert line.get_markevery() == 1
    low, high = axes.get_xlim()
    assert low <= 0.5
    assert high >= 1.5


def test_axes_have_plain_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0", task="ptb", epochs=3)
    rows = ["entropy,epoch,step", *(f"{1.3862 + 1e-7 * epoch},{epoch},{100 * epoch}" for epoch in range(3))]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    (axes,) = drawn(plots_of(tmp_path)["fig4"].figure).axes
    offset_x, offset_y, *labels = tick_texts(axes)
    assert (offset_x, offset_y) == ("", "")
    assert all(len(label) <= 6 for label in labels)
    low, high = axes.get_ylim()
    assert high - low >= 0.019  # a difference of 1e-7 is none


def test_the_views_of_panels_hold_all_that_is_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", task="toy", epochs=6)
    rows = ["epoch,step,test/loss", *(f"{step // 100},{step},{0.033 / step * 10}" for step in range(10, 600, 10))]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "report").mkdir()
    plot = plots_of(tmp_path)["fig1"]
    svg = save_plot(plot, tmp_path / "report")
    size = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert size is not None
    with mpl.rc_context({"font.size": 10}):  # matplotlib's ticks depend on it, and "3.5" is wider than "3"
        left = float(size[1]) * plot.views()[0]["view"][0]
    labels = [float(x) for x in re.findall(r'x="([\d.]+)"[^>]*rotate\(-90[^>]*>100 × test loss', svg)]
    assert len(labels) == 2
    assert left < labels[0] - 6  # a letter is that high
