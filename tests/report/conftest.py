"""What several tests of drawings need."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from advnas_lightning.report import drawing


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Axes]:
    """``drawn(genotype)``: what would have been saved."""

    def draw(genotype: dict[str, str]) -> Axes:
        figures: list[Figure] = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        drawing.draw_genotype(genotype, "never.png")
        FigureCanvasAgg(figures[0]).draw()
        (axes,) = figures[0].axes
        return axes

    return draw
