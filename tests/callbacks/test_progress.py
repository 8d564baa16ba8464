"""What a run shows of itself while it goes on, and what it logs beside its own files."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from lightning import Callback, Trainer
from rich.cells import cell_len
from rich.console import Console

from advnas_lightning import SearchStrategy
from advnas_lightning.callbacks.checkpoint import LastCheckpoint
from advnas_lightning.callbacks.pictures import draw_probabilities
from advnas_lightning.callbacks.progress import EpochLines, SearchProgressBar, progress_display
from advnas_lightning.callbacks.standing import Edge, Standing
from advnas_lightning.callbacks.view import View
from advnas_lightning.cli.main import main
from advnas_lightning.pace import Pace
from tests.support.command_line import SMALL_TOY, read, runs
from tests.support.speed import slow_but

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
    assert [re.split(r"  \d:\d\d left  |  ", line)[:2] for line in lines] == [
        ["epoch 1/2", "step 10"],
        ["epoch 2/2", "step 20"],
    ]
    cell = read(runs(folder)[0], "genotype.json")["argmax"].values()
    assert lines[1].endswith("argmax " + " ".join(cell))
    assert all(re.search(r"  architecture/loss [\d.e-]+  .*entropy [\d.]+  settled 0/10  ", line) for line in lines)
    assert printed.err == ""
    assert "\x1b" not in printed.out


def terminal(width: int = 80) -> Console:
    """A terminal that keeps what is drawn."""
    return Console(file=io.StringIO(), width=width, height=50, force_terminal=True, color_system=None)


def drawn(console: Console) -> str:
    """All that was drawn, without what moves the cursor."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", console.file.getvalue())


class Watched(SearchProgressBar):
    """Keeps each view that is drawn, and draws as often as it is asked to."""

    def __init__(self, **options: Any) -> None:
        super().__init__("toy", console=terminal(), **options)
        self.views: list[View] = []

    def view(self, *args: Any, **options: Any) -> View:
        self.views.append(super().view(*args, **options))
        return self.views[-1]

    def _draw(self, *args: Any, **options: Any) -> None:
        super()._draw(*args, **options)
        self._next = 0.0


def test_a_terminal_gets_a_live_display(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = terminal()
    monkeypatch.setattr(
        "advnas_lightning.cli.run.progress_display", lambda job, title: SearchProgressBar(title, console=console)
    )
    start(monkeypatch, *SMALL_TOY, "strategy=gdas", "task.data.batches=200")
    shown = drawn(console)
    assert shown.count("GDAS on toy") < 100  # 400 batches
    last = shown[shown.rindex("GDAS on toy") :].splitlines()
    assert re.fullmatch(r"GDAS on toy  epoch 2 of 2  ━+  100 %  done in 0:\d\d", last[0].strip())
    run = runs(folder)[0]
    right = read(run, "summary.json")["edges_right"]
    values = rf"architecture/loss [\d.]+  entropy [\d.]+  0/10 settled  {right}/10 right  process-best"
    assert re.fullmatch(values, last[1].strip())
    found = re.findall(r"○(\d+) (\w+) \d+%", " ".join(last[2:]))
    assert {f"input->{node}": candidate for node, candidate in found} == read(run, "genotype.json")["process_best"]
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())


def test_a_users_own_bar_takes_the_place_of_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch, *SMALL_TOY, "+trainer.callbacks=[{_target_: lightning.pytorch.callbacks.TQDMProgressBar}]")
    printed = capsys.readouterr()
    assert "10/10" in printed.out + printed.err
    assert "epoch 1/2" not in printed.out


LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"max_epochs": 3}, "epoch 3 of 3"),
    ({"max_epochs": 3, "limit_train_batches": 2}, "epoch 3 of 3"),
    ({"max_epochs": -1, "max_steps": 6}, "epoch 2"),
    ({"max_epochs": 100, "max_steps": 6}, "epoch 2 of 100"),
    ({"max_epochs": -1, "max_time": "00:00:00:01"}, "epoch "),
]


