"""What several tests of drawings and reports need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from advnas_lightning.report import drawing
from advnas_lightning.report.__main__ import main
from tests.support.made_up_runs import write_run


@pytest.fixture
def drawn() -> Callable[[dict[str, str]], Axes]:
    """``drawn(genotype)``: what would have been saved."""

    def draw(genotype: dict[str, str]) -> Axes:
        figure = drawing.genotype_figure(genotype)
        FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        return axes

    return draw


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are made without their figures, which take most of the time."""
    monkeypatch.setattr("advnas_lightning.report.writing.make_plots", lambda runs: [])


def write_runs(folder: Path) -> Path:
    """Runs of all kinds: of several tasks, broken, unfinished, refused."""
    for seed in (0, 1, 2):
        for strategy in ("advantage", "gdas", "darts"):
            write_run(
                folder / "cifar10" / strategy / str(seed), strategy=strategy, seed=seed, epochs=100, timed=seed == 0
            )
            write_run(
                folder / "toy" / strategy / str(seed), strategy=strategy, seed=seed, task="toy",
                epochs=20 if strategy == "advantage" and seed else 2,
                summary={"argmax/edges_right": 7 + seed, "edges": 10},
            )  # fmt: skip
    write_run(folder / "cifar10" / "mine" / "0", strategy="mine<b>", epochs=100, done=7)
    (folder / "toy" / "gdas" / "1" / "summary.json").write_text("{")
    (folder / "lost").mkdir()
    (folder / "lost" / "metrics.csv").write_text("epoch\n")
    refused = write_run(folder / "refused", done=0)
    for name in ("metrics.csv", "genotype.json", "checkpoints/last.ckpt"):
        (refused / name).unlink()
    return folder


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on such runs."""
    folder = tmp_path_factory.mktemp("report")
    main([str(write_runs(folder / "multirun")), "--output", str(folder / "report")])
    return folder / "report"
