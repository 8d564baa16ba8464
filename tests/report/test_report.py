"""The command line: what is written, what is said, and the page in a browser."""

from __future__ import annotations

import errno
import os
import re
import webbrowser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from advnas_lightning.report.__main__ import main
from tests.support.made_up_runs import write_run
from tests.support.speed import slow_but

FIGURES = ["cells_cifar10", "fig1", "fig2", "fig2_time", "fig3", "fig3_time", "fig4"]


def test_figures_and_tables_are_written(report: Path) -> None:
    expected = {f"{name}.{ending}" for name in FIGURES for ending in ("png", "svg")}
    expected |= {f"{name}.{ending}" for name in ("toy", "table2") for ending in ("md", "csv", "tex")} | {"report.html"}
    assert {path.name for path in report.iterdir()} == expected
    for name in FIGURES:
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (report / f"{name}.svg").read_text()


@pytest.mark.parametrize("kind", ["text", "figure"])
def test_a_full_disk_leaves_the_files_of_the_report_before(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", task="toy")
    arguments = [str(tmp_path / "run"), "-o", str(tmp_path / "report")]
    main(arguments)
    before = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}

    def write_half(self: object, first: Any, *others: Any, **options: Any) -> None:
        path = self if isinstance(self, Path) else first
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((Path, "write_text") if kind == "text" else (Figure, "savefig")), write_half)
    with pytest.raises(SystemExit):
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: .*No space left on device: '.*/report/fig1\.(svg|png)'", line)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


def test_the_page_needs_no_other_file(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert not re.search(r'\ssrc="|@import|<link [^>]*href="(?!data:)', page)
    assert not re.search(r'href="https?://', page.replace('="http://www.w3.org/1999/xlink"', ""))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "mine<b>" not in page  # names are text
    for target in re.findall(r'href="([^"#:]+)"', page):
        assert (report / target).exists(), target


@pytest.mark.parametrize(("done", "enlarged"), slow_but([(3, True), (40, False)], [(3, True)]))
def test_entropies_of_searches_that_have_hardly_begun_are_enlarged(done: int, enlarged: bool, tmp_path: Path) -> None:
    for strategy in ("advantage", "gdas"):
        write_run(tmp_path / "runs" / strategy, strategy=strategy, task="toy", epochs=40, done=done)
    main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "0 is a search whose choice is made." in page
    assert ("Not all axes begin there." in page) == enlarged


def test_an_option_as_other_commands_have_it_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs")
    with pytest.raises(SystemExit) as stop:
        main(["runs", "output=other"])
    assert stop.value.code != 0
    assert "no folder 'output=other', and an option is given as in --output DIR\n" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_folder_may_have_a_name_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "seed=0")
    main(["seed=0"])
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.usefixtures("no_figures")
def test_what_was_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "0")
    write_run(tmp_path / "runs" / "1", seed=1, done=3)
    (tmp_path / "runs" / "0" / "genotype.json").write_text("?")
    main([str(tmp_path / "runs"), str(tmp_path / "gone"), "-o", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "2 runs: 1 finished, 1 unfinished" in printed
    assert "2 broken files or folders, 1 of them skipped" in printed
    assert re.search(r"gone: there is no such folder", printed)
    assert re.search(r"runs/0: genotype.json: it is no JSON", printed)
    assert printed.strip().endswith("out/report.html")


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_to_report_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: bool) -> None:
    if broken:
        (write_run(tmp_path / "runs") / ".hydra" / "config.yaml").unlink()
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "-o", str(tmp_path / "report")])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: there is nothing to report in [^\n]+\n", printed.err)
    assert not (tmp_path / "report").exists()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    with pytest.raises(SystemExit):
        main([str(tmp_path), "-o", str(tmp_path / "run" / "summary.json")])
    assert capsys.readouterr().err.endswith("summary.json is a file: name a folder\n")


def test_the_same_runs_give_the_same_figures(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", task="toy", epochs=1)
    texts = []
    for name in ("one", "two"):
        main([str(tmp_path / "runs"), "-o", str(tmp_path / name)])
        texts.append((tmp_path / name / "fig1.svg").read_text())
    assert texts[0] == texts[1]


def test_a_real_run_is_reported(toy: Path) -> None:
    main(["run"])
    page = Path("report", "report.html").read_text()
    assert {"fig1.png", "fig4.svg", "report.html"} <= {path.name for path in Path("report").iterdir()}
    assert "1 seed for each curve." in page
    header, *rows = (toy / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("seconds")
    seconds = [float(value) for row in rows if (value := row.split(",")[column])]
    assert len(seconds) == 2  # epochs
    assert 0 < seconds[0] < seconds[1]


def test_the_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: advnas report ")
    assert printed.count("\n  advnas report ") == 2  # examples
    assert all(option in printed for option in ("RUNS", "--output DIR", "--open"))


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("opens", [True, False])
def test_the_page_is_opened(
    opens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", task="toy", epochs=1)
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or opens)
    main([str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--open"])
    assert opened == [(tmp_path / "out" / "report.html").as_uri()]
    assert ("no browser" in capsys.readouterr().err) is not opens


@pytest.mark.usefixtures("no_figures")
def test_starts_that_were_refused_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "0", task="toy", epochs=1)
    for name in ("1", "2"):
        refused = write_run(tmp_path / "runs" / name, done=0)
        for file in ("metrics.csv", "genotype.json", "checkpoints/last.ckpt"):
            (refused / file).unlink()
    (tmp_path / "runs" / "2" / "error.txt").write_text("it failed")  # and was no start that was refused
    main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "2 runs: 1 failed, 1 finished" in printed
    assert "1 folder left out, which holds nothing but a configuration" in printed
    assert "1 folder is left out" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "runs" / "1"), "--output", str(tmp_path / "out")])
    assert "holds nothing but a configuration" in capsys.readouterr().err


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", epochs=100, done=3)
    (run / "error.txt").write_text("out of <memory>\n\nTraceback")
    main([str(run), "--output", str(tmp_path / "out")])
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<dt>Error</dt><dd class="bad">out of &lt;memory&gt;</dd>' in page
    assert "No run has finished yet" in page
    assert "dotted line" not in page  # it is at epoch 50, which no run has reached
