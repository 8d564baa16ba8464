import csv
import io
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from advnas_lightning.cli.table import main as table_main
from advnas_lightning.space import Genotype
from advnas_lightning.tasks.cifar10.nasbench201 import (
    COLUMNS,
    CSVTable,
    NATSBenchTable,
    convert,
    measure,
    open_table,
)
from advnas_lightning.tasks.cifar10.tables import ACCURACIES
from tests.support.benchmark_files import (
    CELLS,
    CONV,
    MEANING,
    NONE,
    POOL,
    SKIP,
    expected,
    write_file,
    write_folder,
)

DATA = Path(__file__).parents[3].parent / "shared" / "data"
REAL = DATA / "nasbench201.csv"
SAMPLE = DATA / "nats-bench-sample" / "NATS-tss-v1_0-3ffb9-simple"


def cell(text: str) -> Genotype:
    return Genotype.from_nasbench201(text)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASBENCH201_TABLE", raising=False)
    monkeypatch.setenv("COLUMNS", "120")  # the width that rich prints in


# -- CSV -------------------------------------------------------------------------------------------------------------

TEXT = f"""arch,cifar10_test,mine
{CONV},93.76,1e-3
{NONE},10.0,-2
{SKIP},84.5,7
{POOL},84.5,7
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TEXT)
    return path


def test_scores_are_the_columns(table: Path) -> None:
    for known in (CSVTable(table), CSVTable(str(table)), open_table(table)):
        assert known.scores(cell(CONV)) == {"cifar10_test": 93.76, "mine": 0.001}
        assert known.scores(cell(NONE)) == {"cifar10_test": 10.0, "mine": -2.0}


def test_the_caller_may_change_the_scores(table: Path) -> None:
    known = CSVTable(table)
    known.scores(cell(NONE)).clear()
    assert known.scores(cell(NONE)) == {"cifar10_test": 10.0, "mine": -2.0}


def test_equal_scores_share_the_better_rank(table: Path) -> None:
    known = CSVTable(table)
    assert [known.rank(cell(text), "cifar10_test") for text in CELLS] == [(1, 4), (4, 4), (2, 4), (2, 4)]
    assert [known.rank(cell(text), "mine") for text in CELLS] == [(3, 4), (4, 4), (1, 4), (1, 4)]


def test_an_unknown_cell_or_column_has_no_scores(table: Path) -> None:
    known = CSVTable(table)
    stranger = cell("|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|")
    assert known.scores(stranger) == {}
    assert known.rank(stranger, "cifar10_test") is None
    assert known.rank(cell(NONE), "cifar100_test") is None
    assert known.rank(cell(NONE), "arch") is None


def test_a_genotype_that_is_no_cell_is_refused(table: Path) -> None:
    with pytest.raises(ValueError, match=r"edges first, second"):
        CSVTable(table).scores(Genotype({"first": "none", "second": "none"}))


def test_columns_come_in_any_order_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(f'"a","arch","b"\r\n1,"{NONE}",2.5\r\n'.encode())
    assert CSVTable(path).scores(cell(NONE)) == {"a": 1.0, "b": 2.5}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "its first line must name a column 'arch'"),
        ("cell,cifar10_test\n", "its first line must name a column 'arch'"),
        ("arch\n", "its first line must name a column 'arch'"),
        ("arch,cifar10_test\n", "has no cells"),
        (f"arch,cifar10_test\n{NONE},10\n{SKIP}\n", "line 3: it has 1 fields, not 2"),
        (f"arch,cifar10_test\n{NONE},10,11\n", "line 2: it has 3 fields, not 2"),
        (f"arch,cifar10_test\n{NONE},10\n\n{SKIP},80\n", "line 3: it has 0 fields, not 2"),
        (f"arch,cifar10_test\n{NONE},10\n{SKIP},ten\n", "line 3: could not convert string to float: 'ten'"),
        (f"arch,cifar10_test\n{NONE},\n", "line 2: could not convert string to float: ''"),
        (b"\xff\xfe\x00", "cannot read the table"),
    ],
)
def test_a_malformed_table_names_the_file_and_line(tmp_path: Path, content: str | bytes, named: str) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (CSVTable, open_table):
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read(path)
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.csv"
    for read in (CSVTable, open_table):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read(path)
    with pytest.raises(ValueError, match="cannot read"):
        CSVTable(tmp_path)


def test_a_path_may_begin_at_home(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(table.parent))
    assert open_table("~/table.csv").scores(cell(NONE))["mine"] == -2


# -- the official format ---------------------------------------------------------------------------------------------

Write = Callable[..., Path]


@pytest.fixture(params=["folder", "file"])
def write_benchmark(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """``write_benchmark(indices)``: the official folder, or the official file, with those of ``CELLS``."""
    pytest.importorskip("nats_bench")

    def write(indices: Iterable[int] = range(len(CELLS))) -> Path:
        return {"folder": write_folder, "file": write_file}[request.param](tmp_path, indices)

    return write


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_official_scores_are_means_over_seeds(write_benchmark: Write) -> None:
    path = write_benchmark()
    known = NATSBenchTable(path)
    for index, text in enumerate(CELLS):
        for _ in range(2):  # a second answer is the same
            assert known.scores(cell(text)) == pytest.approx(expected(index), rel=1e-12)
    assert open_table(str(path)).scores(cell(SKIP)) == pytest.approx(expected(2), rel=1e-12)
    assert list(known.scores(cell(NONE))) == list(COLUMNS) == list(MEANING)
    assert known.rank(cell(NONE), "cifar10_test") is None


def test_official_files_may_lack_cells(write_benchmark: Write) -> None:
    known = NATSBenchTable(write_benchmark([0, 2]))
    assert known.scores(cell(NONE)) == {}  # named by the benchmark, but not in the files
    assert known.scores(cell(NONE.replace("none~2", "skip_connect~2"))) == {}  # not even named
    assert known.scores(cell("|none~0|")) == {}
    assert [(arch, dict(scores)) for arch, scores in known.cells()] == [
        (CELLS[index], pytest.approx(expected(index))) for index in (0, 2)
    ]


def test_a_folders_files_may_have_short_names(tmp_path: Path) -> None:
    pytest.importorskip("nats_bench")
    folder = write_folder(tmp_path, [1])
    (folder / "000001.pickle.pbz2").rename(folder / "1.pickle.pbz2")
    assert NATSBenchTable(folder).scores(cell(NONE)) == pytest.approx(expected(1))


def test_weights_of_a_folders_cells_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nats_bench = pytest.importorskip("nats_bench")
    create, created = nats_bench.create, []

    def noting(*arguments: Any, **options: Any) -> Any:
        created.append(create(*arguments, **options))
        return created[-1]

    monkeypatch.setattr(nats_bench, "create", noting)
    known = NATSBenchTable(write_folder(tmp_path))
    for text in CELLS:
        known.scores(cell(text))
    (api,) = created
    trainings = [arch for archs in api.arch2infos_dict.values() for arch in archs.values()]
    assert len(trainings) == 2 * len(CELLS)
    for arch in trainings:
        assert {result.net_state_dict for result in arch.all_results.values()} == {None}


def test_only_the_asked_cells_of_a_folder_are_read(tmp_path: Path) -> None:
    pytest.importorskip("nats_bench")
    folder = write_folder(tmp_path)
    (folder / "000000.pickle.pbz2").write_bytes(b"damaged")
    assert NATSBenchTable(folder).scores(cell(NONE)) == pytest.approx(expected(1))


def test_convert_writes_what_the_files_say(write_benchmark: Write, tmp_path: Path) -> None:
    source, target = write_benchmark(), tmp_path / "table.csv"
    before = sorted(source.parent.rglob("*"))
    target.write_text("an older one")
    assert convert(str(source), str(target)) == len(CELLS)
    lines = target.read_text().split("\n")
    assert lines[0] == "arch,cifar10_test,cifar100_test,imagenet16_test,cifar10_valid_12ep,cifar10_test_12ep"
    assert lines[-1] == ""
    assert len(lines) == len(CELLS) + 2
    for index, row in enumerate(rows(target)):
        assert row.pop("arch") == CELLS[index]
        assert {column: float(score) for column, score in row.items()} == pytest.approx(expected(index), abs=5e-5)
        assert all(re.fullmatch(r"\d+\.\d{4}", score) for score in row.values())
    table, official = CSVTable(target), NATSBenchTable(source)
    for text in CELLS:
        assert table.scores(cell(text)) == pytest.approx(official.scores(cell(text)), abs=5e-5)
    assert sorted(source.parent.rglob("*")) == sorted([*before, target])  # and nothing else is left


def test_convert_leaves_out_the_cells_that_the_files_lack(write_benchmark: Write, tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    assert convert(write_benchmark([3, 1]), target) == 2
    assert [row["arch"] for row in rows(target)] == [NONE, POOL]  # in the benchmark's order


def test_convert_writes_nothing_from_files_without_cells(write_benchmark: Write, tmp_path: Path) -> None:
    source, target = write_benchmark([]), tmp_path / "table.csv"
    with pytest.raises(ValueError, match="has no cells"):
        convert(source, target)
    target.write_text("an older one")
    with pytest.raises(ValueError, match="has no cells"):
        convert(source, target)
    assert target.read_text() == "an older one"
    assert sorted(tmp_path.iterdir()) == sorted([source, target])


def damage(path: Path, how: str) -> None:
    """As a download that broke off, or as something else of that name."""
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "other": b"<html>not found</html>\n"}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "other"])
@pytest.mark.parametrize("older", [None, "an older one"])
def test_convert_from_a_damaged_cell_writes_nothing(tmp_path: Path, how: str, older: str | None) -> None:
    pytest.importorskip("nats_bench")
    folder, target = write_folder(tmp_path), tmp_path / "table.csv"
    damage(folder / "000002.pickle.pbz2", how)
    if older is not None:
        target.write_text(older)
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is another test's question
        convert(folder, target)
    assert (target.read_text() if target.exists() else None) == older


def test_convert_leaves_no_half_written_file(tmp_path: Path) -> None:
    pytest.importorskip("nats_bench")
    folder = write_folder(tmp_path)
    damage(folder / "000002.pickle.pbz2", "cut")
    with pytest.raises(Exception):  # noqa: B017, PT011
        convert(folder, tmp_path / "table.csv")
    assert list(tmp_path.iterdir()) == [folder]


def test_convert_names_what_is_missing(write_benchmark: Write, tmp_path: Path) -> None:
    source = write_benchmark([0])
    with pytest.raises(ValueError, match=r"no NATS-Bench file or folder at .*nowhere"):
        convert(tmp_path / "nowhere", tmp_path / "table.csv")
    with pytest.raises(ValueError, match=r"no folder .*nowhere for table\.csv"):
        convert(source, tmp_path / "nowhere" / "table.csv")
    assert list(tmp_path.iterdir()) == [source]


# -- the command line ------------------------------------------------------------------------------------------------

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """``fails(*arguments)``: the only line that ``main`` explains its failure with."""

    def run(*arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as caught:
            table_main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert caught.value.code == 1
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1
        return captured.err

    return run


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    monkeypatch.setitem(sys.modules, "nats_bench", None)
    folder, file = tmp_path / "NATS-simple", tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
    folder.mkdir()
    file.touch()
    for source in (folder, file):
        for read in (NATSBenchTable, open_table, lambda path: convert(path, tmp_path / "table.csv")):
            with pytest.raises(ValueError, match="needs the nats_bench package") as caught:
                read(source)
            assert "advnas-lightning[nasbench201]" in str(caught.value)
            assert "\n" not in str(caught.value)
        assert 'pip install "advnas-lightning[nasbench201]"' in fails("convert", source, tmp_path / "table.csv")
        assert 'pip install "advnas-lightning[nasbench201]"' in fails("show", NONE, "--table", source)
    assert sorted(tmp_path.iterdir()) == sorted([folder, file])


@pytest.mark.parametrize("how", ["cut", "empty", "other"])
def test_a_damaged_file_gives_one_line(write_benchmark: Write, tmp_path: Path, how: str, fails: Fails) -> None:
    source = write_benchmark()
    damage(source / "meta.pickle.pbz2" if source.is_dir() else source, how)
    with pytest.raises(ValueError, match="nats_bench cannot read"):
        NATSBenchTable(source)
    assert str(source) in fails("convert", source, tmp_path / "table.csv")
    assert str(source) in fails("show", NONE, "--table", source)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("how", ["cut", "empty", "other"])
@pytest.mark.parametrize("command", ["convert", "show"])
def test_a_damaged_cell_of_a_folder_gives_one_line(tmp_path: Path, how: str, command: str, fails: Fails) -> None:
    pytest.importorskip("nats_bench")
    folder = write_folder(tmp_path)
    damage(folder / "000001.pickle.pbz2", how)
    arguments = {"convert": [folder, tmp_path / "table.csv"], "show": [NONE, "--table", folder]}[command]
    assert str(folder) in fails(command, *arguments)


def test_convert_says_what_it_wrote(write_benchmark: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "table.csv"
    source = write_benchmark([0, 1, 3])
    capsys.readouterr()
    table_main(["convert", str(source), str(target)])
    assert capsys.readouterr().out == f"{target}: 3 cells\n"
    assert len(rows(target)) == 3


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    table_main(["show", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def fields(text: str) -> list[list[str]]:
    """The table's rows; its rules, whatever they are drawn with, are left out."""
    return [re.findall(r"\w[^│┃]*\w|\w", line) for line in text.splitlines() if line.startswith("│")]


