"""``advnas export`` and ``export=``: a run's folder gets files that were checked, and keeps all else."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from advnas_lightning import Genotype
from advnas_lightning.cli.export import OPTIONS, main, read_settings
from advnas_lightning.cli.exporting import note_export
from advnas_lightning.cli.sweeps import is_finished
from advnas_lightning.export.formats import missing_extra
from advnas_lightning.export.network import Exported, export_call
from advnas_lightning.runs import RunFolder, sha256, write_json
from advnas_lightning.space.genotype_file import add_genotype
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, read, write_images, write_ptb

FIRST = {f"input->{node}": "filter0" for node in range(1, 11)}


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def test_a_run_is_exported_and_its_other_files_stay(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(toy)
    main(["run", "torchscript"])
    out, err = capsys.readouterr()
    (line,) = out.splitlines()  # the toy task trains no weights, so that there is nothing to advise
    assert line.startswith("run/network.torchscript: takes images batch×1×13×13; differs from the network by 0 (")
    assert err == ""
    after = files(toy)
    assert after.keys() - before.keys() == {"network.torchscript", "export.json"}
    assert [name for name in before if before[name] != after[name]] == ["summary.json"]
    summary = read(toy, "summary.json")
    assert summary.pop("exported/torchscript") == "network.torchscript"
    assert summary == json.loads(before["summary.json"])
    content = read(toy, "export.json")["network.torchscript"]
    assert content["genotype"] == read(toy, "genotype.json")["argmax"]
    assert content["checked"]["batch_sizes"] == [10, 1, 11]
    assert torch.jit.load(toy / "network.torchscript")(torch.randn(3, 1, 13, 13)).shape == (3,)


def test_other_architectures_have_files_of_their_own(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_genotype(toy, "ranked", Genotype(FIRST))
    Path("best-of-all.json").write_text(json.dumps(FIRST))
    main(["run", "torchscript", "select=ranked"])
    main(["run", "formats=torchscript", "genotype=best-of-all.json"])
    main(["run", "torchscript", "genotype=best-of-all.json", "output=net"])
    found = read(toy, "export.json")
    assert found.keys() == {"network_ranked.torchscript", "network_best_of_all.torchscript", "../net.torchscript"}
    assert all(each["genotype"] == FIRST for each in found.values())
    one, other = (torch.jit.load(path) for path in (toy / "network_ranked.torchscript", "net.torchscript"))
    x = torch.randn(3, 1, 13, 13)
    assert torch.equal(one(x), other(x))
    assert "has no refined genotype" in refused(capsys, "run", "torchscript", "select=refined")


def test_two_exports_that_end_at_once_are_both_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "summary.json", {"seed": 0})
    first, other = (Exported(tmp_path / f"net.{kind}", kind, {}, [], [], 0.0, 1e-4) for kind in ("onnx", "pt2"))
    second = Thread(target=note_export, args=(RunFolder(tmp_path), other, {}))

    def write_slowly(path: Path, content: Any) -> None:
        if second.ident is None:  # the first one has read the file, and has not written it yet
            second.start()
            second.join(timeout=0.1)
        write_json(path, content)

    monkeypatch.setattr("advnas_lightning.cli.exporting.write_json", write_slowly)
    note_export(RunFolder(tmp_path), first, {})
    second.join()
    assert read(tmp_path, "export.json").keys() == {"net.onnx", "net.pt2"}
    assert read(tmp_path, "summary.json") == {"seed": 0, "exported/onnx": "net.onnx", "exported/pt2": "net.pt2"}


def test_a_search_that_goes_on_meanwhile_is_not_what_was_exported(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, before = toy / "checkpoints" / "last.ckpt", sha256(toy / "checkpoints" / "last.ckpt")

    def export(*arguments: Any, **options: Any) -> Exported:
        last.write_bytes((toy / "checkpoints" / "previous.ckpt").read_bytes())
        return export_call(*arguments, **options)

    monkeypatch.setattr("advnas_lightning.cli.exporting.export_call", export)
    main(["run", "torchscript"])
    assert read(toy, "export.json")["network.torchscript"]["checkpoint_sha256"] == before != sha256(last)


def test_a_file_is_noted_though_the_next_one_is_interrupted(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("advnas_lightning.export.network.write_pt2", interrupt)
    with pytest.raises(SystemExit):
        main(["run", "torchscript", "pt2"])
    assert read(toy, "export.json").keys() == {"network.torchscript"}
    assert {path.name for path in toy.iterdir()} >= {"network.torchscript", "export.json"}
    assert not [path for path in toy.iterdir() if path.name.startswith(".export")]


@pytest.mark.parametrize("name", ["model.py", "model.pt"])
def test_a_file_that_no_export_has_written_stays(name: str, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text("mine")
    says = f"{name} is there, and no export of this run has written it: name another place, output=PATH, or move it"
    assert says in refused(capsys, "run", "source", "output=model")
    assert Path(name).read_text() == "mine"


def test_a_file_that_an_export_of_this_run_has_written_is_replaced(toy: Path) -> None:
    for select in ("argmax", "process_best"):
        main(["run", "torchscript", "output=model", f"select={select}"])
        assert read(toy, "export.json")["../model.torchscript"]["genotype"] == read(toy, "genotype.json")[select]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "give the folder of a run: advnas export RUN"),
        ("run onyx", "onyx: one run is looked at"),
        ("run formats=onyx", "formats=onyx is unknown: did you mean onnx?"),
        ("run onnx formats=pt2", "two ways to say the same"),
        ("nowhere pt2", "nowhere: there is no such folder, and the formats are onnx, pt2"),
        ("run pt2 select=best", "select='best' is unknown"),
        ("run pt2 select=argmax genotype=x.json", "select and genotype both name an architecture"),
        ("run pt2 genotype=x.json", "no genotype file at x.json"),
        ("run pt2 output=none/net", "give the path of a file, in a folder that is there"),
        ("run pt2 batch_dims=1", 'as in batch_dims="{tokens: 1}"'),
        ('run pt2 batch_dims={"images":0,"pixels":1}', "batch_dims names 'pixels', which is no input"),
        ("run pt2 part=net", "part='net' is no module of ToyNetwork"),
        ("run pt2 threads=100000", "threads=100000 must be a whole number from 1 to"),
        ("run pt2 tolerance=0", "tolerance=0 must be a finite number above 0"),
        ("run pt2 dynamics=false", "did you mean dynamic=false?"),
    ],
)
def test_bad_input_is_one_line(arguments: str, says: str, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(toy)
    assert says in refused(capsys, *arguments.split())
    assert files(toy) == before


def test_a_missing_extra_is_one_line(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("advnas_lightning.export.formats.find_spec", lambda name: None)
    said = 'onnx needs an extra (onnx is missing): pip install "advnas-lightning[onnx]"'
    assert refused(capsys, "run") == said
    with pytest.raises(SystemExit):
        launch(monkeypatch, *SMALL_TOY, "export=onnx", "hydra.run.dir=other")
    assert capsys.readouterr().err == f"error: export={said}\n"
    assert not Path("other").exists()


def test_the_help_names_every_option_and_the_defaults_are_those_of_the_setting(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {name}" in text for name in OPTIONS)
    options = read_settings(["run", "pt2"])
    assert options == {name: option.default for name, option in OPTIONS.items()} | {"RUN": "run", "formats": ["pt2"]}


def test_a_run_exports_at_its_end_and_a_format_that_fails_leaves_its_other_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "export=torchscript")
    run = tmp_path / "run"
    assert read(run, "summary.json")["exported/torchscript"] == "network.torchscript"
    assert "run/network.torchscript: takes images" in capsys.readouterr().out
    assert is_finished(run)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("advnas_lightning.export.network.write_pt2", fail)
    with pytest.raises(SystemExit) as caught:
        launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=failed", "export=[pt2,torchscript]")
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ToyNetwork cannot be written as pt2: no such operator; try another format")
    failed = tmp_path / "failed"
    assert read(failed, "summary.json")["exported/torchscript"] == "network.torchscript"
    assert "exported/pt2" not in read(failed, "summary.json")
    assert (failed / "network.torchscript").exists()
    assert not is_finished(failed)  # a sweep would try again


@pytest.mark.slow
def test_with_retrain_the_trained_network_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launch(monkeypatch, *SMALL_TOY, "hydra.run.dir=run", "export=torchscript", "retrain=true")
    assert (tmp_path / "run/retrained/network.torchscript").exists()
    assert not (tmp_path / "run/network.torchscript").exists()
    assert is_finished(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["toy", "ptb", "cifar10"])
def test_every_task_in_every_format(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ptb(tmp_path / "text")
    write_images(tmp_path / "images")
    small = {"toy": SMALL_TOY, "ptb": [*SMALL_PTB, "task.data.root=text"], "cifar10": SMALL_CIFAR10}[task]
    launch(monkeypatch, *small, "hydra.run.dir=run")
    formats = ["pt2", "source", *([] if task == "ptb" else ["torchscript"])]
    formats += [] if missing_extra(["onnx"]) else ["onnx"]
    capsys.readouterr()
    main(["run", *formats])
    printed = capsys.readouterr().out
    assert [name for name in formats if f"exported/{name}" not in read(tmp_path / "run", "summary.json")] == []
    assert ("note: these are the weights that all architectures share" in printed) == (task != "toy")
    if task == "ptb":
        assert "takes tokens 5×batch, hidden batch×8" in printed
        assert "a trace would be wrong for other inputs" in refused(capsys, "run", "torchscript")
    launch(monkeypatch, *small, "strategy=fixed", "strategy.genotype=run", "hydra.run.dir=trained", "export=pt2")
    network = torch.export.load(tmp_path / "trained/network.pt2")
    checkpoint = torch.load(tmp_path / "trained/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in network.state_dict.items():
        assert torch.equal(value, checkpoint[f"model.{name}"])
