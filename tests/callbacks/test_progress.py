"""What a run shows of itself while it goes on, and what it logs beside its own files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advnas_lightning.callbacks.pictures import draw_probabilities
from advnas_lightning.callbacks.progress import EpochLines, SearchProgressBar, progress_display
from advnas_lightning.cli.main import main
from tests.support.command_line import SMALL_TOY, read, runs

NAMES = {"tensorboard": ["tensorboard"], "wandb": ["wandb", "logger.offline=true"], "mlflow": ["mlflow"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command line, with the display that a user gets."""
    monkeypatch.setattr(sys, "argv", ["advnas_lightning", *arguments])
    main()


def test_a_file_gets_a_line_per_epoch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch, *SMALL_TOY)
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[:2] for line in lines] == [["epoch 1/2", "step 10"], ["epoch 2/2", "step 20"]]
    cell = read(runs(folder)[0], "genotype.json")["argmax"].values()
    assert lines[1].endswith("cell " + " ".join(cell))
    assert all(re.search(r"  architecture/loss [\d.e-]+  .*entropy [\d.]+  ", line) for line in lines)
    assert printed.err == ""
    assert "\x1b" not in printed.out


def test_a_display_may_be_switched_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch, *SMALL_TOY, "trainer.enable_progress_bar=false")
    assert "epoch" not in capsys.readouterr().out


def test_a_terminal_gets_a_live_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("advnas_lightning.cli.run.progress_display", lambda job: SearchProgressBar())
    monkeypatch.setenv("COLUMNS", "400")
    drawn: list[dict[str, Any]] = []
    get_metrics = SearchProgressBar.get_metrics
    monkeypatch.setattr(
        SearchProgressBar, "get_metrics", lambda *each: drawn.append(get_metrics(*each)) or get_metrics(*each)
    )
    start(monkeypatch, *SMALL_TOY, "task.data.batches=200")
    assert len(drawn) < 100  # 400 batches
    assert {"architecture/loss", "entropy", "cell"} <= drawn[-1].keys()
    printed = capsys.readouterr().out
    assert re.search(r"Epoch 1/1.*200/200.*entropy: .*cell: filter\d", printed)


@pytest.mark.parametrize(
    ("terminal", "job", "kind"),
    [(True, "", SearchProgressBar), (False, "", EpochLines), (True, "toy/gdas/2", EpochLines)],  # others draw there too
)
def test_the_output_decides(terminal: bool, job: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert type(progress_display(job)) is kind


def test_a_likelier_candidate_is_darker() -> None:
    picture = draw_probabilities({"a": {"x": 0.95, "y": 0.05}, "b": {"x": 0.5}})
    height, width, _ = picture.shape
    # beside the text, in the first edge's two cells
    left, right = picture[height // 8, width // 5], picture[height // 8, int(width * 0.96)]
    assert int(left.sum()) < int(right.sum())
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("logger", NAMES)
def test_every_logger_stands_beside_the_runs_own(logger: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip(logger)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    name, *options = NAMES[logger]
    start(monkeypatch, "-m", *SMALL_TOY, "seed=0,1", f"logger={name}", *options, "task.epochs=3")
    found = sorted(folder.rglob("metrics.csv"))
    assert len(found) == 2
    assert all("test/loss" in path.read_text() for path in found)
    if logger == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        for run in found:
            events = EventAccumulator(str(run.parent / "tensorboard"), size_guidance={"images": 0}).Reload()
            assert {"entropy", "architecture/loss", "test/loss"} <= set(events.Tags()["scalars"])
            assert [image.step for image in events.Images("probabilities")] == [10, 20, 30]
    elif logger == "wandb":
        assert all(len(list(run.parent.glob("wandb/offline-run-*/files/media/images/*.png"))) == 3 for run in found)
    else:
        store = module.tracking.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        (experiment,) = store.search_experiments(filter_string="name = 'advnas-lightning'")
        logged = store.search_runs([experiment.experiment_id])
        assert sorted(run.info.run_name for run in logged) == ["toy-advantage-0", "toy-advantage-1"]
        assert all({"entropy", "test/loss"} <= run.data.metrics.keys() for run in logged)
        assert all(len(store.list_artifacts(run.info.run_id, "probabilities")) == 3 for run in logged)
