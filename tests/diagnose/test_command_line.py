"""A diagnosis from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from advnas_lightning.diagnose.__main__ import main
from advnas_lightning.diagnose.options import NAMES, OPTIONS
from advnas_lightning.diagnose.quality import ESTIMATORS
from tests.support.command_line import SMALL_CIFAR10, SMALL_PTB, SMALL_TOY, launch, write_images, write_ptb


@pytest.mark.slow
@pytest.mark.parametrize("task", ["toy", "ptb", "cifar10"])
def test_a_runs_checkpoint_is_diagnosed(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ptb(tmp_path / "text")
    write_images(tmp_path / "images")
    small = {"toy": SMALL_TOY, "ptb": [*SMALL_PTB, "task.data.root=text"], "cifar10": SMALL_CIFAR10}[task]
    launch(monkeypatch, *small, "hydra.run.dir=run")
    saved = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    capsys.readouterr()
    main(
        [
            "run/checkpoints/last.ckpt",
            "draws=4",
            "exact_draws=9",
            "batches=2",
            "strategies=advantage,darts",
            "output=out",
        ]
    )
    printed = capsys.readouterr()
    assert "Recommended: " in printed.out
    assert "… darts" in printed.err
    content = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert list(content["estimators"]) == ["advantage", "darts"]
    assert "The exact gradient raises most: " in printed.out
    assert set(content["exact_raises"]) == set(content["estimators"]["darts"]["edges"])
    with Image.open(tmp_path / "out" / "diagnosis.png") as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=picture.width * picture.height)
    assert len(colours) > 50  # something is drawn
    drawn = (tmp_path / "out" / "diagnosis.svg").read_text()
    for text in ("advantage", "darts", "noise: standard deviation of one step", "better"):
        assert f"<!-- {text}" in drawn  # matplotlib's note of each text that it draws as a path
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == saved


@pytest.mark.slow
def test_the_linear_example_shows_the_noise_that_edges_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["task=linear", "strategies=advantage,reinforce", "draws=100"])
    found = json.loads((tmp_path / "diagnosis" / "diagnosis.json").read_text())
    advantage, reinforce = (list(found[name].values()) for name in ("advantage", "reinforce"))
    constant = slope = 0.75 * (1 + 4 + 0.25 + 0.25) / 4
    constant -= (1 + 4 + 0.25 + 0.25) / 16
    # Edges add up: a variance from at least 200 terms errs by some 10 %. The loss that REINFORCE's edges share makes it
    # one of 100 terms, and the running baseline adds noise of its own.
    assert advantage[1:] == pytest.approx([constant] * 5, rel=0.25)
    assert reinforce == pytest.approx([constant + slope * (edges - 1) for edges in (1, 2, 4, 8, 16, 32)], rel=0.5)
    assert "reinforce, exactly" in capsys.readouterr().out
    main(["task=linear", "strategies=darts", "draws=2"])  # beside the first one
    assert capsys.readouterr().out.splitlines()[-1] == str(Path("diagnosis_2", "diagnosis.png"))
    assert json.loads((tmp_path / "diagnosis" / "diagnosis.json").read_text()) == found


def test_a_runs_folder_is_enough_and_keeps_every_diagnosis(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "checkpoints" / "last.ckpt").write_bytes(b"damaged")  # the one before it is taken
    with pytest.warns(UserWarning, match=r"previous\.ckpt"):
        main(["run", "draws=3", "exact_draws=4", "strategies=advantage,advantage,gdas"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.partition("The exact gradient raises")[0].splitlines())) <= 100
    assert printed.count("│ advantage ") == 1  # although it was named twice
    first = (toy / "diagnosis" / "diagnosis.json").read_text()
    with pytest.warns(UserWarning, match=r"previous\.ckpt"):
        main(["ckpt_path=run/checkpoints", "draws=3", "exact_draws=4", "strategies=nasp", "seed=1"])
    assert list(json.loads((toy / "diagnosis_2" / "diagnosis.json").read_text())["estimators"]) == ["nasp"]
    assert (toy / "diagnosis" / "diagnosis.json").read_text() == first


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere, but on a read-only disk
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert capsys.readouterr() == ("", f"error: {tmp_path} cannot be written to: name another folder, output=DIR\n")


def test_the_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: advnas diagnose RUN | task=linear")
    assert printed.count("\n  advnas diagnose ") == 3  # examples
    assert all(f"\n  {name}=" in printed for name in OPTIONS if name != "RUN")
    assert max(map(len, printed.splitlines())) <= 100


def test_every_estimator_is_known_to_the_options() -> None:
    assert tuple(ESTIMATORS) == NAMES


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give the folder of a run, or task=linear"),
        (["task=ptb"], "task=ptb is unknown: use linear"),
        (["no.ckpt"], "no.ckpt: there is no such folder or checkpoint"),
        (["ckpt_path=."], ". has no folder checkpoints: give the folder of one run"),
        (["task=linear", "strategies=enas"], "strategies has 'enas': use some of advantage"),
        (["task=linear", "strategies=advantag,gdas"], "strategies has 'advantag': did you mean advantage?"),
        (["task=linear", "draws=1"], "draws=1 must be a whole number of at least 2"),
        (["task=linear", "threads=0"], "threads=0 must be a whole number from 1 to"),
        (["task=linear", "threads=100000"], "threads=100000 must be a whole number from 1 to"),
        (["task=linear", "progress=5"], "progress=5 must be a finite number of at least 0 and at most 1"),
        (["task=linear", "seed=1.5"], "seed=1.5 must be a whole number"),
        (["task=linear", "output=old/diagnosis.json"], "output=old/diagnosis.json: diagnosis.json is a file: name a"),
        (["task=linear", "output=old"], "output=old holds another diagnosis: name a new folder"),
        (["draw=3"], "draw=3 is unknown: did you mean draws=3?"),
        (["--draws=3"], "--draws=3 is unknown: did you mean draws=3?"),
        (["draws"], "draws has no value: give draws=N"),
        (["outputs/toy"], "outputs/toy: there is no such folder or checkpoint"),
        (["gamma=3"], "gamma=3 is unknown: give task=…"),
    ],
)
def test_bad_options_have_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "diagnosis.json").touch()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1
    assert says in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "diagnosis").exists()


def test_a_checkpoint_without_its_run_is_named(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (toy / "checkpoints" / "last.ckpt").rename(moved / "last.ckpt")
    with pytest.raises(SystemExit):
        main([f"{moved}/last.ckpt"])
    assert "is of no run's folder" in capsys.readouterr().err