def test_show_prints_scores_ranks_and_sizes(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, CONV, "--table", table)
    assert text.splitlines()[0] == CONV
    assert fields(text) == [["CIFAR-10 test", "93.76", "1 of 4"], ["mine", "0.00", "3 of 4"]]
    assert "parameters             1.531546 M\n" in text
    assert re.search(r"multiply-accumulates +\d+\.\d{3} M per image\n", text)
    for title in ("accuracy %", "rank"):
        assert title in text


def test_show_reads_a_runs_file(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(cell(CONV).to_json())
    text = shown(capsys, path, "--table", table)
    assert text == shown(capsys, CONV, "--table", table)
    assert text == shown(capsys, f" {CONV} ", "--table", table)


def test_show_without_a_table_says_how_to_give_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, NONE)
    assert "no table: give --table PATH or set NASBENCH201_TABLE" in text
    assert "0.073306 M" in text
    assert "rank" not in text


def test_show_of_an_unknown_cell(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, NONE.replace("none~2", "skip_connect~2"), "--table", table)
    assert "the table has no such cell" in text
    assert "0.073306 M" in text


def test_show_reads_the_official_files(write_benchmark: Write, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_benchmark()
    capsys.readouterr()
    names = [ACCURACIES.get(column, column) for column in MEANING]
    scores = [f"{score:.2f}" for score in expected(2).values()]
    assert fields(shown(capsys, SKIP, "--table", source)) == [list(row) for row in zip(names, scores, strict=True)]


def test_the_environment_names_the_table(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    monkeypatch.setenv("NASBENCH201_TABLE", str(table))
    assert fields(shown(capsys, NONE))[0] == ["CIFAR-10 test", "10.00", "4 of 4"]
    other = tmp_path / "other.csv"
    other.write_text(f"arch,cifar10_test\n{NONE},11\n")
    assert fields(shown(capsys, NONE, "--table", other))[0] == ["CIFAR-10 test", "11.00", "1 of 1"]
    monkeypatch.setenv("NASBENCH201_TABLE", str(tmp_path / "missing.csv"))
    assert f"no table at {tmp_path / 'missing.csv'}" in fails("show", NONE)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("|none~0|+|none~0|none~0|", "because of 'none~0'"),
        ("|none~0|", "no edge '0->2'"),
        (NONE.replace("none~2", "tanh~2"), "edge '2->3' has no candidate 'tanh'"),
        (f"{NONE}+|none~0|none~1|none~2|none~3|", "no edge '0->4'"),
        ("nowhere.json", "no genotype file at nowhere.json"),
        ('{"first": "none"}', "no edge '0->1'"),
        ("", "no genotype file"),
    ],
)
def test_show_explains_a_bad_cell_in_one_line(table: Path, text: str, named: str, fails: Fails) -> None:
    assert named in fails("show", text, "--table", table)
    assert named in fails("show", text)