@pytest.mark.parametrize(("limits", "epoch"), slow_but(LIMITS, LIMITS[:-1]))
def test_the_bar_is_of_the_whole_run(
    limits: dict[str, Any],
    epoch: str,
    make_search: Callable[..., SearchStrategy],
    make_loaders: Callable[..., Any],
    fit: Callable[..., Trainer],
) -> None:
    bar, loaders = Watched(), make_loaders()
    validations = [loaders["weights"], loaders["architecture"]]
    fit(make_search("advantage"), loaders, validations, callbacks=[bar], enable_progress_bar=True, **limits)
    shares = [view.share for view in bar.views if not view.status.startswith("checking")]
    assert None not in shares
    assert shares == sorted(shares)  # type: ignore[type-var]
    assert shares[0] == pytest.approx(0, abs=0.05)
    assert shares[-1] == pytest.approx(1, abs=0.05)
    assert bar.views[-1].epoch.startswith(epoch)
    assert bar.views[-1].time.startswith("done in ")
    assert "checking the validation 4/4" in {view.status for view in bar.views}  # two batches of each loader
    assert "validating 7/7" in {view.status for view in bar.views}
    assert all(len(line.rstrip()) <= 80 for line in drawn(bar._console).splitlines())  # type: ignore[arg-type]


def test_nobody_knows_the_end_of_a_run_without_limits(
    make_search: Callable[..., SearchStrategy], make_loaders: Callable[..., Any], fit: Callable[..., Trainer]
) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    bar = Watched()
    fit(make_search("advantage"), make_loaders(), callbacks=[bar, Stop()], enable_progress_bar=True, max_epochs=-1)
    assert {view.share for view in bar.views} == {None}
    assert [bar.views[index].epoch for index in (0, -1)] == ["epoch 1", "epoch 2"]
    assert bar.views[-2].time.endswith(" so far")


def test_a_resumed_run_goes_on_where_it_was(
    tmp_path: Path,
    make_search: Callable[..., SearchStrategy],
    make_loaders: Callable[..., Any],
    fit: Callable[..., Trainer],
) -> None:
    saving = LastCheckpoint(tmp_path, every_n_steps=1)

    class Interrupt(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if (trainer.current_epoch, batch_idx) == (1, 2):
                raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="luck"):
        fit(
            make_search("advantage"),
            make_loaders(),
            callbacks=[saving, Interrupt()],
            max_epochs=2,
            enable_checkpointing=True,
        )
    bar = Watched()
    fit(
        make_search("advantage"),
        make_loaders(),
        callbacks=[bar],
        enable_progress_bar=True,
        max_epochs=2,
        ckpt_path=tmp_path / "last.ckpt",
    )
    assert [view.share for view in bar.views] == [0.75, 0.875, 1.0, 1.0]
    assert {view.epoch for view in bar.views} == {"epoch 2 of 2"}


def test_nothing_stays_of_a_run_that_has_nothing_left_to_train(
    tmp_path: Path,
    make_search: Callable[..., SearchStrategy],
    make_loaders: Callable[..., Any],
    fit: Callable[..., Trainer],
) -> None:
    loaders = make_loaders()
    options = {"max_epochs": 1, "enable_checkpointing": True, "enable_progress_bar": True}
    fit(make_search("advantage"), loaders, callbacks=[LastCheckpoint(tmp_path), Watched()], **options)
    bar = Watched()
    fit(make_search("advantage"), loaders, loaders["weights"], callbacks=[LastCheckpoint(tmp_path), bar],
        ckpt_path=tmp_path / "last.ckpt", **options)  # fmt: skip
    assert isinstance(bar._console, Console)
    assert isinstance(bar._console.file, io.StringIO)
    erased = "\x1b[2K"  # a line of the terminal, at the end of a display that leaves nothing
    assert bar.views
    assert erased in bar._console.file.getvalue()[-60:]


def test_a_warm_up_is_named(
    make_search: Callable[..., SearchStrategy], make_loaders: Callable[..., Any], fit: Callable[..., Trainer]
) -> None:
    bar = Watched()
    fit(
        make_search("advantage", warmup_epochs=1),
        make_loaders(),
        callbacks=[bar],
        enable_progress_bar=True,
        max_epochs=2,
    )
    statuses = {view.epoch: set() for view in bar.views}
    for view in bar.views:
        statuses[view.epoch].add(view.status)
    assert statuses == {"epoch 1 of 2": {"warm-up, searches from epoch 2"}, "epoch 2 of 2": {""}}


