"""What the README shows runs: its Python, its files, its commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from advnas_lightning.cli import table as table_command
from advnas_lightning.cli.main import quote_cells
from advnas_lightning.diagnose.__main__ import main as diagnose
from advnas_lightning.report.__main__ import main as report
from tests.support.benchmark_files import CELLS, write_folder
from tests.support.command_line import SMALL_TOY, launch, read
from tests.support.made_up_runs import write_run

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line for lang, text in BLOCKS if lang == "bash" for line in text.replace("\\\n", " ").splitlines()]
RUNS = [line for line in COMMANDS[2:] if "-m advnas_lightning " in line and "--config-dir" not in line]
TABLES = [line for line in COMMANDS if "advnas_lightning.tasks.cifar10.nasbench201 " in line]


def test_the_first_two_commands_are_set_up_and_test() -> None:
    assert COMMANDS[:2] == ["pip install -e . && python -m advnas_lightning", 'pip install -e ".[test]" && pytest']
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text()


def test_the_example_project_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = [text for language, text in BLOCKS if language == "python" and "class Net" in text]
    (saved,) = [text for language, text in BLOCKS if language == "python" and "LastCheckpoint" in text]
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert dict(names["genotype"]).keys() == {"edge"}  # type: ignore[call-overload]
    for _ in range(2):  # the second time from where the first one ended
        exec(compile(saved, "README.md", "exec"), names)
        assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    (costly,) = [text for language, text in BLOCKS if language == "python" and "ArchitectureCost" in text]
    exec(compile(costly, "README.md", "exec"), names)
    assert names["search"].genotype().edges == {"edge": "skip"}  # type: ignore[attr-defined]
    assert names["search"].cost.result().edges == {"edge": {"linear": 72, "skip": 0}}  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [line for line in COMMANDS if "advnas_lightning.diagnose " in line])
def test_every_diagnosis_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=RUN")
    diagnose([*shlex.split(command)[3:], "draws=2", "exact_draws=2"])
    assert len(list(tmp_path.rglob("diagnosis/diagnosis.png"))) == 1


def test_a_module_of_ones_own_is_searchable(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [text for language, text in BLOCKS if language == "python" and "class Classifier" in text]
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert type(names["found"]).__name__ == "Classifier"
    assert "net.layer4.1.relu" in capsys.readouterr().out


def test_an_eleventh_strategy_is_one_file_and_one_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for language, text in BLOCKS:
        if language in ("python", "yaml") and (named := re.match(r"# (\S+\.(?:py|yaml))\n", text)):
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (command,) = [line for line in COMMANDS if "--config-dir" in line]
    launch(monkeypatch, *shlex.split(command)[3:], *SMALL_TOY, "hydra.run.dir=run")
    assert read(tmp_path / "run", "summary.json")["strategy"] == "cross_entropy"
    assert read(tmp_path / "run", "genotype.json")["process_best"] is not None


@pytest.mark.parametrize("command", RUNS)
def test_every_command_composes(command: str) -> None:
    python, flag, package, *overrides = shlex.split(command)
    assert (python, flag, package) == ("python", "-m", "advnas_lightning")
    single = [re.sub(r",.*", "", quote_cells(override)) for override in overrides if override != "-m"]
    # What a launcher composes from is in a plugin, which may not be there; test_launchers runs those that are.
    single = [override for override in single if not override.startswith("launcher=")]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("config", single).strategy


def test_the_report_command_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = (line for line in COMMANDS if "-m advnas_lightning.report " in line)
    _, _, _, multirun, toy, flag, output = shlex.split(command)
    assert flag == "--output"
    write_run(tmp_path / multirun / "0", strategy="enas")
    write_run(tmp_path / toy / "enas" / "first", strategy="enas", task="toy")
    report(shlex.split(command)[3:])
    page = (tmp_path / output / "report.html").read_text()
    assert "ENAS" in page


def test_the_table_commands_convert_and_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nats_bench")
    monkeypatch.chdir(tmp_path)
    convert, show = (shlex.split(command)[3:] for command in TABLES)
    assert convert[1] == write_folder(tmp_path).name
    table_command.main(convert)
    table = tmp_path / "TABLE.csv"
    assert [line.partition(",")[0] for line in table.read_text().splitlines()[1:]] == CELLS
    table.write_text(f"arch,cifar10_test\n{show[-1]},93.76\n")  # the README's cell is none of those
    capsys.readouterr()
    table_command.main(show)
    assert "93.76" in capsys.readouterr().out