def test_bad_tables_are_explained_in_one_line(table: Path, tmp_path: Path, fails: Fails) -> None:
    table.write_text(f"arch,cifar10_test\n{NONE},ten\n")
    assert f"{table}, line 2: " in fails("show", NONE, "--table", table)
    assert "no table at" in fails("show", NONE, "--table", tmp_path / "missing.csv")
    assert "nowhere" in fails("convert", tmp_path / "nowhere", tmp_path / "table.csv")


def test_sizes_are_those_of_the_benchmarks_network() -> None:
    sizes = measure(cell(CONV))
    assert sizes["params_millions"] == 1.531546
    assert sizes["macs_millions"] == pytest.approx(220.1, rel=0.01)
    assert measure(cell(NONE))["params_millions"] == 0.073306
    assert measure(cell(CONV)) is sizes  # a run asks for them several times
    assert all(type(value) is float for value in sizes.values())


# -- the real tables -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> CSVTable:
    if not REAL.is_file():
        pytest.skip(f"there is no {REAL}")
    return CSVTable(REAL)


def test_the_real_table_has_the_known_scores(real: CSVTable) -> None:
    all_conv, all_none = cell(CONV), cell(NONE)
    assert real.scores(all_conv)["cifar10_test"] == 93.76
    assert real.scores(all_none)["cifar10_test"] == 10.0
    first = cell("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|")
    assert real.scores(first)["cifar10_test"] == 85.8633
    assert list(real.scores(first)) == list(COLUMNS)


