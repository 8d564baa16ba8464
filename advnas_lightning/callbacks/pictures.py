"""Pictures of a search's probabilities, for loggers that show pictures."""

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

from advnas_lightning.engine.strategy import SearchStrategy
from advnas_lightning.texts import LITERAL, shortened

NAME = "probabilities"
MOST = 200  # edges in a picture
LARGEST = 200.0  # inches; matplotlib cannot draw a picture of 2^16 pixels


class ProbabilityPictures(Callback):
    """Logs the probabilities of all candidates as a picture to TensorBoard, Weights & Biases and MLflow.

    Args:
        pictures: The largest number of pictures in a run. The last one is that of the last epoch.

    Example:
        >>> ProbabilityPictures(pictures=5).pictures
        5
    """

    def __init__(self, pictures: int = 10) -> None:
        self.pictures = pictures

    @rank_zero_only
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log a picture if one is due and a logger can show it."""
        loggers = [each for each in trainer.loggers if isinstance(each, MLFlowLogger | TensorBoardLogger | WandbLogger)]
        epochs = trainer.max_epochs or 0
        period = max(1, -(-epochs // self.pictures))
        if not loggers or (epochs - trainer.current_epoch - 1) % period:
            return
        assert isinstance(pl_module, SearchStrategy)
        picture = draw_probabilities(pl_module.probabilities())
        for logger in loggers:
            log_picture(logger, picture, pl_module.clock.batches)


def draw_probabilities(probabilities: Mapping[str, Mapping[str, float]]) -> np.ndarray[Any, Any]:
    """Draw a row for each edge with a cell for each candidate, which is darker the more probable the candidate is.

    Args:
        probabilities: The probabilities by edge and candidate.

    Returns:
        The picture's pixels, ``[height, width, 3]``.

    Example:
        >>> draw_probabilities({"first": {"linear": 0.9, "skip": 0.1}, "second": {"only": 1.0}}).shape
        (110, 640, 3)
    """
    drawn = dict(islice(probabilities.items(), MOST))
    width, height = max(map(len, drawn.values())), len(drawn)
    table = np.full((height, width), np.nan)
    with mpl.rc_context(LITERAL):
        size = min(max(6.4, 1.1 * width), LARGEST), 0.3 + 0.4 * height
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        axes = figure.add_subplot()
        if len(probabilities) > MOST:
            axes.set_title(f"the first {MOST} of {len(probabilities)} edges")
        for row, candidates in enumerate(drawn.values()):
            table[row, : len(candidates)] = list(candidates.values())
            for column, (name, probability) in enumerate(candidates.items()):
                colour, text = "white" if probability > 0.5 else "black", f"{shortened(name, 14)} {probability:.2f}"
                axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=7)
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_yticks(range(height), [shortened(edge, 32) for edge in drawn])
        axes.set_xticks([])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # [H, W, 3]


def log_picture(logger: Logger, picture: np.ndarray[Any, Any], step: int) -> None:
    """Log a picture by the call that the logger has for it.

    Args:
        logger: A logger of TensorBoard, Weights & Biases or MLflow.
        picture: The pixels, ``[height, width, 3]``.
        step: The number of training batches so far.
    """
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(NAME, picture, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(NAME, [picture], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, picture, f"{NAME}/step_{step:08}.png")
