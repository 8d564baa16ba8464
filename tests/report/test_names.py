"""Names of any kind in drawings, figures, tables and the page: each is shown, and read as nothing else."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from advnas_lightning.report import drawing
from advnas_lightning.report.__main__ import main
from advnas_lightning.report.collection import collect
from advnas_lightning.report.figures import make_plots
from advnas_lightning.texts import plain, shortened
from tests.support.made_up_runs import write_run
from tests.support.names import NAMES, OBEYED
from tests.support.speed import slow_but

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # the font lacks some
each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
GRAPHS = {"graph": ("{}->1", "{}->2", "1->2"), "list": ("{}", "second", "third")}
PICTURES = list(itertools.product(("png", "svg", "pdf"), GRAPHS))


# -- drawings --------------------------------------------------------------------------------------------------------


@each_name
@pytest.mark.parametrize(("ending", "kind"), slow_but(PICTURES, [("png", "graph"), ("svg", "list")]))
def test_a_genotype_of_any_names_is_drawn(name: str, kind: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"drawn.{ending}"
    drawing.draw_genotype({edge.format(name): name for edge in GRAPHS[kind]}, path, title=name)
    if ending == "svg":
        ElementTree.parse(path)
    assert path.stat().st_size > 1000


@each_name
def test_a_drawing_shows_the_names_as_they_are(name: str, drawn: Callable[[dict[str, str]], Axes]) -> None:
    axes = drawn({f"a{name}": name, "other": "skip"})
    cells = axes.texts
    assert not any(text.get_parse_math() or text.get_usetex() for text in cells)
    longest = drawing.LONGEST_IN_LIST
    assert {shortened(f"a{name}", longest), shortened(name, longest)} <= {text.get_text() for text in cells}


def test_a_users_settings_of_latex_do_not_count(tmp_path: Path) -> None:
    with mpl.rc_context({"text.usetex": True}):
        drawing.draw_genotype({"a_b": "c^d"}, tmp_path / "drawn.png", title="100 %")


@pytest.mark.parametrize("count", [1, 20, 60, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_list_of_any_length_is_whole(count: int, drawn: Callable[[dict[str, str]], Axes]) -> None:
    axes = drawn({f"layers.{index}.a_rather_long_name_of_an_edge": f"candidate {index % 5}" for index in range(count)})
    figure = axes.get_figure()
    assert figure is not None
    every = [text.get_window_extent() for text in axes.texts]
    for box in [*every[:100], *every[-100:]]:
        assert box.x0 >= figure.bbox.x0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= figure.bbox.y0
        assert box.y1 <= figure.bbox.y1
    for index, box in enumerate(every[:200]):
        assert not any(box.overlaps(other) for other in every[index + 1 : 200])
    names = {text.get_text() for text in axes.texts}
    shown = min(count, drawing.MOST_ROWS - 1 if count > drawing.MOST_ROWS else count)
    assert sum(name.startswith("layers.") for name in names) == shown
    assert (f"and {count - shown} more" in names) is (count > shown)


def test_long_names_in_a_graph_have_room(drawn: Callable[[dict[str, str]], Axes]) -> None:
    node = "a_node_with_a_long_name_{}".format
    axes = drawn({f"{node(i)}->{node(j)}": 60 * "x" for i in range(4) for j in range(i + 1, 4)})
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 6 + 4
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_an_edge_from_a_node_to_itself_is_listed(drawn: Callable[[dict[str, str]], Axes]) -> None:
    texts = [text.get_text() for text in drawn({"a->a": "relu", "a->b": "tanh"}).texts]
    assert texts == ["a->a", "relu", "a->b", "tanh"]


# -- reports ---------------------------------------------------------------------------------------------------------


def write_named_runs(folder: Path) -> None:
    """Runs whose strategies, settings, overrides, edges, candidates and folders have all names."""
    write_run(folder / "plain" / "0", strategy="gdas")
    for index, name in enumerate(NAMES.values()):
        strategy = name if index % 2 else "advantage"
        run = write_run(folder / str(index), strategy="advantage", seed=index, settings={"strategy.own": plain(name)})
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps({**summary, "strategy": strategy}))
        found = {f"{name}->1": name, f"{name}->2": "skip_connect", "1->2": name}
        (run / "genotype.json").write_text(json.dumps({"selected": "argmax", "argmax": found, "process_best": None}))
        (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"+strategy.own={plain(name)}"]))
        with (run / "metrics.csv").open("a", newline="") as file:
            file.write("")
        if not {"/", "\0"} & set(name) and name.isprintable() and len(name) < 100:
            os.rename(run, folder / f"run {name}")
    broken = write_run(folder / os.fsdecode(b"\xff\x1b[31m\n"), seed=99)
    (broken / "summary.json").write_text("{")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attributes if name == "href"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    write_named_runs(folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["runs", "--output", "report"])
    return folder / "report"


def test_pictures_of_all_names_can_be_read(report: Path) -> None:
    for path in report.glob("*.svg"):
        ElementTree.parse(path)
    for path in report.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert max(picture.size) < 20_000
    assert len(list(report.glob("*.svg"))) == 4


def test_the_page_has_no_tag_that_a_name_has_made(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert not OBEYED.search(page.replace("\t", ""))
    tags = Tags()
    tags.feed(page)
    assert not {"b>&amp", "br"} & tags.seen
    assert page.count("</script>") == 1 + page.count('<script type="application/json">')
    assert not any(link.startswith("javascript") for link in tags.links)
    folder = report.parent / "report"
    for link in tags.links:
        if not link.startswith(("#", "data:")):
            assert (folder / os.fsdecode(_unquoted(link))).exists(), link


def _unquoted(link: str) -> bytes:
    return re.sub(rb"%([0-9A-F]{2})", lambda code: bytes.fromhex(code[1].decode()), link.encode())


def test_tables_of_all_names_keep_their_columns(report: Path) -> None:
    rows = list(csv.reader((report / "table2.csv").open(encoding="utf-8", newline="")))
    assert len({len(row) for row in rows}) == 1
    assert not any(field.startswith(("=", "+", "@")) for row in rows for field in row)
    lines = [line for line in (report / "table2.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}) == 1
    assert len(lines) == len(rows) // 2 + 2
    latex = (report / "table2.tex").read_text(encoding="utf-8")
    body = latex[latex.index(r"\midrule") : latex.index(r"\bottomrule")].splitlines()[1:]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body if line.strip()}) == 1
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    assert latex.count(r"\end{tabular}") == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("error:constrained_layout")
def test_a_legend_of_many_names_leaves_room_for_the_curves(tmp_path: Path) -> None:
    for index in range(24):
        write_run(tmp_path / str(index), strategy=f"{index} {60 * 'x'}", seed=0)
    for plot in make_plots(collect([tmp_path]).runs):
        FigureCanvasAgg(plot.figure).draw()
        assert all(axes.get_window_extent().height > 150 for axes in plot.figure.axes)


def test_a_legend_has_names_that_begin_with_an_underscore(tmp_path: Path) -> None:
    for strategy in ("_mine", "$x$", "gdas"):
        write_run(tmp_path / strategy, strategy=strategy)
    plots = make_plots(collect([tmp_path]).runs)
    for plot in plots:
        for legend in plot.figure.legends:
            assert sorted(text.get_text() for text in legend.get_texts()) == ["$x$", "GDAS", "_mine"]
            assert not any(text.get_parse_math() for text in legend.get_texts())
    assert any(plot.figure.legends for plot in plots)


@pytest.mark.usefixtures("no_figures")
def test_the_terminal_obeys_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("good"))
    for name in (b"\x1b[31mred", b"two\nlines", b"\xff", "\u202e".encode()):
        (write_run(Path(os.fsdecode(b"runs/" + name))) / ".hydra" / "config.yaml").unlink()
    main(["good", "runs", "--output", os.fsdecode(b"out\x1b[31m")])
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed)
    assert len(printed.splitlines()) == 2 + 4 + 1
    with pytest.raises(SystemExit):
        main(["missing\x1b[31m"])
    assert not OBEYED.search(capsys.readouterr().err)