def test_the_real_tables_best_cell_is_shared(real: CSVTable) -> None:
    scores = {row["arch"]: float(row["cifar10_test"]) for row in rows(REAL)}
    assert len(scores) == 5**6
    first, second, third = sorted(scores, key=scores.__getitem__, reverse=True)[:3]
    assert scores[first] == scores[second] == 94.3733 > scores[third]
    above = sum(score > 93.76 for score in scores.values())
    for text, rank in ((first, 1), (second, 1), (third, 3), (CONV, above + 1)):
        assert real.scores(cell(text))["cifar10_test"] == scores[text]
        assert real.rank(cell(text), "cifar10_test") == (rank, 5**6)


def test_the_real_table_is_read_fast(real: CSVTable) -> None:
    times = []
    for _ in range(3):
        begin = time.process_time()  # whatever else the machine does
        CSVTable(REAL)
        times.append(time.process_time() - begin)
    assert min(times) < 0.3


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"there is no {SAMPLE}")
def test_the_official_sample_is_the_real_tables_rows(real: CSVTable, tmp_path: Path) -> None:
    nats_bench = pytest.importorskip("nats_bench")
    target = tmp_path / "sample.csv"
    assert convert(SAMPLE, target) == 3
    columns = ("cifar10_test", "cifar100_test", "imagenet16_test")
    official = nats_bench.create(str(SAMPLE), "topology", fast_mode=True, verbose=False)
    whole = {row["arch"]: row for row in rows(REAL)}
    for index, row in zip((0, 11, 284), rows(target), strict=True):
        assert row["arch"] == official.arch(index)
        known = whole[row["arch"]]
        assert [float(row[column]) for column in columns] == [float(known[column]) for column in columns]