def standing(edges: int, name: str, candidate: str) -> Standing:
    """A search with so many edges, of which every second one has settled."""
    found = [Edge(f"{name}{place}", candidate, 0.95 if place % 2 else 0.25) for place in range(edges)]
    return Standing("process_best", found, edges // 2, 1.5)


SPACES = [
    standing(6, "0->", "nor_conv_3x3"),
    standing(10, "input->", "filter3"),
    standing(40, "encoder.layers.", "multi_head_attention_with_relative_positions"),
    standing(1, "choice", "linear"),
    standing(3, "網" * 30, "路" * 30),
]


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: str(len(space.edges)))
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_line_fits(width: int, space: Standing, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", file)
    others = {f"val/{name}": 0.123456 for name in ("loss", "accuracy", "perplexity")}
    losses = {"train/loss": 2.345678, "architecture/loss": 2.345678}
    view = View("CounterfactualNAS on my_own_task", "epoch 100 of 600", 0.161, "1:23:45 left", "", losses, others,
                "93.41 %", space)  # fmt: skip
    console = Console(file=file, width=width, color_system=None)
    console.print(view)
    file.flush()
    lines = file.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert all(cell_len(line) <= width for line in lines)
    assert 3 <= len(lines) <= 4
    assert lines[0].startswith("Coun")
    assert "epoch 100 of 600" in lines[0]
    assert lines[0].rstrip().endswith("16 %  1:23:45 left")
    assert "train/loss 2.346  architecture/loss 2.346" in lines[1]
    assert "93.41 %" in lines[1]
    assert width == 60 or f"{len(space.edges) // 2}/{len(space.edges)} settled  93.41 %" in lines[1]
    assert lines[2][0] in ("○" if encoding == "utf-8" else " ")
    if len(space.edges) == 40:
        assert re.search(r"\+\d+ more$", lines[-1].rstrip())


def test_the_pace_is_that_of_the_last_epochs() -> None:
    pace = Pace()
    assert pace.left(0.0, 0.0) is None
    for epoch in range(5):
        pace.note(epoch / 10, now=[0, 100, 101, 102, 103][epoch])
    assert pace.left(0.5, now=104) == pytest.approx(5)
    pace.restart()
    assert pace.left(0.5, now=104) is None


@pytest.mark.parametrize(
    ("terminal", "job", "kind"),
    [(True, "", SearchProgressBar), (False, "", EpochLines), (True, "toy/gdas/2", EpochLines)],  # others draw there too
)
def test_the_output_decides(terminal: bool, job: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert type(progress_display(job)) is kind


DARK, LIGHT = ((255 * np.array(mpl.colormaps["Blues"](share)[:3])).astype(np.uint8) for share in (0.95, 0.05))


def test_a_likelier_candidate_is_darker() -> None:
    for second in ({"x": 0.5, "y": 0.5}, {"x": 1.0}):
        picture = draw_probabilities({"a": {"x": 0.95, "y": 0.05}, "b": second}, title="after step 1")
        assert picture.dtype == np.uint8
        row = picture[-54 - 10]  # a line through the upper part of the first edge's two cells
        dark, light = ([x for x, pixel in enumerate(row) if np.allclose(pixel, blue, atol=2)] for blue in (DARK, LIGHT))
        assert min(len(dark), len(light)) > 30
        assert max(dark) < min(light)


@pytest.mark.slow
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
            for name in ("probabilities", "architecture"):
                assert [image.step for image in events.Images(name)] == [10, 20, 30]
    elif logger == "wandb":
        assert all(len(list(run.parent.glob("wandb/offline-run-*/files/media/images/*.png"))) == 6 for run in found)
    else:
        store = module.tracking.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        (experiment,) = store.search_experiments(filter_string="name = 'advnas-lightning'")
        logged = store.search_runs([experiment.experiment_id])
        assert sorted(run.info.run_name for run in logged) == ["toy-advantage-0", "toy-advantage-1"]
        assert all({"entropy", "test/loss"} <= run.data.metrics.keys() for run in logged)
        for name in ("probabilities", "architecture"):
            assert all(len(store.list_artifacts(run.info.run_id, name)) == 3 for run in logged)
