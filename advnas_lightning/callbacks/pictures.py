"""Pictures of a search's probabilities and of the architecture that it would report, for loggers that show pictures."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import matplotlib as mpl
import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from advnas_lightning.callbacks.standing import WORDS
from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.report.drawing import genotype_figure
from advnas_lightning.texts import LITERAL, shortened

PROBABILITIES, ARCHITECTURE = "probabilities", "architecture"  # the names of the pictures
MOST = 200  # edges in a picture
LARGEST = 200.0  # inches; matplotlib cannot draw a picture of 2^16 pixels
SIZE = 10  # of the letters, in points
LONGEST, LONGEST_EDGE = 18, 32  # characters of a candidate's and of an edge's name
INK = "#1f2933"


class ProbabilityPictures(Callback):
    """Logs pictures to TensorBoard, Weights & Biases and MLflow.

    One shows the probabilities of all candidates, and one the architecture that the search would report now.

    Args:
        pictures: The largest number of pictures of a kind in a run. The last ones are those of the last epoch.

    Example:
        >>> ProbabilityPictures(pictures=5).pictures
        5
    """

    def __init__(self, pictures: int = 10) -> None:
        self.pictures = pictures

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the pictures if they are due and a logger can show them."""
        loggers = [each for each in trainer.loggers if isinstance(each, MLFlowLogger | TensorBoardLogger | WandbLogger)]
        epochs = trainer.max_epochs or 0
        period = max(1, -(-epochs // self.pictures))
        if not loggers or (epochs - trainer.current_epoch - 1) % period:
            return
        assert isinstance(pl_module, SearchStrategy)
        step = pl_module.clock.batches
        when = f"after step {step}, epoch {trainer.current_epoch + 1}"
        pictures = {
            PROBABILITIES: draw_probabilities(pl_module.probabilities(), title=f"Probabilities {when}"),
            ARCHITECTURE: draw_architecture(pl_module, title=f"{WORDS[pl_module.selected].capitalize()} {when}"),
        }
        for logger in loggers:
            for name, picture in pictures.items():
                log_picture(logger, name, picture, step)


def draw_architecture(search: SearchStrategy, *, title: str = "") -> np.ndarray[Any, Any]:
    """Draw the architecture that a search would report now.

    Args:
        search: The search.
        title: The title above the drawing.

    Returns:
        The picture's pixels, ``[height, width, 3]``.

    Example:
        >>> from torch import nn
        >>> from advnas_lightning import MixedOp, RandomSearch
        >>> edge = MixedOp("in->out", {"skip": nn.Identity(), "relu": nn.ReLU()})
        >>> draw_architecture(RandomSearch(edge)).ndim
        3
    """
    rows, found = search.probabilities(), search.genotype(search.selected)
    drawn = dict(islice(found.items(), MOST))
    probabilities = {edge: rows[edge][candidate] for edge, candidate in drawn.items()}
    return _pixels(genotype_figure(drawn, title=title, probabilities=probabilities))


def draw_probabilities(probabilities: Mapping[str, Mapping[str, float]], *, title: str = "") -> np.ndarray[Any, Any]:
    """Draw a row for each edge with a cell for each candidate, which is darker the more probable the candidate is.

    The candidates' names stand above the columns if all edges have the same ones, and otherwise in the cells.

    Args:
        probabilities: The probabilities by edge and candidate.
        title: The title above the picture.

    Returns:
        The picture's pixels, ``[height, width, 3]``.

    Example:
        >>> draw_probabilities({"first": {"linear": 0.9, "skip": 0.1}, "second": {"only": 1.0}}).shape[2]
        3
    """
    drawn = dict(islice(probabilities.items(), MOST))
    columns, rows = max(map(len, drawn.values())), len(drawn)
    names = [list(candidates) for candidates in drawn.values()]
    are_alike = all(each == names[0] for each in names)
    table = np.full((rows, columns), np.nan)
    letters = max(len(shortened(name, LONGEST)) for each in names for name in each)
    left = 0.35 + 0.085 * max(len(shortened(edge, LONGEST_EDGE)) for edge in drawn)  # inches for the edges' names
    wide = max(0.6, 0.1 * letters + (0.0 if are_alike else 0.45))  # inches of a cell
    right, bottom, top = 1.0, 0.2, 0.55 + (0.3 if are_alike else 0.0)
    if len(probabilities) > MOST:
        title = f"{title} (the first {MOST} of {len(probabilities)} edges)".strip()
    title = shortened(title, 100)
    across, down = min(wide * columns, LARGEST - left - right), 0.34 * rows
    width, height = max(left + across + right, 0.125 * len(title) + 0.4), bottom + down + top
    with mpl.rc_context(LITERAL):
        figure = Figure(figsize=(width, height), dpi=100)
        axes = figure.add_axes((left / width, bottom / height, across / width, down / height))
        for row, candidates in enumerate(drawn.values()):
            table[row, : len(candidates)] = list(candidates.values())
            for column, (name, probability) in enumerate(candidates.items()):
                text = f"{probability:.2f}" if are_alike else f"{shortened(name, LONGEST)} {probability:.2f}"
                colour = "white" if probability > 0.5 else INK
                axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=SIZE)
        shades = axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_yticks(range(rows), [shortened(edge, LONGEST_EDGE) for edge in drawn], fontsize=SIZE, color=INK)
        axes.set_xticks(
            range(columns) if are_alike else [],
            [shortened(name, LONGEST) for name in names[0]] if are_alike else [],
            fontsize=SIZE,
            color=INK,
        )
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="minor", length=0, top=False)
        axes.spines[:].set_visible(False)
        scale_height = min(down, 2.5)
        place = ((left + across + 0.2) / width, (bottom + down - scale_height) / height, 0.14 / width)
        scale = figure.colorbar(shades, cax=figure.add_axes((*place, scale_height / height)), ticks=[0, 0.5, 1])
        scale.outline.set_visible(False)  # type: ignore[operator]
        scale.ax.tick_params(labelsize=9, length=0)
        figure.text(0.2 / width, 1 - 0.12 / height, title, fontsize=12, fontweight="bold", color=INK, va="top")
        return _pixels(figure)


def log_picture(logger: Logger, name: str, picture: np.ndarray[Any, Any], step: int) -> None:
    """Log a picture by the call that the logger has for it.

    Args:
        logger: A logger of TensorBoard, Weights & Biases or MLflow.
        name: The name of the picture.
        picture: The pixels, ``[height, width, 3]``.
        step: The number of training batches so far.
    """
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, picture, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, picture, f"{name}/step_{step:08}.png")


def _pixels(figure: Figure) -> np.ndarray[Any, Any]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # [H, W, 3]
